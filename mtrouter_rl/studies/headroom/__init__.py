"""What a reference that sees the simulator's hidden state reaches: how much a router could gain."""
