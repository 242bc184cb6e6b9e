"""Points of a router's cost-score frontier that are shown: chosen on validation, before test is looked at.

A point is a policy at one cost weight. The limits on cost are those of the MTRouter paper's headline (arXiv 2604.23530,
ScienceWorld: its router costs 41.3% of the strongest model on test and 34.2% on held-out tasks) and a quarter of the strongest
model's cost.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mtrouter_rl.evaluation.cost_weight_choice import Outcome
from mtrouter_rl.evaluation.results import ResultRow
from mtrouter_rl.files import SavedRecord
from mtrouter_rl.records import FiniteRecord

POINTS_FILE = "frontier_points.json"

Purpose = Literal["beat", "beat-ood", "keep"]
MAX_COST_SHARES: dict[Purpose, float] = {"beat": 0.413, "beat-ood": 0.342, "keep": 0.25}
"""Purpose -> cost that is not to be exceeded, as a share of the strongest single model's."""
MARGIN = 0.9
"""On validation the point has to stay below this share of the limit, since costs differ between splits."""


class FrontierPoint(FiniteRecord):
    """A point and why it was chosen.

    Attributes:
        purpose: Which claim it is shown for: "beat" and "beat-ood", that a point within the paper's relative cost on test and
            on held-out tasks beats the strongest model; "keep", that one within a quarter of its cost keeps its score.
        policy: The policy.
        max_cost_share: The limit, as a share of the strongest single model's cost; on validation `MARGIN` times that.
        is_met: Whether any point is within the limit. If none is, this is the cheapest.
    """

    purpose: Purpose
    policy: str
    max_cost_share: Annotated[float, Field(gt=0)]
    is_met: bool


class FrontierPoints(SavedRecord):
    """Contents of `frontier_points.json`.

    Attributes:
        split: The split that they were chosen on.
        strongest: The strongest single model there.
        grid: Every point of the frontier there.
        points: The chosen ones, one a purpose; two purposes may share a policy.
    """

    SOURCE: ClassVar[str] = "a full study writes it when it chooses the points"
    FIX: ClassVar[str] = "delete it, the points are then chosen again"

    split: Literal["validation"] = "validation"
    strongest: Outcome
    grid: tuple[Outcome, ...]
    points: tuple[FrontierPoint, ...]

    @property
    def policies(self) -> tuple[str, ...]:
        """The chosen policies, each once."""
        return tuple(dict.fromkeys(point.policy for point in self.points))

    def policy(self, purpose: Purpose) -> str:
        """The policy of a purpose."""
        return next(point.policy for point in self.points if point.purpose == purpose)

    def save(self, folder: Path) -> None:
        """Write the file into a folder."""
        self.write(folder / POINTS_FILE)


def choose_points(rows: Sequence[ResultRow], strongest: ResultRow) -> FrontierPoints:
    """Choose a point for every purpose: the best score within its limit on cost.

    Not the least cost at which the mean reaches the strongest model's score: of several points with about that score the
    luckiest would be chosen, and half of such choices fall short on other episodes.

    Args:
        rows: Every point of the frontier on validation, at least one.
        strongest: The strongest single model on the same episodes.
    """
    points = []
    for purpose, share in MAX_COST_SHARES.items():
        limit_usd = MARGIN * share * strongest.cost_usd_mean
        within = [row for row in rows if row.cost_usd_mean <= limit_usd]
        cheapest = min(rows, key=lambda row: row.cost_usd_mean)
        chosen = max(within, key=lambda row: row.score_mean, default=cheapest)
        points.append(FrontierPoint(purpose=purpose, policy=chosen.policy, max_cost_share=share, is_met=bool(within)))
    ordered = sorted(rows, key=lambda row: row.cost_usd_mean)
    return FrontierPoints(
        strongest=Outcome.of(strongest), grid=tuple(Outcome.of(row) for row in ordered), points=tuple(points)
    )
