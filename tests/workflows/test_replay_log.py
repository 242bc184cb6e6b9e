"""A log of costs without tokens goes the whole way: collected, checked, summed up, trained on, evaluated, never repriced."""

import dataclasses
import json

import pytest

from mtrouter_rl.cards import load_pool_card
from mtrouter_rl.cli import main
from mtrouter_rl.datasets.reprice import RepriceRequest, reprice
from mtrouter_rl.datasets.store import Dataset, DatasetWriter
from mtrouter_rl.datasets.summary import summarize
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.records import TracedEpisode


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    out = tmp_path_factory.mktemp("replay") / "log"
    collect = ["collect", "--env", "replay", "--policy", "uniform", "--episodes", "40", "--seed", "0"]
    assert main([*collect, "--out", str(out), "--quiet"]) == 0
    return out


def test_costs_are_those_of_the_log_and_no_tokens_are_known(log):
    dataset = Dataset.load(log)
    assert {episode.usage_source for episode in dataset.episodes} == {"cost_only"}
    assert all(episode.cost_usd > 0 for episode in dataset.episodes)
    summary = summarize(dataset)
    assert all(model["n_output_mean"] is None for model in summary["models"].values())
    assert main(["validate", str(log), "--quiet"]) == 0


def test_it_cannot_be_repriced(log, tmp_path):
    with pytest.raises(DatasetError, match=r"usage_source is 'cost_only', must have tokens to be repriced"):
        reprice(RepriceRequest(dataset=log, pool=load_pool_card("replay-made-up"), out=tmp_path / "new"))


def test_a_negative_bill_is_found(log, tmp_path):
    dataset = Dataset.load(log)
    first = dataset.episodes[0]
    turns = (dataclasses.replace(first.turns[0], cost_usd=-0.1), *first.turns[1:])
    writer = DatasetWriter(tmp_path / "new", dataset.info)
    with pytest.raises(DatasetError, match=r"cost_usd is -0\.1, must be finite and >= 0"):
        writer.write_shard(0, [TracedEpisode(episode=dataclasses.replace(first, turns=turns))])


def test_agents_that_know_nothing_of_replays_learn_from_it(log, tmp_path):
    router = tmp_path / "router"
    train = ["train", "--env", "replay", "--agent", "turn-ridge", "--dataset", str(log), "--out", str(router)]
    assert main([*train, "--quiet"]) == 0
    evaluate = ["evaluate", "--env", "replay", "--router", str(router), "random", "--seeds", "1"]
    assert main([*evaluate, "--out", str(tmp_path / "run"), "--quiet"]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert {"turn-ridge", "random"} <= {row["policy"] for row in results["rows"]}
