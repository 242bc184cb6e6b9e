"""`.ci/dev.lock` is what `pyproject.toml` asks for."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def test_the_lock_file_fits_what_is_asked_for():
    lines = (ROOT / ".ci" / "dev.lock").read_text(encoding="utf-8").splitlines()
    locked = dict(line.split("==") for line in lines if not line.startswith("#"))
    about = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [Requirement(text) for text in (*about["dependencies"], *about["optional-dependencies"]["dev"])]
    own = [one for one in asked if canonicalize_name(one.name) != about["name"]]
    assert len(own) > 20
    for one in own:
        version = locked.get(canonicalize_name(one.name))
        assert version is not None, f"{one.name} is not locked; run scripts/site/lock.py"
        assert one.specifier.contains(version), f"{one} is locked at {version}; run scripts/site/lock.py"
