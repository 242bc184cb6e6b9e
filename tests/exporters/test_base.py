import sys
from pathlib import Path

import pytest

from mtrouter_rl.datasets.store import Dataset, DatasetWriter, load_hidden
from mtrouter_rl.errors import DatasetError, InvalidConfigError, MissingDependencyError, UnknownNameError
from mtrouter_rl.exporters.base import export_dataset, load_exporter, restore_dataset
from mtrouter_rl.registry import EXPORTERS, RESTORERS

WRITES_ANY_LOG = sorted(set(EXPORTERS.builtin) - {"distillation"})
"""Formats that hold whole logs; a distillation set holds escalation failures, of which the log of these tests has none."""


@pytest.mark.parametrize("name", sorted(RESTORERS.builtin))
def test_restored_dataset_is_equal_in_all_fields(name, folder, tmp_path):
    if name == "minari":
        pytest.importorskip("minari")
    export_dataset(name, folder, tmp_path / "export")
    restore_dataset(name, tmp_path / "export", tmp_path / "back")
    assert Dataset.load(tmp_path / "back") == Dataset.load(folder)
    assert load_hidden(tmp_path / "back") == load_hidden(folder)


@pytest.mark.parametrize("name", sorted(EXPORTERS.builtin))
def test_export_leaves_an_existing_one_alone(name, folder, tmp_path):
    out = tmp_path / "export"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(InvalidConfigError, match=r"export is (there already and not empty|a folder, and .*); give"):
        export_dataset(name, folder, out)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", sorted(set(WRITES_ANY_LOG) - {"jsonl"}))
def test_the_current_folder_is_filled_and_stays_the_current_one(name, folder, tmp_path, monkeypatch):
    if name == "minari":
        pytest.importorskip("minari")
    export_dataset(name, folder, tmp_path / "export")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    export_dataset(name, folder, Path())
    assert Path.cwd() == tmp_path / "here"  # fails in a folder that is gone
    names = [path.relative_to(tmp_path / "export") for path in (tmp_path / "export").rglob("*")]
    assert sorted(Path().rglob("*")) == sorted(names)
    assert {path.name for path in tmp_path.iterdir()} == {folder.name, "export", "here"}


def test_a_folder_is_never_replaced_by_a_file(folder, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(InvalidConfigError, match=r"^\. is a folder, .* 'jsonl' is one file; .*, such as log.jsonl"):
        export_dataset("jsonl", folder, Path())
    assert Path.cwd() == tmp_path / "here"
    assert not list(Path().iterdir())


@pytest.mark.parametrize("name", WRITES_ANY_LOG)
def test_only_what_a_killed_run_left_is_deleted(name, folder, tmp_path):
    if name == "minari":
        pytest.importorskip("minari")
    mine, left = tmp_path / "export.partial", tmp_path / ".export.mtrouter-rl-partial"
    for place in (mine, left):
        place.mkdir()
        (place / "thesis.tex").write_text("years")
    export_dataset(name, folder, tmp_path / "export")
    assert (mine / "thesis.tex").read_text() == "years"
    assert {path.name for path in tmp_path.iterdir()} == {folder.name, "export", "export.partial"}
    assert not (tmp_path / "export" / "thesis.tex").exists()


def test_failed_export_leaves_nothing_behind(folder, tmp_path):
    with pytest.raises(UnknownNameError, match=r"no-such-encoder"):
        export_dataset("d3rlpy", folder, tmp_path / "out" / "export", {"encoder": "no-such-encoder"})
    assert not (tmp_path / "out").exists()


def test_every_option_says_what_it_is():
    for name in EXPORTERS.builtin:
        exporter = load_exporter(name)
        assert exporter.format == name
        assert all(field.description for field in exporter.options_model.model_fields.values())


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("jsnl", {}, UnknownNameError, r"unknown export format 'jsnl'; did you mean 'jsonl'\? Valid: d3rlpy, dist"),
        ("jsonl", {"encoder": "hashing"}, UnknownNameError, r"unknown option of format 'jsonl' 'encoder'"),
        ("d3rlpy", {"encodr": "x"}, UnknownNameError, r"did you mean 'encoder'\?"),
        ("minari", {"cost_weight": -1}, InvalidConfigError, r"field 'cost_weight' is -1: Input should be greater"),
        ("d3rlpy", {"cost_unit_usd": 0}, InvalidConfigError, r"field 'cost_unit_usd' is 0: Input should be greater"),
        ("huggingface", {"license": ""}, InvalidConfigError, r"field 'license' is '': String should have at least"),
        ("minari", {"encoder": "hashin"}, UnknownNameError, r"did you mean 'hashing'\?"),
    ],
)
def test_wrong_request_is_an_error(name, options, error, message, folder, tmp_path):
    with pytest.raises(error, match=message):
        export_dataset(name, folder, tmp_path / "export", options)
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize("name", sorted(EXPORTERS.builtin))
def test_what_is_no_dataset_is_an_error(name, tmp_path, info):
    with pytest.raises(DatasetError, match=r"no such folder"):
        export_dataset(name, tmp_path / "missing", tmp_path / "export")
    DatasetWriter(tmp_path / "empty", info)
    with pytest.raises(DatasetError, match=r"empty holds no episode, so there is nothing to export"):
        export_dataset(name, tmp_path / "empty", tmp_path / "export")


@pytest.mark.parametrize("package", ["minari", "h5py"])
def test_missing_package_is_named_with_its_extra(package, folder, tmp_path, monkeypatch):
    if package == "h5py":
        pytest.importorskip("minari")
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    message = rf"package '{package}' is missing; run: pip install 'mtrouter-rl\[exports\]'"
    with pytest.raises(MissingDependencyError, match=message):
        export_dataset("minari", folder, tmp_path / "export")
    with pytest.raises(MissingDependencyError, match=message):
        restore_dataset("minari", tmp_path / "export", tmp_path / "back")


def test_restoring_keeps_another_dataset_unless_told(folder, tmp_path):
    export_dataset("jsonl", folder, tmp_path / "export.jsonl")
    restore_dataset("jsonl", tmp_path / "export.jsonl", tmp_path / "back")
    with pytest.raises(DatasetError, match=r"back is not empty; give another --out, or --overwrite"):
        restore_dataset("jsonl", tmp_path / "export.jsonl", tmp_path / "back")
    info = restore_dataset("jsonl", tmp_path / "export.jsonl", tmp_path / "back", overwrite=True)
    assert info == Dataset.load(folder).info


def test_format_that_loses_something_cannot_be_restored(tmp_path):
    with pytest.raises(UnknownNameError, match=r"unknown restorable format 'd3rlpy'.*Valid: jsonl, minari"):
        restore_dataset("d3rlpy", tmp_path, tmp_path / "back")
