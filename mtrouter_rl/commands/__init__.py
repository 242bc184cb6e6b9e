"""Commands about logs, one file each: `add(commands)` adds the parser. They parse, call the package and print."""
