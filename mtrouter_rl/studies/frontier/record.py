"""`frontier.json`: one router at many cost weights beside routers that were trained for one of them each."""

from pathlib import Path
from typing import ClassVar, Literal

from mtrouter_rl.evaluation.results import ResultRow
from mtrouter_rl.files import ResultFile
from mtrouter_rl.records import FiniteRecord, NonNegative
from mtrouter_rl.reporting.tables import Table, format_interval, format_number, format_usd, format_usd_interval

FRONTIER_FILE = "frontier.json"


class FrontierPair(FiniteRecord):
    """Two routers at one cost weight.

    Attributes:
        cost_weight: The weight. The returns of both rows and of their difference are at it.
        frontier: The router that was told the weight; `paired` holds its difference to the other.
        separate: The router that was trained for it.
    """

    cost_weight: NonNegative
    frontier: ResultRow
    separate: ResultRow


class FrontierComparison(ResultFile):
    """Contents of the file.

    Attributes:
        split: Which split.
        cost_unit_usd: Cost unit of the reward, USD.
        returns: What the returns are measured at.
        pairs: One for every router that was trained for one weight, by weight.
    """

    SOURCE: ClassVar[str] = "`mtrouter-rl lab frontier` writes it"
    FIX: ClassVar[str] = "run it again"

    split: str
    cost_unit_usd: float
    returns: Literal["at the cost weight of each pair"] = "at the cost weight of each pair"
    pairs: tuple[FrontierPair, ...]

    def save(self, folder: Path) -> Path:
        """Write the file into a folder."""
        return self.write(folder / FRONTIER_FILE)

    def table(self) -> Table:
        """Both routers at every weight, and their difference."""
        rows = []
        for pair in self.pairs:
            difference = pair.frontier.paired[pair.separate.policy]
            rows += [
                (
                    f"{pair.cost_weight:g}",
                    row.policy,
                    format_number(row.score_mean, decimals=1),
                    format_usd(row.cost_usd_mean),
                    format_number(row.return_mean, decimals=3),
                    *("", "", ""),
                )
                for row in (pair.separate, pair.frontier)
            ]
            rows[-1] = (
                *rows[-1][:5],
                format_interval(difference.return_, decimals=3),
                format_interval(difference.score, decimals=1),
                format_usd_interval(difference.cost_usd),
            )
        return Table(
            caption=f"One router at many cost weights beside one trained for each, {self.split} split. Every return is utility "
            f"- cost weight x cost / {self.cost_unit_usd:g} USD, at the weight of its own line. Differences are the one router "
            "minus the other, over the same episodes, with 95% intervals over (task, variation).",
            header=(
                *("cost weight", "policy", "score", "USD/episode", "return"),
                *("return, difference (95% CI)", "score, difference", "USD, difference"),
            ),
            rows=tuple(rows),
            groups=frozenset(range(0, len(rows), 2)),
        )
