"""new-env writes a package that is clean, installs without a network, and is found by name by every command."""

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import mtrouter_rl
from mtrouter_rl.cli.program import main
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.scaffold.plugin import FILES, TEMPLATES, write_plugin

ROOT = Path(mtrouter_rl.__file__).parents[1]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My-Maze", "name 'My-Maze' must be lower-case letters, digits and _, a letter first; try 'my_maze'"),
        ("2048", "name '2048' must be .* try 'my_env'"),
        ("", "name '' must be"),
        ("a/b", "try 'a_b'"),
        ("class", "name 'class' is taken: it is a word of Python; choose another, such as 'my_class'"),
        ("random", "is a module of Python"),
        ("corridor", "is an environment card"),
        ("log_only", "is an environment family"),
        ("gymnasium", "is an installed package"),
    ],
)
def test_wrong_names(name, message, tmp_path):
    with pytest.raises(InvalidConfigError, match=message):
        write_plugin(name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_is_not_written_into(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("keep me", encoding="utf-8")
    assert main(["new-env", "my_maze", "--out", str(tmp_path)]) == 1
    assert "is there already and is never written into; choose another --out" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_command_says_what_is_next(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["new-env", "my_maze"]) == 0
    shown = capsys.readouterr().out
    assert all(f"my_maze/{target}".replace("${name}", "my_maze") in shown for target in FILES)
    assert "pip install -e my_maze\n  mtrouter-rl check-env my_maze\n" in shown


def test_every_template_is_used():
    assert {path.name for path in TEMPLATES.iterdir()} == set(FILES.values())


@pytest.mark.parametrize("name", ["maze", "a_rather_long_name_of_a_maze"])
def test_what_is_written_is_clean_and_short(tmp_path, name):
    folder = tmp_path / "plugin"
    write_plugin(name, folder)
    assert len((folder / "src" / name / "task.py").read_text(encoding="utf-8").splitlines()) <= 60
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.is_file():
        pytest.skip("ruff is not installed beside this Python")
    for command in (["format", "--check"], ["check"]):
        for config in (["--config", str(ROOT / "pyproject.toml")], ["--isolated"]):
            ran = subprocess.run([ruff, *command, *config, folder], capture_output=True, text=True, check=False)
            assert ran.returncode == 0, ran.stdout + ran.stderr


def pip(*arguments, python=sys.executable):
    """Run pip without a network; it builds with the setuptools that is installed here."""
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            python,
            *map(str, arguments),
            "--no-deps",
            "--no-index",
            "--no-build-isolation",
        ],
        capture_output=True,
        text=True,
        check=True,
        env=ENVIRONMENT,
    )


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A fresh virtual environment with a generated plug-in; packages that are installed here are seen through a .pth file.

    The folder has the name of the package and is where the commands run, which must not hide the package.
    """
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools, which builds the plug-in, is not installed, and a test downloads nothing")
    folder = tmp_path_factory.mktemp("outside")
    write_plugin("maze", folder / "maze")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    where = [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    site = Path(subprocess.run(where, capture_output=True, text=True, check=True, env=ENVIRONMENT).stdout.strip())
    seen = (sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"], str(ROOT))
    (site / "seen.pth").write_text("\n".join(dict.fromkeys(seen)) + "\n", encoding="utf-8")
    pip("install", "-e", folder / "maze", python=python)

    def call(*arguments):
        return subprocess.run(
            [python, *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False, env=ENVIRONMENT
        )

    call.folder = folder
    return call


def mtrouter(fresh, *arguments):
    return fresh("-m", "mtrouter_rl.cli.program", *arguments)


def test_the_wheel_holds_the_cards(fresh):
    pip("wheel", "--wheel-dir", fresh.folder / "wheels", fresh.folder / "maze")
    (wheel,) = (fresh.folder / "wheels").glob("maze-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"maze/task.py", "maze/envs/maze.yaml", "maze/envs/pools/maze-three.yaml"} <= set(names)


def test_check_env_by_name(fresh):
    ran = mtrouter(fresh, "check-env", "maze", "--episodes", "10", "--json")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    report = json.loads(ran.stdout)
    assert {one["status"] for one in report["results"]} == {"passed"}


def test_collect_and_evaluate_by_name(fresh):
    log, run = fresh.folder / "log", fresh.folder / "run"
    collect = ("collect", "--env", "maze", "--policy", "uniform", "--episodes", "12", "--workers", "2", "--out", log)
    ran = mtrouter(fresh, *collect)
    assert ran.returncode == 0, ran.stderr
    assert json.loads((log / "info.json").read_text(encoding="utf-8"))["env"] == "maze"
    evaluate = ("evaluate", "--env", "maze", "--router", "random", "cheapest", "--split", "test", "--workers", "1")
    ran = mtrouter(fresh, *evaluate, "--out", run)
    assert ran.returncode == 0, ran.stderr
    rows = json.loads((run / "results.json").read_text(encoding="utf-8"))["rows"]
    assert {row["policy"] for row in rows} == {"random", "cheapest"}
    assert {row["n_failed"] for row in rows} == {0}


def test_an_unknown_name_lists_the_plug_in(fresh):
    ran = mtrouter(fresh, "check-env", "mazes")
    assert ran.returncode == 1
    assert "unknown env card 'mazes'; did you mean 'maze'? Valid: babyai, corridor, hle, maze, " in ran.stderr


def test_the_contract_test_of_the_plug_in_passes(fresh):
    ran = fresh("-m", "pytest", "-q", "-p", "no:cacheprovider", "maze/tests")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "1 passed" in ran.stdout
