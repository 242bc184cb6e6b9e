"""Off-policy evaluation: what a router is worth, estimated from a log that another policy wrote; and what a log cannot tell."""
