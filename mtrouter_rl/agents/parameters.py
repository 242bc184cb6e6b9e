"""Hyper-parameters of agent cards: the fields that learned agents share, and how a card's parameters are checked."""

import math
from typing import Annotated, ClassVar, Generic, Literal, Self, TypeVar, cast

from pydantic import Field, ValidationError, field_validator

from mtrouter_rl.cards import AgentCard
from mtrouter_rl.cards.files import check_no_truth_counts
from mtrouter_rl.embeddings.history_inputs import HISTORY_INPUTS, HistoryInput
from mtrouter_rl.errors import CardError
from mtrouter_rl.records import Frozen, Positive, PositiveInt

ParametersT = TypeVar("ParametersT", bound=Frozen)

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Discount = Annotated[float, Field(ge=0, le=1)]


ModelEmbedding = Literal["metadata+residual", "metadata", "residual", "none"]
"""What a Q-function tells models apart by; see `networks.make_q_network`."""


class HistoryInputs(Frozen):
    """What of the history a router is shown.

    Attributes:
        history_inputs: Parts of the history features that the network sees, see `history_inputs.HistoryInput`; the columns of
            all others are 0 to it, in training and when it acts. None of them (`[]`) leaves a router that knows of an
            episode only which models are allowed.
    """

    history_inputs: tuple[HistoryInput, ...] = HISTORY_INPUTS

    @field_validator("history_inputs")
    @classmethod
    def _named_once(cls, names: tuple[HistoryInput, ...]) -> tuple[HistoryInput, ...]:
        if len(set(names)) < len(names):
            raise ValueError(f"is {list(names)}, must name each part once")
        return names


class NetworkParameters(Frozen):
    """Sizes of the history encoder and of the joint layers.

    Attributes:
        text_projection: Every text block of the history is projected to this size.
        history_hidden: Hidden layers of the history encoder.
        dropout: Dropout probability, applied only where a gradient is taken (see `networks.GradientDropout`).
    """

    text_projection: PositiveInt = 64
    history_hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (256,)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


class JointParameters(NetworkParameters):
    """Sizes of the joint Q-function on top of the history encoder.

    Attributes:
        model_hidden: Size of the model embedding z_m and of the layer before it.
        residual_dim: Size of the learned residual per known model, initially zero.
        joint_hidden: Layers of the joint part; the first is the split layer W_h phi(h) + W_m z_m + b.
    """

    model_hidden: PositiveInt = 64
    residual_dim: PositiveInt = 16
    joint_hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (256, 64)


class LoopParameters(Frozen):
    """What the training loop does.

    Attributes:
        n_iterations: Iterations; at the end of each one metrics and a checkpoint are written.
        steps_per_iteration: Gradient steps of an iteration.
        batch_size: Transitions of a gradient step, drawn with replacement; see `transitions.Transitions.sample`.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
        schedule: "constant", or "cosine": from `learning_rate` to 0 over all iterations (one value an iteration).
        keep_last: How many of the last iterates the router averages.
    """

    n_iterations: PositiveInt = 20
    steps_per_iteration: PositiveInt = 250
    batch_size: PositiveInt = 256
    learning_rate: Positive = 5e-4
    weight_decay: NonNegative = 0.01
    schedule: Literal["constant", "cosine"] = "constant"
    keep_last: PositiveInt = 5

    def learning_rate_at(self, iteration: int) -> float:
        """Learning rate of an iteration, counted from 0.

        Source of the cosine: Loshchilov and Hutter, SGDR (2017), equation 5, without restarts.
        """
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * iteration / self.n_iterations))


def parse_parameters(card: AgentCard, model: type[ParametersT]) -> ParametersT:
    """Check the parameters of an agent card.

    Args:
        card: The card.
        model: Frozen pydantic model of its parameters.

    Raises:
        CardError: If a parameter is missing, unknown or out of range; names every one with its value and rule.
    """
    try:
        made = model.model_validate(card.parameters)
    except ValidationError as error:
        raise _explain(card, model, error) from error
    check_no_truth_counts(card.parameters, made, card=f"'{card.name}'", inside=("parameters",))
    return made


class CardAlgorithm(Generic[ParametersT]):
    """An algorithm whose parameters come from an agent card; a subclass says which, what it needs, and how it trains.

    Attributes:
        parameters_model: Model of the card's parameters.
        needs_dataset: See `mtrouter_rl.agents.base.Algorithm`, as for the next two.
        needs_features: Likewise.
        needs_validation: Likewise; a card's parameters may decide it.
        takes_several_logs: See `mtrouter_rl.agents.base.Algorithm`.
        takes_held_out_model: Likewise.
        card: The agent card.
        parameters: Its parameters, checked.
    """

    parameters_model: ClassVar[type[Frozen]]
    needs_dataset: ClassVar[bool] = False
    needs_features: ClassVar[bool] = False
    needs_validation: bool = False
    takes_several_logs: ClassVar[bool] = False
    takes_held_out_model: ClassVar[bool] = False

    def __init__(self, card: AgentCard, parameters: ParametersT) -> None:
        self.card = card
        self.parameters = parameters

    @classmethod
    def from_card(cls, card: AgentCard) -> Self:
        """Check the card's parameters.

        Raises:
            CardError: If a parameter is unknown or out of range.
        """
        return cls(card, cast(ParametersT, parse_parameters(card, cls.parameters_model)))

    @property
    def gamma(self) -> float | None:
        """Discount factor of the returns that its routers' action values predict; None if they predict none."""
        return None


def _explain(card: AgentCard, model: type[Frozen], error: ValidationError) -> CardError:
    known = ", ".join(model.model_fields) or "(none)"
    lines = []
    for issue in error.errors():
        where = ".".join(str(part) for part in issue["loc"]) or "(all together)"
        if issue["type"] == "extra_forbidden":
            rule = f"is no parameter of algorithm '{card.algorithm}'; remove it or correct its spelling. Known: {known}"
        elif issue["type"] == "missing":
            rule = "is missing and has no default; add it"
        else:
            rule = f"got {issue['input']!r}: {issue['msg'].rstrip('.')}"
        lines.append(f"  parameter '{where}' {rule}")
    return CardError(f"agent card '{card.name}' breaks its rules:\n" + "\n".join(lines))
