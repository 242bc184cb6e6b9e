import gzip
import json
import re
import tarfile
from pathlib import Path

import pytest

from mtrouter_rl.cards import load_pool_card
from mtrouter_rl.datasets.importers import openai_jsonl, openai_jsonl_lines
from mtrouter_rl.datasets.importers.base import ImportReport, ImportSource
from mtrouter_rl.datasets.importers.json_rows import EMPTY_FILE
from mtrouter_rl.datasets.importers.messages import OTHER_PARTS
from mtrouter_rl.datasets.importers.openai_jsonl import OpenAIJsonlImporter, OpenAIJsonlOptions
from mtrouter_rl.datasets.importers.run import ImportRequest, import_log
from mtrouter_rl.datasets.importers.sessions import NO_STATUS
from mtrouter_rl.datasets.importers.threads import LOST_CALL, REPEATED, REWORDED
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.records import UNLIMITED_BUDGET_USD, TokenUsage

USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 40}}


def user(text):
    return {"role": "user", "content": text}


def answer(text, **fields):
    return {"role": "assistant", "content": text, **fields}


def call(session, messages, response, **fields):
    return {
        "session_id": session,
        "messages": messages,
        "response": response,
        "model": "cheap",
        "usage": USAGE,
    } | fields


def session(name, **last):
    """Two calls whose prompts hold the whole conversation."""
    start = [{"role": "system", "content": "Be kind."}, user("Fix it."), user("A file.")]
    return [
        call(name, start, "look"),
        call(name, [*start, answer("look"), user("a door")], answer("open"), model="strong", **({"score": 0.5} | last)),
    ]


def episode_line(name, **fields):
    messages = [user("Fix it."), answer("look", model="cheap", usage=USAGE), user("a door")]
    return {"session_id": name, "messages": messages, "score": 1.0, "status": "completed"} | fields


def text_of(rows):
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


@pytest.fixture
def read(tmp_path, pool):
    """Imports lines; gives the episodes by id and the report as JSON."""

    def run(rows, *, path=None, pool_card=pool, **options):
        path = path or tmp_path / "log.jsonl"
        if rows is not None:
            path.write_text(text_of(rows), encoding="utf-8")
        report = ImportReport(format="openai-jsonl")
        source = ImportSource(paths=(path,), pool=pool_card, report=report)
        episodes = list(OpenAIJsonlImporter(OpenAIJsonlOptions(**options)).episodes(source))
        return {episode.episode_id: episode for episode in episodes}, report.to_json()

    return run


def test_calls_become_an_episode(read, pool):
    last = {
        "task": "refund",
        "status": "truncated",
        "max_turns": 2,
        "budget_usd": 0.5,
        "seed": 3,
        "propensity": 0.25,
        "served_model": "cheap",
        "candidates": ["strong"],
        "latency_s": 1.5,
        "router_cost_usd": 0.002,
        "error": "bad",
        "observation": "closed",
        "timestamp": "2025-01-01T00:00:00Z",
        "behavior_policy": "uniform",
    }
    episode = read(session("s1", **last))[0]["s1"]
    assert (episode.task, episode.seed, episode.max_turns, episode.budget_usd) == ("refund", 3, 2, 0.5)
    assert (episode.task_text, episode.first_observation) == ("Fix it.", "A file.")
    assert episode.extra == {"system_prompt": "Be kind.", "timestamp": "2025-01-01T00:00:00Z"}
    first, second = episode.turns
    assert (first.action_text, first.observation_text, second.action_text) == ("look", "a door", "open")
    assert second.observation_text == "closed"
    assert first.usage == TokenUsage(n_fresh=60, n_cached=40, n_output=10)
    assert (first.propensity, second.propensity, second.latency_s, second.error) == (None, 0.25, 1.5, "bad")
    assert (second.model, second.served_model, second.action_mask) == ("strong", "cheap", (False, True))
    assert (first.router_cost_usd, second.router_cost_usd) == (0.0, 0.002)
    assert second.cost_usd == pool.model("cheap").prices.cost_usd(second.usage) + 0.002
    assert (first.utility_gain, second.utility_gain) == (0.0, 0.5)
    assert (second.terminated, second.truncated, episode.behavior_policy) == (False, True, "uniform")


@pytest.mark.parametrize(
    ("last", "options"), [({"propensity": 2.0}, {}), ({"propensity": 0.5}, {"propensities": "exact"})]
)
def test_what_a_decision_cost_is_money_of_a_session_that_is_left_out_as_well(read, last, options):
    (kept,) = read(session("s1", router_cost_usd=0.5))[0].values()
    episodes, report = read(session("s1", router_cost_usd=0.5, **last), **options)
    assert not episodes
    assert report["left_out"]["usd"] == pytest.approx(kept.cost_usd, rel=1e-12)


def test_an_episode_in_one_line_says_the_same(read):
    messages = [
        *session("s1")[0]["messages"],
        answer("look", model="cheap", usage=USAGE),
        user("a door"),
        answer("open", model="strong", usage=USAGE),
    ]
    calls = read(session("s1"))[0]["s1"]
    whole = read([{"session_id": "s1", "messages": messages, "score": 0.5}])[0]["s1"]
    assert whole == calls
    assert whole.budget_usd == UNLIMITED_BUDGET_USD


def test_prompts_that_hold_only_what_is_new(read):
    rows = [call("s", [user("Fix it.")], "look"), call("s", [user("a door")], "open", score=1.0)]
    turns = read(rows)[0]["s"].turns
    assert [(turn.action_text, turn.observation_text) for turn in turns] == [("look", "a door"), ("open", "")]


def test_what_is_new_may_be_the_same_twice(read):
    texts = ["Fix it.", "Go on.", "Go on."]
    rows = [call("s", [user(text)], "step") for text in texts]
    rows[-1]["score"] = 1.0
    assert [turn.observation_text for turn in read(rows)[0]["s"].turns] == ["Go on.", "Go on.", ""]


def test_sessions_may_be_mixed_and_episodes_come_in_the_order_of_their_ends(read):
    a, b = session("a"), session("b")
    episodes, report = read([a[0], b[0], episode_line("c"), b[1], a[1]])
    assert list(episodes) == ["c", "b", "a"]
    assert report["n_rejected"] == 0


def test_gains_at_the_calls(read):
    rows = session("s", utility_gain=-0.25, score=0.25)
    rows[0]["utility_gain"] = 0.5
    assert [turn.utility_gain for turn in read(rows)[0]["s"].turns] == [0.5, -0.25]


def test_a_failed_session_needs_no_score(read):
    episode = read(session("s", score=None, status="failed", status_detail="gateway down"))[0]["s"]
    assert (episode.status, episode.status_detail, episode.utility) == ("failed", "gateway down", 0.0)
    assert not any(turn.terminated or turn.truncated for turn in episode.turns)


def test_instance_makes_the_variation(read):
    episodes, _ = read([episode_line("a", instance="t7"), episode_line("b", instance="t7"), episode_line("c")])
    assert episodes["a"].variation == episodes["b"].variation != episodes["c"].variation
    assert read([episode_line("c")])[0]["c"].variation == episodes["c"].variation


def without(row, name):
    return {key: value for key, value in row.items() if key != name}


BAD_LINES = [
    ('{"session_id": "bad", "messages": [', "text that is no JSON object", "Expecting"),
    ("\x00\x01 garbage", "text that is no JSON object", "begins with"),
    ({"model": "cheap"}, "field that is missing or breaks its rule", "session_id is None"),
    (episode_line(True), "field that is missing or breaks its rule", "session_id is True"),
    (
        without(episode_line("bad"), "session_id") | {"trace_id": "t"},
        "field that is missing or breaks its rule",
        "'trace_id' may be what is meant: rename it to session_id",
    ),
    (episode_line("bad", messages=7), "field that is missing or breaks its rule", "messages is a int"),
    (episode_line("bad", messages=[]), "field that is missing or breaks its rule", "messages: "),
    (episode_line("bad", messages=[user("x")]), "conversation without any answer of a model", "none of role"),
    (without(episode_line("bad"), "score"), "score that is missing or out of range", "score is missing"),
    (episode_line("bad", score="85%"), "score that is missing or out of range", "divide it by its maximum (is '85%')"),
    (
        '{"session_id": "bad", "score": NaN, "messages": [{"role": "user"}]}',
        "score that is missing or out of range",
        "NaN",
    ),
    (episode_line("bad", score=1.5), "score that is missing or out of range", "(is 1.5)"),
    (episode_line("bad", status="done"), "field that is missing or breaks its rule", "status: "),
    (episode_line("bad", messages=[user("x"), answer("a", usage=USAGE)]), "model that is missing", "messages.1: model"),
    (
        episode_line("bad", messages=[user("x"), answer("a", model="cheap")]),
        "token count that is missing or invalid",
        "messages.1: usage: Field required",
    ),
    (
        call("bad", [user("x")], "a", score=1.0, model="chaep"),
        "model that the pool does not have",
        "did you mean 'cheap'",
    ),
    (call("bad", [user("x")], "a", score=1.0, served_model="x"), "model that the pool does not have", "'x'"),
    (
        call("bad", [user("x")], "a", score=1.0, usage={"prompt_tokens": -5, "completion_tokens": 1}),
        "token count that is missing or invalid",
        "usage.prompt_tokens is -5",
    ),
    (without(call("bad", [user("x")], "a", score=1.0), "usage"), "token count that is missing or invalid", "usage"),
    (without(call("bad", [user("x")], "a", score=1.0), "model"), "model that is missing", "model: Field required"),
    (
        without(call("bad", [user("x")], "a", score=1.0), "response"),
        "field that is missing or breaks its rule",
        "must have a response",
    ),
    (call("bad", [user("x")], "a", score=1.0, propensity=0), "propensity that is missing or out of range", "(is 0)"),
    (
        call("bad", [user("x")], "a", score=1.0, candidates=["strong"]),
        "candidates without the chosen model",
        "['strong']",
    ),
    (
        call("bad", [{"role": "tool"}], "a", score=1.0),
        "conversation without a user message before its first answer",
        "1 messages",
    ),
    (call("bad", [{"role": "bot"}], "a", score=1.0), "field that is missing or breaks its rule", "role is 'bot'"),
    (
        call("bad", [user("x")], "a", score=1.0, utility_gain=0.5),
        "utility gains that are incomplete or do not add up to the score",
        "add up to 0.5, score is 1",
    ),
]


@pytest.mark.parametrize(("row", "reason", "detail"), BAD_LINES)
def test_a_bad_line_is_counted_with_its_place_and_the_rest_is_imported(read, row, reason, detail):
    episodes, report = read([episode_line("a"), row, episode_line("b")])
    assert list(episodes) == ["a", "b"]
    (found,) = report["rejected"].items()
    assert (found[0], found[1]["n"]) == (reason, 1)
    assert found[1]["examples"][0]["source"] == "log.jsonl:2"
    assert detail in found[1]["examples"][0]["detail"]


def test_a_bad_call_takes_its_session_with_it(read):
    rows = session("bad")
    del rows[0]["usage"]
    episodes, report = read([*rows, *session("good")])
    assert list(episodes) == ["good"]
    (found,) = report["rejected"].values()
    assert found["examples"][0]["source"] == "log.jsonl:1"
    assert report["n_rejected_turns"] == 2


@pytest.mark.parametrize(
    ("rows", "reason", "place"),
    [
        (session("s")[:1], "session without the line that ends it", 1),
        (
            [
                session("s")[0],
                call("s", [user("x"), answer("look"), user("y"), answer("lost"), user("z")], "open", score=1.0),
            ],
            "session with a call that no line logs",
            2,
        ),
    ],
)
def test_sessions_that_are_not_whole(read, rows, reason, place):
    _, report = read(rows)
    assert report["rejected"][reason]["examples"][0]["source"] == f"log.jsonl:{place}"


def test_answers_in_the_first_prompt_are_lost_calls_or_examples(read):
    rows = session("s")[1:]
    _, report = read(rows)
    assert "earlier_answers=keep" in report["rejected"][LOST_CALL]["examples"][0]["detail"]
    episode = read(rows, earlier_answers="keep")[0]["s"]
    assert (episode.first_observation, len(episode.turns)) == ("A file.\n\nlook\n\na door", 1)


def test_exact_propensities_are_asked_for(read):
    rows = [*session("lacks"), episode_line("lacks too")]
    full = [episode_line("has", messages=[user("x"), answer("a", model="cheap", usage=USAGE, propensity=0.5)])]
    episodes, report = read(rows + full, propensities="exact")
    assert list(episodes) == ["has"]
    found = report["rejected"]["propensity that is missing or out of range"]
    assert found["n"] == 2
    assert "propensities=unknown" in found["examples"][0]["detail"]
    assert list(read(rows)[0]) == ["lacks", "lacks too"]


def test_open_sessions_are_bounded(read):
    a, b, c = session("a"), session("b"), session("c")
    rows = [a[0], b[0], c[0], b[1], c[1], a[1]]
    episodes, report = read(rows, max_open_sessions=2)
    assert list(episodes) == ["b", "c"]
    found = report["rejected"]["session that was left open while too many others were"]
    assert found["examples"][0]["source"] == "log.jsonl:1"


def test_notes(read):
    rows = [
        *session("a"),
        call("b", [user("Fix it.")], "look", propensty=0.5),
        call("b", [user("Fix it.")], "look"),
        call("b", [user("Fix it."), answer("LOOK"), user("x")], "open", score=1.0, status="completed"),
    ]
    rows[0]["messages"][1] = user([{"type": "text", "text": "Fix it."}, {"type": "image_url", "image_url": {}}])
    rows[1]["usage"] = USAGE | {"cost": 1.0}
    episodes, report = read(rows)
    assert episodes["b"].extra == {"propensty": 0.5}
    assert [turn.observation_text for turn in episodes["b"].turns] == ["", "x", ""]
    notes = {name: (found["n"], found["examples"][0]["source"]) for name, found in report["notes"].items()}
    assert notes == {
        NO_STATUS: (1, "log.jsonl:2"),
        openai_jsonl.UNKNOWN_KEY: (1, "log.jsonl:3"),
        REPEATED: (1, "log.jsonl:4"),
        REWORDED: (1, "log.jsonl:5"),
        OTHER_PARTS: (1, "log.jsonl:2"),
        "answer whose logged cost is missing": (1, "log.jsonl:2"),
        "logged cost that differs from tokens times the pool's prices by more than 1%": (1, "log.jsonl:2"),
    }
    assert "did you mean 'propensity'" in report["notes"][openai_jsonl.UNKNOWN_KEY]["examples"][0]["detail"]


def test_folders_archives_and_packed_files(read, tmp_path):
    folder = tmp_path / "logs"
    (folder / "day1").mkdir(parents=True)
    (folder / "day1" / "a.jsonl").write_text(text_of([episode_line("a"), session("c")[0]]), encoding="utf-8")
    (folder / "day2.jsonl.gz").write_bytes(gzip.compress(text_of([session("c")[1], episode_line("b")]).encode()))
    (folder / "half.jsonl.gz").write_bytes(gzip.compress(text_of([episode_line("x")] * 2000).encode())[:200])
    (folder / "empty.jsonl").write_text("\n\n", encoding="utf-8")
    (folder / "notes.txt").write_text("no log", encoding="utf-8")
    (tmp_path / "d.ndjson").write_text(text_of([episode_line("d")]), encoding="utf-8")
    with tarfile.open(folder / "old.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "d.ndjson", arcname="d.ndjson")
    episodes, report = read(None, path=folder)
    assert {"a", "b", "c", "d"} <= set(episodes)
    assert report["rejected"]["archive that is cut off or broken"]["examples"][0]["source"] == "half.jsonl.gz"
    assert report["rejected"][EMPTY_FILE]["examples"][0]["source"] == "empty.jsonl"


def test_nothing_of_the_format(read, tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(
        DatasetError, match=r"no line of the format in .*other; give files that end in .jsonl or .ndjson"
    ):
        read(None, path=tmp_path / "other")
    with pytest.raises(DatasetError, match="no line of the format"):
        read(['{"id": 1}', "{"])
    with pytest.raises(DatasetError, match="no such file or folder"):
        read(None, path=tmp_path / "gone.jsonl")


def test_the_dataset_loads_back(tmp_path, pool):
    path = tmp_path / "log.jsonl"
    path.write_text(text_of([*session("s1"), episode_line("s2"), episode_line("s2"), "{"]), encoding="utf-8")
    request = ImportRequest(format="openai-jsonl", paths=(path,), pool=pool, out=tmp_path / "out")
    report = import_log(request, show_progress=False).to_json()
    assert (report["n_episodes"], report["n_turns"]) == (2, 3)
    assert set(report["rejected"]) == {"text that is no JSON object"}
    assert report["passed_over"]["call that is logged twice, counted once"]["n"] == 1
    dataset = Dataset.load(tmp_path / "out")
    assert (dataset.info.propensities, dataset.info.is_simulated, dataset.info.origin) == ("unknown", False, "imported")
    assert [episode.episode_id for episode in dataset.episodes] == ["s1", "s2"]
    assert dataset.episodes[0].turns[0].observation_text == "a door"


def test_garbage_alone_says_what_was_found(tmp_path, pool):
    path = tmp_path / "log.jsonl"
    path.write_bytes(bytes(range(256)) * 20)
    request = ImportRequest(format="openai-jsonl", paths=(path,), pool=pool, out=tmp_path / "out")
    with pytest.raises(DatasetError, match=r"(?s)nothing could be imported: no line of the format.*is no JSON object"):
        import_log(request, show_progress=False)


def test_the_published_schema_is_that_of_the_models():
    # If this fails after a change of the models, write schema_text() into the file again.
    assert openai_jsonl_lines.published_schema() == openai_jsonl_lines.schema_text()
    assert set(json.loads(openai_jsonl_lines.published_schema())["$defs"]) >= {"CallLine", "EpisodeLine", "ScoreLine"}


PAGE = Path(__file__).parents[3] / "docs" / "import-my-logs.md"


def test_the_documented_example_is_imported_and_both_forms_say_the_same(tmp_path, read):
    blocks = re.findall(r"^```json\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (card,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (tmp_path / "pool.yaml").write_text(card, encoding="utf-8")
    source_pool = load_pool_card(tmp_path / "pool.yaml")
    calls, whole = (read(block.splitlines(), pool_card=source_pool, propensities="exact") for block in blocks)
    assert list(calls[0]) == ["t-2", "t-1"]
    assert whole[0]["t-1"] == calls[0]["t-1"]
    assert calls[1]["n_rejected"] == whole[1]["n_rejected"] == 0
    assert calls[1]["notes"] == whole[1]["notes"] == {}


def test_every_field_is_documented():
    schema = json.loads(openai_jsonl_lines.published_schema())["$defs"]
    fields = {
        name
        for model in ("CallLine", "EpisodeLine", "EpisodeMessage", "ScoreLine")
        for name in schema[model]["properties"]
    }
    text = PAGE.read_text(encoding="utf-8")
    missing = {
        name for name in fields - {"role", "content", "tool_calls"} if f"`{name}" not in text and f"{name}`" not in text
    }
    assert not missing
