"""Which cost weight a router is to act at, chosen by what it scores and costs on the validation split."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.evaluation.results import ResultRow
from mtrouter_rl.files import ResultFile
from mtrouter_rl.records import Ends, FiniteRecord

CHOICE_FILE = "cost_weight_choice.json"


@dataclass(frozen=True, kw_only=True)
class ChoiceRule:
    """How a cost weight is chosen: by a score that is to be kept, or by a cost that is not to be exceeded.

    Attributes:
        match_score_of: Policy whose score is to be kept; None to choose by cost.
        score_tolerance: How far below it the score may be, points; None is 0.
        target_cost_usd: Mean cost of an episode that is not to be exceeded, USD; None to choose by score.
    """

    match_score_of: str | None = None
    score_tolerance: float | None = None
    target_cost_usd: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is no rule."""
        if (self.match_score_of is None) == (self.target_cost_usd is None):
            raise InvalidConfigError("give one of --match-score-of and --target-cost-usd, not both and not neither")
        if self.score_tolerance is not None and (
            self.match_score_of is None or not 0 <= self.score_tolerance < math.inf
        ):
            raise InvalidConfigError(
                f"--score-tolerance is {self.score_tolerance}, must be a finite number of points of at least 0, beside "
                "--match-score-of"
            )
        if self.target_cost_usd is not None and not 0 < self.target_cost_usd < math.inf:
            raise InvalidConfigError(f"--target-cost-usd is {self.target_cost_usd}, must be a finite number above 0")

    def choose(self, rows: Sequence[ResultRow], reference: ResultRow | None) -> ResultRow:
        """The row of the weight that the rule asks for.

        Largest weight whose score is at least the reference's minus the tolerance; or smallest weight whose mean cost is at
        most the target. Both are means over validation episodes; their intervals play no part.

        Args:
            rows: The router at every weight of a grid, on validation.
            reference: The policy whose score is to be kept, on the same episodes; None to choose by cost.

        Raises:
            InvalidConfigError: If no weight of the grid does it; names the nearest.
        """
        by_weight = sorted(rows, key=_weight)
        if reference is not None:
            wanted = reference.score_mean - (self.score_tolerance or 0.0)
            fitting = [row for row in by_weight if row.score_mean >= wanted]
            if fitting:
                return fitting[-1]
            best = max(by_weight, key=lambda row: row.score_mean)
            raise InvalidConfigError(
                f"router '{best.family}': at no cost weight of the grid is its validation score at least {wanted:.2f} "
                f"(that of '{reference.policy}', {reference.score_mean:.2f}, minus the tolerance); the best is "
                f"{best.score_mean:.2f} at {_weight(best):g}. Give a --score-tolerance of at least "
                f"{reference.score_mean - best.score_mean:.2f}, or other weights with --cost-weights"
            )
        target = self.target_cost_usd or 0.0
        fitting = [row for row in by_weight if row.cost_usd_mean <= target]
        if fitting:
            return fitting[0]
        cheapest = min(by_weight, key=lambda row: row.cost_usd_mean)
        raise InvalidConfigError(
            f"router '{cheapest.family}': at no cost weight of the grid is its mean cost on validation at most {target:g} "
            f"USD; the least is {cheapest.cost_usd_mean:.4g} USD at {_weight(cheapest):g}. Give a higher --target-cost-usd, "
            "or other weights with --cost-weights"
        )

    def words(self, reference: ResultRow | None) -> str:
        """The rule in words."""
        if reference is None:
            return f"the smallest weight whose mean cost is at most {self.target_cost_usd:g} USD"
        below = f" minus {self.score_tolerance:g} points" if self.score_tolerance else ""
        return f"the largest weight whose score is at least that of '{reference.policy}', {reference.score_mean:.2f}{below}"


class Outcome(FiniteRecord):
    """What a policy did on validation.

    Attributes:
        policy: Its name.
        cost_weight: The weight that it acted at; None for the policy whose score is to be kept.
        n_episodes: Completed episodes.
        score_mean: Mean score.
        score_ci95: Its 95% interval; None with fewer than two (task, variation) clusters, likewise the other.
        cost_usd_mean: Mean cost of an episode, USD.
        cost_usd_ci95: Its 95% interval.
    """

    policy: str
    cost_weight: float | None
    n_episodes: int
    score_mean: float
    score_ci95: Ends | None
    cost_usd_mean: float
    cost_usd_ci95: Ends | None

    @classmethod
    def of(cls, row: ResultRow) -> "Outcome":
        """The part of a row that a choice looks at."""
        return cls(**{name: getattr(row, name) for name in cls.model_fields})


class CostWeightChoice(FiniteRecord):
    """A cost weight and why it was chosen.

    Attributes:
        router: Name of the router.
        cost_weight: The weight.
        rule: How it was chosen, in words.
        score_tolerance: See `ChoiceRule`; likewise the next.
        target_cost_usd: See `ChoiceRule`.
        reference: The policy whose score is to be kept; None if the cost decides.
        grid: The router at every weight, ascending.
    """

    router: str
    cost_weight: float
    rule: str
    score_tolerance: float | None
    target_cost_usd: float | None
    reference: Outcome | None
    grid: tuple[Outcome, ...]

    @classmethod
    def of(cls, rule: ChoiceRule, rows: Sequence[ResultRow], reference: ResultRow | None) -> "CostWeightChoice":
        """Choose. Raises as `ChoiceRule.choose`."""
        chosen = rule.choose(rows, reference)
        return cls(
            router=chosen.family,
            cost_weight=_weight(chosen),
            rule=rule.words(reference),
            score_tolerance=rule.score_tolerance,
            target_cost_usd=rule.target_cost_usd,
            reference=None if reference is None else Outcome.of(reference),
            grid=tuple(Outcome.of(row) for row in sorted(rows, key=_weight)),
        )

    def __str__(self) -> str:
        """One sentence for a reader."""
        chosen = next(one for one in self.grid if one.cost_weight == self.cost_weight)
        return (
            f"'{self.router}': cost weight {self.cost_weight:g}, chosen on validation from {len(self.grid)} weights as "
            f"{self.rule}; there it scores {chosen.score_mean:.2f} for {chosen.cost_usd_mean:.4g} USD an episode "
            f"({chosen.n_episodes} episodes)"
        )


class CostWeightChoices(ResultFile):
    """Contents of `cost_weight_choice.json`.

    Attributes:
        split: The split that they were chosen on.
        choices: One for every router.
    """

    SOURCE: ClassVar[str] = "`mtrouter-rl evaluate --choose-cost-weight` writes it"
    FIX: ClassVar[str] = "choose again"

    split: str = "validation"
    choices: tuple[CostWeightChoice, ...]

    def save(self, folder: Path) -> Path:
        """Write the file into a folder."""
        return self.write(folder / CHOICE_FILE)


def _weight(row: ResultRow) -> float:
    assert row.cost_weight is not None
    return row.cost_weight
