"""The results file of a run: one row per policy and split. Everything that people see is drawn from it."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.errors import ResultsError, unknown_name
from mtrouter_rl.evaluation.hull import CostScore, hull_gain
from mtrouter_rl.evaluation.metrics import SCORE_PER_UTILITY, EpisodeKey, PolicyMetrics, episode_key, policy_metrics
from mtrouter_rl.evaluation.statistics import N_RESAMPLES, Interval, mean_interval, paired_difference_interval
from mtrouter_rl.pools.card import Frozen
from mtrouter_rl.records import Episode, Split

SCHEMA_VERSION = 1
_SHARE_TOLERANCE = 1e-6

Count = Annotated[int, Field(ge=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Ends = tuple[float, float]


class FiniteRecord(Frozen):
    """Base of the results file's records: immutable, no unknown key, and no NaN or infinity anywhere."""

    model_config = ConfigDict(allow_inf_nan=False, populate_by_name=True)


class PolicyRoles(FiniteRecord):
    """Which policies play which part in a comparison.

    Attributes:
        single_models: Policies that call one model throughout; they span the hull.
        strongest: The policy that calls the strongest single model (best on validation); savings are against it.
        learned: Learned routers: compared with every baseline, and highlighted.
        baselines: Policies that the learned routers are compared with.
    """

    single_models: tuple[str, ...] = ()
    strongest: str | None = None
    learned: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every policy named, once."""
        strongest = () if self.strongest is None else (self.strongest,)
        return tuple(dict.fromkeys((*self.single_models, *strongest, *self.learned, *self.baselines)))

    def merge(self, other: "PolicyRoles") -> "PolicyRoles":
        """Both together.

        Raises:
            ResultsError: If they name different strongest models.
        """
        if self.strongest and other.strongest and self.strongest != other.strongest:
            raise ResultsError(
                f"roles.strongest is '{self.strongest}' in one and '{other.strongest}' in the other, must be the same; "
                "choose the strongest model once, on validation"
            )
        return PolicyRoles(
            single_models=tuple(dict.fromkeys((*self.single_models, *other.single_models))),
            strongest=self.strongest or other.strongest,
            learned=tuple(dict.fromkeys((*self.learned, *other.learned))),
            baselines=tuple(dict.fromkeys((*self.baselines, *other.baselines))),
        )


class PairedDifference(FiniteRecord):
    """Learned router minus baseline, over the episodes that both completed.

    Attributes:
        score: Difference of score.
        cost_usd: Difference of cost, USD; negative is cheaper.
        return_: Difference of return; the file calls it "return".
    """

    score: Interval
    cost_usd: Interval
    return_: Interval = Field(validation_alias="return", serialization_alias="return")


class ResultRow(FiniteRecord):
    """One policy on one split. Means are over completed episodes, shares over turns, intervals over (task, variation).

    Attributes:
        policy: Name of the policy.
        split: Which split it was run on.
        cost_weight: Cost weight that the policy was made for, where a file compares several; else None.
        budget_usd: Budget of an episode, where a file compares several; else None.
        n_episodes: Completed episodes.
        score_mean: Mean score, 100 * utility.
        score_ci95: Its 95% interval; None with fewer than two (task, variation) clusters. Likewise the other `_ci95`.
        utility_mean: Mean utility, at most 1.
        cost_usd_mean: Mean cost of an episode, USD.
        cost_usd_ci95: Its 95% interval.
        cost_usd_total: Cost of all completed episodes, USD.
        return_mean: Mean undiscounted return.
        return_ci95: Its 95% interval.
        turns_mean: Mean number of turns.
        switches_mean: Mean number of changes of model.
        stay_after_error: Share of errors after which the same model was called; None if there were none.
        model_share: Model -> share of turns, in pool order; empty if no turn was taken.
        model_share_by_task: Task -> model -> share of turns.
        score_by_task: Task -> mean score.
        budget_violations: Episodes that spent more than their budget.
        n_failed: Episodes that broke for outside reasons; not scored.
        hull_gain: Score above the single models' hull at the same cost; None if no single model was run.
        cost_saved_share: 1 - cost / cost of the strongest single model; negative is dearer; None if that was not run.
        paired: Baseline -> paired difference; empty for all but learned routers.
    """

    policy: Annotated[str, Field(min_length=1)]
    split: Split
    cost_weight: NonNegative | None = None
    budget_usd: NonNegative | None = None
    n_episodes: Annotated[int, Field(ge=1)]
    score_mean: float
    score_ci95: Ends | None
    utility_mean: float
    cost_usd_mean: NonNegative
    cost_usd_ci95: Ends | None
    cost_usd_total: NonNegative
    return_mean: float
    return_ci95: Ends | None
    turns_mean: NonNegative
    switches_mean: NonNegative
    stay_after_error: Share | None
    model_share: dict[str, Share]
    model_share_by_task: dict[str, dict[str, Share]]
    score_by_task: dict[str, float]
    budget_violations: Count
    n_failed: Count
    hull_gain: float | None
    cost_saved_share: float | None
    paired: dict[str, PairedDifference] = Field(default_factory=dict)

    @field_validator("score_ci95", "cost_usd_ci95", "return_ci95")
    @classmethod
    def _ends_are_ordered(cls, ends: Ends | None) -> Ends | None:
        if ends is not None and ends[0] > ends[1]:
            raise ValueError(f"interval is {ends}, its lower end must not exceed its upper end")
        return ends

    @field_validator("model_share")
    @classmethod
    def _shares_sum_to_one(cls, shares: dict[str, float]) -> dict[str, float]:
        if shares and abs(sum(shares.values()) - 1) > _SHARE_TOLERANCE:
            raise ValueError(f"shares sum to {sum(shares.values())}, must sum to 1")
        return shares

    @model_validator(mode="after")
    def _score_is_utility(self) -> Self:
        if not np.isclose(self.score_mean, SCORE_PER_UTILITY * self.utility_mean, atol=1e-6):
            raise ValueError(
                f"score_mean is {self.score_mean} and utility_mean {self.utility_mean}; score = 100 * utility"
            )
        return self

    @property
    def key(self) -> tuple[str, str, float | None, float | None]:
        """What makes a row unique in a file: (policy, split, cost_weight, budget_usd)."""
        return (self.policy, self.split, self.cost_weight, self.budget_usd)

    @property
    def label(self) -> str:
        """Name in tables and plots: the policy, with cost weight and budget where the file compares several."""
        notes = [f"cost weight {self.cost_weight:g}"] if self.cost_weight is not None else []
        notes += [f"budget {self.budget_usd:g} USD"] if self.budget_usd is not None else []
        return f"{self.policy} ({', '.join(notes)})" if notes else self.policy


class Results(FiniteRecord):
    """One results file.

    Attributes:
        schema_version: Version of this layout.
        env: Name of the environment card.
        pool: Name of the pool card.
        model_names: Names of the pool's models, in pool order.
        is_simulated: Whether the models were simulated, so that no LLM was called.
        cost_weight: Cost weight of the reward behind every `return_` field.
        cost_unit_usd: Cost unit of the reward, USD.
        dataset_id: Dataset that the learned routers were trained on; None if there is none.
        seed: Seed of the run.
        n_seeds: Episodes per (task, variation).
        package_version: Version of mtrouter_rl.
        config: The whole resolved configuration of the run, and any further provenance.
        roles: Which policies play which part.
        rows: One row per (policy, split, cost_weight, budget_usd).
        estimator: How the numbers were estimated from a log; None if the policies were run.
        notes: What a reader must know before believing them, a sentence each.
    """

    schema_version: Literal[1] = 1
    env: str
    pool: str
    model_names: Annotated[tuple[str, ...], Field(min_length=1)]
    is_simulated: bool
    cost_weight: NonNegative
    cost_unit_usd: Annotated[float, Field(gt=0)]
    dataset_id: str | None
    seed: int
    n_seeds: Annotated[int, Field(ge=1)]
    package_version: str
    config: dict[str, JsonValue]
    roles: PolicyRoles
    rows: tuple[ResultRow, ...]
    estimator: str | None = None
    notes: tuple[str, ...] = ()

    @field_validator("config")
    @classmethod
    def _config_is_json(cls, config: dict[str, JsonValue]) -> dict[str, JsonValue]:
        json.dumps(config, allow_nan=False)
        return config

    @model_validator(mode="after")
    def _rows_are_unique_and_of_this_pool(self) -> Self:
        keys = [row.key for row in self.rows]
        repeated = sorted({str(key) for key in keys if keys.count(key) > 1})
        if repeated:
            raise ValueError(
                f"rows {repeated} appear more than once; a row is one (policy, split, cost_weight, budget_usd)"
            )
        unknown = sorted({name for row in self.rows for name in row.model_share} - set(self.model_names))
        if unknown:
            raise ValueError(f"rows name models {unknown} that model_names lacks; all rows must be of one pool")
        return self

    @property
    def splits(self) -> tuple[Split, ...]:
        """Splits that have rows, in order of first appearance."""
        return tuple(dict.fromkeys(row.split for row in self.rows))

    def split_rows(self, split: str) -> tuple[ResultRow, ...]:
        """Rows of a split, best return first.

        Raises:
            ResultsError: If the file has no row of that split.
        """
        rows = [row for row in self.rows if row.split == split]
        if not rows:
            raise ResultsError(f"results hold no row of split '{split}', only {list(self.splits)}; evaluate it first")
        return tuple(sorted(rows, key=lambda row: (-row.return_mean, row.label)))

    def row(self, policy: str, split: str) -> ResultRow | None:
        """The best row of a policy on a split by return, or None."""
        rows = [row for row in self.rows if (row.policy, row.split) == (policy, split)]
        return max(rows, key=lambda row: row.return_mean, default=None)

    def save(self, path: Path) -> None:
        """Write the file under a temporary name, then rename it: a reader never sees half a file."""
        text = json.dumps(self.model_dump(mode="json", by_alias=True), indent=2, allow_nan=False) + "\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Read a results file; nothing is converted, filled in or ignored.

        Raises:
            ResultsError: If the file is missing, is not JSON, is of another schema version, or a field is missing,
                unknown or breaks its rule; names the file and every such field.
        """
        data = _read_json(path)
        version = data.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ResultsError(
                f"{path}, field 'schema_version': is {version!r}, must be {SCHEMA_VERSION}; "
                "evaluate again with this version of mtrouter_rl, or read the file with the version that wrote it"
            )
        try:
            return cls.model_validate_json(json.dumps(data), strict=True)
        except ValidationError as error:
            raise _explain(path, error) from error


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What `build_rows` needs to know beside the episodes.

    Attributes:
        split: The split that all episodes are of.
        reward: Cost weight and unit.
        model_names: Names of the pool, in pool order.
        roles: Which of the policies play which part.
        cost_weight: Written into every row; only for files that compare several.
        budget_usd: Likewise.
        n_resamples: Bootstrap resamples of every interval.
    """

    split: Split
    reward: RewardCard
    model_names: tuple[str, ...]
    roles: PolicyRoles
    cost_weight: float | None = None
    budget_usd: float | None = None
    n_resamples: int = N_RESAMPLES


def build_rows(
    episodes: Mapping[str, Sequence[Episode]], comparison: Comparison, *, rng: np.random.Generator
) -> tuple[ResultRow, ...]:
    """One row for every policy of a split.

    A learned router and a baseline must have run the same (task, variation, seed). Where either failed, the pair is
    left out of their difference; `n_failed` of both rows and `n_episodes` of the interval tell how many.

    Args:
        episodes: Policy -> its episodes, completed and failed.
        comparison: Split, reward, pool and roles.
        rng: Source of the bootstrap draws.

    Returns:
        Rows in the order of `episodes`.

    Raises:
        UnknownNameError: If a role names a policy without episodes, or a turn a model outside the pool.
        ResultsError: If an episode is of another split, a key repeats, or a policy completed no episode.
        InvalidConfigError: If a learned router and a baseline did not run the same episodes (names them).
    """
    for name in comparison.roles.names:
        if name not in episodes:
            raise unknown_name("policy in roles", name, episodes, fix="Name only policies whose episodes are given")
    _check_split(episodes, comparison.split)
    metrics = {
        policy: policy_metrics(logged, comparison.reward, model_names=comparison.model_names, policy=policy)
        for policy, logged in episodes.items()
    }
    keys = {policy: frozenset(map(episode_key, logged)) for policy, logged in episodes.items()}
    rows = []
    for policy in episodes:
        row = _row(policy, metrics[policy], comparison, rng=rng)
        if policy in comparison.roles.learned:
            rivals = [name for name in comparison.roles.baselines if name != policy]
            paired = {
                name: _paired(metrics, keys, names=(policy, name), rng=rng, n_resamples=comparison.n_resamples)
                for name in rivals
            }
            row = row.model_copy(update={"paired": paired})
        rows.append(row)
    return _with_references(rows, comparison.roles)


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
    return _revalidated(results, roles=merged_roles, rows=_with_references(merged.values(), merged_roles))


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


def _row(policy: str, metrics: PolicyMetrics, comparison: Comparison, *, rng: np.random.Generator) -> ResultRow:
    def interval(name: str) -> Interval:
        return mean_interval(metrics.values(name), rng=rng, n_resamples=comparison.n_resamples)

    score, cost_usd, return_ = interval("score"), interval("cost_usd"), interval("return_")
    return ResultRow(
        policy=policy,
        split=comparison.split,
        cost_weight=comparison.cost_weight,
        budget_usd=comparison.budget_usd,
        n_episodes=len(metrics.episodes),
        score_mean=score.mean,
        score_ci95=score.ends,
        utility_mean=metrics.mean("utility"),
        cost_usd_mean=cost_usd.mean,
        cost_usd_ci95=cost_usd.ends,
        cost_usd_total=sum(metrics.values("cost_usd").values()),
        return_mean=return_.mean,
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
    rng: np.random.Generator,
    n_resamples: int,
) -> PairedDifference:
    """Differences over the keys that both completed; a key that one of them never ran stays in, and is refused."""
    policy, baseline = names

    def interval(name: str) -> Interval:
        values, others = metrics[policy].values(name), metrics[baseline].values(name)
        failed = (keys[policy] & keys[baseline]) - (set(values) & set(others))
        return paired_difference_interval(
            {key: value for key, value in values.items() if key not in failed},
            {key: value for key, value in others.items() if key not in failed},
            rng=rng,
            n_resamples=n_resamples,
        )

    return PairedDifference(score=interval("score"), cost_usd=interval("cost_usd"), return_=interval("return_"))


def _with_references(rows: Iterable[ResultRow], roles: PolicyRoles) -> tuple[ResultRow, ...]:
    """Rows with what depends on other rows: hull gain and savings."""
    known = tuple(rows)
    return tuple(
        row.model_copy(
            update={"hull_gain": _hull_gain(row, known, roles), "cost_saved_share": _saved(row, known, roles)}
        )
        for row in known
    )


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


def _revalidated(results: Results, *, roles: PolicyRoles, rows: tuple[ResultRow, ...]) -> Results:
    fields = {name: getattr(results, name) for name in Results.model_fields}
    try:
        return Results(**(fields | {"roles": roles, "rows": rows}))
    except ValidationError as error:
        raise _explain("merged results", error) from error


def _read_json(path: Path) -> dict[str, JsonValue]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ResultsError(f"{path}: no such file; `mtrouter-rl evaluate` writes it") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ResultsError(f"{path} is not valid JSON: {error}; evaluate again, or restore the file") from error
    if not isinstance(data, dict):
        raise ResultsError(f"{path} holds {type(data).__name__}, must be an object of fields; evaluate again")
    return data


def _explain(source: Path | str, error: ValidationError) -> ResultsError:
    lines = []
    for issue in error.errors():
        where = ".".join(str(part) for part in issue["loc"]) or "(file)"
        value = "" if issue["type"] in {"missing", "value_error"} else f" is {issue['input']!r}"[:100]
        fix = {"missing": "add it; there is no default", "extra_forbidden": "remove it or correct its spelling"}.get(
            issue["type"], "correct it, or evaluate again"
        )
        lines.append(f"  field '{where}'{value}: {issue['msg'].rstrip('.')}; {fix}")
    return ResultsError(f"{source} breaks the schema of results:\n" + "\n".join(lines))
