"""Datasets in the field's standard formats, and back again where nothing is lost."""
