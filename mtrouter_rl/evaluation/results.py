"""The results file of a run: one row per policy and split. Everything that people see is drawn from it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, JsonValue, ValidationError, field_validator, model_validator

from mtrouter_rl import __version__
from mtrouter_rl.cards.policy import name_at, split_name_at
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.errors import ResultsError
from mtrouter_rl.files import Header, read_json, write_atomically
from mtrouter_rl.records import SCORE_PER_UTILITY, Count, Ends, FiniteRecord, NonNegative, Share, Split
from mtrouter_rl.statistics.estimate import Estimate

SCHEMA_VERSION = 2
_READABLE_VERSIONS = (1, SCHEMA_VERSION)
_SHARE_TOLERANCE = 1e-6

HIDDEN_REFERENCE = "hidden-state-reference"
MEMORYLESS_REFERENCE = "memoryless-reference"
LIKELIEST_REFERENCE = "likeliest-success-reference"
BELIEVING_REFERENCE = "believing-reference"
REFERENCES = (HIDDEN_REFERENCE, BELIEVING_REFERENCE, MEMORYLESS_REFERENCE, LIKELIEST_REFERENCE)
"""Policies that see what no router may see (`mtrouter_rl.evaluation.hidden_reference`): shown, never ranked."""


def header(config: EnvConfig) -> Header:
    """Where results of an environment come from, for the files that hold them."""
    return Header(env=config.card.name, pool=config.pool.name, package_version=__version__)


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
        p_value: Two-sided, of the difference of return, from the bootstrap draws behind its interval; None if it was not
            computed: with fewer than two (task, variation) clusters, or in a file of version 1.
        p_value_holm: The same after Holm's correction over all differences of return of the split; None likewise.
    """

    score: Estimate
    cost_usd: Estimate
    return_: Estimate = Field(validation_alias="return", serialization_alias="return")
    p_value: Share | None
    p_value_holm: Share | None


class ResultRow(FiniteRecord):
    """One policy on one split. Means are over completed episodes, shares over turns, intervals over (task, variation).

    Attributes:
        policy: Name of the policy.
        split: Which split it was run on.
        cost_weight: Cost weight that the policy acts at, where a file compares several; else None. Its return is at the cost
            weight of the file all the same.
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
    def is_reference(self) -> bool:
        """Whether the policy sees the simulator's hidden state, so that it is no router and takes part in no ranking."""
        return self.policy in REFERENCES

    @property
    def family(self) -> str:
        """The policy without the cost weight that its name tells: `frontier` for `frontier@0.4` at the weight 0.4."""
        name, _ = split_name_at(self.policy)
        is_told = self.cost_weight is not None and name_at(name, self.cost_weight) == self.policy
        return name if is_told else self.policy

    @property
    def label(self) -> str:
        """Name in tables and plots: the policy, with cost weight and budget where its name does not tell them."""
        is_told = self.cost_weight is None or self.family != self.policy
        notes = [] if is_told else [f"cost weight {self.cost_weight:g}"]
        notes += [f"budget {self.budget_usd:g} USD"] if self.budget_usd is not None else []
        return f"{self.policy} ({', '.join(notes)})" if notes else self.policy


class Results(FiniteRecord):
    """One results file.

    Attributes:
        schema_version: Version of this layout; 2 since paired differences have p-values.
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

    schema_version: Literal[2] = 2
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
        """Rows of a split, best return first; references, which are no routers, come last.

        Raises:
            ResultsError: If the file has no row of that split.
        """
        rows = [row for row in self.rows if row.split == split]
        if not rows:
            raise ResultsError(f"results hold no row of split '{split}', only {list(self.splits)}; evaluate it first")
        return tuple(sorted(rows, key=lambda row: (row.is_reference, -row.return_mean, row.label)))

    def row(self, policy: str, split: str) -> ResultRow | None:
        """The best row of a policy on a split by return, or None."""
        rows = [row for row in self.rows if (row.policy, row.split) == (policy, split)]
        return max(rows, key=lambda row: row.return_mean, default=None)

    def replaced(self, *, roles: PolicyRoles, rows: Iterable[ResultRow]) -> "Results":
        """The same file with other roles and rows, checked anew.

        Raises:
            ResultsError: If the rows break a rule of the file.
        """
        fields = {name: getattr(self, name) for name in Results.model_fields}
        try:
            return Results(**(fields | {"roles": roles, "rows": tuple(rows)}))
        except ValidationError as error:
            raise _explain("merged results", error) from error

    def save(self, path: Path) -> None:
        """Write the file under a temporary name, then rename it: a reader never sees half a file."""
        text = json.dumps(self.model_dump(mode="json", by_alias=True), indent=2, allow_nan=False) + "\n"
        write_atomically(path, text.encode())

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Read a results file; nothing is converted, filled in or ignored.

        Files of version 1 are read as well; their paired differences have no p-values, which are None.

        Raises:
            ResultsError: If the file is missing, is not JSON, is of another schema version, or a field is missing,
                unknown or breaks its rule; names the file and every such field.
        """
        data = _read_json(path)
        version = data.get("schema_version")
        if version not in _READABLE_VERSIONS:
            raise ResultsError(
                f"{path}, field 'schema_version': is {version!r}, must be one of {_READABLE_VERSIONS}; "
                "evaluate again with this version of mtrouter_rl, or read the file with the version that wrote it"
            )
        if version == 1:
            _upgrade_from_1(data)
        try:
            return cls.model_validate_json(json.dumps(data), strict=True)
        except ValidationError as error:
            raise _explain(path, error) from error


def _read_json(path: Path) -> dict[str, JsonValue]:
    try:
        data = read_json(path)
    except FileNotFoundError as error:
        raise ResultsError(f"{path}: no such file; `mtrouter-rl evaluate` writes it") from error
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path} is not valid JSON: {error}; evaluate again, or restore the file") from error
    if not isinstance(data, dict):
        raise ResultsError(f"{path} holds {type(data).__name__}, must be an object of fields; evaluate again")
    return data


def _upgrade_from_1(data: dict[str, JsonValue]) -> None:
    """Say in a file of version 1 that its p-values were not computed; what else is wrong with it is left to be named."""
    data["schema_version"] = SCHEMA_VERSION
    rows = data.get("rows")
    for row in rows if isinstance(rows, list) else []:
        paired = row.get("paired") if isinstance(row, dict) else None
        for difference in paired.values() if isinstance(paired, dict) else []:
            if isinstance(difference, dict):
                difference |= {"p_value": None, "p_value_holm": None}


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
