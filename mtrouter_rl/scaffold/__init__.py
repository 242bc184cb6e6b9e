"""Writes a plug-in package that works, to be made one's own."""
