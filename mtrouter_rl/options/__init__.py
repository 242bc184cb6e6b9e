"""What the command line is made of: commands, options that several of them share (each written once), output."""

from mtrouter_rl.options.command import Command, Group, Option, given, switch, values
from mtrouter_rl.options.output import Output, to_json

__all__ = ["Command", "Group", "Option", "Output", "given", "switch", "to_json", "values"]
