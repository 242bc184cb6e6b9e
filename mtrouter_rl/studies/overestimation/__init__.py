"""Whether the values that a router expects come true."""
