"""Routers that learn nothing, rules that watch an episode, and the behaviour policies that collect logs."""
