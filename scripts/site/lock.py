"""Writes `.ci/dev.lock`: the version of every package that a development environment has, as they are installed here.

    .venv/bin/python scripts/site/lock.py [--sizes]

With `--sizes` it prints, for each extra, how many packages it adds, their size on the disk, and those that are not permissive.
"""

import importlib.metadata
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = ROOT / ".ci" / "dev.lock"
PERMISSIVE = ("mit", "bsd", "apache", "isc", "psf", "python", "hpnd", "unlicense", "zlib", "0bsd")
Packages = dict[str, importlib.metadata.Distribution]


def project() -> dict:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["project"]


def requirements(extra: str | None) -> list[Requirement]:
    """What the project, or one of its extras, asks for; an extra that names others is resolved."""
    about = project()
    found = []
    for text in about["dependencies"] if extra is None else about["optional-dependencies"][extra]:
        one = Requirement(text)
        if canonicalize_name(one.name) == about["name"]:
            found += [inner for name in sorted(one.extras) for inner in requirements(name)]
        else:
            found.append(one)
    return found


def closure(asked: list[Requirement]) -> Packages:
    """All packages that these need, as far as they are installed."""
    waiting, seen = list(asked), set()
    found: Packages = {}
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        if (name, tuple(sorted(one.extras))) in seen:
            continue
        seen.add((name, tuple(sorted(one.extras))))
        try:
            package = importlib.metadata.distribution(one.name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found[name] = package
        for text in package.requires or ():
            inner = Requirement(text)
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in ("", *one.extras)):
                waiting.append(inner)
    return found


def n_bytes(package: importlib.metadata.Distribution) -> int:
    paths = (Path(str(package.locate_file(file))) for file in package.files or ())
    return sum(path.stat().st_size for path in paths if path.is_file())


def licence(package: importlib.metadata.Distribution) -> str:
    about = package.metadata
    named = [
        text.rpartition("::")[2].strip() for text in about.get_all("Classifier") or () if text.startswith("License")
    ]
    return (about.get("License-Expression") or "; ".join(named) or about.get("License") or "?").split("\n")[0][:60]


def _main() -> None:
    base = closure(requirements(None))
    if "--sizes" in sys.argv:
        print(f"(none): {len(base)} packages, {sum(map(n_bytes, base.values())) / 1e6:.0f} MB")
        for extra in project()["optional-dependencies"]:
            more = {name: package for name, package in closure(requirements(extra)).items() if name not in base}
            other = [
                f"{name} ({licence(p)})" for name, p in more.items() if not licence(p).lower().startswith(PERMISSIVE)
            ]
            print(f"{extra}: {len(more)} packages, {sum(map(n_bytes, more.values())) / 1e6:.0f} MB; {', '.join(other)}")
        return
    found = base | closure(requirements("dev"))
    lines = [f"{name}=={package.version.partition('+')[0]}" for name, package in sorted(found.items())]
    LOCK.write_text(
        "# Written by scripts/site/lock.py: what a development environment has.\n" + "\n".join(lines) + "\n"
    )
    print(f"{LOCK}: {len(lines)} packages")


if __name__ == "__main__":
    _main()
