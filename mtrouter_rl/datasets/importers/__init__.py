"""Reads logs of other programs: one file a format, found by name through the registry or an entry point.

`base` says what an importer is and keeps the report of what was left out; `archives` opens files, folders and archives
safely; `run` turns a log into a dataset.
"""
