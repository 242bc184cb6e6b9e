import gzip
import json
import zipfile

import pytest

from mtrouter_rl.datasets.importers import recognize as module
from mtrouter_rl.datasets.importers.recognize import looks_like, recognize
from mtrouter_rl.datasets.importers.sample import take_sample
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.registry import IMPORTERS

CALL = {"session_id": "s", "messages": [{"role": "user", "content": "hi"}], "response": "x", "model": "m"}
TRAJECTORY = {"info": {"exit_status": "Submitted"}, "messages": [], "trajectory_format": "mini-swe-agent-1"}
TAU2 = {"timestamp": "t", "info": {"agent_info": {"llm": "m"}}, "tasks": [], "simulations": []}
BALROG = {"task": "goto", "num_steps": 3, "progression": 1.0}
BENCH = {"records": [{"index": 1, "score": 1.0, "prompt_tokens": 3}], "model_name": "m"}


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


KNOWN = {
    "calls": ("a.jsonl", CALL, "openai-jsonl"),
    "calls as a list": ("a.json", [CALL, CALL], "openai-jsonl"),
    "two calls on one line": ("a.jsonl", json.dumps(CALL).encode() * 2, "openai-jsonl"),
    "calls with a mark of UTF-16": ("a.jsonl", json.dumps(CALL).encode("utf-16"), "openai-jsonl"),
    "packed calls": ("a.jsonl.gz", gzip.compress(json.dumps(CALL).encode()), "openai-jsonl"),
    "a trajectory": ("x.traj.json", TRAJECTORY, "mtrouter"),
    "a pretty-printed trajectory": ("x.traj.json", json.dumps(TRAJECTORY, indent=2).encode(), "mtrouter"),
    "the beginning of a large file": ("x.traj.json", json.dumps(TRAJECTORY).encode()[:-3], "mtrouter"),
    "results of tau2": ("r.json", TAU2, "tau2"),
    "totals of BALROG": ("goto_run_00.json", BALROG, "balrog"),
    "a run of LLMRouterBench": ("r.json", BENCH, "llmrouterbench"),
    "a table of RouterBench": ("t.csv", b"sample_id,prompt,eval_name,m,m|total_cost\nq,p,e,1,0.1\n", "routerbench"),
}


@pytest.mark.parametrize(("name", "content", "expected"), KNOWN.values(), ids=KNOWN)
def test_a_file_is_told_by_its_first_object(tmp_path, name, content, expected):
    found = recognize([write(tmp_path, name, content)])
    assert (found.format, found.others) == (expected, ())
    assert name.removesuffix(".gz") in found.why


def test_most_files_of_a_folder_decide_and_the_others_are_named(tmp_path):
    for index in range(3):
        write(tmp_path, f"runs/{index}.traj.json", TRAJECTORY)
    write(tmp_path, "calls.jsonl", CALL)
    write(tmp_path, "scores.json", {"x": 1.0})
    found = recognize([tmp_path])
    assert (found.format, found.others, found.n_files, found.n_unknown) == ("mtrouter", ("openai-jsonl",), 3, 1)


def test_an_archive_is_looked_into(tmp_path):
    with zipfile.ZipFile(tmp_path / "logs.zip", "w") as archive:
        archive.writestr("README.md", "# Logs")
        archive.writestr("r.json", json.dumps(TAU2))
    assert recognize([tmp_path / "logs.zip"]).format == "tau2"


def test_what_is_not_known_is_shown_with_the_known_formats(tmp_path):
    write(tmp_path, "a.json", {"hello": 1, "world": 2})
    with pytest.raises(DatasetError, match=r"a\.json: an object with hello, world.*Known formats: .*openai-jsonl"):
        recognize([tmp_path])
    with pytest.raises(DatasetError, match="no such file"):
        recognize([tmp_path / "nothing"])


def test_a_wrong_format_is_told_by_the_right_one(tmp_path):
    path = write(tmp_path, "r.json", TAU2)
    assert "format 'tau2'" in looks_like([path], given="mtrouter")
    assert looks_like([path], given="tau2") == ""
    assert looks_like([write(tmp_path, "x.json", {"x": 1})], given="tau2") == ""


def test_a_plug_in_that_is_gone_does_not_stand_in_the_way(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(IMPORTERS.builtin, "gone", "no_such_package:Importer")
    assert recognize([write(tmp_path, "r.json", TAU2)]).format == "tau2"
    assert "gone" in caplog.text


def test_every_importer_says_what_its_files_look_like():
    assert set(module.recognizers()) == set(IMPORTERS.builtin)


def test_what_is_no_json_has_no_rows(tmp_path):
    from mtrouter_rl.datasets.importers.archives import LogFile, PurePosixPath

    for data in (b"", b"\xff\xfe", b"[" * 100_000, b'{"a": ' * 50_000, b"1" * 6000):
        assert take_sample(LogFile(source="x", path=PurePosixPath("x.json"), data=data)).rows == ()
