"""Fits a simulated pool to a table of single models, and asks how far its models complement each other."""
