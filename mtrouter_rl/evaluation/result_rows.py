"""Rows of a results file from episodes: means, intervals, paired differences, and what depends on other rows."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.errors import ResultsError, unknown_name
from mtrouter_rl.evaluation.metrics import EpisodeRecord, PolicyMetrics, averaged_trainings, metrics_of_records
from mtrouter_rl.evaluation.results import PairedDifference, PolicyRoles, ResultRow, Results
from mtrouter_rl.records import Episode, EpisodeKey, Split
from mtrouter_rl.statistics.cluster_bootstrap import BootstrapMeans, episode_means, paired_differences
from mtrouter_rl.statistics.estimate import bounded
from mtrouter_rl.statistics.hull import CostScore, hull_gain
from mtrouter_rl.statistics.rank_agreement import holm
from mtrouter_rl.statistics.resamples import N_RESAMPLES

QUANTITIES = ("score", "cost_usd", "return_")
_RETURN = QUANTITIES.index("return_")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What `build_rows` needs to know beside the episodes.

    Attributes:
        split: The split that all episodes are of.
        reward: Cost weight and unit.
        model_names: Names of the pool, in pool order.
        roles: Which of the policies play which part.
        cost_weight: Written into every row; only for files that compare several.
        cost_weights: Policy -> what is written into its row instead; only for policies that are run at several.
        budget_usd: Likewise.
        on_common: Compare two policies on the episodes that both were run on; otherwise both must have run the same.
        n_resamples: Bootstrap resamples of every interval.
    """

    split: Split
    reward: RewardCard
    model_names: tuple[str, ...]
    roles: PolicyRoles
    cost_weight: float | None = None
    cost_weights: Mapping[str, float] = field(default_factory=dict)
    budget_usd: float | None = None
    on_common: bool = False
    n_resamples: int = N_RESAMPLES


def build_rows(
    episodes: Mapping[str, Sequence[Episode]], comparison: Comparison, *, seed: int
) -> tuple[ResultRow, ...]:
    """One row for every policy of a split.

    A learned router and a baseline must have run the same (task, variation, seed). Where either failed, the pair is
    left out of their difference; `n_failed` of both rows and `n_episodes` of the interval tell how many.

    Intervals of a row depend on its own episodes and the seed alone: equal episodes give equal rows, whatever stands beside.

    Args:
        episodes: Policy -> its episodes, completed and failed.
        comparison: Split, reward, pool and roles.
        seed: Seed of the resamples.

    Returns:
        Rows in the order of `episodes`.

    Raises:
        UnknownNameError: If a role names a policy without episodes, or a turn a model outside the pool.
        ResultsError: If an episode is of another split, a key repeats, or a policy completed no episode.
        InvalidConfigError: If a learned router and a baseline did not run the same episodes (names them).
    """
    return rows_of_records(records_of(episodes, comparison), comparison, seed=seed)


def records_of(
    episodes: Mapping[str, Sequence[Episode]], comparison: Comparison
) -> dict[str, tuple[EpisodeRecord, ...]]:
    """What is kept of the episodes of every policy of a split.

    Raises:
        ResultsError: If an episode is of another split.
    """
    _check_split(episodes, comparison.split)
    return {
        policy: tuple(EpisodeRecord.of(episode, comparison.reward) for episode in logged)
        for policy, logged in episodes.items()
    }


def rows_of_records(
    records: Mapping[str, Sequence[EpisodeRecord]],
    comparison: Comparison,
    *,
    seed: int,
    only: Collection[str] | None = None,
) -> tuple[ResultRow, ...]:
    """The same as `build_rows` from what is kept of every episode; the returns are those of the records. Raises likewise.

    With `only`, the rows of these policies alone.
    """
    for name in comparison.roles.names:
        if name not in records:
            raise unknown_name("policy in roles", name, records, fix="Name only policies whose episodes are given")
    metrics = {
        policy: metrics_of_records(kept, model_names=comparison.model_names, policy=policy)
        for policy, kept in records.items()
    }
    keys = {policy: frozenset(record.key for record in kept) for policy, kept in records.items()}
    rows = []
    for policy in records if only is None else only:
        row = _row(policy, metrics[policy], comparison, seed=seed)
        if policy in comparison.roles.learned:
            rivals = [name for name in comparison.roles.baselines if name != policy]
            paired = {
                name: _paired(metrics, keys, names=(policy, name), comparison=comparison, seed=seed) for name in rivals
            }
            row = row.model_copy(update={"paired": paired})
        rows.append(row)
    return with_references(rows, comparison.roles)


def update_rows(results: Results, rows: Iterable[ResultRow], *, roles: PolicyRoles | None = None) -> Results:
    """Results with further rows: a row of the same key is replaced, others are added.

    Hull gains and savings of all rows are worked out again, so that policies run later are measured against single
    models run earlier, and the other way round. Paired differences stay as they are: they need the episodes.

    Args:
        results: What there is.
        rows: The rows to add.
        roles: Roles of the added policies; None if they play none.

    Raises:
        ResultsError: If roles contradict each other, or a row names models of another pool.
    """
    merged_roles = results.roles.merge(roles) if roles else results.roles
    merged = {row.key: row for row in (*results.rows, *rows)}
    return results.replaced(roles=merged_roles, rows=with_references(merged.values(), merged_roles))


def merge(first: Results, second: Results) -> Results:
    """Rows of two files of the same setting in one; of two rows with one key, the second's counts.

    Raises:
        ResultsError: If they differ in environment, pool, reward, seeds per variation, or in whether models are simulated:
            their numbers cannot stand in one table.
    """
    for name in ("env", "pool", "model_names", "is_simulated", "cost_weight", "cost_unit_usd", "n_seeds"):
        if getattr(first, name) != getattr(second, name):
            raise ResultsError(
                f"field '{name}' is {getattr(first, name)!r} in one and {getattr(second, name)!r} in the other, "
                "must be the same; evaluate both in one setting"
            )
    return update_rows(first, second.rows, roles=second.roles)


def single_model_points(rows: Iterable[ResultRow], roles: PolicyRoles, *, like: ResultRow) -> list[CostScore]:
    """(cost per episode, score) of the single models on the split, and under the budget, of a row."""
    return [
        (row.cost_usd_mean, row.score_mean)
        for row in rows
        if row.policy in roles.single_models and (row.split, row.budget_usd) == (like.split, like.budget_usd)
    ]


def _row(policy: str, metrics: PolicyMetrics, comparison: Comparison, *, seed: int) -> ResultRow:
    columns = [metrics.values(name) for name in QUANTITIES]
    score, cost_usd, return_ = bounded(
        episode_means(columns, seed=seed, n_resamples=comparison.n_resamples).estimates()
    )
    return ResultRow(
        policy=policy,
        split=comparison.split,
        cost_weight=comparison.cost_weights.get(policy, comparison.cost_weight),
        budget_usd=comparison.budget_usd,
        n_episodes=len(metrics.episodes),
        score_mean=score.value,
        score_ci95=score.ends,
        utility_mean=metrics.mean("utility"),
        cost_usd_mean=cost_usd.value,
        cost_usd_ci95=cost_usd.ends,
        cost_usd_total=sum(metrics.values("cost_usd").values()),
        return_mean=return_.value,
        return_ci95=return_.ends,
        turns_mean=metrics.mean("n_turns"),
        switches_mean=metrics.mean("n_switches"),
        stay_after_error=metrics.stay_after_error,
        model_share=metrics.model_share,
        model_share_by_task=metrics.model_share_by_task,
        score_by_task=metrics.score_by_task,
        budget_violations=metrics.budget_violations,
        n_failed=metrics.n_failed,
        hull_gain=None,
        cost_saved_share=None,
    )


def _paired(
    metrics: Mapping[str, PolicyMetrics],
    keys: Mapping[str, frozenset[EpisodeKey]],
    *,
    names: tuple[str, str],
    comparison: Comparison,
    seed: int,
) -> PairedDifference:
    """Differences over the keys that both completed; a key that one of them never ran stays in, and is refused.

    With `on_common`, keys that one of them never ran are left out instead.
    """
    policy, baseline = names
    either = keys[policy] ^ keys[baseline] if comparison.on_common else frozenset()

    completed = set(metrics[policy].values("score")) & set(metrics[baseline].values("score"))
    left_out = either | ((keys[policy] & keys[baseline]) - completed)

    def columns(name: str) -> list[dict[EpisodeKey, float]]:
        values = (metrics[name].values(quantity) for quantity in QUANTITIES)
        return [{key: value for key, value in column.items() if key not in left_out} for column in values]

    found = paired_differences(columns(policy), columns(baseline), seed=seed, n_resamples=comparison.n_resamples)
    return paired_difference_of(found)


def paired_difference_of(found: BootstrapMeans) -> PairedDifference:
    """Record of differences of score, cost and return, in this order; Holm's p-value is not known yet."""
    score, cost_usd, return_ = found.estimates()
    return PairedDifference(
        score=score, cost_usd=cost_usd, return_=return_, p_value=found.p_value(_RETURN), p_value_holm=None
    )


def trainings_difference(
    own: Sequence[PolicyMetrics], other: Sequence[PolicyMetrics], *, seed: int
) -> PairedDifference:
    """Difference of two policies of several trainings each, paired over the episodes that all of them completed.

    Raises:
        ResultsError: As `averaged_trainings`.
    """
    mine, theirs = ([averaged_trainings(one, name) for name in QUANTITIES] for one in (own, other))
    both = [key for key in mine[0] if key in theirs[0]]
    values, others = ([{key: column[key] for key in both} for column in columns] for columns in (mine, theirs))
    return paired_difference_of(paired_differences(values, others, seed=seed))


def with_references(rows: Iterable[ResultRow], roles: PolicyRoles) -> tuple[ResultRow, ...]:
    """Rows with what depends on other rows: hull gain, savings and adjusted p-values."""
    known = tuple(rows)
    return adjust_p_values(
        row.model_copy(
            update={"hull_gain": _hull_gain(row, known, roles), "cost_saved_share": _saved(row, known, roles)}
        )
        for row in known
    )


def adjust_p_values(rows: Iterable[ResultRow]) -> tuple[ResultRow, ...]:
    """Rows whose paired differences have Holm's p-values; the family is every difference of return of the split.

    A difference without a p-value counts as one that found nothing, so that the family never shrinks by what is unknown.
    """
    known = list(rows)
    for split in dict.fromkeys(row.split for row in known):
        members = [(number, name) for number, row in enumerate(known) if row.split == split for name in row.paired]
        values = [known[number].paired[name].p_value for number, name in members]
        adjusted = holm([1.0 if value is None else value for value in values])
        for (number, name), value, p_value_holm in zip(members, values, adjusted, strict=True):
            row = known[number]
            changed = row.paired[name].model_copy(update={"p_value_holm": None if value is None else p_value_holm})
            known[number] = row.model_copy(update={"paired": row.paired | {name: changed}})
    return tuple(known)


def _hull_gain(row: ResultRow, rows: Sequence[ResultRow], roles: PolicyRoles) -> float | None:
    points = single_model_points(rows, roles, like=row)
    return hull_gain(row.score_mean, row.cost_usd_mean, points=points) if points else None


def _saved(row: ResultRow, rows: Sequence[ResultRow], roles: PolicyRoles) -> float | None:
    for reference in rows:
        is_like = (reference.split, reference.budget_usd) == (row.split, row.budget_usd)
        if reference.policy == roles.strongest and is_like and reference.cost_usd_mean > 0:
            return 1 - row.cost_usd_mean / reference.cost_usd_mean
    return None


def _check_split(episodes: Mapping[str, Sequence[Episode]], split: str) -> None:
    for policy, logged in episodes.items():
        for episode in logged:
            if episode.split != split:
                raise ResultsError(
                    f"policy '{policy}', episode '{episode.episode_id}': split is '{episode.split}', must be "
                    f"'{split}'; give the episodes of one split at a time"
                )
