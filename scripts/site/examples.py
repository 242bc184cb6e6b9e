"""Lets the reference show the example of a docstring as code: its parser looks for `Examples:`, docstrings say `Example:`."""

import re

import griffe


class Examples(griffe.Extension):
    """Renames the section while the code is read."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Called with every module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
