"""How a policy routed: makes the rows of `behavior.json` from the episodes that it ran."""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np

from mtrouter_rl.errors import ResultsError, unknown_name
from mtrouter_rl.evaluation.behavior_errors import bad_ends, error_behavior, first_errors
from mtrouter_rl.evaluation.behavior_file import PHASES, BehaviorRow, ModelDependence
from mtrouter_rl.evaluation.behavior_spread import error_spread
from mtrouter_rl.records import UNLIMITED_BUDGET_USD, Episode, FloatArray, IntArray, JsonValue, Split
from mtrouter_rl.statistics.cluster_bootstrap import mean_estimate
from mtrouter_rl.statistics.estimate import Estimate
from mtrouter_rl.statistics.mutual_information import LabelledEpisode, MutualInformation, Shuffle, mutual_information
from mtrouter_rl.statistics.resamples import N_RESAMPLES

HiddenByEpisode = Mapping[str, Sequence[Mapping[str, JsonValue]]]
"""Episode id -> what only a simulator knows of each of its turns, as `mtrouter_rl.datasets.store.load_hidden` gives it."""
SKILL = "skill"
"""Key of the kind of action due in a turn's hidden information, as simulated models write it."""


@dataclass(frozen=True, kw_only=True)
class BehaviorSetting:
    """What `behavior_row` needs to know beside the episodes.

    Attributes:
        split: The split that all episodes are of.
        model_names: Names of the pool, in pool order.
        seed: Seed of bootstrap and shuffles. A row depends on the seed and its own episodes alone.
        n_resamples: Bootstrap resamples of every interval.
    """

    split: Split
    model_names: tuple[str, ...]
    seed: int = 0
    n_resamples: int = N_RESAMPLES


def behavior_row(
    policy: str, episodes: Sequence[Episode], setting: BehaviorSetting, *, hidden: HiddenByEpisode | None = None
) -> BehaviorRow:
    """How one policy routed on one split.

    Args:
        policy: Its name.
        episodes: Its episodes, completed and failed; the failed ones are counted and left out.
        setting: Split, pool and seed.
        hidden: What only a simulator knows of the turns, for the dependence on the skill due; None if nobody knows.

    Raises:
        ResultsError: If no episode was completed, or one is of another split.
        UnknownNameError: If a turn's model is not in the pool.
    """
    completed = _checked(policy, episodes, setting)
    names = setting.model_names
    lengths = _run_lengths(completed)
    n_turns = sum(len(episode.turns) for episode in completed)
    turns = Counter(name for episode in completed for name in episode.models)
    budget_use = _budget_use(completed)
    return BehaviorRow(
        policy=policy,
        split=setting.split,
        n_episodes=len(completed),
        n_failed=len(episodes) - len(completed),
        n_turns=n_turns,
        switches_mean=_switches(completed, setting),
        run_length_mean=n_turns / sum(lengths) if lengths else None,
        run_lengths=lengths,
        switch_matrix=_switch_matrix(completed, names),
        errors=error_behavior(completed),
        usage_entropy_bits=entropy_bits(list(turns.values())) if n_turns else None,
        usage_entropy_within_episode_bits=_entropy_within(completed),
        mutual_information=_dependence(completed, hidden or {}, setting),
        cost_share=_shares(_costs_usd(completed), names),
        turn_share=_shares(turns, names),
        first_error=first_errors(completed, names),
        last_turn_before_failure=bad_ends(completed, names),
        budget_use_by_turn=None if budget_use is None else tuple(map(float, budget_use.mean(axis=0)[1:])),
        budget_used_mean=None if budget_use is None else float(budget_use[:, -1].mean()),
        spread=error_spread(completed, names, seed=setting.seed, n_resamples=setting.n_resamples),
    )


def entropy_bits(counts: Sequence[float] | FloatArray | IntArray) -> float:
    """Plug-in Shannon entropy of counts, in bits.

    Example:
        >>> entropy_bits([5, 5]), entropy_bits([3, 0])
        (1.0, 0.0)
    """
    shares = np.asarray(counts, dtype=float) / np.sum(counts)
    shares = shares[shares > 0]
    return max(0.0, float(-(shares * np.log2(shares)).sum()))


def _checked(policy: str, episodes: Sequence[Episode], setting: BehaviorSetting) -> tuple[Episode, ...]:
    """The completed episodes, all of one split and pool."""
    for episode in episodes:
        if episode.split != setting.split:
            raise ResultsError(
                f"policy '{policy}', episode '{episode.episode_id}': split is '{episode.split}', must be "
                f"'{setting.split}'; give the episodes of one split at a time"
            )
    completed = tuple(episode for episode in episodes if episode.status == "completed")
    if not completed:
        raise ResultsError(
            f"policy '{policy}', split '{setting.split}': none of its {len(episodes)} episodes was completed, so nothing "
            "can be told of it; look at status_detail of the episodes, repair the cause and run it again"
        )
    for name in sorted({name for episode in completed for name in episode.models} - set(setting.model_names)):
        raise unknown_name("model", name, setting.model_names, fix="Give the pool that the episodes were run with")
    return completed


def _switches(episodes: Sequence[Episode], setting: BehaviorSetting) -> Estimate:
    counts = [float(sum(a != b for a, b in pairwise(episode.models))) for episode in episodes]
    clusters = [(episode.task, episode.variation) for episode in episodes]
    return mean_estimate(counts, clusters, seed=setting.seed, n_resamples=setting.n_resamples)


def _dependence(episodes: Sequence[Episode], hidden: HiddenByEpisode, setting: BehaviorSetting) -> ModelDependence:
    played = [episode for episode in episodes if episode.turns]

    def of(labels: Callable[[Episode], Sequence[Hashable]], shuffle: Shuffle) -> MutualInformation | None:
        labelled = [
            LabelledEpisode(cluster=(one.task, one.variation), models=one.models, labels=labels(one)) for one in played
        ]
        return mutual_information(labelled, shuffle=shuffle, seed=setting.seed, n_resamples=setting.n_resamples)

    skills = {one.episode_id: [turn.get(SKILL) for turn in hidden.get(one.episode_id, ())] for one in played}
    is_known = all(skills[one.episode_id] and None not in skills[one.episode_id] for one in played)
    return ModelDependence(
        task=of(lambda one: [one.task] * len(one.turns), "between clusters"),
        phase=of(_phases, "within episodes"),
        skill=of(lambda one: [str(skill) for skill in skills[one.episode_id]], "within episodes") if is_known else None,
    )


def _phases(episode: Episode) -> list[int]:
    """Which part of the turn limit every turn lies in; the episode's own length would be information from the future."""
    return [PHASES * index // episode.max_turns for index in range(len(episode.turns))]


def _run_lengths(episodes: Sequence[Episode]) -> tuple[int, ...]:
    """How many runs of one model are 1, 2, ... turns long."""
    lengths = Counter(len(list(run)) for episode in episodes for _, run in groupby(episode.models))
    return tuple(lengths[length] for length in range(1, max(lengths, default=0) + 1))


def _switch_matrix(episodes: Sequence[Episode], names: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    pairs = Counter(pair for episode in episodes for pair in pairwise(episode.models))
    return tuple(tuple(pairs[before, after] for after in names) for before in names)


def _entropy_within(episodes: Sequence[Episode]) -> float | None:
    entropies = [entropy_bits(list(Counter(episode.models).values())) for episode in episodes if episode.turns]
    return float(np.mean(entropies)) if entropies else None


def _costs_usd(episodes: Sequence[Episode]) -> dict[str, float]:
    costs: dict[str, float] = {}
    for episode in episodes:
        for turn in episode.turns:
            costs[turn.model] = costs.get(turn.model, 0.0) + turn.cost_usd
    return costs


def _shares(totals: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """Share of every model, in pool order; empty if there is nothing to share."""
    total = sum(totals.values())
    return {name: totals.get(name, 0.0) / total for name in names} if total else {}


def _budget_use(episodes: Sequence[Episode]) -> FloatArray | None:
    """Share of the budget spent before the first turn (0) and by each turn, shape (episodes, T + 1).

    None if an episode was run without a budget.
    """
    if any(episode.budget_usd >= UNLIMITED_BUDGET_USD for episode in episodes):
        return None
    costs = np.zeros((len(episodes), max(len(episode.turns) for episode in episodes) + 1))
    for row, episode in enumerate(episodes):
        costs[row, 1 : len(episode.turns) + 1] = [turn.cost_usd / episode.budget_usd for turn in episode.turns]
    return np.asarray(costs.cumsum(axis=1))
