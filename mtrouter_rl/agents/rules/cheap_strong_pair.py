"""Which models are meant by "cheap" and "strong": by price and by validation, unless a card names them."""

from typing import Annotated, Self, TypeVar

from pydantic import Field, model_validator

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.parameters import CardAlgorithm
from mtrouter_rl.agents.rules.heuristics import by_price, strength_order, validated_utilities
from mtrouter_rl.cards import AgentCard
from mtrouter_rl.records import Frozen


class PairParameters(Frozen):
    """A cheap and a strong model.

    Attributes:
        cheap: Name of the cheap model; None takes the cheapest by the price of a reference call.
        strong: Name of the strong model; None takes the best on validation, as `Strongest`.
    """

    cheap: str | None = None
    strong: str | None = None

    @property
    def needs_validation(self) -> bool:
        """Whether validation decides which model is strong."""
        return self.strong is None


class LadderParameters(Frozen):
    """Models to climb, rung by rung.

    Attributes:
        ladder: Names of the models, the first rung first; empty takes two rungs, the cheapest model and the strongest.
    """

    ladder: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _ladder_can_be_climbed(self) -> Self:
        if len(self.ladder) == 1 or len(set(self.ladder)) != len(self.ladder):
            raise ValueError(
                f"ladder is {', '.join(self.ladder)}, must be two or more different models, or empty for the cheapest "
                "and the strongest"
            )
        return self

    @property
    def needs_validation(self) -> bool:
        """Whether validation decides which model is strong."""
        return not self.ladder


class Roles(Frozen):
    """Models of a rule, and why these.

    Attributes:
        rungs: Names of the models, the first rung first; one alone if the cheapest model is also the strongest.
        validation_utilities: Mean utility on validation that decided which is strong, by model; empty if the card did.
    """

    rungs: Annotated[tuple[str, ...], Field(min_length=1)]
    validation_utilities: dict[str, float] = Field(default_factory=dict)


RungParametersT = TypeVar("RungParametersT", bound=PairParameters | LadderParameters)


class RungAlgorithm(CardAlgorithm[RungParametersT]):
    """An algorithm over two or more models, which needs validation only where its card leaves the strong one open."""

    def __init__(self, card: AgentCard, parameters: RungParametersT) -> None:
        super().__init__(card, parameters)
        self.needs_validation = parameters.needs_validation

    def roles(self, context: TrainingContext) -> Roles:
        """The models that this training is about.

        Raises:
            UnknownNameError: If the pool has no such model.
            InvalidConfigError: If the strong model is left open and the context has no validation.
        """
        parameters, pool = self.parameters, context.pool
        named = parameters.ladder if isinstance(parameters, LadderParameters) else ()
        if isinstance(parameters, PairParameters):
            cheap = by_price(pool)[0] if parameters.cheap is None else parameters.cheap
            named = (cheap,) if parameters.strong is None else (cheap, parameters.strong)
        named = named or by_price(pool)[:1]
        for model in named:
            pool.index(model)
        if not parameters.needs_validation:
            return Roles(rungs=tuple(dict.fromkeys(named)))
        utilities = validated_utilities(context, self.card)
        return Roles(
            rungs=tuple(dict.fromkeys((*named, strength_order(utilities)[0]))), validation_utilities=dict(utilities)
        )
