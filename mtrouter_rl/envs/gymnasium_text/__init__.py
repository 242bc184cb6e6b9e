"""Any Gymnasium environment that is played in text, plugged in by a card alone."""
