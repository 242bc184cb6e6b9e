"""A model leaves the pool, or joins it with its card alone or with a few episodes."""
