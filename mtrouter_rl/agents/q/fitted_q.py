"""Fitted-Q iteration over the joint history-model Q-function, and the training that all Q-based agents share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, ClassVar, Generic, Self, TypeVar

from pydantic import Field, model_validator

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.parameters import (
    CardAlgorithm,
    Discount,
    HistoryInputs,
    JointParameters,
    LoopParameters,
    ModelEmbedding,
    NonNegative,
)
from mtrouter_rl.agents.q.constrained_router import ConstrainedQRouter
from mtrouter_rl.agents.q.frontier_router import FrontierRouter
from mtrouter_rl.agents.q.learners import QLearnerName, QLearning, q_learner
from mtrouter_rl.agents.q.networks import HistoryLayout, StateDict
from mtrouter_rl.agents.q.q_router import QNetworkSettings, QRouter, stack_critics
from mtrouter_rl.agents.q.quiet import silence_gym_notice
from mtrouter_rl.agents.q.trainer import train
from mtrouter_rl.agents.training import lay_out_logs, provenance, require_data, training_identity
from mtrouter_rl.cards import AgentCard
from mtrouter_rl.records import Frozen, PositiveInt
from mtrouter_rl.transitions.arrays import Transitions
from mtrouter_rl.transitions.cost_weights import N_COLUMNS, CostWeights


class QParameters(JointParameters, LoopParameters, HistoryInputs):
    """What every agent with a joint Q-function has: the sizes of the network, its inputs, and the training loop.

    Attributes:
        model_embedding: What the Q-function tells models apart by: "metadata+residual", "metadata", "residual" or "none";
            see `networks.make_q_network`.
    """

    model_embedding: ModelEmbedding = "metadata+residual"


QParametersT = TypeVar("QParametersT", bound=QParameters)


class QAlgorithm(CardAlgorithm[QParametersT], ABC, Generic[QParametersT]):
    """Base of the agents that learn a joint Q-function from logs; a subclass says which rewards it learns from."""

    needs_dataset: ClassVar[bool] = True
    needs_features: ClassVar[bool] = True
    takes_several_logs: ClassVar[bool] = True

    def train(self, context: TrainingContext) -> QRouter:
        """Train on the context's logs.

        Raises:
            InvalidConfigError: If dataset or features are missing or hold nothing to learn from.
            PoolMismatchError: If a dataset was logged with another pool, or two of them with different models.
            RouterError: If the checkpoint folder belongs to another training.
        """
        return train_q_router(
            context, self.lay_out(context), card=self.card, parameters=self.parameters, learning=self.learning
        )

    @property
    def learning(self) -> QLearning:
        """The Q-learning that the parameters ask for."""
        return QLearning()

    @abstractmethod
    def lay_out(self, context: TrainingContext) -> Transitions:
        """The context's logs as transitions. Raises as `train`."""


class FittedQParameters(QParameters):
    """Parameters of `FittedQ`.

    Attributes:
        learner: "double_dqn", "dqn", "nfq", "discrete_cql" or "discrete_bcq"; see `learners.QLearning`.
        gamma: Discount factor; 1 values a whole episode, whose length the environment limits.
        n_critics: Q-functions side by side; targets take the lower value.
        conservatism: Weight of the penalty of "discrete_cql"; must stay 0 with the others.
        action_flexibility: "discrete_bcq" chooses among models that are more than so many times as likely in the log as the
            likeliest allowed one; must stay 0 with the others.
        logit_penalty: Weight of the mean squared log-probability in the imitation loss of "discrete_bcq"; large values flatten
            what the imitator says. Must stay 0 with the others.
        n_warm_start: How many of the iterations, from the first, regress the logged return.
        bootstrap_after_truncation: See `transitions.make_transitions`.
    """

    learner: QLearnerName = "double_dqn"
    gamma: Discount = 1.0
    n_critics: PositiveInt = 1
    conservatism: NonNegative = 0.0
    action_flexibility: Annotated[float, Field(ge=0, lt=1)] = 0.0
    logit_penalty: NonNegative = 0.0
    n_warm_start: Annotated[int, Field(ge=0)] = 2
    bootstrap_after_truncation: bool = False

    @model_validator(mode="after")
    def _conservatism_is_used(self) -> Self:
        if (self.conservatism > 0) != (self.learner == "discrete_cql"):
            raise ValueError(
                f"conservatism is {self.conservatism} with learner '{self.learner}', must be above 0 with "
                "'discrete_cql' and 0 with every other learner"
            )
        return self

    @model_validator(mode="after")
    def _constraint_is_used(self) -> Self:
        if (self.action_flexibility > 0) != (self.learner == "discrete_bcq"):
            raise ValueError(
                f"action_flexibility is {self.action_flexibility} with learner '{self.learner}', must be above 0 with "
                "'discrete_bcq' and 0 with every other learner"
            )
        if self.logit_penalty > 0 and self.learner != "discrete_bcq":
            raise ValueError(
                f"logit_penalty is {self.logit_penalty} with learner '{self.learner}', must be 0 with every learner but "
                "'discrete_bcq', which alone has an imitator"
            )
        return self

    @model_validator(mode="after")
    def _warm_start_leaves_iterations(self) -> Self:
        if self.n_warm_start >= self.n_iterations:
            raise ValueError(
                f"n_warm_start is {self.n_warm_start}, must be below n_iterations ({self.n_iterations}); "
                "the rest are the iterations that plan"
            )
        return self


class FittedQ(QAlgorithm[FittedQParameters]):
    """Learns Q*(h, m), the return of calling m now and the best models ever after, from logs of any behaviour policy.

    d3rlpy's double DQN (or another `learner`) with a target network that stands still for a whole iteration is fitted-Q
    iteration: Q_{k+1} = argmin_Q E[(r + gamma Q_k(h', argmax_m Q(h', m)) - Q(h, m))^2]. The router averages the last iterates.

    Q_0 is the logged return, regressed by the first iterations (`n_warm_start`), or 0 without them. From 0, k
    iterations see k turns ahead; from the value of the behaviour policy they see k turns of the best models and the
    behaviour policy after that, so that few iterations do for long episodes, and the iterates rise towards Q* from
    below.

    Source: Ernst, Geurts and Wehenkel, Tree-Based Batch Mode Reinforcement Learning (2005); van Hasselt, Guez and
    Silver, Deep Reinforcement Learning with Double Q-learning (2016). Deviations: gradient steps on mini-batches instead
    of a full regression per iterate, the warm start, and the lower of the critics in the target if there are several.
    """

    parameters_model: ClassVar[type[Frozen]] = FittedQParameters
    takes_held_out_model: ClassVar[bool] = True

    @property
    def gamma(self) -> float:
        """See `CardAlgorithm.gamma`."""
        return self.parameters.gamma

    @property
    def learning(self) -> QLearning:
        """The Q-learning that the parameters ask for."""
        return QLearning(
            learner=self.parameters.learner,
            gamma=self.parameters.gamma,
            n_critics=self.parameters.n_critics,
            conservatism=self.parameters.conservatism,
            action_flexibility=self.parameters.action_flexibility,
            logit_penalty=self.parameters.logit_penalty,
            n_warm_start=self.parameters.n_warm_start,
        )

    def lay_out(self, context: TrainingContext, *, n_extra: int = 0) -> Transitions:
        """The context's logs as transitions, with `n_extra` columns of zeros before the mask."""
        return lay_out_logs(
            context,
            self.card,
            gamma=self.parameters.gamma,
            bootstrap_after_truncation=self.parameters.bootstrap_after_truncation,
            n_extra=n_extra,
        )


def train_q_router(
    context: TrainingContext,
    transitions: Transitions,
    *,
    card: AgentCard,
    parameters: QParameters,
    learning: QLearning,
    cost_weights: CostWeights | None = None,
) -> QRouter:
    """Train a joint Q-function on transitions and make its greedy router.

    Args:
        context: Pool, features, seed, checkpoints, metrics.
        transitions: The log, with the rewards that are to be learned.
        card: The agent card.
        parameters: Sizes and loop.
        learning: Which Q-learning.
        cost_weights: Which cost weights the transitions are drawn with; None if they know but one. A learner with an imitator
            takes none.

    Raises:
        InvalidConfigError: If the training diverges.
        RouterError: If the checkpoint folder belongs to another training.
    """
    silence_gym_notice()
    from mtrouter_rl.agents.q.joint_q import JointQFunctionFactory

    _, features = require_data(context, card)
    layout = HistoryLayout.of_features(
        features, n_extra=0 if cost_weights is None else N_COLUMNS, shown=parameters.history_inputs
    )
    model_features = features.model_features.tolist()
    factory = JointQFunctionFactory.of(
        layout, parameters, model_features=model_features, model_embedding=parameters.model_embedding
    )

    def make_router(iterates: Sequence[StateDict]) -> QRouter:
        settings = QNetworkSettings(
            layout=layout,
            sizes=JointParameters(**{name: getattr(parameters, name) for name in JointParameters.model_fields}),
            model_features=tuple(tuple(row) for row in model_features),
            n_members=learning.n_critics * len(iterates),
            model_embedding=parameters.model_embedding,
        )
        router = QRouter(
            name=card.name,
            model_names=context.pool.model_names,
            features=features,
            settings=settings,
            weights=stack_critics(iterates),
            provenance=provenance(context, card, parameters),
        )
        if learning.is_constrained:
            return ConstrainedQRouter.of(router, iterates, action_flexibility=learning.action_flexibility)
        if cost_weights is None:
            return router
        return FrontierRouter.of(router, cost_weights=cost_weights, cost_weight=context.reward.cost_weight)

    iterates = train(
        q_learner(learning, factory),
        transitions,
        loop=parameters,
        context=context,
        identity=training_identity(context, card, parameters),
        make_router=make_router,
    )
    return make_router(iterates)
