"""Routing decided on logged runs: what restarting with another model is worth, worked out exactly."""
