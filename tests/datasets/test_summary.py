import dataclasses
import json

import pytest

from mtrouter_rl.datasets.info import DatasetInfo
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.datasets.summary import format_summary, summarize


@pytest.fixture
def summary(folder):
    return summarize(Dataset.load(folder))


def test_known_answer(summary, episodes):
    assert (summary["n_episodes"], summary["n_completed"], summary["n_failed"]) == (6, 4, 2)
    assert summary["failed_reasons"] == {"backend: 503 – überlastet": 1, "simulator died": 1}
    assert summary["n_turns"] == 9
    assert summary["turns_per_episode"] == {"mean": 2.25, "min": 0, "max": 5}
    # Utilities 0.2, 0.5, -0.1, 0: the failed episode's 0.2 is not scored.
    assert summary["score_mean"] == pytest.approx(15.0)
    completed = [episodes[i] for i in (0, 1, 2, 5)]
    total = sum(turn.cost_usd for episode in completed for turn in episode.turns)
    assert summary["cost_usd"]["total"] == pytest.approx(total)
    assert summary["cost_usd"]["mean"] == pytest.approx(total / 4)
    assert summary["cost_usd"]["failed_total"] == pytest.approx(episodes[4].cost_usd)
    assert summary["switches_mean"] == (2 + 4 + 0 + 0) / 4
    assert (summary["n_terminated"], summary["n_truncated"], summary["n_without_turns"]) == (2, 2, 1)
    assert summary["errors"] == {"unknown_action": 2}
    assert summary["propensity"]["n_unique"] == 5
    assert (summary["propensity"]["min"], summary["propensity"]["max"]) == (0.1, 1.0)


def test_per_task_and_model(summary):
    assert {name: task["n_episodes"] for name, task in summary["tasks"].items()} == {"boil": 3, "melt": 1}
    assert summary["tasks"]["melt"]["score_mean"] == pytest.approx(-10.0)
    cheap, strong = summary["models"]["cheap"], summary["models"]["strong"]
    assert (cheap["n_turns"], strong["n_turns"]) == (6, 3)
    assert cheap["share"] == pytest.approx(2 / 3)
    assert (cheap["error_rate"], strong["error_rate"]) == (0.0, pytest.approx(2 / 3))
    assert strong["n_output_mean"] == pytest.approx((12 + 12 + 14) / 3)
    assert cheap["cost_usd"] + strong["cost_usd"] == pytest.approx(summary["cost_usd"]["total"])


def test_is_json(summary):
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_text_is_aligned(summary):
    text = format_summary(summary)
    for part in ("toy-v1", "6 of 6 planned; 4 completed, 2 failed", "simulated models", "mean 15.0", "simulator died"):
        assert part in text
    for block in text.split("\n\n")[1:]:
        assert len({len(line) for line in block.splitlines()}) == 1


def test_empty_dataset(info):
    summary = summarize(Dataset(info=info, episodes=()))
    assert summary["score_mean"] is None
    assert summary["models"]["cheap"]["share"] is None
    assert "mean -" in format_summary(summary)


def test_an_imported_log_says_what_it_does_not_know(info, make_episode):
    lacking = make_episode(1, 3, usage_source="reconstructed")
    turns = (dataclasses.replace(lacking.turns[0], propensity=None), *lacking.turns[1:])
    says = {"origin": "imported", "propensities": "unknown", "assumptions": ("Prices are those of May.",)}
    imported = DatasetInfo.model_validate(info.model_dump() | says)
    dataset = Dataset(info=imported, episodes=(dataclasses.replace(lacking, turns=turns), make_episode(2, 1)))
    summary = summarize(dataset)
    assert (summary["origin"], summary["propensities"], summary["n_reconstructed"]) == ("imported", "unknown", 1)
    known = [turn.propensity for episode in dataset.episodes for turn in episode.turns][1:]
    assert summary["propensity"]["n_unknown"] == 1
    assert summary["propensity"]["mean"] == pytest.approx(sum(known) / 3)
    text = format_summary(summary)
    for part in (
        "imported",
        "unknown, missing in 1 turns",
        "reconstructed in 1 episodes",
        "- Prices are those of May.",
    ):
        assert part in text


def test_a_collected_log_knows_everything(summary):
    assert (summary["origin"], summary["propensities"], summary["assumptions"]) == ("collected", "exact", [])
    assert (summary["n_reconstructed"], summary["propensity"]["n_unknown"]) == (0, 0)
