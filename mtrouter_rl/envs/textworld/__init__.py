"""TextWorld: text games that are made offline from a seed."""
