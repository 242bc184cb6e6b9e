"""Studies about the product itself, a folder each, run by `mtrouter-rl lab NAME`. Nothing else imports them."""
