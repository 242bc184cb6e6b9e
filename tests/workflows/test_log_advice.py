"""What a log can tell is said before anything is trained, and what was found is said with its interval."""

from dataclasses import replace

import pytest

from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.workflows.log_advice import (
    advise,
    episodes_for,
    smallest_difference,
    verdict_of_results,
)
from tests.cases.dataset_fixtures import info, make_episode  # noqa: F401
from tests.cases.evaluation_fixtures import results, traced  # noqa: F401


@pytest.fixture
def log(info, make_episode):  # noqa: F811
    """A log of `n` episodes of two turns, which call the models that `choose` names for each."""
    names = info.model_names

    def make(n, choose, gains=lambda seed: float(seed % 2)):
        episodes = []
        for seed in range(n):
            episode = make_episode(seed, 2)
            turns = [
                replace(turn, model=name, served_model=name, utility_gain=gain)
                for turn, name, gain in zip(episode.turns, choose(seed, names), (0.0, gains(seed)), strict=True)
            ]
            episodes.append(replace(episode, turns=tuple(turns)))
        return Dataset(info=info, episodes=tuple(episodes))

    return make


def test_a_log_of_changing_models_is_one_of_choices_by_the_turn(log):
    advice = advise(log(120, lambda seed, names: (names[seed % 2], names[(seed + 1) % 2])))
    assert advice.level == "turn"
    assert advice.tells[0] == "120 scored episodes with 240 calls; 120 of them change the model on the way"
    assert advice.collect == ()


def test_a_log_of_whole_runs_is_one_of_choices_by_the_task(log):
    advice = advise(log(120, lambda seed, names: (names[seed % 2],) * 2))
    assert advice.level == "episode"


def test_a_few_changes_do_not_make_it_one_of_choices_by_the_turn(log):
    advice = advise(log(120, lambda seed, names: (names[seed % 2], names[(seed + (seed < 5)) % 2])))
    assert advice.level == "episode"


@pytest.mark.parametrize(
    ("n", "choose", "wanted"),
    [
        (99, lambda seed, names: (names[0], names[1]), "at least 1 more scored episodes (99 of 100)"),
        (120, lambda seed, names: (names[0],) * 2, "at least 30 whole episodes of two models or more"),
        (120, lambda seed, names: (names[0], names[seed < 20]), "at least 30 calls of two models or more"),
    ],
)
def test_too_little_is_said_with_what_to_collect(log, n, choose, wanted):
    advice = advise(log(n, choose))
    assert advice.level == "none"
    assert any(text.startswith(wanted) for text in advice.collect), advice.collect


def test_models_that_are_rare_or_never_met_a_task_are_named(log, info):  # noqa: F811
    advice = advise(log(120, lambda seed, names: (names[0], names[1])))
    missing = [name for name in info.model_names if name not in info.model_names[:2]]
    told = " ".join(advice.lacks)
    for name in missing:
        assert f"{name} (0)" in told
        assert f"boil: {', '.join(missing)}" in told


def test_the_smallest_difference_and_its_inverse_agree(log):
    episodes = log(200, lambda seed, names: (names[0], names[1])).episodes
    points = smallest_difference(episodes, 0.4)
    assert episodes_for(points, episodes, 0.4) == pytest.approx(200, abs=1)


def test_equal_scores_tell_nothing_of_the_score(log):
    advice = advise(log(120, lambda seed, names: (names[0], names[1]), gains=lambda seed: 0.5))
    assert "anything about the score: every episode has the score 50.0" in advice.lacks


def test_the_verdict_of_a_study_is_that_of_its_paired_difference(results):  # noqa: F811
    row = results.row("fitted-q", "test")
    singles = [one for one in results.split_rows("test") if one.policy in results.roles.single_models]
    best = max(singles, key=lambda one: one.return_mean).policy
    found = verdict_of_results(results, "fitted-q")
    if best in row.paired:
        low, high = row.paired[best].return_.ends
        assert found.word == ("better" if low > 0 else "worse" if high < 0 else "not distinguishable")
    else:
        assert found.word == "cannot tell"
    assert verdict_of_results(results, "nobody").word == "cannot tell"
