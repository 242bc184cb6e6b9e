"""The behaviour file of a run, `behavior.json`: how every policy routed, one row per policy and split.

`results.json` says what a policy earned, this file what it did: when it changed the model, what it did after errors,
what its choices depend on, whose turns the money and the failures were. `mtrouter_rl.evaluation.behavior` makes its rows.
"""

from itertools import chain
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from mtrouter_rl.errors import ResultsError
from mtrouter_rl.files import SavedRecord
from mtrouter_rl.records import Count, Ends, FiniteRecord, NonNegative, Share, Split
from mtrouter_rl.statistics.estimate import Estimate
from mtrouter_rl.statistics.mutual_information import MutualInformation

BEHAVIOR_FILE = "behavior.json"
PHASES = 4
"""Equal parts of the turn limit that `mutual_information.phase` tells apart."""


class ErrorBehavior(FiniteRecord):
    """What a policy does after errors. Nothing from the future is used to sort them.

    An error turn is *transient so far* if the turn before it was no error (or it is the first turn), and *persistent* if
    the turn before it was an error as well. An *error run* is a longest series of consecutive error turns. A number is
    None where its denominator is 0; a `_ci95` is the Wilson interval of the share before it, which treats turns as
    independent and is too narrow where errors of one episode are alike.

    Attributes:
        n_errors: Error turns.
        share_of_turns: Of all turns.
        n_transient: Transient-so-far errors that a turn follows.
        stay_after_transient: Share of these after which the same model is called.
        stay_after_transient_ci95: Its interval; likewise the other `_ci95`.
        recovery_after_transient: Share of these after which the next turn is error-free.
        recovery_after_transient_ci95: Its interval.
        n_persistent: Persistent errors that a turn follows.
        stay_after_persistent: Share of these after which the same model is called.
        stay_after_persistent_ci95: Its interval.
        recovery_after_persistent: Share of these after which the next turn is error-free.
        recovery_after_persistent_ci95: Its interval.
        n_runs: Error runs.
        n_recovered: Error runs that ended with an error-free turn; the others lasted until the episode ended.
        recovered_share: Share of the error runs that ended so.
        recovered_share_ci95: Its interval.
        turns_to_recovery_mean: Mean length of the error runs that ended so, turns.
        n_stays: Errors of either kind after which the same model is called.
        recovery_by_staying: Share of these after which the next turn is error-free.
        recovery_by_staying_ci95: Its interval.
        n_switches: Errors of either kind after which another model is called.
        recovery_by_switching: Share of these after which the next turn is error-free.
        recovery_by_switching_ci95: Its interval.
    """

    n_errors: Count
    share_of_turns: Share | None
    n_transient: Count
    stay_after_transient: Share | None
    stay_after_transient_ci95: Ends | None
    recovery_after_transient: Share | None
    recovery_after_transient_ci95: Ends | None
    n_persistent: Count
    stay_after_persistent: Share | None
    stay_after_persistent_ci95: Ends | None
    recovery_after_persistent: Share | None
    recovery_after_persistent_ci95: Ends | None
    n_runs: Count
    n_recovered: Count
    recovered_share: Share | None
    recovered_share_ci95: Ends | None
    turns_to_recovery_mean: NonNegative | None
    n_stays: Count
    recovery_by_staying: Share | None
    recovery_by_staying_ci95: Ends | None
    n_switches: Count
    recovery_by_switching: Share | None
    recovery_by_switching_ci95: Ends | None


class ModelDependence(FiniteRecord):
    """What the choice of model depends on. None where a label is unknown or has one value only.

    Attributes:
        task: Task of the episode.
        phase: Which quarter of the turn limit the turn lies in.
        skill: Kind of action due. Hidden information: simulated runs alone know it, and no router sees it.
    """

    task: MutualInformation | None
    phase: MutualInformation | None
    skill: MutualInformation | None


class FirstError(FiniteRecord):
    """A model's part in the first errors of episodes.

    Attributes:
        n_first_errors: Errors of this model to which no other error leads: in an episode that is a chain, its first one.
        share_of_first_errors: Of all first errors; None if there were none.
        failed_after_share: Share of those errors after which the episode ends with a utility below 1; None if there are none.
        n_turns_at_risk: Turns of this model to which no error leads: in a chain, those up to and including the first error.
        lift: Its share of first errors over its share of the turns at risk: above 1, it errs first more often than its
            use explains. None if it has no turn at risk or there were no first errors.
    """

    n_first_errors: Count
    share_of_first_errors: Share | None
    failed_after_share: Share | None
    n_turns_at_risk: Count
    lift: NonNegative | None


class FollowedBy(FiniteRecord):
    """How many turns of a kind are errors.

    Attributes:
        n_turns: Turns of the kind.
        n_errors: Those that are errors.
        share: Share of errors, with its interval over (task, variation); None without such turns. It has no ends where all
            or none are errors, or where all are of one (task, variation): no spread can be told then.
    """

    n_turns: Count
    n_errors: Count
    share: Estimate | None


class SpreadFrom(FollowedBy):
    """How many turns that come from an error are errors themselves.

    Attributes:
        difference: Their share of errors less that of turns that come from no error, both on the same resamples; None where
            one of the two is, and without ends where one of them has none.
    """

    difference: Estimate | None


class ErrorSpread(FiniteRecord):
    """How errors spread along the links between turns; see `mtrouter_rl.evaluation.behavior_spread`.

    Attributes:
        n_linked: Turns that name the turns which they come from. The others come from the turn before.
        n_first_errors: Errors to which no other error leads. In an episode that is a chain there is one at most.
        n_inherited_errors: The other errors.
        after_success: Turns that come from others, none of which is an error.
        after_error: Turns that come from an error at least.
        after_error_of: Model -> turns that come from an error of this model, in pool order. A turn that comes from errors of
            two models counts for both.
    """

    n_linked: Count
    n_first_errors: Count
    n_inherited_errors: Count
    after_success: FollowedBy
    after_error: SpreadFrom
    after_error_of: dict[str, SpreadFrom]


class BadEnd(FiniteRecord):
    """A model's part in the turns that ended an episode badly: terminated, with a negative utility gain.

    Attributes:
        n: How many of these turns were this model's.
        share: Of all of them; None if there were none.
    """

    n: Count
    share: Share | None


class BehaviorRow(FiniteRecord):
    """How one policy routed on one split. Failed episodes are counted and part of nothing else.

    Attributes:
        policy: Name of the policy.
        split: Which split it was run on.
        n_episodes: Completed episodes.
        n_failed: Episodes that broke for outside reasons.
        n_turns: Turns of the completed episodes.
        switches_mean: Changes of model per episode, with its interval over (task, variation).
        run_length_mean: Turns until the model changes or the episode ends, mean over runs; None without turns.
        run_lengths: How many runs are 1, 2, ... turns long.
        switch_matrix: Counts of consecutive turns by [model][next model], in pool order; stays are on the diagonal.
        errors: What happens after errors.
        usage_entropy_bits: Entropy of the models' shares of all turns, bits; None without turns.
        usage_entropy_within_episode_bits: The same within an episode, mean over episodes that have a turn; likewise.
        mutual_information: What the choice of model depends on.
        cost_share: Model -> share of all money spent, in pool order; empty if none was.
        turn_share: Model -> share of all turns, in pool order; empty without turns.
        first_error: Model -> its part in the first errors, in pool order.
        last_turn_before_failure: Model -> its part in the turns that ended an episode badly, in pool order.
        budget_use_by_turn: Mean share of the budget spent up to and including each turn; an episode that ended keeps its
            last value. None if an episode was run without a budget.
        budget_used_mean: Mean share of the budget spent by the end; likewise.
        spread: How errors spread along the links between turns; None in a row of version 1.
    """

    policy: Annotated[str, Field(min_length=1)]
    split: Split
    n_episodes: Annotated[int, Field(ge=1)]
    n_failed: Count
    n_turns: Count
    switches_mean: Estimate
    run_length_mean: NonNegative | None
    run_lengths: tuple[Count, ...]
    switch_matrix: tuple[tuple[Count, ...], ...]
    errors: ErrorBehavior
    usage_entropy_bits: NonNegative | None
    usage_entropy_within_episode_bits: NonNegative | None
    mutual_information: ModelDependence
    cost_share: dict[str, Share]
    turn_share: dict[str, Share]
    first_error: dict[str, FirstError]
    last_turn_before_failure: dict[str, BadEnd]
    budget_use_by_turn: tuple[NonNegative, ...] | None
    budget_used_mean: NonNegative | None
    spread: ErrorSpread | None = None

    @field_validator("switch_matrix")
    @classmethod
    def _matrix_is_square(cls, matrix: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
        if any(len(line) != len(matrix) for line in matrix):
            raise ValueError(f"rows have lengths {[len(line) for line in matrix]}, all must be {len(matrix)}")
        return matrix

    @property
    def key(self) -> tuple[str, str]:
        """What makes a row unique in a file: (policy, split)."""
        return (self.policy, self.split)


class Behavior(SavedRecord):
    """One behaviour file.

    Attributes:
        schema_version: Version of this layout; 2 has `spread` besides.
        env: Name of the environment card.
        pool: Name of the pool card.
        model_names: Names of the pool's models, in pool order.
        rows: One row per (policy, split).
    """

    SOURCE: ClassVar[str] = (
        "`mtrouter-rl evaluate` writes it, and `mtrouter-rl behavior RUN --out RUN` for an older run"
    )
    FIX: ClassVar[str] = "correct it, or evaluate again"
    IS_STRICT: ClassVar[bool] = True

    schema_version: Literal[1, 2] = 2
    env: str
    pool: str
    model_names: Annotated[tuple[str, ...], Field(min_length=1)]
    rows: tuple[BehaviorRow, ...]

    @model_validator(mode="after")
    def _rows_are_unique_and_of_this_pool(self) -> Self:
        keys = [row.key for row in self.rows]
        repeated = sorted({str(key) for key in keys if keys.count(key) > 1})
        if repeated:
            raise ValueError(f"rows {repeated} appear more than once; a row is one (policy, split)")
        for row in self.rows:
            spread = () if row.spread is None else row.spread.after_error_of
            named = set(chain(row.turn_share, row.cost_share, row.first_error, row.last_turn_before_failure, spread))
            unknown = sorted(named - set(self.model_names))
            if unknown or len(row.switch_matrix) != len(self.model_names):
                raise ValueError(
                    f"row {row.key} names models {unknown} that model_names lacks, or its switch_matrix has "
                    f"{len(row.switch_matrix)} rows for {len(self.model_names)} models; all rows must be of one pool"
                )
        return self

    def split_rows(self, split: str) -> tuple[BehaviorRow, ...]:
        """Rows of a split, in the order of the file."""
        return tuple(row for row in self.rows if row.split == split)

    @property
    def splits(self) -> tuple[Split, ...]:
        """Splits that have rows, in order of first appearance."""
        return tuple(dict.fromkeys(row.split for row in self.rows))

    def row(self, policy: str, split: str) -> BehaviorRow | None:
        """The row of a policy on a split, or None."""
        return next((row for row in self.rows if row.key == (policy, split)), None)

    def merge(self, other: "Behavior") -> "Behavior":
        """Rows of both; of two rows of one (policy, split), the other's counts.

        Raises:
            ResultsError: If they differ in environment or pool.
        """
        for name in ("env", "pool", "model_names"):
            if getattr(self, name) != getattr(other, name):
                raise ResultsError(
                    f"{BEHAVIOR_FILE}, field '{name}': is {getattr(self, name)!r} in one and {getattr(other, name)!r} in the "
                    "other, must be the same; choose another --out, or give --overwrite"
                )
        rows = {row.key: row for row in (*self.rows, *other.rows)}
        return Behavior(env=self.env, pool=self.pool, model_names=self.model_names, rows=tuple(rows.values()))
