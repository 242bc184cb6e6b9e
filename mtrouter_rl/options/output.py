"""What a command prints, and where: results on stdout, as text or as one JSON document; remarks that --quiet leaves out.

Names and texts of logs may hold anything, so control characters are written out; JSON escapes them itself.
"""

import sys
from dataclasses import dataclass

import pydantic_core

from mtrouter_rl.files import visible


@dataclass(frozen=True, kw_only=True)
class Output:
    """Prints for one run of a command.

    Attributes:
        is_json: Print results as one JSON document on stdout, and everything else on stderr.
        is_quiet: Print no remarks.
    """

    is_json: bool = False
    is_quiet: bool = False

    def say(self, text: str) -> None:
        """Print a remark: what is going on, or where something lies."""
        if not self.is_quiet:
            self.tell(text)

    def aside(self, text: str) -> None:
        """Print a remark on stderr, also where results are text."""
        if not self.is_quiet:
            print(visible(text), file=sys.stderr, flush=True)

    def tell(self, text: str) -> None:
        """Print a part of the result that a reader wants and a script does not."""
        print(visible(text), file=sys.stderr if self.is_json else sys.stdout, flush=True)

    def show(self, text: object, data: object) -> None:
        """Print the result: its text, or its data as JSON. Once for a command.

        Args:
            text: For readers; nothing is printed if it is empty.
            data: For scripts: records, dataclasses, paths, and mappings and sequences of them.
        """
        shown = to_json(data) if self.is_json else visible(str(text))
        if shown:
            print(shown, flush=True)


def to_json(data: object) -> str:
    r"""Any result as JSON text; what is not finite is null.

    Example:
        >>> from pathlib import Path
        >>> to_json({"folder": Path("runs"), "gap": float("nan")})
        '{\n  "folder": "runs",\n  "gap": null\n}'
    """
    return pydantic_core.to_json(data, indent=2, by_alias=True, inf_nan_mode="null", fallback=_plain).decode()


def _plain(value: object) -> object:
    """Arrays and their scalars as numbers, all else as text."""
    to_list = getattr(value, "tolist", None)
    return str(value) if to_list is None else to_list()
