import dataclasses
from collections import Counter

import pytest

from mtrouter_rl.cards.splits import check_no_leak, episode_specs, evaluation_specs, sample_specs
from mtrouter_rl.errors import DatasetError, InvalidConfigError, UnknownNameError
from mtrouter_rl.records import SPLITS


def sizes(card, split):
    return dict(Counter(task for task, _ in episode_specs(card, split)))


def test_sizes(env_card):
    assert sizes(env_card, "train") == {"boil": 18, "melt": 6, "freeze": 18}
    assert sizes(env_card, "validation") == {"boil": 6, "melt": 2, "freeze": 6}
    assert sizes(env_card, "test") == {"boil": 6, "melt": 2, "freeze": 6}
    assert sizes(env_card, "ood") == {"paint": 30, "wire": 4}


def test_equal_shares_give_equal_sizes(env_card):
    # 1 - 0.8 - 0.1 is 0.0999..., and 15 x 0.1 is 1.5: both must round alike.
    splits = env_card.splits.model_copy(update={"train": 0.8, "validation": 0.1, "variations_per_task": 15})
    card = env_card.model_copy(update={"splits": splits, "train_tasks": {"boil": 15}})
    assert [len(episode_specs(card, split)) for split in ("train", "validation", "test")] == [11, 2, 2]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_small_tasks_lose_nothing(env_card, n):
    card = env_card.model_copy(update={"train_tasks": {"boil": n}})
    pairs = [pair for split in ("train", "validation", "test") for pair in episode_specs(card, split)]
    assert sorted(pairs) == [("boil", i) for i in range(n)]


def test_disjoint_and_in_range(env_card):
    pairs = [pair for split in SPLITS for pair in episode_specs(env_card, split)]
    assert len(pairs) == len(set(pairs)) == 30 + 10 + 30 + 30 + 4
    n_variations = env_card.train_tasks | env_card.ood_tasks
    assert all(0 <= variation < n_variations[task] for task, variation in pairs)


def test_known_answer(env_card):
    assert episode_specs(env_card, "test") == KNOWN_TEST_SPLIT
    assert episode_specs(env_card, "test") == episode_specs(env_card.model_copy(deep=True), "test")


def test_a_task_is_split_the_same_beside_other_tasks(env_card):
    alone = env_card.model_copy(update={"train_tasks": {"freeze": 40}})
    assert set(episode_specs(alone, "test")) < set(episode_specs(env_card, "test"))


def test_sample_is_balanced(env_card):
    specs = sample_specs(env_card, "train", n_episodes=127, seed=5)
    per_task = Counter(spec.task for spec in specs)
    assert set(per_task) == {"boil", "melt", "freeze"}
    assert max(per_task.values()) - min(per_task.values()) <= 1
    for task in per_task:
        per_variation = Counter(spec.variation for spec in specs if spec.task == task)
        assert len(per_variation) == sizes(env_card, "train")[task]
        assert max(per_variation.values()) - min(per_variation.values()) <= 1


def test_sample_is_reproducible_and_extends(env_card):
    specs = sample_specs(env_card, "train", n_episodes=100, seed=5)
    assert sample_specs(env_card, "train", n_episodes=30, seed=5) == specs[:30]
    assert sample_specs(env_card, "train", n_episodes=100, seed=6) != specs
    assert len({spec.key for spec in specs}) == 100
    assert all(0 <= spec.seed < 2**31 and spec.split == "train" for spec in specs)
    assert {(spec.task, spec.variation) for spec in specs} <= set(episode_specs(env_card, "train"))


def test_evaluation_takes_all(env_card):
    specs = evaluation_specs(env_card, "ood", 2)
    assert len(specs) == 2 * 34
    assert [spec.seed for spec in specs[:4]] == [0, 1, 0, 1]
    assert len({spec.key for spec in specs}) == len(specs)
    few = evaluation_specs(env_card, "ood", 1, per_task=5)
    assert Counter(spec.task for spec in few) == {"paint": 5, "wire": 4}
    assert set(few) < set(specs)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda card: episode_specs(card, "tests"), UnknownNameError, "did you mean 'test'"),
        (lambda card: sample_specs(card, "train", n_episodes=0, seed=0), InvalidConfigError, "n_episodes is 0"),
        (lambda card: sample_specs(card, "train", n_episodes=1, seed=-1), InvalidConfigError, "seed is -1"),
        (lambda card: evaluation_specs(card, "test", 0), InvalidConfigError, "n_seeds is 0"),
        (lambda card: evaluation_specs(card, "test", 1, per_task=0), InvalidConfigError, "per_task is 0"),
        (
            lambda card: evaluation_specs(card.model_copy(update={"ood_tasks": {}}), "ood", 1),
            InvalidConfigError,
            "split 'ood' of environment 'toy' has no variation",
        ),
        (
            lambda card: episode_specs(
                card.model_copy(update={"splits": card.splits.model_copy(update={"seed": -1})}), "train"
            ),
            InvalidConfigError,
            "splits.seed is -1",
        ),
    ],
)
def test_errors(env_card, call, error, message):
    with pytest.raises(error, match=message):
        call(env_card)


def test_leak_is_found(env_card, make_episode):
    (_, variation), *_ = episode_specs(env_card, "train")
    good = make_episode(1, 1, variation=variation)
    check_no_leak([good], env_card)
    tested = next(variation for task, variation in episode_specs(env_card, "test") if task == "boil")
    with pytest.raises(DatasetError, match=r"logged as 'train', must be 'test' by the card"):
        check_no_leak([good, dataclasses.replace(good, variation=tested)], env_card)
    with pytest.raises(DatasetError, match=r"(?s)25 episode.*must be '\(none\)'.*and 5 more"):
        check_no_leak([dataclasses.replace(good, task="unheard-of")] * 25, env_card)


KNOWN_TEST_SPLIT = (
    *(("boil", variation) for variation in (19, 17, 20, 27, 25, 10)),
    *(("melt", variation) for variation in (7, 1)),
    *(("freeze", variation) for variation in (37, 18, 31, 8, 19, 12)),
)
