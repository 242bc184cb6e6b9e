"""How much could any router gain? A reference that sees the hidden state beside policies without training, by cost weight.

No router is trained. The single models and random routing do not depend on the cost weight and are run once; the planning
reference is run once for every weight. All run the same episodes on common random numbers.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, JsonValue

from mtrouter_rl.agents.rules.heuristics import by_price
from mtrouter_rl.cards import RewardCard
from mtrouter_rl.cards.policy import reference_policy, single_model, single_policy
from mtrouter_rl.cards.splits import evaluation_specs
from mtrouter_rl.errors import InvalidConfigError, ResultsError
from mtrouter_rl.evaluation.closed_loop import Contestant, EvaluationPlan, run_policies
from mtrouter_rl.evaluation.hidden_reference import ReferenceRef
from mtrouter_rl.evaluation.metrics import PolicyMetrics, policy_metrics
from mtrouter_rl.evaluation.result_rows import QUANTITIES
from mtrouter_rl.evaluation.results import LIKELIEST_REFERENCE, header
from mtrouter_rl.files import ResultFile, write_atomically
from mtrouter_rl.records import Episode, FiniteRecord, Split
from mtrouter_rl.reporting.tables import (
    ABSENT,
    Table,
    format_interval,
    format_usd_mean,
    format_with_ends,
    to_markdown,
    to_plain,
)
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.statistics.cluster_bootstrap import episode_means, paired_differences
from mtrouter_rl.statistics.estimate import Estimate, bounded
from mtrouter_rl.workflows import EPISODES_FOLDER, describe

HEADROOM_FILE = "headroom.json"
TABLE_FILE = "headroom.md"
COST_WEIGHTS = (0.0, 0.1, 0.4, 1.0, 3.0)
NO_ROUTER = "No router was trained for this table."
_RANDOM = "uniform"

Part = Literal["reference", "believing", "likeliest success", "best single", "strongest", "cheapest", "random"]


@dataclass(frozen=True, kw_only=True)
class HeadroomRequest:
    """What `mtrouter-rl lab headroom` is asked for.

    Attributes:
        split: Split whose variations are run.
        n_seeds: Seeds per variation.
        out: Folder of the episodes and of the table.
        cost_weights: Cost weights, each at least 0, no two the same.
        per_task: At most this many variations of a task; None takes all.
        seed: Seed of the bootstrap.
        overwrite: Whether episodes of another setting in `out` are replaced.
    """

    split: Split
    n_seeds: int
    out: Path
    cost_weights: tuple[float, ...] = COST_WEIGHTS
    per_task: int | None = None
    seed: int = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check the cost weights: two of one name would share their episodes."""
        names = [f"{weight:g}" for weight in self.cost_weights]
        if not names or len(set(names)) < len(names) or not all(0 <= weight < np.inf for weight in self.cost_weights):
            raise InvalidConfigError(
                f"cost weights are {list(self.cost_weights)}, must be at least one finite number of at least 0, and differ"
            )


class HeadroomRow(FiniteRecord):
    """One policy at one cost weight. Intervals are over (task, variation).

    Attributes:
        cost_weight: The cost weight.
        policy: Name of the policy.
        parts: What it is in the table; a single model may be several things, or none. "best single" has the best return and
            "strongest" the best score on these very episodes, which flatters them a little.
        score: Score, 100 * utility.
        cost_usd: Cost of an episode, USD.
        return_: Undiscounted return at the cost weight.
        reference_gain: Return of the planning reference minus this one, over the same episodes; None for the reference.
        n_failed: Episodes that broke for outside reasons; not scored.
    """

    cost_weight: Annotated[float, Field(ge=0)]
    policy: str
    parts: tuple[Part, ...]
    score: Estimate
    cost_usd: Estimate
    return_: Estimate = Field(validation_alias="return", serialization_alias="return")
    reference_gain: Estimate | None
    n_failed: Annotated[int, Field(ge=0)]


class Headroom(ResultFile):
    """What a headroom run found.

    Attributes:
        schema_version: Version of this layout.
        note: That no router was trained.
        split: Split.
        n_seeds: Seeds per variation.
        cost_unit_usd: Cost unit of the returns, USD.
        seed: Seed of the bootstrap.
        config: The resolved environment.
        rows: One per policy and cost weight.
    """

    SOURCE: ClassVar[str] = "`mtrouter-rl lab headroom` writes it"
    FIX: ClassVar[str] = "run it again"

    schema_version: Literal[1] = 1
    note: str = NO_ROUTER
    split: Split
    n_seeds: int
    cost_unit_usd: float
    seed: int
    config: dict[str, JsonValue]
    rows: tuple[HeadroomRow, ...]

    def part(self, part: Part, cost_weight: float) -> HeadroomRow:
        """The row that plays a part at a cost weight.

        Raises:
            ResultsError: If there is none.
        """
        for row in self.rows:
            if part in row.parts and row.cost_weight == cost_weight:
                return row
        known = sorted({row.cost_weight for row in self.rows})
        raise ResultsError(f"no row plays '{part}' at cost weight {cost_weight}; cost weights are {known}")

    def save(self, folder: Path) -> None:
        """Write `headroom.json` and the table in Markdown."""
        self.write(folder / HEADROOM_FILE)
        write_atomically(folder / TABLE_FILE, (to_markdown(headroom_table(self)) + "\n").encode())


def run_headroom(pool: RolloutPool, request: HeadroomRequest, *, show_progress: bool = True) -> Headroom:
    """Run the references, every single model and random routing, and compare them at every cost weight.

    What is already in `out` is not run again.

    Raises:
        InvalidConfigError: If the pool is not simulated, or a number is out of range.
        DatasetError: If `out` holds episodes of another setting.
    """
    config = pool.config
    references, believing = (
        {weight: ReferenceRef.of(text, config, cost_weight=weight) for weight in request.cost_weights}
        for text in (reference_policy("hidden"), reference_policy("believing"))
    )
    others = (
        reference_policy("likeliest"),
        _RANDOM,
        *(single_policy(name) for name in config.pool.model_names),
    )
    contestants = [Contestant(name=ref.policy, ref=ref) for ref in (*references.values(), *believing.values())]
    contestants += [Contestant.of(text, config, cache=None) for text in others]
    plan = EvaluationPlan(
        split=request.split,
        specs=evaluation_specs(config.card, request.split, request.n_seeds, per_task=request.per_task),
        seed=request.seed,
        folder=request.out / EPISODES_FOLDER,
        overwrite=request.overwrite,
    )
    episodes = run_policies(pool, contestants, plan, show_progress=show_progress)
    rows: list[HeadroomRow] = []
    for weight, reference in references.items():
        hidden = {other.policy for refs in (references, believing) for w, other in refs.items() if w != weight}
        shown = {one.name: episodes[one.name] for one in contestants if one.name not in hidden}
        reward = config.reward.at(weight)
        rows += _Weighed(
            reward=reward,
            reference=reference.policy,
            believing=believing[weight].policy,
            cheapest=single_policy(by_price(config.pool)[0]),
        ).rows(shown, model_names=config.pool.model_names, seed=request.seed)
    found = Headroom(
        **header(config),
        split=request.split,
        n_seeds=request.n_seeds,
        cost_unit_usd=config.reward.cost_unit_usd,
        seed=request.seed,
        config=json.loads(json.dumps(describe(config))),
        rows=tuple(rows),
    )
    found.save(request.out)
    return found


@dataclass(frozen=True, kw_only=True)
class _Weighed:
    """Rows at one cost weight.

    Attributes:
        reward: The reward with that weight.
        reference: Name of the planning reference for it.
        believing: Name of the one that does not see who is stuck.
        cheapest: Name of the single model with the lowest price.
    """

    reward: RewardCard
    reference: str
    believing: str
    cheapest: str

    def rows(
        self, episodes: Mapping[str, Sequence[Episode]], *, model_names: tuple[str, ...], seed: int
    ) -> list[HeadroomRow]:
        metrics = {
            name: policy_metrics(logged, self.reward, model_names=model_names, policy=name)
            for name, logged in episodes.items()
        }
        parts = self._parts(metrics)
        means = {name: _means(one, seed=seed) for name, one in metrics.items()}
        rows = [
            HeadroomRow(
                cost_weight=self.reward.cost_weight,
                policy=name,
                parts=parts[name],
                score=means[name][0],
                cost_usd=means[name][1],
                return_=means[name][2],
                reference_gain=self._gain(metrics, name, seed=seed),
                n_failed=one.n_failed,
            )
            for name, one in metrics.items()
        ]
        return sorted(rows, key=lambda row: (row.policy != self.reference, -row.return_.value, row.policy))

    def _gain(self, metrics: Mapping[str, PolicyMetrics], name: str, *, seed: int) -> Estimate | None:
        """Return of the reference minus that of a policy, over the episodes that both completed."""
        if name == self.reference:
            return None
        mine, theirs = metrics[self.reference].values("return_"), metrics[name].values("return_")
        both = set(mine) & set(theirs)
        if not both:
            raise ResultsError(
                f"policies '{self.reference}' and '{name}' completed no episode together; run them again"
            )
        return paired_differences(
            [{key: value for key, value in mine.items() if key in both}],
            [{key: value for key, value in theirs.items() if key in both}],
            seed=seed,
        ).estimate()

    def _parts(self, metrics: Mapping[str, PolicyMetrics]) -> dict[str, tuple[Part, ...]]:
        singles = [name for name in metrics if single_model(name) is not None]
        holders: list[tuple[Part, str]] = [
            ("reference", self.reference),
            ("believing", self.believing),
            ("likeliest success", LIKELIEST_REFERENCE),
            ("best single", max(singles, key=lambda name: metrics[name].mean("return_"))),
            ("strongest", max(singles, key=lambda name: metrics[name].mean("score"))),
            ("cheapest", self.cheapest),
            ("random", _RANDOM),
        ]
        return {name: tuple(part for part, holder in holders if holder == name) for name in metrics}


def _means(metrics: PolicyMetrics, *, seed: int) -> tuple[Estimate, ...]:
    return tuple(bounded(episode_means([metrics.values(name) for name in QUANTITIES], seed=seed).estimates()))


def headroom_table(found: Headroom) -> Table:
    """Table of what plays a part; the other single models are in the file alone."""
    shown = [row for row in found.rows if row.parts]
    starts = frozenset(
        index for index, row in enumerate(shown) if index and row.cost_weight != shown[index - 1].cost_weight
    )
    cells = tuple(
        (
            f"{row.policy.partition('@')[0]} ({', '.join(row.parts)})",
            f"{row.cost_weight:g}",
            format_with_ends(row.score.value, row.score.ends, decimals=1),
            format_usd_mean(row.cost_usd.value, row.cost_usd.ends),
            format_with_ends(row.return_.value, row.return_.ends, decimals=3),
            ABSENT if row.reference_gain is None else format_interval(row.reference_gain, decimals=3),
        )
        for row in shown
    )
    failed = sum(row.n_failed for row in shown)
    counts = sorted({row.score.n_episodes for row in shown})
    episodes = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    caption = (
        f"{found.env}, {found.split} split, pool {found.pool}, simulated models (no LLM was called): {episodes} episodes per "
        f"policy{f', {failed} failed and not scored' if failed else ''}. Return = utility - weight x cost / "
        f"{found.cost_unit_usd:g} USD. {NO_ROUTER} The references see the simulator's hidden state; none of them is a router. "
        "'best single' and 'strongest' are so on these very episodes. Brackets: 95% intervals over (task, variation)."
    )
    header = ("policy", "weight", "score", "USD/episode", "return", "reference gains (return)")
    return Table(caption=caption, header=header, rows=cells, groups=starts)


def format_headroom(found: Headroom) -> str:
    """The table for a terminal."""
    return to_plain(headroom_table(found))
