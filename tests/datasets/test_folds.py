"""Folds of a log: an instance is never torn apart, every task is in every fold, and a training sees all but its own."""

from collections import Counter
from dataclasses import replace

import pytest

from mtrouter_rl.datasets.folds import Folds, LeftOut
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import InvalidConfigError
from tests.cases.routing_toy import uniform_log


@pytest.fixture(scope="module")
def log():
    """Two tasks of 10 variations, three episodes each."""
    plain = uniform_log(n_episodes=60)
    episodes = [
        replace(
            one,
            episode_id=f"e{i}",
            task="ab"[i % 2],
            variation=i // 2 % 10,
            seed=i,
            task_text=f"{i // 2 % 10} of {'ab'[i % 2]}",
        )
        for i, one in enumerate(plain.episodes)
    ]
    return Dataset(info=plain.info, episodes=tuple(episodes))


def test_every_fold_has_its_share_of_every_task(log):
    numbers = Folds(n_folds=3, seed=0).numbers(log.episodes)
    assert len(numbers) == 20
    for task in "ab":
        shares = Counter(fold for (name, _), fold in numbers.items() if name == task)
        assert sorted(shares.values()) == [3, 3, 4]


def test_the_order_of_the_episodes_changes_nothing_and_the_seed_does(log):
    folds = Folds(n_folds=3, seed=1)
    assert folds.numbers(log.episodes) == folds.numbers(log.episodes[::-1])
    assert folds.numbers(log.episodes) != Folds(n_folds=3, seed=2).numbers(log.episodes)


def test_trainings_see_all_but_their_fold(log):
    numbers = Folds(n_folds=3, seed=0).numbers(log.episodes)
    rests = [LeftOut(n_folds=3, seed=0, fold=fold).rest(log) for fold in range(3)]
    for fold, rest in enumerate(rests):
        seen = {(one.task, one.variation) for one in rest.episodes}
        assert seen == {instance for instance, number in numbers.items() if number != fold}
    assert sum(len(rest.episodes) for rest in rests) == 2 * len(log.episodes)
    assert Folds(n_folds=3, seed=0).of_episodes(log.episodes, log.episodes[:5]).shape == (5,)


def test_variations_that_begin_alike_share_a_fold(log):
    twins = [replace(one, task_text="same", variation=one.variation) for one in log.episodes if one.variation < 2]
    others = [one for one in log.episodes if one.variation >= 2]
    numbers = Folds(n_folds=3, seed=0).numbers([*twins, *others])
    assert numbers["a", 0] == numbers["a", 1]


def test_a_log_of_which_nothing_would_be_left_is_refused(log):
    alone = Dataset(info=log.info, episodes=log.episodes[:1])
    with pytest.raises(InvalidConfigError, match="no episode outside fold 0 of 2; give fewer folds"):
        LeftOut(n_folds=2, seed=0, fold=0).rest(alone)
