"""Logged runs as an environment: every model ran every task, so what another choice would have brought is known."""
