"""From what an agent did behind the service to a dataset: propensities, scores that come later, the same features as live."""

import numpy as np
import pytest

from mtrouter_rl.datasets.importers.run import ImportRequest, import_log
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.embeddings.history_sources import observations_of
from mtrouter_rl.serving.live import LiveRouter
from tests.cases.served import TASK, chat, post, served


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
