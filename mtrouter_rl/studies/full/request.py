"""What `mtrouter-rl study --full` is asked for: which parts, how much of each, and where it goes."""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from mtrouter_rl.cards import EnvCard, list_cards, parse_section
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.errors import CardError, InvalidConfigError, unknown_name
from mtrouter_rl.records import Frozen, JsonValue
from mtrouter_rl.registry import DEFAULT_ENCODER
from mtrouter_rl.studies.full.claims_of_main import ESTIMATOR, FITTED
from mtrouter_rl.workers.executors import Workers
from mtrouter_rl.workflows import describe, load_agent
from mtrouter_rl.workflows.quick_study import (
    CACHE_FOLDER,
    DATASET_FOLDER,
    ROUTERS_FOLDER,
    StudyRequest,
    StudySize,
    expand_agents,
)

Part = Literal["headroom", "main", "ablations", "markets", "budgets", "pool-change"]
PARTS: tuple[Part, ...] = ("headroom", "main", "ablations", "markets", "budgets", "pool-change")


@dataclass(frozen=True, kw_only=True)
class FullSize:
    """How much a full study does.

    Attributes:
        n_episodes: Logged episodes to train on.
        n_validation_seeds: Seeds per validation variation, for every choice.
        n_narrow_seeds: Seeds per test variation of the three policies whose differences are to have narrow intervals: fitted-Q,
            the paper's estimator, and the strongest single model.
        n_key_seeds: Seeds per test variation of the points of the frontier that were chosen.
        n_curve_seeds: Seeds per test variation of the curves: the frontier at its weights, and the routers that were trained
            for one weight each.
        n_other_seeds: Seeds per test variation of everything else.
        n_ood_narrow_seeds: Seeds per held-out variation of these three.
        n_ood_key_seeds: Seeds per held-out variation of the chosen points.
        n_ood_other_seeds: Seeds per held-out variation of everything else.
        ood_other_per_task: At most this many held-out variations of a task for everything else; None takes all.
        n_headroom_seeds: Seeds per test variation of the headroom.
        n_market_episodes: Logged episodes in every other market.
        n_market_seeds: Seeds per test variation there.
        n_budget_seeds: Seeds per test variation under every budget.
        n_ablation_seeds: Seeds per test variation of every ablation.
        n_pool_change_seeds: Seeds per test variation where a model joins or leaves.
    """

    n_episodes: int = 2180
    n_validation_seeds: int = 3
    n_narrow_seeds: int = 8
    n_key_seeds: int = 8
    n_curve_seeds: int = 3
    n_other_seeds: int = 3
    n_ood_narrow_seeds: int = 2
    n_ood_key_seeds: int = 2
    n_ood_other_seeds: int = 3
    ood_other_per_task: int | None = 5
    n_headroom_seeds: int = 1
    n_market_episodes: int = 1090
    n_market_seeds: int = 3
    n_budget_seeds: int = 2
    n_ablation_seeds: int = 3
    n_pool_change_seeds: int = 2


class FullCard(Frozen):
    """What is an environment's own in the full study: section `studies.full` of its card.

    Attributes:
        sizes: Sizes where the usual ones do not fit: fields of `FullSize`.
        compares_encoders: Whether its ablations hold the other text encoders; a transformer takes longer, and is an extra.
        complementarities: Pool cards whose headroom is shown beside that of the environment's own pool.
        markets: Pool cards on which the study is repeated, small and without tuning.
    """

    sizes: dict[str, Annotated[int, Field(gt=0)]] = Field(default_factory=dict)
    compares_encoders: bool = False
    complementarities: tuple[str, ...] = ()
    markets: tuple[str, ...] = ()


def full_card(card: EnvCard) -> FullCard:
    """Section `studies.full` of an environment card; the usual where it says nothing.

    Raises:
        CardError: If a field is unknown or breaks its rule.
    """
    return parse_section(card, "full", FullCard)


def full_size(card: EnvCard) -> FullSize:
    """Size of the full study of an environment: that of `FullSize`, changed by what its card says.

    Raises:
        CardError: If the card names a size that there is not.
    """
    known, sizes = {size.name for size in fields(FullSize)}, full_card(card).sizes
    for name in sizes:
        if name not in known:
            raise CardError(f"card '{card.name}', studies.full.sizes: {unknown_name('size', name, known)}")
    return replace(FullSize(), **sizes)


@dataclass(frozen=True, kw_only=True)
class FullStudyRequest:
    """What `mtrouter-rl study --full` is asked for.

    Attributes:
        config: Environment.
        out: Folder of the run.
        size: How much.
        seed: Seed of collection, training and bootstrap.
        n_workers: Worker processes.
        agents: Agent cards that are trained for the environment's cost weight, beside the frontiers; `FITTED` and `ESTIMATOR`
            are among them.
        encoder: Registered name of the text encoder.
        parts: Which parts are run.
    """

    config: EnvConfig
    out: Path
    size: FullSize = FullSize()
    seed: int = 0
    n_workers: Workers = 2
    agents: tuple[str, ...] = expand_agents(["all", "learners"])
    encoder: str = DEFAULT_ENCODER
    parts: tuple[Part, ...] = PARTS

    def __post_init__(self) -> None:
        """Check the agents."""
        for name in (FITTED, ESTIMATOR):
            if name not in self.agents:
                raise InvalidConfigError(
                    f"agents are {', '.join(self.agents)}; the claims of a full study are about {FITTED} and {ESTIMATOR}, "
                    f"so '{name}' must be among them"
                )

    @property
    def cache(self) -> Path:
        """Folder of the embedding cache."""
        return self.out / CACHE_FOLDER

    @property
    def dataset(self) -> Path:
        """Folder of the log."""
        return self.out / DATASET_FOLDER

    def router(self, name: str) -> Path:
        """Folder of the router of an agent card, name or path, or of a name that the study gave."""
        is_card = name in list_cards("agents") or Path(name).is_file()
        return self.out / ROUTERS_FOLDER / (load_agent(name).name if is_card else name)

    def describe(self) -> dict[str, JsonValue]:
        """JSON of what decides the results, for provenance."""
        return {
            "command": "study --full",
            "seed": self.seed,
            "size": asdict(self.size),
            "agents": list(self.agents),
            "encoder": self.encoder,
            **describe(self.config),
        }

    def as_study(self) -> StudyRequest:
        """The part of the request that the quick study knows."""
        size = self.size
        return StudyRequest(
            config=self.config,
            out=self.out,
            size=StudySize(
                n_episodes=size.n_episodes,
                n_validation_seeds=size.n_validation_seeds,
                validation_per_task=None,
                n_test_seeds=size.n_key_seeds,
                n_ood_seeds=size.n_ood_key_seeds,
                ood_per_task=None,
            ),
            seed=self.seed,
            n_workers=self.n_workers,
            agents=self.agents,
            encoder=self.encoder,
            collects=True,
        )
