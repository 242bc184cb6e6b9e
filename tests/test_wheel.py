"""The built wheel alone is enough: installed into a fresh environment, it runs the corridor study in an empty folder.

The libraries that the package needs are those of the environment that the tests run in; a `.pth` file lends them, so nothing is
downloaded. An editable installation of the package there is not lent with them: `.pth` files of a lent folder are not read.
"""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import mtrouter_rl

ROOT = Path(__file__).parents[1]
WHERE = """
import importlib.metadata, json, mtrouter_rl
from mtrouter_rl.cards import list_cards
cards = {kind: str(path) for kind, name in CARDS for path in [list_cards(kind)[name]]}
print(json.dumps({"package": mtrouter_rl.__file__, "version": importlib.metadata.version("mtrouter-rl"), "cards": cards}))
"""
CARDS = [("envs", "corridor"), ("agents", "behavior-cloning"), ("pools", "corridor-three")]


def run(*command: str | Path, folder: Path) -> str:
    """What a command prints when it is started in a folder, without the settings that lead Python to this checkout."""
    env = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    ran = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=env | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", out, ROOT, folder=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """A fresh virtual environment with the wheel, and with the libraries of this environment."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder, folder=folder.parent)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "--disable-pip-version-check", "--quiet"]
    run(*pip, "install", "--no-deps", "--no-index", wheel, folder=folder.parent)
    (packages,) = folder.glob("lib/python*/site-packages")
    lent = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (packages / "lent.pth").write_text("\n".join(lent) + "\n", encoding="utf-8")
    return folder


def test_the_wheel_holds_types_cards_licence_and_nothing_of_the_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "mtrouter_rl/py.typed" in names
    assert {f"mtrouter_rl/_cards/{folder}" for folder in ("agents", "datasets", "envs")} <= {
        "/".join(name.split("/")[:3]) for name in names
    }
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"mtrouter_rl"}


def test_package_and_cards_are_those_of_the_wheel(environment, tmp_path):
    code = WHERE.replace("CARDS", repr(CARDS))
    where = json.loads(run(environment / "bin" / "python", "-c", code, folder=tmp_path))
    for path in (where["package"], *where["cards"].values()):
        assert Path(path).is_relative_to(environment)
    assert all("_cards" in Path(path).parts for path in where["cards"].values())


def test_the_corridor_study_runs_in_an_empty_folder(environment, tmp_path):
    arguments = "study --env corridor --episodes 20 --test-seeds 1 --agents behavior-cloning --workers 1 --out run"
    run(environment / "bin" / "mtrouter-rl", *arguments.split(), folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run"], "a study writes into its own folder alone"
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert (results["env"], results["package_version"]) == ("corridor", mtrouter_rl.__version__)
    policies = {row["policy"] for row in results["rows"] if row["split"] == "test"}
    assert {"behavior-cloning", "random", "cheapest", "strongest"} <= policies
    assert all(row["n_episodes"] > 0 for row in results["rows"])
    assert (tmp_path / "run" / "report.html").is_file()
