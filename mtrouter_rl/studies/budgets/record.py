"""`budgets.json`: what policies do under several budgets, and how often the budget ends an episode."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from mtrouter_rl.evaluation.results import ResultRow
from mtrouter_rl.files import ResultFile
from mtrouter_rl.records import Count, Episode, FiniteRecord, NonNegative, Share
from mtrouter_rl.reporting.tables import Table, format_number, format_percent, format_usd, format_with_ends

BUDGET_FILE = "budgets.json"


def is_cut_short(episode: Episode) -> bool:
    """Whether an episode was truncated before its turn limit: no model fitted what was left (or its context window)."""
    if not episode.turns:
        return True
    last = episode.turns[-1]
    return last.truncated and not last.terminated and len(episode.turns) < episode.max_turns


class BudgetOutcome(FiniteRecord):
    """A policy under a budget.

    Attributes:
        policy: Its name.
        budget_usd: The budget, USD.
        n_episodes: Completed episodes.
        score_mean: Mean score.
        score_ci95: Its 95% interval; None with fewer than two (task, variation) clusters.
        cost_usd_mean: Mean cost of an episode, USD.
        return_mean: Mean return, at the cost weight of the results.
        cut_short_share: Share of episodes that ended because no model was allowed any more.
        budget_violations: Episodes that spent more than their budget; must be 0.
    """

    policy: str
    budget_usd: NonNegative
    n_episodes: int
    score_mean: float
    score_ci95: tuple[float, float] | None
    cost_usd_mean: NonNegative
    return_mean: float
    cut_short_share: Share
    budget_violations: Count

    @classmethod
    def of(cls, row: ResultRow, episodes: Sequence[Episode]) -> "BudgetOutcome":
        """From the row of a policy under a budget, and its episodes."""
        completed = [episode for episode in episodes if episode.status == "completed"]
        share = sum(map(is_cut_short, completed)) / len(completed)
        names = [name for name in cls.model_fields if name != "cut_short_share"]
        return cls(**{name: getattr(row, name) for name in names}, cut_short_share=share)


class BudgetSweep(ResultFile):
    """Contents of the file.

    Attributes:
        split: Which split.
        outcomes: By budget, and under each the best return first.
    """

    SOURCE: ClassVar[str] = "`mtrouter-rl evaluate --budgets` writes it"
    FIX: ClassVar[str] = "run `mtrouter-rl evaluate --budgets` again"

    split: str
    outcomes: tuple[BudgetOutcome, ...]

    def save(self, folder: Path) -> Path:
        """Write the file into a folder."""
        return self.write(folder / BUDGET_FILE)

    def table(self) -> Table:
        """Every policy under every budget."""
        budgets = [one.budget_usd for one in self.outcomes]
        return Table(
            caption=f"Policies under several budgets, {self.env}, {self.split} split, on the same episodes. Cut short: "
            "episodes that ended because no model was allowed any more. Over budget must be 0. Brackets: 95% intervals over "
            "(task, variation).",
            header=("budget, USD", "policy", "score (95% CI)", "USD/episode", "return", "cut short", "over budget"),
            rows=tuple(
                (
                    f"{one.budget_usd:.6g}",
                    one.policy,
                    format_with_ends(one.score_mean, one.score_ci95, decimals=1),
                    format_usd(one.cost_usd_mean),
                    format_number(one.return_mean, decimals=3),
                    format_percent(one.cut_short_share),
                    str(one.budget_violations),
                )
                for one in self.outcomes
            ),
            groups=frozenset(index for index, budget in enumerate(budgets) if budget not in budgets[:index]),
        )
