"""Rules of the house that no import shows."""

import re
from pathlib import Path

import mtrouter_rl

PACKAGE = Path(mtrouter_rl.__file__).parent
RESOLVED_BY = {"envs/factory.py", "datasets/logged.py", "cards/env.py"}


def sources():
    return {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}


def test_reward_and_limits_are_resolved_once():
    """A cost weight or a limit may be overridden: whoever reads the card's reads a stale number."""
    readers = [name for name, text in sources().items() if re.search(r"\bcard\.(reward|limits)\b", text)]
    assert sorted(readers) == sorted(RESOLVED_BY & set(readers))
    assert "envs/factory.py" in readers


def test_no_folder_is_crowded():
    folders = {path.parent for path in PACKAGE.rglob("*.py") if "_cards" not in path.parts}
    crowded = {folder.name: n for folder in folders if (n := len(list(folder.glob("*.py")))) > 26}
    assert not crowded


def test_every_benchmark_is_run_by_all_and_stands_on_the_page_of_speed():
    root = Path(__file__).parents[1]
    everything = (root / "scripts" / "bench" / "all").read_text(encoding="utf-8")
    page = (root / "docs" / "speed.md").read_text(encoding="utf-8")
    names = [path.stem for path in (root / "scripts" / "bench").glob("*.py")]
    assert len(names) >= 15
    assert [name for name in names if f"\nbench {name}" not in everything] == []
    assert [name for name in names if f"scripts/bench/{name}.py" not in page] == []
