"""One agent with one thing changed at a time, and from smaller logs."""
