"""From what an agent did behind the service to a dataset: propensities, scores that come later, the same features as live."""

import json
import sqlite3

import numpy as np
import pytest

from mtrouter_rl.datasets.importers.new_pool import scan_models
from mtrouter_rl.datasets.importers.recognize import recognize
from mtrouter_rl.datasets.importers.run import ImportRequest, import_log
from mtrouter_rl.datasets.importers.served import SERVED_VERSION
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.embeddings.history_sources import observations_of
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.serving.live import LiveRouter
from mtrouter_rl.serving.service.tables import SCHEMA_VERSION
from tests.cases.served import TASK, chat, post, rows, said_step, served


def played(address, name, *, n_turns=3, score=None):
    """A conversation of some turns; gives its session."""
    messages = [{"role": "system", "content": "You help."}, TASK | {"content": f"Find {name}."}]
    for turn in range(n_turns):
        answer = chat(address, messages, headers={"x-mtrouter-session": name})
        assert answer.status_code == 200, answer.text
        messages += [answer.json()["choices"][0]["message"], {"role": "user", "content": f"You see {turn}."}]
    if score is not None:
        told = post(f"{address}/feedback", {"session": name, "score": score})
        assert told.status_code == 200, told.text


def imported(tmp_path, pool, **more):
    request = ImportRequest(
        format="served", paths=(tmp_path / "served.sqlite",), pool=pool, out=tmp_path / "out", **more
    )
    report = import_log(request, show_progress=False)
    return Dataset.load(tmp_path / "out").episodes, report


def test_the_log_becomes_a_dataset(request_of, pool, tmp_path):
    with served(request_of()) as (address, _):
        played(address, "one", score=1.0)
        played(address, "two", n_turns=2, score=0.25)
        played(address, "three", n_turns=1)
    scores = tmp_path / "scores.csv"
    scores.write_text("session_id,score\nthree,0.5\n")
    episodes, report = imported(tmp_path, pool, scores=(scores,))
    assert [episode.utility for episode in episodes] == [1.0, 0.25, 0.5]
    first = episodes[0]
    assert (first.task_text, first.first_observation) == ("Find one.", "")
    assert first.extra["system_prompt"] == "You help."
    assert [turn.observation_text for turn in first.turns] == ["You see 0.", "You see 1.", ""]
    assert {turn.propensity for episode in episodes for turn in episode.turns} == {0.5}
    assert all(all(turn.action_mask) for turn in first.turns)
    assert report.n_turns == 6
    assert report.n_rejected == 0
    assert report.read.n_prompt == 600
    assert report.read.usd == pytest.approx(sum(episode.cost_usd for episode in episodes))


def test_what_the_router_saw_live_is_what_the_dataset_shows(request_of, pool, tmp_path, monkeypatch):
    seen = []
    weigh = LiveRouter.weigh

    def spied(self, observation):
        seen.append(observation)
        return weigh(self, observation)

    monkeypatch.setattr(LiveRouter, "weigh", spied)
    with served(request_of(session_budget_usd=2.0)) as (address, _):
        played(address, "one", n_turns=4, score=1.0)
    ((episode,), _) = imported(tmp_path, pool)
    logged = observations_of(episode, pool)
    assert len(logged) == len(seen) == 4
    for live, shown in zip(seen, logged, strict=True):
        for name in ("task", "first_observation", "history", "turn"):
            assert live[name] == shown[name], name
        assert np.array_equal(live["action_mask"], shown["action_mask"])
    assert episode.budget_usd == 2.0


def failing_once(double, *, usage=None):
    """The first call gives no message, with or without a bill; the others answer."""
    calls = []

    def answer(model, body):
        calls.append(model)
        if len(calls) > 1:
            return said_step(model, body)
        return (200, {"content-type": "application/json"}, json.dumps({"choices": [], "usage": usage}).encode())

    double.answer = answer


def test_a_call_that_was_billed_in_vain_is_part_of_its_turn(request_of, double, pool, tmp_path):
    failing_once(double, usage={"prompt_tokens": 50, "completion_tokens": 5})
    with served(request_of("single:small")) as (address, _):
        assert chat(address, [TASK], headers={"x-mtrouter-session": "one"}).status_code == 502
        played(address, "one", n_turns=2, score=1.0)
    (session,) = rows(tmp_path, "served_sessions")
    ((episode,), report) = imported(tmp_path, pool)
    assert (episode.turns[0].usage.n_prompt, episode.turns[0].usage.n_output) == (150, 15)
    assert episode.cost_usd == pytest.approx(session["spent_usd"])
    assert "billed more than once" in str(report)
    with sqlite3.connect(tmp_path / "served.sqlite") as connection:
        connection.execute("""UPDATE served_decisions SET tries = replace(tries, '"small"', '"big"')""")
    with pytest.raises(DatasetError, match="call of another model that was billed in vain"):
        imported(tmp_path, pool, overwrite=True)


def test_a_session_that_ends_with_a_failure_ends_before_it(request_of, double, pool, tmp_path):
    with served(request_of()) as (address, _):
        played(address, "one", n_turns=2, score=0.5)
        double.answer = lambda model, body: (500, {}, b"no")
        messages = [TASK, {"role": "user", "content": "more"}]
        assert chat(address, messages, headers={"x-mtrouter-session": "one"}).status_code == 502
    ((episode,), report) = imported(tmp_path, pool)
    assert len(episode.turns) == 2
    assert "last decision of a session whose call failed" in str(report)


def test_the_log_is_recognized_and_its_models_are_found(request_of, pool, tmp_path):
    with served(request_of()) as (address, _):
        for number in range(6):
            played(address, f"s{number}", n_turns=1, score=1.0)
    assert recognize([tmp_path / "served.sqlite"]).format == "served"
    models, _ = scan_models("served", [tmp_path / "served.sqlite"], {}, show_progress=False)
    assert {model.name for model in models} <= {"small", "big"}
    other = ImportRequest(format="openai-jsonl", paths=(tmp_path / "served.sqlite",), pool=pool, out=tmp_path / "other")
    with pytest.raises(DatasetError):
        import_log(other, show_progress=False)


def test_what_is_no_log_of_a_service(pool, tmp_path):
    path = tmp_path / "served.sqlite"
    for content, message in (
        (None, "does not exist"),
        (b"{}", "is no SQLite file and holds none"),
        (b"SQLite format 3\x00" + b"\xff" * 5000, "is no log of 'mtrouter-rl serve', or is damaged"),
    ):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DatasetError, match=message):
            imported(tmp_path, pool)


def test_a_log_of_another_version_is_refused(request_of, pool, tmp_path):
    with served(request_of()) as (address, _):
        played(address, "one", n_turns=1, score=1.0)
    with sqlite3.connect(tmp_path / "served.sqlite") as connection:
        connection.execute("UPDATE served_meta SET value = '0' WHERE name = 'version'")
    with pytest.raises(DatasetError, match=r"version 0, must be 1; import it with the release that wrote it"):
        imported(tmp_path, pool)


def test_a_damaged_row_leaves_its_session_out_and_no_other(request_of, pool, tmp_path):
    with served(request_of()) as (address, _):
        for name in ("one", "two"):
            played(address, name, score=1.0)
    with sqlite3.connect(tmp_path / "served.sqlite") as connection:
        connection.execute("UPDATE served_decisions SET facts = '{' WHERE rowid = 2")
    episodes, report = imported(tmp_path, pool)
    assert len(episodes) == report.n_rejected == 1
    assert report.read.n_calls + report.left_out.n_calls == 6
    assert report.read.usd + report.left_out.usd == pytest.approx(
        sum(row["spent_usd"] for row in rows(tmp_path, "served_sessions"))
    )


def test_tables_and_importer_are_of_one_version():
    assert SERVED_VERSION == SCHEMA_VERSION
