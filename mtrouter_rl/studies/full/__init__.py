"""Every router, the whole cost-score frontier, and a verdict on every claim of the project."""
