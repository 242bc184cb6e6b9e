"""Metrics of one episode, and of one policy over many episodes of unequal length."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.errors import ResultsError, unknown_name
from mtrouter_rl.records import SCORE_PER_UTILITY, Episode, EpisodeKey, EpisodeStatus, FloatArray, Split, episode_key

BUDGET_TOLERANCE_USD = 1e-9
"""Rounding allowed when a sum of costs is compared with the budget; far below the price of one token."""


@dataclass(frozen=True, kw_only=True)
class EpisodeMetrics:
    """What one completed episode of T turns amounts to.

    Attributes:
        key: (task, variation, seed).
        utility: Utility at the end, at most 1.
        cost_usd: Money spent, USD.
        return_: Undiscounted sum of rewards: utility minus weighted cost.
        n_turns: T.
        n_switches: Consecutive turns with different models, 0 to T - 1.
        n_errors_before_last: Turns with an error that another turn follows.
        n_stays_after_error: Those of them after which the same model was called again.
        n_transient_errors: Turns with an error that another turn follows, and before which no error was; see `ErrorBehavior`.
        n_stays_after_transient: Those of them after which the same model was called again.
        model_turns: Model -> turns for which it was chosen; models never chosen are left out.
    """

    key: EpisodeKey
    utility: float
    cost_usd: float
    return_: float
    n_turns: int
    n_switches: int
    n_errors_before_last: int
    n_stays_after_error: int
    n_transient_errors: int
    n_stays_after_transient: int
    model_turns: Mapping[str, int]

    @property
    def score(self) -> float:
        """Score at the end: 100 * utility."""
        return SCORE_PER_UTILITY * self.utility

    @property
    def task(self) -> str:
        """Task name."""
        return self.key[0]


@dataclass(frozen=True, kw_only=True)
class EpisodeRecord:
    """What every number about episodes that were played is worked out from, of one episode.

    Attributes:
        split: Its split.
        task: Task name.
        variation: Index of the task's variation.
        seed: Seed of the episode.
        status: Whether it ran to its end.
        budget_usd: Budget of the episode, USD.
        cost_usd: Money spent, USD; also of an episode that failed.
        metrics: What it amounts to; None if it failed.
    """

    split: Split
    task: str
    variation: int
    seed: int
    status: EpisodeStatus
    budget_usd: float
    cost_usd: float
    metrics: EpisodeMetrics | None

    @classmethod
    def of(cls, episode: Episode, reward: RewardCard) -> "EpisodeRecord":
        """Record of an episode, completed or failed; the return is that of the reward."""
        return cls(
            split=episode.split,
            task=episode.task,
            variation=episode.variation,
            seed=episode.seed,
            status=episode.status,
            budget_usd=float(episode.budget_usd),
            cost_usd=float(episode.cost_usd),
            metrics=episode_metrics(episode, reward) if episode.status == "completed" else None,
        )

    @property
    def key(self) -> EpisodeKey:
        """(task, variation, seed)."""
        return (self.task, self.variation, self.seed)

    @property
    def utility(self) -> float:
        """Utility at the end of an episode that was completed."""
        assert self.metrics is not None, "a failed episode has no utility"
        return self.metrics.utility

    @property
    def is_over_budget(self) -> bool:
        """Whether it spent more than its budget."""
        return self.cost_usd > self.budget_usd + BUDGET_TOLERANCE_USD


@dataclass(frozen=True, kw_only=True)
class PolicyMetrics:
    """What one policy amounts to over its completed episodes. Means are over episodes, shares over turns.

    Attributes:
        episodes: Metrics of every completed episode, in the order given.
        n_failed: Episodes that broke for outside reasons: counted here, and part of nothing else but
            `budget_violations`.
        budget_violations: Episodes, failed ones included, whose cost exceeded their budget.
        stay_after_error: Share of the turns with an error (the last turn of an episode aside) after which the same
            model was called; None if there was no such turn.
        model_share: Model -> share of turns, in pool order; empty if no turn was ever taken.
        model_share_by_task: Task -> the same within the task.
        score_by_task: Task -> mean score.
    """

    episodes: tuple[EpisodeMetrics, ...]
    n_failed: int
    budget_violations: int
    stay_after_error: float | None
    model_share: dict[str, float]
    model_share_by_task: dict[str, dict[str, float]]
    score_by_task: dict[str, float]

    def values(self, name: str) -> dict[EpisodeKey, float]:
        """One number per episode, by key.

        Args:
            name: Attribute of `EpisodeMetrics`, such as "score", "cost_usd" or "return_".
        """
        return {episode.key: float(getattr(episode, name)) for episode in self.episodes}

    def mean(self, name: str) -> float:
        """Mean over episodes of an attribute of `EpisodeMetrics`."""
        return float(np.mean([getattr(episode, name) for episode in self.episodes]))


def averaged_trainings(trainings: Sequence[PolicyMetrics], name: str) -> dict[EpisodeKey, float]:
    """Mean over trainings of an attribute of `EpisodeMetrics`, of every episode that all of them completed.

    Raises:
        ResultsError: If there is no such episode.
    """
    values = [training.values(name) for training in trainings]
    keys = [key for key in values[0] if all(key in one for one in values)]
    if not keys:
        raise ResultsError("no episode was completed in every training of a variant; see the reasons with 'inspect'")
    return {key: float(np.mean([one[key] for one in values])) for key in keys}


def episode_metrics(episode: Episode, reward: RewardCard) -> EpisodeMetrics:
    """Metrics of one completed episode.

    Args:
        episode: A completed episode; no turns at all is a valid one (nothing could be paid for).
        reward: Cost weight and unit.

    Raises:
        ResultsError: If the episode failed: it is never scored.
    """
    if episode.status != "completed":
        raise ResultsError(
            f"episode '{episode.episode_id}': status is '{episode.status}', must be 'completed' to be scored; count it"
        )
    followed = list(pairwise(episode.turns))
    errors = [(turn, following) for turn, following in followed if turn.error]
    after_error = [False, *(bool(turn.error) for turn, _ in followed)]
    transient = [pair for pair, is_after in zip(followed, after_error, strict=False) if pair[0].error and not is_after]
    return EpisodeMetrics(
        key=episode_key(episode),
        utility=float(episode.utility),
        cost_usd=float(episode.cost_usd),
        return_=float(sum(reward.reward(turn.utility_gain, turn.cost_usd) for turn in episode.turns)),
        n_turns=len(episode.turns),
        n_switches=sum(turn.model != following.model for turn, following in followed),
        n_errors_before_last=len(errors),
        n_stays_after_error=sum(turn.model == following.model for turn, following in errors),
        n_transient_errors=len(transient),
        n_stays_after_transient=sum(turn.model == following.model for turn, following in transient),
        model_turns=dict(Counter(episode.models)),
    )


def policy_metrics(
    episodes: Sequence[Episode], reward: RewardCard, *, model_names: Sequence[str], policy: str
) -> PolicyMetrics:
    """Metrics of one policy on one split.

    Args:
        episodes: Its episodes, completed and failed.
        reward: Cost weight and unit.
        model_names: Names of the pool, in pool order, length M.
        policy: Name of the policy, for error messages.

    Raises:
        ResultsError: If no episode was completed, or two have the same (task, variation, seed).
        UnknownNameError: If a turn's model is not in the pool.
    """
    records = [EpisodeRecord.of(episode, reward) for episode in episodes]
    return metrics_of_records(records, model_names=model_names, policy=policy)


def metrics_of_records(records: Sequence[EpisodeRecord], *, model_names: Sequence[str], policy: str) -> PolicyMetrics:
    """The same from what is kept of every episode. Raises as `policy_metrics`."""
    _check_keys(records, policy=policy)
    completed = tuple(record.metrics for record in records if record.metrics is not None)
    if not completed:
        raise ResultsError(
            f"policy '{policy}': none of its {len(records)} episodes was completed, so it has no score; "
            "look at status_detail of the episodes, repair the cause and run it again, or leave the policy out"
        )
    by_task: dict[str, list[EpisodeMetrics]] = {}
    for metrics in completed:
        by_task.setdefault(metrics.task, []).append(metrics)
    return PolicyMetrics(
        episodes=completed,
        n_failed=len(records) - len(completed),
        budget_violations=sum(record.is_over_budget for record in records),
        stay_after_error=stay_after_error(completed),
        model_share=model_share(completed, model_names),
        model_share_by_task={task: model_share(by_task[task], model_names) for task in sorted(by_task)},
        score_by_task={task: float(np.mean([one.score for one in by_task[task]])) for task in sorted(by_task)},
    )


def stay_after_error(episodes: Iterable[EpisodeMetrics]) -> float | None:
    """Share of the errors that a turn follows, after which the same model was called; None if there were none.

    Source: the MTRouter paper's analysis of staying with a model after a transient error. Here every error counts,
    since a log does not say which are transient.
    """
    pairs = [(one.n_stays_after_error, one.n_errors_before_last) for one in episodes]
    n_errors = sum(errors for _, errors in pairs)
    return sum(stays for stays, _ in pairs) / n_errors if n_errors else None


def model_share(episodes: Iterable[EpisodeMetrics], model_names: Sequence[str]) -> dict[str, float]:
    """Share of all turns for which each model was chosen, in pool order; empty if no turn was taken.

    Raises:
        UnknownNameError: If a chosen model is not in the pool.
    """
    turns: Counter[str] = Counter()
    for episode in episodes:
        turns.update(episode.model_turns)
    for name in turns:
        if name not in model_names:
            raise unknown_name("model", name, model_names, fix="Evaluate with the pool that the episodes were run with")
    total = turns.total()
    return {name: turns[name] / total for name in model_names} if total else {}


def model_share_by_turn(episodes: Sequence[Episode], model_names: Sequence[str]) -> FloatArray:
    """Which model is called at each turn, among the episodes that are still running.

    Args:
        episodes: Episodes of unequal length; failed ones are left out.
        model_names: Names of the pool, in pool order, length M.

    Returns:
        Shares, shape (T, M) with T the longest episode; every row sums to 1.
    """
    counts = _counts_by_turn(episodes, model_names)
    shares: FloatArray = counts / counts.sum(axis=1, keepdims=True)
    return shares


def running_share_by_turn(episodes: Sequence[Episode]) -> FloatArray:
    """Share of the completed episodes that take each turn, shape (T,) with T the longest episode."""
    lengths = np.array([len(episode.turns) for episode in episodes if episode.status == "completed"], dtype=int)
    turns = np.arange(lengths.max(initial=0))
    return np.asarray((lengths[:, None] > turns[None, :]).mean(axis=0)) if len(turns) else np.zeros(0)


def cumulative_by_turn(episodes: Sequence[Episode]) -> tuple[FloatArray, FloatArray]:
    """Mean score and mean cost so far after each turn; an episode that ended keeps its last value.

    Args:
        episodes: Episodes of unequal length; failed ones are left out.

    Returns:
        Mean score, shape (T,), and mean cost in USD, shape (T,), with T the longest episode. The last entries equal the
        means over whole episodes.
    """
    completed = [episode for episode in episodes if episode.status == "completed"]
    n_turns = max((len(episode.turns) for episode in completed), default=0)
    gains = np.zeros((len(completed), n_turns))
    costs = np.zeros((len(completed), n_turns))
    for row, episode in enumerate(completed):
        gains[row, : len(episode.turns)] = [turn.utility_gain for turn in episode.turns]
        costs[row, : len(episode.turns)] = [turn.cost_usd for turn in episode.turns]
    if not n_turns:
        return np.zeros(0), np.zeros(0)
    return SCORE_PER_UTILITY * gains.cumsum(axis=1).mean(axis=0), costs.cumsum(axis=1).mean(axis=0)


def _check_keys(records: Sequence[EpisodeRecord], *, policy: str) -> None:
    repeated = sorted(key for key, count in Counter(record.key for record in records).items() if count > 1)
    if repeated:
        raise ResultsError(
            f"policy '{policy}': {len(repeated)} (task, variation, seed) appear more than once, such as {repeated[0]}; "
            "episodes are paired by that key, so give every episode its own seed"
        )


def _counts_by_turn(episodes: Sequence[Episode], model_names: Sequence[str]) -> FloatArray:
    completed = [episode for episode in episodes if episode.status == "completed"]
    index = {name: position for position, name in enumerate(model_names)}
    counts = np.zeros((max((len(episode.turns) for episode in completed), default=0), len(model_names)))
    for episode in completed:
        for turn, name in enumerate(episode.models):
            if name not in index:
                raise unknown_name("model", name, model_names)
            counts[turn, index[name]] += 1
    return counts
