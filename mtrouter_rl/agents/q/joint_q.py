"""The joint history-model Q-function as d3rlpy building blocks, so that all its discrete algorithms train on it.

The observation is [history features (D), allowed bits (M)]. Import this module once before loading anything that names
its factories; importing it imports d3rlpy.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Self

from d3rlpy.models.encoders import EncoderFactory, register_encoder_factory
from d3rlpy.models.q_functions import QFunctionFactory, register_q_func_factory
from d3rlpy.models.torch.encoders import Encoder
from d3rlpy.models.torch.q_functions import DiscreteQFunction, DiscreteQFunctionForwarder, QFunctionOutput
from d3rlpy.optimizers.optimizers import OptimizerFactory, register_optimizer_factory
from torch import Tensor, nn
from torch.optim import AdamW

from mtrouter_rl.agents.parameters import JointParameters, ModelEmbedding, NetworkParameters
from mtrouter_rl.agents.q.networks import ConversationEncoder, HistoryEncoder, HistoryLayout, QNetwork, make_q_network
from mtrouter_rl.errors import InvalidConfigError


class _HistoryEncoderModule(Encoder):  # type: ignore[misc]
    """`HistoryEncoder` in the type that d3rlpy asks for."""

    def __init__(self, network: HistoryEncoder) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Encode observations of shape (B, D + M)."""
        encoded: Tensor = self.network(x)
        return encoded


class _ConversationEncoderModule(Encoder):  # type: ignore[misc]
    """`ConversationEncoder` in the type that d3rlpy asks for."""

    def __init__(self, network: ConversationEncoder) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Encode whole conversations of shape (C, T, D + M), or first turns of shape (C, D + M); one row a turn."""
        turns = x if x.dim() > 2 else x[:, None]
        encoded, _ = self.network(turns, turns.new_zeros((len(turns), self.network.memory.hidden_size)))
        rows: Tensor = encoded.flatten(0, 1)
        return rows


class JointQFunction(DiscreteQFunction):  # type: ignore[misc]
    """A `QNetwork` in the type that d3rlpy asks for."""

    def __init__(self, network: QNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> QFunctionOutput:
        """Masked Q-values of shape (B, M) for observations of shape (B, D + M)."""
        return QFunctionOutput(q_value=self.network(x), quantiles=None, taus=None)

    @property
    def encoder(self) -> Encoder:
        """The history encoder."""
        return _HistoryEncoderModule(self.network.history)


class JointQFunctionForwarder(DiscreteQFunctionForwarder):  # type: ignore[misc]
    """Errors and targets of a `JointQFunction`.

    Two deviations from d3rlpy's mean Q-function. Where one model's value is wanted only that one is computed, which
    saves most of the time. The error is squared instead of Huber's: Huber's minimum lies between the conditional mean
    and the median as soon as errors exceed 1, and a return that is -1 or +1 by chance has errors up to 2; a Q-value is
    a mean.
    """

    def __init__(self, q_func: JointQFunction) -> None:
        self._q_func = q_func

    def compute_expected_q(self, x: Tensor) -> Tensor:
        """Masked Q-values of all models, shape (B, M)."""
        values: Tensor = self._q_func(x).q_value
        return values

    def compute_error(
        self,
        observations: Tensor,
        actions: Tensor,
        rewards: Tensor,
        target: Tensor,
        terminals: Tensor,
        gamma: float | Tensor = 0.99,
        reduction: str = "mean",
    ) -> Tensor:
        """Half the squared temporal-difference error, shape (B, 1), or its mean."""
        value = self._network.value_of(observations, actions.view(-1))
        wanted = rewards + gamma * target * (1 - terminals)
        error = 0.5 * (wanted - value) ** 2
        return error.mean() if reduction == "mean" else error

    def compute_target(self, x: Tensor, action: Tensor | None = None) -> Tensor:
        """Q-values of all models, shape (B, M), or of one allowed model a row, shape (B, 1)."""
        if action is None:
            return self.compute_expected_q(x)
        return self._network.value_of(x, action.view(-1))

    def set_q_func(self, q_func: DiscreteQFunction) -> None:
        """Take a Q-function that was wrapped for data-parallel training."""
        self._q_func = q_func

    @property
    def _network(self) -> QNetwork:
        inner = self._q_func if isinstance(self._q_func, JointQFunction) else self._q_func.module
        network: QNetwork = inner.network
        return network


@dataclasses.dataclass()
class JointQFunctionFactory(QFunctionFactory):  # type: ignore[misc]
    """Makes joint Q-functions; the encoder that d3rlpy hands over is not used, the Q-function brings its own.

    Attributes:
        model_features: Features of the M models, in pool order, shape (M, F).
        n_history: Size D of the history features.
        text_blocks: [start, stop] of every text block within them.
        hidden: [start, stop] of the columns that are not shown.
        model_embedding: See `networks.make_q_network`.
        text_projection: See `NetworkParameters`.
        history_hidden: See `NetworkParameters`.
        model_hidden: See `JointParameters`.
        residual_dim: See `JointParameters`.
        joint_hidden: See `JointParameters`.
        dropout: See `NetworkParameters`.
    """

    model_features: list[list[float]] = dataclasses.field(default_factory=list)
    n_history: int = 0
    text_blocks: list[list[int]] = dataclasses.field(default_factory=list)
    hidden: list[list[int]] = dataclasses.field(default_factory=list)
    model_embedding: ModelEmbedding = "metadata+residual"
    text_projection: int = NetworkParameters.model_fields["text_projection"].default
    history_hidden: list[int] = dataclasses.field(
        default_factory=lambda: list(NetworkParameters.model_fields["history_hidden"].default)
    )
    model_hidden: int = JointParameters.model_fields["model_hidden"].default
    residual_dim: int = JointParameters.model_fields["residual_dim"].default
    joint_hidden: list[int] = dataclasses.field(
        default_factory=lambda: list(JointParameters.model_fields["joint_hidden"].default)
    )
    dropout: float = NetworkParameters.model_fields["dropout"].default

    @classmethod
    def of(
        cls,
        layout: HistoryLayout,
        parameters: JointParameters,
        *,
        model_features: Sequence[Sequence[float]],
        model_embedding: ModelEmbedding = "metadata+residual",
    ) -> Self:
        """Factory for a layout, sizes, and what models are told apart by."""
        return cls(
            model_features=[[float(value) for value in row] for row in model_features],
            n_history=layout.n_columns,
            text_blocks=[list(block) for block in layout.text_blocks],
            hidden=[list(columns) for columns in layout.hidden],
            model_embedding=model_embedding,
            text_projection=parameters.text_projection,
            history_hidden=list(parameters.history_hidden),
            model_hidden=parameters.model_hidden,
            residual_dim=parameters.residual_dim,
            joint_hidden=list(parameters.joint_hidden),
            dropout=parameters.dropout,
        )

    def observation_encoder(self) -> "HistoryEncoderFactory":
        """Factory of encoders of the same sizes over the whole observation, the mask included."""
        return HistoryEncoderFactory(
            n_columns=self.n_history + len(self.model_features),
            text_blocks=self.text_blocks,
            hidden=self.hidden,
            text_projection=self.text_projection,
            history_hidden=self.history_hidden,
            dropout=self.dropout,
        )

    def create_discrete(
        self, encoder: Encoder, hidden_size: int, action_size: int
    ) -> tuple[JointQFunction, JointQFunctionForwarder]:
        """Make one Q-function and its forwarder.

        Raises:
            InvalidConfigError: If the number of models is not `action_size`.
        """
        del encoder, hidden_size
        if len(self.model_features) != action_size:
            raise InvalidConfigError(
                f"JointQFunctionFactory: model_features has {len(self.model_features)} rows, must have one for each of "
                f"the {action_size} models"
            )
        layout = _layout(self.n_history, self.text_blocks, self.hidden)
        parameters = JointParameters(
            text_projection=self.text_projection,
            history_hidden=tuple(self.history_hidden),
            model_hidden=self.model_hidden,
            residual_dim=self.residual_dim,
            joint_hidden=tuple(self.joint_hidden),
            dropout=self.dropout,
        )
        network = make_q_network(
            layout, parameters, model_features=self.model_features, model_embedding=self.model_embedding
        )
        q_func = JointQFunction(network)
        return q_func, JointQFunctionForwarder(q_func)

    @staticmethod
    def get_type() -> str:
        """Name under which d3rlpy stores it."""
        return "mtrouter_joint"


@dataclasses.dataclass()
class HistoryEncoderFactory(EncoderFactory):  # type: ignore[misc]
    """Makes history encoders over the whole observation, for the algorithms of d3rlpy that have no Q-function.

    Attributes:
        n_columns: D + M.
        text_blocks: [start, stop] of every text block.
        hidden: [start, stop] of the columns that are not shown.
        text_projection: See `NetworkParameters`.
        history_hidden: See `NetworkParameters`.
        dropout: See `NetworkParameters`.
        memory_size: Of the memory of a `ConversationEncoder`, which reads whole conversations; 0 for a `HistoryEncoder`.
    """

    n_columns: int = 0
    text_blocks: list[list[int]] = dataclasses.field(default_factory=list)
    hidden: list[list[int]] = dataclasses.field(default_factory=list)
    text_projection: int = NetworkParameters.model_fields["text_projection"].default
    history_hidden: list[int] = dataclasses.field(
        default_factory=lambda: list(NetworkParameters.model_fields["history_hidden"].default)
    )
    dropout: float = NetworkParameters.model_fields["dropout"].default
    memory_size: int = 0

    @classmethod
    def of(cls, layout: HistoryLayout, parameters: NetworkParameters, *, memory_size: int = 0) -> Self:
        """Factory for a layout and sizes."""
        return cls(
            n_columns=layout.n_columns,
            text_blocks=[list(block) for block in layout.text_blocks],
            hidden=[list(columns) for columns in layout.hidden],
            text_projection=parameters.text_projection,
            history_hidden=list(parameters.history_hidden),
            dropout=parameters.dropout,
            memory_size=memory_size,
        )

    def create(self, observation_shape: Sequence[int]) -> Encoder:
        """Make one encoder.

        Raises:
            InvalidConfigError: If the observation has another size than the layout.
        """
        if tuple(observation_shape) != (self.n_columns,):
            raise InvalidConfigError(
                f"HistoryEncoderFactory: the observation has shape {tuple(observation_shape)}, "
                f"must be ({self.n_columns},) as in n_columns"
            )
        parameters = NetworkParameters(
            text_projection=self.text_projection, history_hidden=tuple(self.history_hidden), dropout=self.dropout
        )
        layout = _layout(self.n_columns, self.text_blocks, self.hidden)
        if self.memory_size:
            return _ConversationEncoderModule(ConversationEncoder(layout, parameters, memory_size=self.memory_size))
        return _HistoryEncoderModule(HistoryEncoder(layout, parameters))

    @staticmethod
    def get_type() -> str:
        """Name under which d3rlpy stores it."""
        return "mtrouter_history"


def _layout(n_columns: int, text_blocks: list[list[int]], hidden: list[list[int]]) -> HistoryLayout:
    """Layout from the plain lists that d3rlpy saves."""
    return HistoryLayout(
        n_columns=n_columns,
        text_blocks=tuple((start, stop) for start, stop in text_blocks),
        hidden=tuple((start, stop) for start, stop in hidden),
    )


@dataclasses.dataclass()
class FusedAdamWFactory(OptimizerFactory):  # type: ignore[misc]
    """AdamW in torch's fused form: the same update as d3rlpy's `AdamWFactory`, in a fraction of the time on a CPU.

    Attributes:
        weight_decay: Decoupled weight decay (Loshchilov and Hutter, 2019).
    """

    weight_decay: float = 0.0

    def create_optimizer(self, named_modules: Iterable[tuple[str, nn.Module]], lr: float) -> AdamW:
        """Make the optimizer of all parameters of the modules, each taken once."""
        parameters = {parameter: None for _, module in named_modules for parameter in module.parameters()}
        return AdamW(list(parameters), lr=lr, weight_decay=self.weight_decay, fused=True)

    @staticmethod
    def get_type() -> str:
        """Name under which d3rlpy stores it."""
        return "mtrouter_fused_adam_w"


register_q_func_factory(JointQFunctionFactory)
register_optimizer_factory(FusedAdamWFactory)
register_encoder_factory(HistoryEncoderFactory)
