"""Options of the command line that several commands share: each is written once, with its help and its check."""
