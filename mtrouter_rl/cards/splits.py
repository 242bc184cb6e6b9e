"""Which episodes are run: the split of every task's variations, and the lists for collection and evaluation.

The split depends only on the environment card, so that a log and an evaluation made months apart agree on it.
"""

import zlib
from collections.abc import Iterable, Iterator

import numpy as np

from mtrouter_rl.cards.env import EnvCard, SplitCard
from mtrouter_rl.errors import DatasetError, InvalidConfigError, unknown_name
from mtrouter_rl.records import SPLITS, Episode, EpisodeSpec, Split

_N_EPISODE_SEEDS = 2**31
_MAX_LISTED = 20


def episode_specs(card: EnvCard, split: Split) -> tuple[tuple[str, int], ...]:
    """Every (task, variation) of a split, task by task in the order of the card.

    Of every task at most `card.splits.variations_per_task` variations are drawn. Those of a training task go to train,
    validation and test by their shares (the number for validation and for test is rounded, train takes the rest); those
    of an ood task are all "ood".

    Raises:
        UnknownNameError: If there is no such split.
        InvalidConfigError: If the split seed of the card is negative, or the card does not know its variations yet.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    return tuple(
        (task, variation)
        for task, n_variations in card.counted_tasks(is_ood=split == "ood").items()
        for variation in _of_split(_drawn(task, n_variations, card.splits), card.splits, split)
    )


def _drawn(task: str, n_variations: int, splits: SplitCard) -> tuple[int, ...]:
    if splits.seed < 0:
        raise InvalidConfigError(f"splits.seed is {splits.seed}, must be >= 0")
    n_keep = min(n_variations, splits.variations_per_task)
    order = np.random.default_rng([splits.seed, zlib.crc32(task.encode())]).permutation(n_variations)
    return tuple(int(variation) for variation in order[:n_keep])


def _of_split(drawn: tuple[int, ...], splits: SplitCard, split: Split) -> tuple[int, ...]:
    n_validation = _rounded(splits.validation * len(drawn))
    n_test = _rounded((1 - splits.train - splits.validation) * len(drawn))
    n_train = len(drawn) - n_validation - n_test
    parts: dict[Split, tuple[int, ...]] = {
        "train": drawn[:n_train],
        "validation": drawn[n_train : n_train + n_validation],
        "test": drawn[n_train + n_validation :],
        "ood": drawn,
    }
    return parts[split]


def _rounded(count: float) -> int:
    # 1 - 0.8 - 0.1 is a little below 0.1: equal shares must not round apart because of it.
    return round(round(count, 9))


def sample_specs(card: EnvCard, split: Split, *, n_episodes: int, seed: int) -> tuple[EpisodeSpec, ...]:
    """Episodes for a collection: tasks in turn, and within a task its variations in turn, both in a seeded order.

    Any two tasks differ by at most one episode, any two variations of a task likewise. Episode i has its own seed,
    drawn from (seed, i); a shorter list is the beginning of a longer one.

    Args:
        card: Environment.
        split: Which split to draw from.
        n_episodes: How many, > 0.
        seed: Seed of the collection, >= 0.

    Returns:
        `n_episodes` specifications with unique keys.

    Raises:
        UnknownNameError: If there is no such split.
        InvalidConfigError: If a number is out of range, or the split is empty.
    """
    if n_episodes < 1:
        raise InvalidConfigError(f"n_episodes is {n_episodes}, must be > 0")
    if seed < 0:
        raise InvalidConfigError(f"seed is {seed}, must be >= 0")
    queues = _shuffled_queues(card, split, seed)
    specs: list[EpisodeSpec] = []
    used: set[str] = set()
    for index in range(n_episodes):
        task, variations = queues[index % len(queues)]
        variation = variations[index // len(queues) % len(variations)]
        candidates = (
            EpisodeSpec(task=task, variation=variation, seed=episode_seed, split=split)
            for episode_seed in _episode_seeds(seed, index)
        )
        spec = next(candidate for candidate in candidates if candidate.key not in used)
        used.add(spec.key)
        specs.append(spec)
    return tuple(specs)


def _shuffled_queues(card: EnvCard, split: Split, seed: int) -> list[tuple[str, list[int]]]:
    queues: dict[str, list[int]] = {}
    for task, variation in _non_empty(card, split):
        queues.setdefault(task, []).append(variation)
    rng = np.random.default_rng(seed)
    order = [list(queues)[i] for i in rng.permutation(len(queues))]
    return [(task, [queues[task][i] for i in rng.permutation(len(queues[task]))]) for task in order]


def _non_empty(card: EnvCard, split: Split) -> tuple[tuple[str, int], ...]:
    pairs = episode_specs(card, split)
    if not pairs:
        raise InvalidConfigError(
            f"split '{split}' of environment '{card.name}' has no variation; "
            "choose another split, or give its card more tasks, variations or another share"
        )
    return pairs


def _episode_seeds(seed: int, index: int) -> Iterator[int]:
    """Seeds of episode `index`; all but the first are only for a key that is already used."""
    attempt = 0
    while True:
        entropy = np.random.SeedSequence([seed, index, attempt])
        yield int(entropy.generate_state(1)[0]) % _N_EPISODE_SEEDS
        attempt += 1


def evaluation_specs(
    card: EnvCard, split: Split, n_seeds: int, *, per_task: int | None = None
) -> tuple[EpisodeSpec, ...]:
    """Episodes for an evaluation: every (task, variation) of the split, each with seeds 0 to n_seeds - 1.

    Args:
        card: Environment.
        split: Which split to evaluate on.
        n_seeds: Seeds of every variation, > 0.
        per_task: At most this many variations of a task, > 0; None takes all.

    Raises:
        UnknownNameError: If there is no such split.
        InvalidConfigError: If a number is out of range, or the split is empty.
    """
    for name, value in (("n_seeds", n_seeds), ("per_task", per_task)):
        if value is not None and value < 1:
            raise InvalidConfigError(f"{name} is {value}, must be > 0")
    n_taken: dict[str, int] = {}
    specs: list[EpisodeSpec] = []
    for task, variation in _non_empty(card, split):
        n_taken[task] = n_taken.get(task, 0) + 1
        if per_task is not None and n_taken[task] > per_task:
            continue
        specs += [EpisodeSpec(task=task, variation=variation, seed=seed, split=split) for seed in range(n_seeds)]
    return tuple(specs)


def check_no_leak(episodes: Iterable[Episode], card: EnvCard) -> None:
    """Check that the card puts every logged (task, variation) into the split that the log says.

    A log made with another split seed or other shares would otherwise train on what is later tested, unseen by anyone.

    Raises:
        DatasetError: Names the first 20 episodes of another split, and how many there are.
    """
    split_of = {pair: split for split in SPLITS for pair in episode_specs(card, split)}
    wrong = [
        f"  episode '{episode.episode_id}': task '{episode.task}', variation {episode.variation} is logged as "
        f"'{episode.split}', must be '{split_of.get((episode.task, episode.variation), '(none)')}' by the card"
        for episode in episodes
        if split_of.get((episode.task, episode.variation)) != episode.split
    ]
    if wrong:
        more = f"\n  ... and {len(wrong) - _MAX_LISTED} more" if len(wrong) > _MAX_LISTED else ""
        raise DatasetError(
            f"{len(wrong)} episode(s) are not in the split that environment '{card.name}' puts them in:\n"
            + "\n".join(wrong[:_MAX_LISTED])
            + more
            + "\n  use the environment card that the log was made with, or collect the log anew"
        )
