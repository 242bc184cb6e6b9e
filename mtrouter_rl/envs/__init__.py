"""Environments: the routing MDP, its spaces, and one module per task family behind it; no encoder is known here."""
