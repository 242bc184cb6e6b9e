"""Every importer of a published format reads the same two calls to the same episode, and loses none when a log is damaged."""

import copy
import json
import random

import pytest

from mtrouter_rl.datasets.importers.base import Amount
from mtrouter_rl.datasets.importers.messages import open_conversation, read_messages
from mtrouter_rl.datasets.importers.new_pool import scan_models
from mtrouter_rl.datasets.importers.recognize import recognize
from mtrouter_rl.datasets.importers.run import ImportRequest, import_log
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import DatasetError, MTRouterError
from mtrouter_rl.records import TokenUsage
from tests.cases import agent_logs as logs

FIRST, SECOND = TokenUsage(n_fresh=100, n_output=10), TokenUsage(n_fresh=120, n_cached=80, n_output=20)
CLAUDE = (TokenUsage(n_fresh=20, n_cached=50, n_written=30, n_output=10), TokenUsage(n_fresh=200, n_output=20))
CODEX = (TokenUsage(n_fresh=60, n_cached=40, n_output=10), SECOND)

LOGS = {
    "openai-pairs": ("openai-pairs", {"a.jsonl": logs.pairs()}, (FIRST, SECOND)),
    "openai-pairs as a list": ("openai-pairs", {"a.json": json.dumps(logs.pairs()).encode()}, (FIRST, SECOND)),
    "claude-code": ("claude-code", {"s1.jsonl": logs.CLAUDE_CODE}, CLAUDE),
    "codex": ("codex", {"rollout-x.jsonl": logs.CODEX}, CODEX),
    "litellm": ("litellm", {"a.json": json.dumps(logs.litellm()).encode()}, (FIRST, SECOND)),
    "otel, new names": ("otel", {"a.json": logs.new_names()}, (FIRST, SECOND)),
    "otel, old names": ("otel", {"a.jsonl": [logs.old_names()]}, (FIRST, SECOND)),
    "otel, events": ("otel", {"a.json": logs.event_names()}, (FIRST, SECOND)),
    "otel, OpenInference": ("otel", {"a.json": logs.open_inference()}, (FIRST, SECOND)),
    "langfuse": ("langfuse", {"a.json": logs.langfuse()}, (FIRST, SECOND)),
    "atif": ("atif", {"j/t/agent/trajectory.json": logs.atif(), "j/t/result.json": logs.trial()}, (FIRST, SECOND)),
    "inspect": ("inspect", {"a.json": logs.inspect_log()}, (FIRST, SECOND)),
    "inspect, zip": ("inspect", {"a.eval": logs.inspect_zip()}, (FIRST, SECOND)),
}
WHOLE_RUNS = {
    "sweagent": ("sweagent", {"x.traj": logs.sweagent(), "r.json": {"x": 1.0}}),
    "mini-swe-agent": ("mtrouter", {"x.traj.json": logs.mini_swe_agent(), "report.json": logs.SWE_BENCH_REPORT}),
    "tau2": ("tau2", logs.tau2()),
}
DAMAGED = {key: (name, files) for key, (name, files, _) in LOGS.items()} | WHOLE_RUNS
IDS = {"atif": "files__abc/s1", "inspect": "files/q1/1/E"}
WITH_SCORES = ("atif", "inspect", "langfuse", "sweagent", "mtrouter", "tau2")
WITHOUT_SYSTEM = ("claude-code", "codex")


def run(read, name, files):
    return read(name, files, scores={"s1": 0.5} if name not in WITH_SCORES else None)


@pytest.mark.parametrize(("name", "files", "usages"), LOGS.values(), ids=LOGS)
def test_two_calls_become_an_episode_of_two_turns(read, name, files, usages):
    episodes, report = run(read, name, files)
    (episode,) = episodes
    assert episode.episode_id == IDS.get(name, "s1")
    assert episode.task_text == "List the files."
    assert [turn.model for turn in episode.turns] == ["cheap", "strong"]
    assert [turn.action_text for turn in episode.turns] == [
        'I look.\n[{"name": "ls", "arguments": {"path": "/"}}]'
        if name != "codex"
        else '[{"name": "ls", "arguments": {"path": "/"}}]',
        "bin and etc.",
    ]
    assert [turn.observation_text for turn in episode.turns] == ["bin etc", ""]
    assert tuple(turn.usage for turn in episode.turns) == usages
    assert episode.utility == (1.0 if name in ("atif", "inspect") else 0.5)
    assert episode.turns[-1].terminated
    assert episode.status == "completed"
    if name not in WITHOUT_SYSTEM:
        assert episode.extra["system_prompt"] == "You help."
    assert report.n_rejected == 0
    assert (report.read.n_prompt, report.read.n_output) == (300, 30)


@pytest.mark.parametrize(("name", "files", "usages"), LOGS.values(), ids=LOGS)
def test_the_log_is_recognized_and_its_dataset_loads_back(tmp_path, pool, name, files, usages):
    folder = tmp_path / "log"
    for file, content in files.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_bytes(content))
    found = recognize([folder])
    assert (found.format, found.others) == (name, ())
    scores = tmp_path / "scores.csv"
    scores.write_text("session_id,score\ns1,0.5\n")
    given = () if name in WITH_SCORES else (scores,)
    request = ImportRequest(format=name, paths=(folder,), pool=pool, out=tmp_path / "out", scores=given)
    assert import_log(request, show_progress=False).n_turns == 2
    (episode,) = Dataset.load(tmp_path / "out").episodes
    assert tuple(turn.usage for turn in episode.turns) == usages


@pytest.mark.parametrize(("name", "files", "usages"), LOGS.values(), ids=LOGS)
def test_the_callers_own_messages_say_the_same_as_the_imported_log(read, name, files, usages):
    """So a router sees live what it was trained on. Codex logs the items of an answer, here without its text."""
    look = logs.LOOK if name != "codex" else logs.LOOK | {"content": None}
    live = open_conversation(read_messages([logs.SYSTEM, logs.TASK, look, logs.FOUND]))
    (episode,), _ = run(read, name, files)
    assert (live.task_text, live.first_observation) == (episode.task_text, episode.first_observation)
    assert [(one.action_text, one.observation_text) for one in live.answers] == [
        (turn.action_text, turn.observation_text) for turn in episode.turns[:1]
    ]


@pytest.mark.parametrize(("name", "files"), DAMAGED.values(), ids=DAMAGED)
def test_the_models_of_a_log_are_found_without_a_pool(tmp_path, name, files):
    for file, content in files.items():
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_bytes(content))
    models, _ = scan_models(name, [tmp_path], {}, show_progress=False)
    whole = {"cheap"} if name in ("sweagent", "mtrouter", "tau2") else {"cheap", "strong"}
    assert {model.name for model in models} == whole


@pytest.mark.parametrize(("name", "files"), [(name, files) for name, files, _ in LOGS.values()], ids=LOGS)
def test_a_wrong_format_is_told_by_the_right_one(tmp_path, pool, name, files):
    for file, content in files.items():
        path = tmp_path / "log" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_bytes(content))
    other = "routerbench" if name != "routerbench" else "balrog"
    request = ImportRequest(format=other, paths=(tmp_path / "log",), pool=pool, out=tmp_path / "out")
    with pytest.raises(DatasetError, match=f"looks like format '{name}'"):
        import_log(request, show_progress=False)


@pytest.mark.parametrize("name", sorted({name for name, _, _ in LOGS.values()}))
def test_nothing_of_the_format(read, name):
    with pytest.raises(DatasetError):
        read(name, {"a.json": {"hello": 1}})


USAGE_KEYS = ("usage", "metrics", "attributes", "usageDetails", "info", "usage_object", "output", "custom_id", "events")


def _bytes(content):
    from tests.datasets.importers.formats.conftest import as_bytes

    return as_bytes(content)


def places(value, path=()):
    """Every place of a value by its path, those that hold the counts left out."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield (*path, index)
            yield from places(inner, (*path, index))


JUNK = (None, "", "x", 7, -1, 1e400, True, [], {}, [[]], {"a": 1}, "\ud800", "NaN")


def damaged(content, rng):
    """A log with one value gone or another one in its place."""
    if isinstance(content, bytes):
        place = rng.randrange(len(content))
        return content[:place] + bytes([rng.randrange(256)]) + content[place + rng.randrange(3) :]
    value = copy.deepcopy(content)
    path = rng.choice(list(places(value)))
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    if rng.random() < 0.4:
        del holder[path[-1]]
    else:
        holder[path[-1]] = rng.choice(JUNK)
    return value


@pytest.mark.parametrize("key", WHOLE_RUNS)
def test_whole_runs_are_recognized_and_add_up(tmp_path, read, key):
    name, files = WHOLE_RUNS[key]
    episodes, report = run(read, name, files)
    assert [(len(episode.turns), episode.utility) for episode in episodes] == [(2, 1.0)]
    assert (report.read.n_prompt, report.read.n_output, report.n_rejected) == (300, 30, 0)
    assert recognize([tmp_path / "log"]).format == name


@pytest.mark.parametrize(("name", "files"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_log_gives_no_traceback_and_no_token_out_of_nothing(read, name, files):
    rng = random.Random(f"damage {name}")
    for _ in range(150):
        file = rng.choice(sorted(files))
        broken = files | {file: damaged(files[file], rng)}
        try:
            episodes, report = run(read, name, broken)
        except MTRouterError:
            continue
        for episode in episodes:
            assert all(turn.usage.n_output <= 30 for turn in episode.turns)
        seen = report.read + report.left_out
        assert isinstance(seen, Amount)
        assert seen.n_prompt <= 600


COUNTS = {
    "prompt_tokens",
    "completion_tokens",
    "usage",
    "metrics",
    "usageDetails",
    "attributes",
    "output",
    "info",
    "payload",
}


def harmless(content, rng):
    """A log of which a text, a role, a name or an id is another one, and every count and object is as it was."""
    value = copy.deepcopy(content)
    found = [path for path in places(value) if not COUNTS & set(map(str, path)) and isinstance(_at(value, path), str)]
    if not found:
        return value
    path = rng.choice(found)
    _at(value, path[:-1])[path[-1]] = rng.choice(("", "x", "tool", "s2", "2026-01-01T00:00:09Z"))
    return value


def _at(value, path):
    for key in path:
        value = value[key]
    return value


KEPT = tuple(DAMAGED)


@pytest.mark.parametrize("name", KEPT)
def test_what_is_read_and_left_out_adds_up_to_the_log(read, name):
    name, files = DAMAGED[name]
    rng = random.Random(f"sums {name}")
    n_checked = 0
    for _ in range(150):
        changed = {file: harmless(content, rng) if "result" not in file else content for file, content in files.items()}
        try:
            _, report = run(read, name, changed)
        except MTRouterError:
            continue
        seen = report.read + report.left_out
        if seen.n_unknown == 0 and seen.n_calls == 2:
            n_checked += 1
            assert (seen.n_prompt, seen.n_output) == (300, 30), changed
    assert n_checked > 50
