"""The algorithms of d3rlpy that the training loop runs, each as a small recipe.

d3rlpy is imported when a recipe is carried out, not before.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor, nn

from mtrouter_rl.agents.parameters import LoopParameters

if TYPE_CHECKING:
    from d3rlpy.dataset import TransitionMiniBatch
    from d3rlpy.models.encoders import EncoderFactory
    from d3rlpy.models.q_functions import QFunctionFactory

QLearnerName = Literal["dqn", "double_dqn", "discrete_cql"]

Q_FUNCTIONS = "q_funcs"
IMITATOR = "imitator"


class TrainableAlgorithm(Protocol):
    """What the training loop uses of a d3rlpy algorithm."""

    def create_impl(self, observation_shape: tuple[int, ...], action_size: int) -> None:
        """Make the networks."""

    def set_grad_step(self, grad_step: int) -> None:
        """Set the counter of gradient steps."""

    def update(self, batch: "TransitionMiniBatch") -> dict[str, float]:
        """One gradient step."""


@dataclass(frozen=True, kw_only=True)
class Learner:
    """A recipe for one of d3rlpy's algorithms.

    Attributes:
        build: Makes the algorithm, without networks, for the parameters of the loop.
        module: Which of its modules the router is made of: `Q_FUNCTIONS` or `IMITATOR`.
        gamma: Discount factor of its targets.
        n_warm_start: Iterations at the start that regress the logged return instead.
    """

    build: Callable[[LoopParameters], TrainableAlgorithm]
    module: str
    gamma: float = 0.0
    n_warm_start: int = 0


@dataclass(frozen=True, kw_only=True)
class QLearning:
    """Which Q-learning, in the terms of d3rlpy. The defaults are a regression of the reward.

    Attributes:
        learner: "dqn" (the target network chooses and values the next action), "double_dqn" (the current network
            chooses, the target network values; van Hasselt et al., 2016), or "discrete_cql" (double DQN plus a penalty
            on the values of actions that were not logged; Kumar et al., Conservative Q-Learning, 2020).
        gamma: Discount factor.
        n_critics: Q-functions trained side by side; targets take the lowest of their values.
        conservatism: Weight of the penalty of "discrete_cql".
        n_warm_start: Iterations at the start that regress the logged return instead.
    """

    learner: QLearnerName = "dqn"
    gamma: float = 0.0
    n_critics: int = 1
    conservatism: float = 0.0
    n_warm_start: int = 0


def q_learner(settings: QLearning, factory: "QFunctionFactory") -> Learner:
    """A Q-learning algorithm with a target network that is renewed once an iteration: fitted-Q iteration.

    Args:
        settings: Which one.
        factory: Q-function factory of d3rlpy.
    """

    def build(loop: LoopParameters) -> TrainableAlgorithm:
        from d3rlpy.algos import DiscreteCQLConfig, DoubleDQNConfig, DQNConfig

        from mtrouter_rl.agents.joint_q import FusedAdamWFactory

        configs = {"dqn": DQNConfig, "double_dqn": DoubleDQNConfig, "discrete_cql": DiscreteCQLConfig}
        extra = {"alpha": settings.conservatism} if settings.learner == "discrete_cql" else {}
        config = configs[settings.learner](
            batch_size=loop.batch_size,
            learning_rate=loop.learning_rate,
            optim_factory=FusedAdamWFactory(weight_decay=loop.weight_decay),
            q_func_factory=factory,
            gamma=settings.gamma,
            n_critics=settings.n_critics,
            target_update_interval=loop.steps_per_iteration,
            **extra,
        )
        algorithm: TrainableAlgorithm = config.create(device=False)
        return algorithm

    return Learner(build=build, module=Q_FUNCTIONS, gamma=settings.gamma, n_warm_start=settings.n_warm_start)


def imitation_learner(factory: "EncoderFactory", *, logit_penalty: float) -> Learner:
    """Behaviour cloning: a classifier of the logged actions.

    Args:
        factory: Encoder factory of d3rlpy.
        logit_penalty: Weight of the mean squared logit in the loss; large values flatten the clone.
    """

    def build(loop: LoopParameters) -> TrainableAlgorithm:
        from d3rlpy.algos import DiscreteBCConfig

        from mtrouter_rl.agents.joint_q import FusedAdamWFactory

        config = DiscreteBCConfig(
            batch_size=loop.batch_size,
            learning_rate=loop.learning_rate,
            optim_factory=FusedAdamWFactory(weight_decay=loop.weight_decay),
            encoder_factory=factory,
            beta=logit_penalty,
        )
        algorithm: TrainableAlgorithm = config.create(device=False)
        return algorithm

    return Learner(build=build, module=IMITATOR)


class Networks:
    """Modules and optimizer of a d3rlpy algorithm whose networks have been made, by name."""

    def __init__(self, algorithm: TrainableAlgorithm) -> None:
        modules = algorithm.impl.modules  # type: ignore[attr-defined]
        self.modules: dict[str, nn.Module] = modules.get_torch_modules()
        self.optimizer: torch.optim.Optimizer = modules.optim.optim

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate of the next steps."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

    def weights(self, module: str) -> dict[str, Tensor]:
        """Copy of a module's weights."""
        return {name: tensor.detach().clone() for name, tensor in self.modules[module].state_dict().items()}

    @torch.no_grad()
    def q_values(self, observations: Tensor) -> Tensor:
        """Mean over the critics of their masked Q-values, without dropout, shape (B, M)."""
        critics = self.modules[Q_FUNCTIONS].eval()
        assert isinstance(critics, nn.ModuleList)
        return torch.stack([critic(observations).q_value for critic in critics]).mean(dim=0)
