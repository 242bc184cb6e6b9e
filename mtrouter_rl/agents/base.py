"""What an algorithm is: it turns a training context into a router."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from mtrouter_rl.cards import AgentCard, RewardCard
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.protocols import MetricSink, Router
from mtrouter_rl.transitions.arrays import LogShares, TrainingLog
from mtrouter_rl.transitions.hold_out import HoldOut
from mtrouter_rl.workers.peers import ALONE, Peers

if TYPE_CHECKING:
    from mtrouter_rl.datasets.store import Dataset
    from mtrouter_rl.embeddings.history import HistoryFeatures

Validate = Callable[[Sequence[Router]], list[float]]
"""Runs routers closed-loop on the validation split and gives the mean utility of each."""

RunRouter = Callable[[Router], Mapping[str, float]]
"""Runs a router closed-loop and gives what came of it: metric name -> value."""


class NullSink:
    """A `MetricSink` that keeps nothing."""

    def scalar(self, name: str, value: float, step: int) -> None:
        """Drop the point."""


@dataclass(frozen=True, kw_only=True)
class PeriodicEvaluation:
    """Closed-loop evaluation of a router while it is trained. It is looked at only: the training never reads it.

    Attributes:
        every: After how many iterations it is run, at least 1; the last iteration always counts.
        run: Runs the router that the training would give if it ended now.
    """

    every: int
    run: RunRouter


@dataclass(frozen=True, kw_only=True)
class TrainingContext:
    """Everything that an algorithm may use.

    Attributes:
        pool: The pool that the router is made for.
        reward: Cost weight and unit.
        seed: Seed of all randomness of the training.
        dataset: The logged episodes, for algorithms with `needs_dataset`.
        features: History and model features, for algorithms with `needs_features`.
        validate: Closed-loop validation, for algorithms with `needs_validation`.
        checkpoint_folder: Where a long training keeps its checkpoints; None keeps none. A training that finds a
            checkpoint there resumes from it and ends with the same weights as if it had never stopped.
        metrics: Where curves go.
        show_progress: Whether to draw a progress bar.
        evaluation: Closed-loop evaluation during the training, for algorithms that train in iterations; None runs none.
        more_logs: Logs of the same models beside `dataset`, perhaps of other environments, for algorithms with
            `takes_several_logs`.
        log_shares: How mini-batches are drawn where there are several logs.
        max_output_tokens: Output limit of every call in the environment, on top of the models' own; None if nobody knows.
        held_out: A model that is held out of the training, for algorithms with `takes_held_out_model`.
        peers: The processes that do the training together, for algorithms that train in gradient steps. All of them go through
            `train` and end with the same router.
        device: Where the networks of a training in gradient steps are, see `q.device.training_device`.
    """

    pool: PoolCard
    reward: RewardCard
    seed: int
    dataset: "Dataset | None" = None
    features: "HistoryFeatures | None" = None
    validate: Validate | None = None
    checkpoint_folder: Path | None = None
    metrics: MetricSink = field(default_factory=NullSink)
    show_progress: bool = False
    evaluation: PeriodicEvaluation | None = None
    more_logs: tuple[TrainingLog, ...] = ()
    log_shares: LogShares = "equal"
    max_output_tokens: int | None = None
    held_out: HoldOut | None = None
    peers: Peers = ALONE
    device: str = "cpu"


class Algorithm(Protocol):
    """One way to make a router.

    Attributes:
        needs_dataset: `train` reads `context.dataset`.
        needs_features: `train` reads `context.features`.
        needs_validation: `train` calls `context.validate`.

    An algorithm whose `train` reads `context.more_logs` as well says so by an attribute `takes_several_logs` that is True;
    without it, several logs are refused. Likewise `takes_held_out_model` for `context.held_out`.
    """

    needs_dataset: bool
    needs_features: bool
    needs_validation: bool

    @classmethod
    def from_card(cls, card: AgentCard) -> Self:
        """Check the card's parameters.

        Raises:
            CardError: If a parameter is unknown or out of range.
        """

    def train(self, context: TrainingContext) -> Router:
        """Make the router.

        Raises:
            InvalidConfigError: If the context lacks what the algorithm needs.
        """


def check_router(router: Router) -> Router:
    """The router itself, unless it has the method that a router had before 0.2.

    Raises:
        InvalidConfigError: If it has `propensities` in the place of `action_probabilities`.
    """
    if hasattr(router, "propensities") and not hasattr(router, "action_probabilities"):
        raise InvalidConfigError(
            f"router '{router.name}': its method 'propensities' is now 'action_probabilities'; rename it in its class"
        )
    return router
