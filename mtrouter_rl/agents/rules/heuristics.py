"""Routers that learn nothing: uniform, one model throughout, the cheapest, the strongest."""

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from pydantic import Field

from mtrouter_rl.agents import distributions
from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.parameters import CardAlgorithm
from mtrouter_rl.agents.rules.rule_router import RuleRouter
from mtrouter_rl.agents.saving import Provenance, RouterRecord, SavedRouter, write_router
from mtrouter_rl.agents.training import provenance
from mtrouter_rl.cards import AgentCard
from mtrouter_rl.cards.policy import single_policy
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.embeddings.models import REFERENCE_CALL
from mtrouter_rl.errors import InvalidConfigError, RouterError
from mtrouter_rl.records import FloatArray, Frozen, Observation

_LOG = logging.getLogger(__name__)


class NoParameters(Frozen):
    """The algorithm takes no parameters."""


class SingleParameters(Frozen):
    """Parameters of `Single`.

    Attributes:
        model: Name of the model, as in the pool card.
    """

    model: str


class OrderSettings(Frozen):
    """What a `FixedOrderRouter` is made of.

    Attributes:
        order: Every model of the pool, the preferred one first.
        validation_utilities: Mean utility on validation that decided the order, by model; empty if prices did.
    """

    order: tuple[str, ...]
    validation_utilities: dict[str, float] = Field(default_factory=dict)


class UniformRouter:
    """Calls every allowed model with the same probability.

    Attributes:
        name: Name in logs and tables.
        model_names: Names of its pool, length M.
        provenance: How it was made; None if it was written down as a behaviour policy.
    """

    KIND = "uniform"

    def __init__(self, *, name: str, model_names: tuple[str, ...], provenance: Provenance | None = None) -> None:
        self.name = name
        self.model_names = model_names
        self.provenance = provenance

    def action_probabilities(self, observations: Sequence[Observation]) -> FloatArray:
        """Probability of every model, shape (B, M). Raises as `distributions.action_masks`."""
        return distributions.uniform(distributions.action_masks(observations, len(self.model_names)))

    def save(self, folder: Path) -> None:
        """Write `router.json`."""
        record = RouterRecord(kind=self.KIND, name=self.name, model_names=self.model_names, provenance=self.provenance)
        write_router(folder, record)

    @classmethod
    def from_saved(cls, saved: SavedRouter) -> Self:
        """Make the router of a record whose pool has been checked."""
        record = saved.record
        return cls(name=record.name, model_names=record.model_names, provenance=record.provenance)


class FixedOrderRouter(RuleRouter[OrderSettings]):
    """Calls the first model of a fixed order that is allowed."""

    KIND: ClassVar[str] = "fixed_order"
    SETTINGS: ClassVar[type[Frozen]] = OrderSettings

    def action_probabilities(self, observations: Sequence[Observation]) -> FloatArray:
        """Probability 1 for one model a row, shape (B, M). Raises as `distributions.action_masks`."""
        masks = distributions.action_masks(observations, len(self.model_names))
        return distributions.greedy(np.broadcast_to(self._preferences, masks.shape), masks)

    @cached_property
    def _preferences(self) -> FloatArray:
        ranks = {model: rank for rank, model in enumerate(self.settings.order)}
        return -np.array([ranks[model] for model in self.model_names], dtype=np.float64)

    @classmethod
    def check_settings(cls, saved: SavedRouter, settings: OrderSettings) -> None:
        """See `RuleRouter.check_settings`."""
        names = saved.record.model_names
        if sorted(settings.order) != sorted(names):
            raise RouterError(
                f"router {saved.folder}: order is {', '.join(settings.order)}, must hold every model of its pool once "
                f"({', '.join(names)}); correct router.json"
            )


def by_price(pool: PoolCard) -> tuple[str, ...]:
    """Models of a pool, the cheapest first, by the price of `REFERENCE_CALL` (3000 prompt and 300 output tokens)."""
    return tuple(sorted(pool.model_names, key=lambda name: pool.model(name).prices.cost_usd(REFERENCE_CALL)))


def single_router(
    model: str, pool: PoolCard, *, name: str | None = None, provenance: Provenance | None = None
) -> FixedOrderRouter:
    """Router that calls one model, and the cheapest allowed one where that is masked.

    Args:
        model: Name of the model.
        pool: Its pool.
        name: Name of the router; None takes `single:MODEL`.
        provenance: How it was made.

    Raises:
        UnknownNameError: If the pool has no such model.
    """
    pool.index(model)
    others = (other for other in by_price(pool) if other != model)
    return FixedOrderRouter(
        name=name or single_policy(model),
        model_names=pool.model_names,
        settings=OrderSettings(order=(model, *others)),
        provenance=provenance,
    )


def validated_utilities(context: TrainingContext, card: AgentCard) -> Mapping[str, float]:
    """Mean utility of every single model on the validation split, the cheapest model first.

    Raises:
        InvalidConfigError: If the context has no validation.
    """
    if context.validate is None:
        raise InvalidConfigError(
            f"agent '{card.name}': the training context has no validate, but the strongest model is found by running "
            "every one; give it, or name the models in the card if the algorithm takes names"
        )
    candidates = by_price(context.pool)
    utilities = context.validate([single_router(model, context.pool) for model in candidates])
    return dict(zip(candidates, utilities, strict=True))


def strength_order(utilities: Mapping[str, float]) -> tuple[str, ...]:
    """Models by their utility, the best first; the one that was given earlier on a tie."""
    order = tuple(sorted(utilities, key=lambda model: -utilities[model]))
    _LOG.info("strongest model on validation: %s (%s)", order[0], dict(utilities))
    return order


class Uniform(CardAlgorithm[NoParameters]):
    """Every allowed model with the same probability, at every turn."""

    parameters_model: ClassVar[type[Frozen]] = NoParameters

    def train(self, context: TrainingContext) -> UniformRouter:
        """Make the router."""
        return UniformRouter(
            name=self.card.name,
            model_names=context.pool.model_names,
            provenance=provenance(context, self.card, self.parameters),
        )


class Single(CardAlgorithm[SingleParameters]):
    """One model throughout. Where it is masked, the cheapest allowed model by the price of a reference call."""

    parameters_model: ClassVar[type[Frozen]] = SingleParameters

    def train(self, context: TrainingContext) -> FixedOrderRouter:
        """Make the router.

        Raises:
            UnknownNameError: If the pool has no such model.
        """
        return single_router(
            self.parameters.model,
            context.pool,
            name=self.card.name,
            provenance=provenance(context, self.card, self.parameters),
        )


class Cheapest(CardAlgorithm[NoParameters]):
    """The allowed model with the lowest price of a reference call."""

    parameters_model: ClassVar[type[Frozen]] = NoParameters

    def train(self, context: TrainingContext) -> FixedOrderRouter:
        """Make the router."""
        cheapest = by_price(context.pool)[0]
        return single_router(
            cheapest, context.pool, name=self.card.name, provenance=provenance(context, self.card, self.parameters)
        )


class Strongest(CardAlgorithm[NoParameters]):
    """The single model with the best mean utility on the validation split; the cheaper one on a tie.

    Where it is masked, the next best one is called. The numbers that decided are saved with the router.
    """

    parameters_model: ClassVar[type[Frozen]] = NoParameters
    needs_validation: bool = True

    def train(self, context: TrainingContext) -> FixedOrderRouter:
        """Run every single model on the validation split and make the router.

        Raises:
            InvalidConfigError: If the context has no validation.
        """
        utilities = validated_utilities(context, self.card)
        order = strength_order(utilities)
        return FixedOrderRouter(
            name=self.card.name,
            model_names=context.pool.model_names,
            settings=OrderSettings(order=order, validation_utilities=dict(utilities)),
            provenance=provenance(context, self.card, self.parameters),
        )
