"""A log as arrays that routers learn from: transitions, other cost weights and budgets, a model held out, outcomes."""
