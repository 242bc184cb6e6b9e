"""The action space: models, prices, prompt cache, and who answers a call."""
