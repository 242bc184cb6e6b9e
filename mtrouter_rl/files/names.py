"""Names: where the cache is, names that become file names, and text that may hold anything and is shown to people."""

import os
import re
import unicodedata
from pathlib import Path

CACHE_VARIABLE = "MTROUTER_RL_CACHE"
"""Environment variable that moves the user's cache folder."""


def cache_folder() -> Path:
    """Folder for what is slow to make: $MTROUTER_RL_CACHE, else $XDG_CACHE_HOME/mtrouter_rl, else ~/.cache/mtrouter_rl."""
    if CACHE_VARIABLE in os.environ:
        return Path(os.environ[CACHE_VARIABLE])
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mtrouter_rl"


STATE_VARIABLE = "MTROUTER_RL_STATE"
"""Environment variable that moves the folder of what has to last."""


def state_folder() -> Path:
    """Folder for what has to last: $MTROUTER_RL_STATE, else $XDG_STATE_HOME/mtrouter_rl, else ~/.local/state/mtrouter_rl."""
    if STATE_VARIABLE in os.environ:
        return Path(os.environ[STATE_VARIABLE])
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "mtrouter_rl"


def slug(name: str) -> str:
    """A name as part of a file or run name: letters, digits, ".", "_" and "-" only.

    Example:
        >>> slug("fitted-q (cost weight 0.5)")
        'fitted-q_cost_weight_0.5'
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("_.") or "_"


_SUSPECT = re.compile(r"[^\n\t -~\u00a1-\u00ac\u00ae-\u024f]")
"""Whatever is not plain text of a western script is looked at; most text is passed at once."""


def visible(text: str) -> str:
    r"""The text with its control characters written out, so that no name can move a cursor or hide what stands beside it.

    Line breaks and tabs stay. Written out are the other control characters, marks of writing direction, and half characters.

    Example:
        >>> visible("boil\x1b[2J"), visible("na\u202eme"), visible("größe 日本")
        ('boil\\x1b[2J', 'na\\u202eme', 'größe 日本')
    """
    return _SUSPECT.sub(_written_out, text)


def _written_out(match: re.Match[str]) -> str:
    character = match[0]
    if unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Zl", "Zp"}:
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
