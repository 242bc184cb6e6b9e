"""How far models complement each other: the best model per task, chosen in hindsight, against the best single model.

Taken at face value, that gap is biased upward: of several noisy means the highest is, on average, too high, so that equal
models show a gap as well. Split in halves it is not: models are chosen on one half of the variations and judged on the other,
and the other way round. What is chosen on half the data is chosen a little worse, so that the split-half gap leans the other
way; the true one lies between the two.
Source: Efron, The Estimation of Prediction Error (2004), on the optimism of choosing and judging on the same data; split-half
cross-validation as in Stone, Cross-Validatory Choice (1974).
"""

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import BoolArray, Episode, FloatArray, IntArray
from mtrouter_rl.reporting.tables import format_with_ends
from mtrouter_rl.statistics.cluster_bootstrap import mean_estimate

N_SPLITS = 200

ScoredEpisode = tuple[str, Hashable, str, float]
"""Task, instance of the task (its variation), model that played it alone, utility."""


@dataclass(frozen=True, kw_only=True)
class ModelScores:
    """Scores of models that played alone: one row for every cluster, which is a (task, variation) with all its episodes.

    Attributes:
        tasks: Names of the T tasks.
        models: Names of the M models.
        task_of: Task of every cluster, shape (C,).
        stratum_of: What is split apart, shape (C,): clusters of one task that the same models played.
        sums: Sum of the utilities of a model in a cluster, shape (C, M).
        counts: Number of its episodes there, shape (C, M).
    """

    tasks: tuple[str, ...]
    models: tuple[str, ...]
    task_of: IntArray
    stratum_of: IntArray
    sums: FloatArray
    counts: FloatArray

    @classmethod
    def of(cls, rows: Sequence[ScoredEpisode]) -> Self:
        """Scores of episodes.

        Raises:
            InvalidConfigError: If fewer than two models played, or no task has two variations.
        """
        clusters = {cluster: number for number, cluster in enumerate(dict.fromkeys(row[:2] for row in rows))}
        tasks = tuple(dict.fromkeys(task for task, _ in clusters))
        models = tuple(sorted({row[2] for row in rows}))
        task_of = np.array([tasks.index(task) for task, _ in clusters], dtype=np.int64)
        if len(models) < 2 or np.bincount(task_of).max(initial=0) < 2:
            raise InvalidConfigError(
                f"{len(models)} model(s) played alone, on {len(tasks)} task(s) and {len(clusters)} variation(s); "
                "a gap needs two models at least, and two variations of a task"
            )
        sums, counts = np.zeros((len(clusters), len(models))), np.zeros((len(clusters), len(models)))
        for task, instance, model, utility in rows:
            cell = clusters[task, instance], models.index(model)
            sums[cell] += utility
            counts[cell] += 1
        patterns = [(int(task), *row) for task, row in zip(task_of, (counts > 0).tolist(), strict=True)]
        strata = {pattern: number for number, pattern in enumerate(dict.fromkeys(patterns))}
        stratum_of = np.array([strata[pattern] for pattern in patterns], dtype=np.int64)
        return cls(tasks=tasks, models=models, task_of=task_of, stratum_of=stratum_of, sums=sums, counts=counts)

    @cached_property
    def strata(self) -> tuple[IntArray, ...]:
        """Clusters of every stratum."""
        return tuple(np.flatnonzero(self.stratum_of == number) for number in range(int(self.stratum_of.max()) + 1))

    def means(self, weights: FloatArray) -> FloatArray:
        """Mean utility of every model on every task, shape (T, M), clusters weighted; NaN where nothing was played."""
        shape = (len(self.tasks), len(self.models))
        sums, counts = np.zeros(shape), np.zeros(shape)
        np.add.at(sums, self.task_of, weights[:, None] * self.sums)
        np.add.at(counts, self.task_of, weights[:, None] * self.counts)
        means: FloatArray = np.divide(sums, counts, out=np.full(shape, np.nan), where=counts > 0)
        return means


@dataclass(frozen=True, kw_only=True)
class HindsightGap:
    """Gap between the best model per task and the best single model, in utility; tasks count alike.

    Attributes:
        n_episodes: Episodes behind it.
        n_tasks: Tasks.
        n_clusters: (task, variation) pairs.
        best_single: The model with the best mean over tasks.
        best_single_utility: That mean.
        raw: Gap with choice and judgement on the same episodes; biased upward.
        raw_ci95: Its 95% interval over tasks, which shares the bias; None with fewer than two tasks.
        split_half: Gap with the choice on one half of the variations and the judgement on the other, averaged over splits.
        split_half_ci95: Its 95% interval over tasks; None likewise.
    """

    n_episodes: int
    n_tasks: int
    n_clusters: int
    best_single: str
    best_single_utility: float
    raw: float
    raw_ci95: tuple[float, float] | None
    split_half: float
    split_half_ci95: tuple[float, float] | None


def hindsight_gap(scores: ModelScores, *, seed: int, n_splits: int = N_SPLITS) -> HindsightGap:
    """Raw and split-half gap.

    Args:
        scores: Scores of models that played alone. A task on which a model did not play cannot be given to it; only models that
            played every task can be the best single one.
        seed: Seed of the splits and of the resamples.
        n_splits: Random splits into halves, each used both ways.

    Raises:
        InvalidConfigError: If no model played every task, or halves are too small to tell anything.
    """
    ones = np.ones(len(scores.task_of))
    means = scores.means(ones)
    single = _best_single(means, means)
    if single is None:
        raise InvalidConfigError(
            f"no model played all of the {len(scores.tasks)} tasks, so none can be the best single one"
        )
    raw, halves = _gaps_by_task(means, means), _split_half_gaps(scores, seed=seed, n_splits=n_splits)
    if np.isnan(halves).all():
        raise InvalidConfigError(
            "no half of the log has an episode of one model on every task; more episodes are needed"
        )
    return HindsightGap(
        n_episodes=int(scores.counts.sum()),
        n_tasks=len(scores.tasks),
        n_clusters=len(scores.task_of),
        best_single=scores.models[single],
        best_single_utility=float(means[:, single].mean()),
        raw=float(raw.mean()),
        raw_ci95=_interval(raw, seed),
        split_half=float(np.nanmean(halves)),
        split_half_ci95=_interval(halves, seed),
    )


def _interval(by_task: FloatArray, seed: int) -> tuple[float, float] | None:
    """Bootstrap interval of a mean over tasks; tasks of which nothing is known are left out."""
    known = by_task[~np.isnan(by_task)]
    return mean_estimate(known, range(len(known)), seed=seed).ends


def _split_half_gaps(scores: ModelScores, *, seed: int, n_splits: int) -> FloatArray:
    """Gap of every task, averaged over splits in which it can be told, shape (T,); NaN where it never can."""
    rng = np.random.default_rng(seed)
    total, count = np.zeros(len(scores.tasks)), np.zeros(len(scores.tasks))
    for _ in range(n_splits):
        first = _half(scores, rng)
        one, other = scores.means(first.astype(np.float64)), scores.means((~first).astype(np.float64))
        for gaps in (_gaps_by_task(one, other), _gaps_by_task(other, one)):
            total += np.nan_to_num(gaps)
            count += ~np.isnan(gaps)
    means: FloatArray = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    return means


def _gaps_by_task(chosen_on: FloatArray, judged_on: FloatArray) -> FloatArray:
    """Gap of every task, shape (T,), of choices made on one table of means, shape (T, M), and judged on another."""
    is_known = ~(np.isnan(chosen_on) | np.isnan(judged_on))
    kept = is_known.any(axis=1)
    gaps = np.full(len(chosen_on), np.nan)
    single = _best_single(chosen_on[kept], judged_on[kept])
    if single is not None:
        choices = np.where(is_known[kept], chosen_on[kept], -np.inf).argmax(axis=1)
        gaps[kept] = judged_on[kept][np.arange(kept.sum()), choices] - judged_on[kept][:, single]
    return gaps


def _best_single(chosen_on: FloatArray, judged_on: FloatArray) -> int | None:
    """Model with the best mean over tasks among those that are known everywhere; None if there is none."""
    is_known = ~(np.isnan(chosen_on) | np.isnan(judged_on)).any(axis=0)
    if not len(chosen_on) or not is_known.any():
        return None
    return int(np.where(is_known, np.where(is_known, chosen_on, 0.0).mean(axis=0), -np.inf).argmax())


def _half(scores: ModelScores, rng: np.random.Generator) -> BoolArray:
    """A random half of the clusters of every stratum, shape (C,)."""
    first = np.zeros(len(scores.task_of), dtype=bool)
    for members in scores.strata:
        first[rng.permutation(members)[int(rng.integers(2)) :: 2]] = True
    return first


def played_alone(episodes: Sequence[Episode], *, kind: str = ".*") -> tuple[list[ScoredEpisode], int]:
    """The completed episodes that one model played throughout, and how many others there are.

    Args:
        episodes: Of a log.
        kind: Regular expression; what it matches at the beginning of a task's name is the task that is counted, so that many
            small tasks can be taken for one.

    Raises:
        InvalidConfigError: If it matches nothing of a task's name.
    """
    alone = [one for one in episodes if one.status == "completed" and len(set(one.models)) == 1]
    rows: list[ScoredEpisode] = []
    for one in alone:
        match = re.match(kind, one.task)
        if match is None or not match.group():
            raise InvalidConfigError(
                f"kind is '{kind}', which matches nothing of task '{one.task}'; let it match every name"
            )
        rows.append((match.group(), (one.task, one.variation), one.models[0], float(one.utility)))
    return rows, len(episodes) - len(alone)


def format_gap(name: str, gap: HindsightGap) -> str:
    """One line of a table, in points of 100."""

    def points(value: float, ends: tuple[float, float] | None) -> str:
        return format_with_ends(100 * value, None if ends is None else (100 * ends[0], 100 * ends[1]), decimals=1)

    single = f"{gap.best_single} {100 * gap.best_single_utility:.1f}"
    return (
        f"{name:<28}{gap.n_episodes:>9}{gap.n_tasks:>7}{gap.n_clusters:>12}{single:>36}"
        f"{points(gap.raw, gap.raw_ci95):>22}{points(gap.split_half, gap.split_half_ci95):>22}"
    )


GAP_HEADER = (
    f"{'log':<28}{'episodes':>9}{'tasks':>7}{'variations':>12}{'best single model':>36}{'raw gap [95%]':>22}"
    f"{'split-half gap [95%]':>22}"
)
"""Header of the table of `format_gap`."""
