"""The same policies under several budgets."""
