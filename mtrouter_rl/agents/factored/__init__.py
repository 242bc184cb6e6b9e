"""The factored router: what is due, who is stuck at it, and what each model makes of it, each learned by itself from a log."""
