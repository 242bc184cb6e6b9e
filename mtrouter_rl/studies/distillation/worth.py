"""What routing is worth before and after distillation: return, cost and escalations of the same policies on the same episodes.

Policies of one name in several runs count as trainings of one agent: their episodes are averaged by (task, variation, seed).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.errors import ResultsError
from mtrouter_rl.exporters.escalations import cheap_model, reference_prices
from mtrouter_rl.files import SavedRecord
from mtrouter_rl.records import Count, Ends, Episode, EpisodeKey, FiniteRecord, Split, episode_key
from mtrouter_rl.reporting.tables import Table, format_interval, format_with_ends, to_plain
from mtrouter_rl.statistics.cluster_bootstrap import episode_means, paired_differences
from mtrouter_rl.statistics.estimate import COST_RANGE, RETURN_RANGE, SCORE_RANGE, Estimate, within
from mtrouter_rl.workflows import EPISODES_FOLDER

Quantity = Literal["return", "score", "cost_usd", "escalations"]
_DECIMALS: dict[Quantity, int] = {"return": 3, "score": 1, "cost_usd": 4, "escalations": 3}
_RANGES: dict[Quantity, Ends] = {
    "return": RETURN_RANGE,
    "score": SCORE_RANGE,
    "cost_usd": COST_RANGE,
    "escalations": (0.0, 1.0),
}
Values = dict[Quantity, dict[EpisodeKey, float]]


@dataclass(frozen=True, kw_only=True)
class WorthRequest:
    """What `mtrouter-rl lab distill-worth` is asked for.

    Attributes:
        config: Environment of the runs, for the reward.
        before: Folders of evaluations with the pool before distillation.
        after: The same after it.
        split: Split whose episodes are read.
        cheap: The model that learned; None takes the cheapest one before.
        seed: Seed of the bootstrap.
    """

    config: EnvConfig
    before: tuple[Path, ...]
    after: tuple[Path, ...]
    split: Split
    cheap: str | None = None
    seed: int = 0


class Change(FiniteRecord):
    """One quantity of a policy, with intervals over (task, variation).

    Attributes:
        quantity: Return, score, cost of an episode (USD), or the share of an episode's turns that a dearer model answered.
        before: Its mean before.
        after: Its mean after.
        difference: After less before, over the same episodes.
    """

    quantity: Quantity
    before: Estimate
    after: Estimate
    difference: Estimate


class PolicyWorth(FiniteRecord):
    """One policy.

    Attributes:
        policy: Its name.
        n_before: Trainings that are averaged before.
        n_after: After.
        n_episodes: Episodes of the comparison: those that all these runs completed.
        changes: What changed.
    """

    policy: str
    n_before: Count
    n_after: Count
    n_episodes: Count
    changes: tuple[Change, ...]


class DistillationWorth(SavedRecord):
    """What was found.

    Attributes:
        schema_version: Version of this layout.
        env: Environment.
        pool_before: Pool of the runs before.
        pool_after: Pool of the runs after.
        cheap: The model that learned.
        split: Split.
        seed: Seed of the bootstrap.
        policies: Those that are in runs of both kinds.
    """

    SOURCE: ClassVar[str] = "`mtrouter-rl lab distill-worth --json` prints it"
    FIX: ClassVar[str] = "run it again"

    schema_version: Literal[1] = 1
    env: str
    pool_before: str
    pool_after: str
    cheap: str
    split: Split
    seed: int
    policies: tuple[PolicyWorth, ...]


def find_worth(request: WorthRequest) -> DistillationWorth:
    """Read the runs and compare each policy with itself.

    Raises:
        ResultsError: If a folder holds no episodes of the split, or of another environment, runs of one side have several
            pools, or no policy is on both sides.
        UnknownNameError: If the pool has no model of the name of `cheap`.
        DatasetError: If no model is dearer than the cheap one, or a folder of episodes breaks its rules.
    """
    before = [one for run in request.before for one in _logs(run, request)]
    after = [one for run in request.after for one in _logs(run, request)]
    info = before[0].info
    cheap, prices = cheap_model(info, request.cheap), reference_prices(info)
    dearer = {name for name, price in prices.items() if price > prices[cheap]}
    shared = [name for name in _policies(before) if name in _policies(after)]
    if not shared:
        raise ResultsError(
            f"no policy is on both sides: {', '.join(_policies(before))} before, {', '.join(_policies(after))} after; "
            "evaluate the same agents with both pools"
        )
    measure = _measure(request.config.reward, dearer)
    return DistillationWorth(
        env=request.config.card.name,
        pool_before=_pool(before, "--before"),
        pool_after=_pool(after, "--after"),
        cheap=cheap,
        split=request.split,
        seed=request.seed,
        policies=tuple(_compared(name, before, after, measure=measure, seed=request.seed) for name in shared),
    )


def _logs(run: Path, request: WorthRequest) -> list[Dataset]:
    folders = sorted(one for one in (run / EPISODES_FOLDER / request.split).glob("*") if one.is_dir())
    if not folders:
        raise ResultsError(f"{run}: holds no episodes of the {request.split} split; name the folder of an evaluation")
    found = [Dataset.load(folder) for folder in folders]
    env = request.config.card.name
    other = next((one.info.env for one in found if one.info.env != env), None)
    if other is not None:
        raise ResultsError(f"{run}: episodes are of environment '{other}', must be of '{env}'; see --env")
    return found


def _policies(logs: Sequence[Dataset]) -> list[str]:
    return list(dict.fromkeys(log.info.behavior_policy for log in logs))


def _pool(logs: Sequence[Dataset], option: str) -> str:
    names = sorted({log.info.pool_name for log in logs})
    if len(names) > 1:
        raise ResultsError(
            f"runs of {option} are of pools {', '.join(names)}, must be of one; compare them one at a time"
        )
    return names[0]


def _measure(reward: RewardCard, dearer: set[str]) -> Callable[[Episode], dict[Quantity, float]]:
    def measure(episode: Episode) -> dict[Quantity, float]:
        n_dearer = sum(turn.served_model in dearer for turn in episode.turns)
        return {
            "return": reward.reward(episode.utility, episode.cost_usd),
            "score": 100 * episode.utility,
            "cost_usd": episode.cost_usd,
            "escalations": n_dearer / max(len(episode.turns), 1),
        }

    return measure


def _compared(
    policy: str,
    before: Sequence[Dataset],
    after: Sequence[Dataset],
    *,
    measure: Callable[[Episode], dict[Quantity, float]],
    seed: int,
) -> PolicyWorth:
    """A policy before and after, over the episodes that all its runs completed."""
    sides = [[log for log in logs if log.info.behavior_policy == policy] for logs in (before, after)]
    values = [[{episode_key(one): measure(one) for one in log.completed} for log in side] for side in sides]
    keys = sorted(set.intersection(*(set(run) for side in values for run in side)))
    if not keys:
        raise ResultsError(f"policy '{policy}': its runs have no episode in common; use the same split and --seeds")
    first, second = (_averaged(side, keys) for side in values)
    return PolicyWorth(
        policy=policy,
        n_before=len(sides[0]),
        n_after=len(sides[1]),
        n_episodes=len(keys),
        changes=tuple(
            Change(
                quantity=name,
                before=_mean(first[name], name, seed=seed),
                after=_mean(second[name], name, seed=seed),
                difference=paired_differences([second[name]], [first[name]], seed=seed).estimate(),
            )
            for name in _DECIMALS
        ),
    )


def _mean(values: Mapping[EpisodeKey, float], quantity: Quantity, *, seed: int) -> Estimate:
    """Mean with an interval that holds nothing the quantity cannot be."""
    found = episode_means([values], seed=seed).estimate()
    low, high = within(found.ends, _RANGES[quantity]) or (None, None)
    return replace(found, low=low, high=high)


def _averaged(runs: Sequence[Mapping[EpisodeKey, Mapping[Quantity, float]]], keys: Sequence[EpisodeKey]) -> Values:
    """Mean over trainings of every quantity of every episode."""
    return {name: {key: float(np.mean([run[key][name] for run in runs])) for key in keys} for name in _DECIMALS}


def format_worth(found: DistillationWorth) -> str:
    """The comparison as a table, for a reader."""
    rows = tuple(
        (
            policy.policy if number == 0 else "",
            f"{policy.n_before}, {policy.n_after}" if number == 0 else "",
            change.quantity,
            *(
                format_with_ends(one.value, one.ends, decimals=_DECIMALS[change.quantity])
                for one in (change.before, change.after)
            ),
            format_interval(change.difference, decimals=_DECIMALS[change.quantity]),
        )
        for policy in found.policies
        for number, change in enumerate(policy.changes)
    )
    n = " or ".join(map(str, sorted({one.n_episodes for one in found.policies})))
    caption = (
        f"{found.env}, {found.split} split, pools {found.pool_before} and {found.pool_after}, {n} episodes a policy; "
        f"'{found.cheap}' learned. Escalations: share of an episode's turns that a dearer model answered. Brackets: 95% "
        "intervals over (task, variation), which do not hold how trainings differ."
    )
    return to_plain(
        Table(caption=caption, header=("policy", "trainings", "", "before", "after", "difference"), rows=rows)
    )
