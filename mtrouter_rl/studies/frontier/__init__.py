"""One router at many cost weights, beside routers that were trained for one weight each."""
