"""Returns of policies with and without the luck of their episodes, from runs that were kept.

Policies of one name in several runs count as trainings of one agent: their episodes are averaged by (task, variation, seed). A
difference of two policies is over the episodes that both have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from mtrouter_rl.cards.policy import single_model
from mtrouter_rl.datasets.store import Dataset, load_hidden
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.errors import InvalidConfigError, ResultsError, unknown_name
from mtrouter_rl.evaluation.luck import luck_of_episode
from mtrouter_rl.evaluation.metrics import policy_metrics
from mtrouter_rl.evaluation.results import BELIEVING_REFERENCE, header
from mtrouter_rl.files import ResultFile
from mtrouter_rl.pools.simulated.backend import SimulationCard, make_backend
from mtrouter_rl.records import EpisodeKey, FiniteRecord, FloatArray, Split
from mtrouter_rl.reporting.tables import ABSENT, Table, format_interval, format_with_ends, to_plain
from mtrouter_rl.statistics.cluster_bootstrap import episode_means, paired_differences
from mtrouter_rl.statistics.control_variates import without_luck
from mtrouter_rl.statistics.estimate import Estimate
from mtrouter_rl.workflows import EPISODES_FOLDER


@dataclass(frozen=True, kw_only=True)
class LuckRequest:
    """What `mtrouter-rl lab luck` is asked for.

    Attributes:
        config: Environment and pool of the runs.
        runs: Folders of evaluations, or of studies.
        split: Split whose episodes are read.
        against: Policy that the others are compared with; None for the single model with the highest return without luck.
        seed: Seed of the bootstrap.
    """

    config: EnvConfig
    runs: tuple[Path, ...]
    split: Split
    against: str | None = None
    seed: int = 0


class LuckRow(FiniteRecord):
    """One policy. Intervals are over (task, variation).

    Attributes:
        policy: Name.
        n_runs: Runs that are averaged, each of which has its own training of a learned router.
        return_: Undiscounted return.
        cleaned: The same without luck.
        explained: Share of the variance over episodes that luck explains.
        cost_usd: Cost of an episode, USD.
        difference: Return minus that of the policy it is compared with; None for that policy.
        cleaned_difference: The same without luck.
        p_value: Of "no difference" without luck, not corrected for the number of policies.
    """

    policy: str
    n_runs: Annotated[int, Field(ge=1)]
    return_: Estimate = Field(validation_alias="return", serialization_alias="return")
    cleaned: Estimate
    explained: float
    cost_usd: Estimate
    difference: Estimate | None
    cleaned_difference: Estimate | None
    p_value: float | None


class Luck(ResultFile):
    """What was found.

    Attributes:
        schema_version: Version of this layout.
        split: Split.
        against: Policy that the others are compared with.
        seed: Seed of the bootstrap.
        rows: One per policy, by the return without luck.
    """

    SOURCE: ClassVar[str] = "`mtrouter-rl lab luck --json` prints it"
    FIX: ClassVar[str] = "run it again"

    schema_version: Literal[1] = 1
    split: Split
    against: str
    seed: int
    rows: tuple[LuckRow, ...]

    def gap_share(self, row: LuckRow) -> float | None:
        """Share of the gap between the policy it is compared with and the believing reference that a policy closes.

        From returns without luck; None if the reference is not among the rows, or is not above.
        """
        by_name = {one.policy: one.cleaned.value for one in self.rows}
        low, high = by_name[self.against], by_name.get(BELIEVING_REFERENCE)
        return None if high is None or high <= low else (row.cleaned.value - low) / (high - low)


@dataclass(frozen=True, kw_only=True)
class _Played:
    """Numbers of the episodes of a policy, by (task, variation, seed)."""

    n_runs: int
    returns: Mapping[EpisodeKey, float]
    costs_usd: Mapping[EpisodeKey, float]
    luck: Mapping[EpisodeKey, FloatArray]

    @property
    def cleaned(self) -> dict[EpisodeKey, float]:
        """Returns without luck."""
        keys = sorted(self.returns)
        returns, luck = np.array([self.returns[key] for key in keys]), np.array([self.luck[key] for key in keys])
        return dict(zip(keys, without_luck(returns, luck, [key[:2] for key in keys]).tolist(), strict=True))


def find_luck(request: LuckRequest) -> Luck:
    """Read the runs and compare their policies.

    Raises:
        InvalidConfigError: If the pool is not simulated, or episodes are of another pool.
        ResultsError: If the runs hold no episodes of the split, or no single model to compare with.
        UnknownNameError: If `against` is no policy of the runs.
        DatasetError: If a folder of episodes breaks its rules, or hidden information is missing.
    """
    config = request.config
    if config.pool.backend.kind != "simulated":
        raise InvalidConfigError(
            f"pool '{config.pool.name}' is of real models, whose luck nobody knows; take runs with simulated ones"
        )
    make_backend(config.pool, config.card)  # checks the settings
    card = SimulationCard.model_validate(config.pool.backend.settings)
    found: dict[str, list[_Played]] = {}
    for run in request.runs:
        folders = sorted(one for one in (run / EPISODES_FOLDER / request.split).glob("*") if one.is_dir())
        if not folders:
            raise ResultsError(
                f"{run}: holds no episodes of the {request.split} split; name the folder of an evaluation"
            )
        for folder in folders:
            policy, played = _read(folder, config, card)
            found.setdefault(policy, []).append(played)
    policies = {policy: _averaged(runs) for policy, runs in found.items()}
    cleaned = {policy: one.cleaned for policy, one in policies.items()}
    against = _against(request, cleaned)
    rows = [
        _row(
            policy, one, cleaned, against=None if policy == against else (against, policies[against]), seed=request.seed
        )
        for policy, one in policies.items()
    ]
    return Luck(
        **header(config),
        split=request.split,
        against=against,
        seed=request.seed,
        rows=tuple(sorted(rows, key=lambda row: -row.cleaned.value)),
    )


def _read(folder: Path, config: EnvConfig, card: SimulationCard) -> tuple[str, _Played]:
    dataset, hidden = Dataset.load(folder), load_hidden(folder)
    info = dataset.info
    if info.pool_name != config.pool.name:
        raise InvalidConfigError(
            f"{folder}: episodes are of pool '{info.pool_name}', not of '{config.pool.name}'; see --pool"
        )
    metrics = policy_metrics(
        dataset.episodes, config.reward, model_names=config.pool.model_names, policy=info.behavior_policy
    )
    luck = {
        (one.task, one.variation, one.seed): luck_of_episode(card, one, hidden.get(one.episode_id, ()))
        for one in dataset.completed
    }
    return info.behavior_policy, _Played(
        n_runs=1, returns=metrics.values("return_"), costs_usd=metrics.values("cost_usd"), luck=luck
    )


def _averaged(runs: Sequence[_Played]) -> _Played:
    """Mean over runs, over the episodes that all of them have."""
    keys = sorted(set.intersection(*(set(one.returns) for one in runs)))
    if not keys:
        raise ResultsError("runs of one policy have no episode in common; name runs of the same split and seeds")
    return _Played(
        n_runs=len(runs),
        returns={key: float(np.mean([one.returns[key] for one in runs])) for key in keys},
        costs_usd={key: float(np.mean([one.costs_usd[key] for one in runs])) for key in keys},
        luck={key: np.mean([one.luck[key] for one in runs], axis=0) for key in keys},
    )


def _against(request: LuckRequest, cleaned: Mapping[str, Mapping[EpisodeKey, float]]) -> str:
    if request.against is not None:
        if request.against not in cleaned:
            raise unknown_name("policy of the runs", request.against, sorted(cleaned))
        return request.against
    singles = [policy for policy in cleaned if single_model(policy) is not None]
    if not singles:
        raise ResultsError(
            f"no single model is among {', '.join(sorted(cleaned))}; say what to compare with: --against"
        )
    return max(singles, key=lambda policy: float(np.mean(list(cleaned[policy].values()))))


def _row(
    policy: str,
    played: _Played,
    cleaned: Mapping[str, Mapping[EpisodeKey, float]],
    *,
    against: tuple[str, _Played] | None,
    seed: int,
) -> LuckRow:
    means = episode_means([played.returns, cleaned[policy], played.costs_usd], seed=seed).estimates()
    spread, left = np.var(list(played.returns.values())), np.var(list(cleaned[policy].values()))
    plain = without = None
    p_value = None
    if against is not None:
        other, theirs = against
        both = set(played.returns) & set(theirs.returns)
        if not both:
            raise ResultsError(f"policies '{policy}' and '{other}' have no episode in common")
        pairs = [(played.returns, theirs.returns), (cleaned[policy], cleaned[other])]
        found = paired_differences(
            [{key: mine[key] for key in sorted(both)} for mine, _ in pairs],
            [{key: yours[key] for key in sorted(both)} for _, yours in pairs],
            seed=seed,
        )
        (plain, without), p_value = found.estimates(), found.p_value(1)
    return LuckRow(
        policy=policy,
        n_runs=played.n_runs,
        return_=means[0],
        cleaned=means[1],
        explained=float(1 - left / spread) if spread > 0 else 0.0,
        cost_usd=means[2],
        difference=plain,
        cleaned_difference=without,
        p_value=p_value,
    )


def luck_table(found: Luck) -> Table:
    """The table."""
    shares = {row.policy: found.gap_share(row) for row in found.rows}
    cells = tuple(
        (
            row.policy,
            str(row.n_runs),
            format_with_ends(row.return_.value, row.return_.ends, decimals=3),
            format_with_ends(row.cleaned.value, row.cleaned.ends, decimals=3),
            f"{row.explained:.0%}",
            ABSENT if row.difference is None else format_interval(row.difference, decimals=3),
            ABSENT if row.cleaned_difference is None else format_interval(row.cleaned_difference, decimals=3),
            ABSENT if (share := shares[row.policy]) is None else f"{share:.0%}",
        )
        for row in found.rows
    )
    caption = (
        f"{found.env}, {found.split} split, pool {found.pool}, simulated models (no LLM was called): "
        f"{min(row.return_.n_episodes for row in found.rows)} episodes at least per policy and run. 'without luck': what the "
        f"simulator drew above its expectation is taken off. 'more than': than {found.against}. 'gap': share of the gap "
        f"between {found.against} and {BELIEVING_REFERENCE}, without luck. Brackets: 95% intervals over (task, variation)."
    )
    names = ("policy", "runs", "return", "without luck", "explained", "more than", "without luck", "gap")
    return Table(caption=caption, header=names, rows=cells)


def format_luck(found: Luck) -> str:
    """The table for a terminal."""
    return to_plain(luck_table(found))
