import dataclasses

import pytest

from mtrouter_rl.datasets.bandit_view import as_one_decision
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.records import Episode, TokenUsage, Turn


def make_turn(model, *, gain=0.25, n_output=3, is_last=False):
    return Turn(
        model=model,
        served_model=model,
        action_text="act",
        observation_text="last" if is_last else "not yet",
        usage=TokenUsage(n_fresh=5, n_cached=2, n_written=1, n_output=n_output),
        cost_usd=0.5,
        utility_gain=gain,
        propensity=1.0,
        action_mask=(True, True),
        warm=(False, False),
        error="",
        latency_s=2.0,
        terminated=is_last,
        truncated=False,
    )


def make_episode(name, models, **changes):
    turns = tuple(make_turn(model, is_last=index == len(models) - 1) for index, model in enumerate(models))
    episode = Episode(
        episode_id=name,
        task="t",
        variation=0,
        seed=0,
        split="train",
        task_text="text",
        first_observation="first",
        behavior_policy="p",
        budget_usd=10.0,
        max_turns=9,
        turns=turns,
    )
    return dataclasses.replace(episode, **changes)


def test_an_episode_becomes_one_turn_with_all_of_its_outcomes(info):
    dataset = Dataset(info=info, episodes=(make_episode("a", ["cheap"] * 3),))
    collapsed, report = as_one_decision(dataset)
    (episode,) = collapsed.episodes
    (turn,) = episode.turns
    assert report.n_left_out == 0
    assert turn.usage == TokenUsage(n_fresh=15, n_cached=6, n_written=3, n_output=9)
    assert (episode.utility, episode.cost_usd, episode.max_turns) == (pytest.approx(0.75), pytest.approx(1.5), 1)
    assert (turn.model, turn.propensity, turn.latency_s, turn.terminated) == ("cheap", None, None, True)
    assert (turn.action_text, turn.observation_text) == ("", "last")
    assert (episode.task_text, episode.first_observation) == ("text", "first")
    assert collapsed.info.propensities == "unknown"


def test_what_is_no_single_decision_is_left_out_and_counted(info):
    served = make_episode("d", ["cheap"])
    episodes = (
        make_episode("a", ["cheap", "strong"]),
        make_episode("b", ["cheap"], status="failed", status_detail="down"),
        make_episode("c", []),
        dataclasses.replace(served, turns=(dataclasses.replace(served.turns[0], served_model="strong"),)),
    )
    collapsed, report = as_one_decision(Dataset(info=info, episodes=episodes))
    # a turn that a fall-back served is one model's choice and one model's work: it stays
    assert [episode.episode_id for episode in collapsed.episodes] == ["d"]
    assert collapsed.episodes[0].turns[0].served_model == "strong"
    assert str(report) == "left out 3 of 4 episodes: failed, empty, or changes the model within the episode"
