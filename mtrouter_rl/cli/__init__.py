"""The command line `mtrouter-rl`: it parses, calls the package and prints."""
