"""One router for several environments against one for each."""
