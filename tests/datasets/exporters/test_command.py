"""`mtrouter-rl export`, and `mtrouter-rl import` of what it wrote."""

import pytest

from mtrouter_rl.cli.program import run_command
from mtrouter_rl.datasets.store import Dataset, load_hidden
from mtrouter_rl.errors import InvalidConfigError, UnknownNameError
from mtrouter_rl.registry import EXPORTERS


def call(*arguments):
    run_command([str(argument) for argument in arguments])


@pytest.mark.parametrize("name", ["jsonl", "minari"])
def test_export_and_import_give_the_dataset_back(name, folder, tmp_path, capsys):
    if name == "minari":
        pytest.importorskip("minari")
    call("export", name, folder, "--out", tmp_path / "export")
    call("import", name, tmp_path / "export", "--out", tmp_path / "back")
    assert Dataset.load(tmp_path / "back") == Dataset.load(folder)
    assert load_hidden(tmp_path / "back") == load_hidden(folder)
    assert capsys.readouterr().out.splitlines() == [
        f"export: {tmp_path / 'export'}",
        f"dataset 'toy-v1': {tmp_path / 'back'} (see mtrouter-rl inspect {tmp_path / 'back'})",
    ]


def test_encoder_is_an_option_of_its_own(folder, tmp_path):
    with pytest.raises(UnknownNameError, match=r"did you mean 'hashing'\?"):
        call("export", "d3rlpy", folder, "--encoder", "hashin", "--out", tmp_path / "export")
    with pytest.raises(UnknownNameError, match=r"unknown option of format 'jsonl' 'encoder'"):
        call("export", "jsonl", folder, "--encoder", "hashing", "--out", tmp_path / "export")


def test_list_names_formats_and_options(capsys):
    call("export", "--list")
    lines = capsys.readouterr().out.splitlines()
    assert {line.split(":")[0] for line in lines if not line.startswith(" ")} == set(EXPORTERS.targets())
    assert "    license (default 'unknown'): licence identifier for the card, such as cc-by-4.0" in lines


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("export",), InvalidConfigError, r"missing: format, dataset, out; see mtrouter-rl export --help"),
        (("export", "jsonl", "log"), InvalidConfigError, r"missing: out"),
        (("export", "parquet", "log", "--out", "x"), UnknownNameError, r"unknown export format 'parquet'"),
        (("export", "jsonl", "log", "--out", "x", "--option", "a"), InvalidConfigError, r"must be NAME=VALUE"),
        (("import", "jsnl", "log", "--out", "x"), UnknownNameError, r"log format 'jsnl'; did you mean 'jsonl'\?"),
        (("import", "jsonl", "log"), InvalidConfigError, r"a jsonl export needs one PATH and --out"),
        (("import", "minari", "a", "b", "--out", "x"), InvalidConfigError, r"a minari export needs one PATH"),
        (
            ("import", "jsonl", "log", "--out", "x", "--pool", "p", "--id", "a-v1"),
            InvalidConfigError,
            r"--pool, --id given, but a jsonl export says itself what it is",
        ),
    ],
)
def test_wrong_call_is_an_error(arguments, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        call(*arguments)
    assert not list(tmp_path.iterdir())
