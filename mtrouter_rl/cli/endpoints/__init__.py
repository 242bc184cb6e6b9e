"""Commands that start an endpoint of OpenAI's chat completions on this machine."""
