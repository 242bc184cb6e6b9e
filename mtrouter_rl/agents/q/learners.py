"""The algorithms of d3rlpy that the training loop runs, each as a small recipe.

d3rlpy is imported when a recipe is carried out, not before.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mtrouter_rl.agents.parameters import LoopParameters
from mtrouter_rl.transitions.arrays import MiniBatch

if TYPE_CHECKING:
    from d3rlpy.base import LearnableConfig
    from d3rlpy.dataset import TransitionMiniBatch

    from mtrouter_rl.agents.q.joint_q import HistoryEncoderFactory, JointQFunctionFactory

QLearnerName = Literal["dqn", "double_dqn", "nfq", "discrete_cql", "discrete_bcq"]

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


def to_d3rlpy(batch: MiniBatch) -> "TransitionMiniBatch":
    """The mini-batch as d3rlpy takes it: steps of one turn, and no action after it, which Q-learning does not read.

    Of whole episodes only imitation is made, which reads observations and actions alone.
    """
    from d3rlpy.dataset import TransitionMiniBatch

    ones = np.ones_like(batch.rewards)
    return TransitionMiniBatch(
        observations=batch.observations,
        actions=batch.actions,
        rewards=batch.rewards,
        next_observations=batch.next_observations,
        next_actions=np.zeros_like(ones),
        terminals=batch.terminals,
        intervals=ones,
        transitions=[],
    )


@dataclass(frozen=True, kw_only=True)
class Learner:
    """A recipe for one of d3rlpy's algorithms.

    Attributes:
        build: Makes the algorithm, without networks, for the parameters of the loop and the device where the networks will be.
        modules: Which of its modules the router is made of: `Q_FUNCTIONS`, `IMITATOR` or both.
        gamma: Discount factor of its targets.
        n_warm_start: Iterations at the start that regress the logged return instead.
        reads_episodes: Whether a gradient step is taken on whole episodes, as many as hold about `batch_size` turns.
    """

    build: Callable[[LoopParameters, torch.device], TrainableAlgorithm]
    modules: tuple[str, ...]
    gamma: float = 0.0
    n_warm_start: int = 0
    reads_episodes: bool = False

    @property
    def reads_next(self) -> bool:
        """Whether targets are made of what follows; an imitator's are not, nor are those of a regression of the reward."""
        return self.gamma > 0


@dataclass(frozen=True, kw_only=True)
class QLearning:
    """Which Q-learning, in the terms of d3rlpy. The defaults are a regression of the reward.

    Attributes:
        learner: Which algorithm:
            "dqn": the target network chooses and values the next action. As the target stands still for a whole iteration,
            this is neural fitted-Q iteration (Riedmiller, Neural Fitted Q Iteration, 2005).
            "double_dqn": the current network chooses, the target network values (van Hasselt et al., 2016).
            "nfq": d3rlpy's algorithm of that name, which is "dqn" with the target renewed after every gradient step. It is
            kept as it is: with a target that stands still it would be "dqn" under a second name.
            "discrete_cql": double DQN plus a penalty on the values of actions that were not logged (Kumar et al.,
            Conservative Q-Learning, 2020).
            "discrete_bcq": double DQN whose next action is one that the log makes likely (see `masked_bcq`).
        gamma: Discount factor.
        n_critics: Q-functions trained side by side; targets take the lowest of their values.
        conservatism: Weight of the penalty of "discrete_cql".
        action_flexibility: "discrete_bcq" chooses among actions that are more than so many times as likely as the likeliest.
        logit_penalty: Weight of the mean squared log-probability in the imitation loss of "discrete_bcq".
        n_warm_start: Iterations at the start that regress the logged return instead.
    """

    learner: QLearnerName = "dqn"
    gamma: float = 0.0
    n_critics: int = 1
    conservatism: float = 0.0
    action_flexibility: float = 0.0
    logit_penalty: float = 0.0
    n_warm_start: int = 0

    @property
    def is_constrained(self) -> bool:
        """Whether an imitator beside the Q-function says which models may be chosen."""
        return self.learner == "discrete_bcq"


def q_learner(settings: QLearning, factory: "JointQFunctionFactory") -> Learner:
    """A Q-learning algorithm with a target network that is renewed once an iteration (after every step with "nfq").

    Args:
        settings: Which one.
        factory: Makes its Q-functions.
    """

    def build(loop: LoopParameters, device: torch.device) -> TrainableAlgorithm:
        from d3rlpy.algos import DiscreteCQLConfig, DoubleDQNConfig, DQNConfig, NFQConfig

        from mtrouter_rl.agents.q.joint_q import FusedAdamWFactory
        from mtrouter_rl.agents.q.masked_bcq import MaskedDiscreteBCQConfig

        renewal: dict[str, object] = {"target_update_interval": loop.steps_per_iteration}
        # d3rlpy lets the imitator share the encoder of a Q-function, for the sake of pixels. That would hide the mask from it,
        # and let its loss, far larger than that of the values, decide what they are made of.
        constraint: dict[str, object] = {
            "encoder_factory": factory.observation_encoder(),
            "share_encoder": False,
            "action_flexibility": settings.action_flexibility,
            "beta": settings.logit_penalty,
        }
        recipes: dict[QLearnerName, tuple[Callable[..., LearnableConfig], dict[str, object]]] = {
            "dqn": (DQNConfig, renewal),
            "double_dqn": (DoubleDQNConfig, renewal),
            "nfq": (NFQConfig, {}),
            "discrete_cql": (DiscreteCQLConfig, renewal | {"alpha": settings.conservatism}),
            "discrete_bcq": (MaskedDiscreteBCQConfig, renewal | constraint),
        }
        make, own = recipes[settings.learner]
        config = make(
            batch_size=loop.batch_size,
            learning_rate=loop.learning_rate,
            optim_factory=FusedAdamWFactory(weight_decay=loop.weight_decay),
            q_func_factory=factory,
            gamma=settings.gamma,
            n_critics=settings.n_critics,
            **own,
        )
        algorithm: TrainableAlgorithm = config.create(device=str(device))
        return algorithm

    return Learner(
        build=build,
        modules=(Q_FUNCTIONS, IMITATOR) if settings.is_constrained else (Q_FUNCTIONS,),
        gamma=settings.gamma,
        n_warm_start=settings.n_warm_start,
    )


def imitation_learner(factory: "HistoryEncoderFactory", *, logit_penalty: float) -> Learner:
    """Behaviour cloning: a classifier of the logged actions. Those that are `NOT_IMITATED` count in the penalty alone.

    Args:
        factory: Makes the encoder.
        logit_penalty: Weight of the mean squared logit in the loss; large values flatten the clone.
    """

    def build(loop: LoopParameters, device: torch.device) -> TrainableAlgorithm:
        from d3rlpy.algos import DiscreteBCConfig

        from mtrouter_rl.agents.q.joint_q import FusedAdamWFactory

        config = DiscreteBCConfig(
            batch_size=loop.batch_size,
            learning_rate=loop.learning_rate,
            optim_factory=FusedAdamWFactory(weight_decay=loop.weight_decay),
            encoder_factory=factory,
            beta=logit_penalty,
        )
        algorithm: TrainableAlgorithm = config.create(device=str(device))
        return algorithm

    return Learner(build=build, modules=(IMITATOR,), reads_episodes=factory.memory_size > 0)


class Networks:
    """Modules and optimizer of a d3rlpy algorithm whose networks have been made, by name."""

    def __init__(self, algorithm: TrainableAlgorithm) -> None:
        self._impl = algorithm.impl  # type: ignore[attr-defined]
        self.modules: dict[str, nn.Module] = self._impl.modules.get_torch_modules()
        self.optimizer: torch.optim.Optimizer = self._impl.modules.optim.optim
        self._device: str = self._impl.device

    def weights(self, *names: str) -> dict[str, Tensor]:
        """Copy of the weights of modules, in the processor's memory.

        Names of those of critics begin with their number, names of those of an imitator do not.
        """
        states = [self.modules[name].state_dict() for name in names]
        return {key: tensor.detach().to("cpu", copy=True) for state in states for key, tensor in state.items()}

    @torch.no_grad()
    def q_values(self, observations: Tensor) -> Tensor:
        """Mean over the critics of their masked Q-values, without dropout, shape (B, M)."""
        critics = self.modules[Q_FUNCTIONS].eval()
        assert isinstance(critics, nn.ModuleList)
        there = observations.to(self._device)
        return torch.stack([critic(there).q_value for critic in critics]).mean(dim=0).cpu()

    @torch.no_grad()
    def greedy_values(self, observations: Tensor) -> Tensor:
        """Q-value of the action that the algorithm would choose now, shape (B,)."""
        chosen = self._impl.predict_best_action(observations.to(self._device)).cpu()
        return self.q_values(observations).gather(1, chosen[:, None]).squeeze(1)
