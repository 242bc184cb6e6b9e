"""Routers that regress reward and cost on the task text or on the turn, and cascades of models."""
