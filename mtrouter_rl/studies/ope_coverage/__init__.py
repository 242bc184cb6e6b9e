"""How often the intervals of off-policy evaluation hold the true value, on tasks whose value is known."""
