"""Commands for whoever plugs in an environment."""
