"""Writes a plug-in package that works: a toy task with its cards and its contract test, to be replaced step by step."""

import importlib.util
import keyword
import re
import sys
from pathlib import Path
from string import Template

from mtrouter_rl.cards import list_cards
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.files import whole
from mtrouter_rl.registry import TASK_FAMILIES

TEMPLATES = Path(__file__).resolve().parent / "templates" / "new_env"
FILES = {
    "pyproject.toml": "pyproject.toml.txt",
    "src/${name}/__init__.py": "init.py.txt",
    "src/${name}/task.py": "task.py.txt",
    "src/${name}/envs/${name}.yaml": "env.yaml.txt",
    "src/${name}/envs/pools/${name}-three.yaml": "pool.yaml.txt",
    "tests/test_contract.py": "test_contract.py.txt",
}
"""File of the plug-in -> file of the templates."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


def write_plugin(name: str, folder: Path) -> tuple[Path, ...]:
    """Write a plug-in package for an environment.

    Args:
        name: Name of the package, of the environment card and of the family.
        folder: Where it goes; made here.

    Returns:
        The files that were written.

    Raises:
        InvalidConfigError: If the name is no identifier or taken, or the folder is there already.
    """
    check_name(name)
    if folder.exists():
        raise InvalidConfigError(f"folder '{folder}' is there already and is never written into; choose another --out")
    words = {"name": name, "class_name": "".join(part.capitalize() for part in name.split("_")) + "Task"}
    texts = {
        Template(target).substitute(words): (TEMPLATES / template).read_text(encoding="utf-8")
        for target, template in FILES.items()
    }
    with whole(folder) as partial:
        for target, text in texts.items():
            path = partial / target
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(Template(text).substitute(words), encoding="utf-8")
    return tuple(folder / target for target in texts)


def check_name(name: str) -> None:
    """Refuse a name that cannot be a package, or that something else has.

    Raises:
        InvalidConfigError: Says which rule it breaks.
    """
    if not _NAME.fullmatch(name):
        proposal = re.sub(r"[^a-z0-9_]+", "_", name.lower()).lstrip("_0123456789") or "my_env"
        raise InvalidConfigError(
            f"name '{name}' must be lower-case letters, digits and _, a letter first; try '{proposal}'"
        )
    taken = {
        "a word of Python": keyword.iskeyword(name) or keyword.issoftkeyword(name),
        "a module of Python": name in sys.stdlib_module_names,
        "an environment card": name in list_cards("envs"),
        "an environment family": name in TASK_FAMILIES.targets(),
        "a pool card": f"{name}-three" in list_cards("pools"),
    }
    owner = next((what for what, is_taken in taken.items() if is_taken), None)
    if owner is None and importlib.util.find_spec(name) is not None:
        owner = "an installed package"
    if owner is not None:
        raise InvalidConfigError(f"name '{name}' is taken: it is {owner}; choose another, such as 'my_{name}'")
