"""Behaviour policies: the routers that collect a log, with exact propensities, and how they are written in a card."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Self

import numpy as np
from pydantic import Field

from mtrouter_rl.agents import distributions
from mtrouter_rl.agents.rules.heuristics import UniformRouter, single_router
from mtrouter_rl.agents.saving import RouterRecord, SavedRouter, write_router
from mtrouter_rl.cards.policy import POLICY_FORMS
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.errors import InvalidConfigError, PoolMismatchError, unknown_name
from mtrouter_rl.protocols import Router
from mtrouter_rl.records import FloatArray, Frozen, Observation

LoadRouter = Callable[[str], Router]
"""Loads a saved router by the text that a policy names it with (a folder)."""


class _Staying(ABC):
    """Calls the model of the last turn again, or draws uniformly from the allowed ones; a subclass says with what probability.

    The uniform draw may hit the same model again. At the first turn, and where the last model is masked, it is uniform.
    """

    KIND: ClassVar[str]

    name: str
    model_names: tuple[str, ...]

    @abstractmethod
    def p_draw(self, models: Sequence[int]) -> float:
        """Probability of a new draw after the models that were called so far, of which there is at least one."""

    @property
    @abstractmethod
    def settings(self) -> Frozen:
        """What it is made of."""

    def action_probabilities(self, observations: Sequence[Observation]) -> FloatArray:
        """Probability of every model, shape (B, M). Raises as `distributions.action_masks`."""
        masks = distributions.action_masks(observations, len(self.model_names))
        probabilities = distributions.uniform(masks)
        for row, observation in enumerate(observations):
            models = [turn["model"] for turn in observation["history"]]
            if models and masks[row, models[-1]]:
                p_draw = self.p_draw(models)
                probabilities[row] *= p_draw
                probabilities[row, models[-1]] += 1 - p_draw
        return probabilities

    def save(self, folder: Path) -> None:
        """Write `router.json`."""
        settings = self.settings.model_dump(mode="json")
        write_router(
            folder, RouterRecord(kind=self.KIND, name=self.name, model_names=self.model_names, settings=settings)
        )


class StickySettings(Frozen):
    """What a `Sticky` is made of.

    Attributes:
        p_switch: Probability of drawing a model anew.
    """

    p_switch: Annotated[float, Field(ge=0, le=1)]


class Sticky(_Staying):
    """Keeps the model of the last turn with probability 1 - p_switch, else draws uniformly from the allowed ones.

    Such logs hold long runs of one model, which uniform random logs lack.

    Attributes:
        name: Name in logs and tables.
        model_names: Names of its pool, length M.
        p_switch: Probability of drawing anew, in [0, 1].
    """

    KIND = "sticky"

    def __init__(self, p_switch: float, *, model_names: tuple[str, ...], name: str | None = None) -> None:
        if not 0 <= p_switch <= 1:
            raise InvalidConfigError(f"p_switch is {p_switch}, must be in [0, 1]; it is the probability of a new draw")
        self.name = name or f"sticky:{p_switch}"
        self.model_names = model_names
        self.p_switch = p_switch

    def p_draw(self, models: Sequence[int]) -> float:
        """`p_switch`, whatever was called."""
        return self.p_switch

    @property
    def settings(self) -> StickySettings:
        """Its probability."""
        return StickySettings(p_switch=self.p_switch)

    @classmethod
    def from_saved(cls, saved: SavedRouter) -> Self:
        """Make the router of a record whose pool has been checked. Raises `RouterError` if its settings are broken."""
        settings = saved.settings(StickySettings)
        return cls(settings.p_switch, model_names=saved.record.model_names, name=saved.record.name)


class MixedSettings(Frozen):
    """What a `Mixed` is made of.

    Attributes:
        share_single: Share of episodes of one model.
    """

    share_single: Annotated[float, Field(ge=0, le=1)]


class Mixed(_Staying):
    """Leaves a share of the episodes to one model each, drawn uniformly, and draws uniformly at every turn of the others.

    Single-model runs reach states that random routing hardly ever reaches, and hold long runs of one model; random routing
    shows what a change of model is worth. The kind of an episode is not stored anywhere: after t calls of one model and no
    other, M models, the episode is one of that model with probability s / (s + (1 - s) M^(1 - t)), s the share, and the
    propensities are the mean over both kinds. So every allowed model has a propensity above 0 (with s < 1), which falls as
    M^-t while one model is called, and episodes are distributed as if the kind were drawn first, as long as no model is masked.

    Attributes:
        name: Name in logs and tables.
        model_names: Names of its pool, length M.
        share_single: Share of episodes of one model, in [0, 1].
    """

    KIND = "mixed"

    def __init__(self, share_single: float, *, model_names: tuple[str, ...], name: str | None = None) -> None:
        if not 0 <= share_single <= 1:
            raise InvalidConfigError(
                f"share_single is {share_single}, must be in [0, 1]; it is the share of episodes of one model"
            )
        self.name = name or f"mixed:{share_single}"
        self.model_names = model_names
        self.share_single = share_single

    def p_draw(self, models: Sequence[int]) -> float:
        """Probability that an episode of these calls is none of one model."""
        if len(set(models)) > 1:
            return 1.0
        of_uniform = (1 - self.share_single) * float(len(self.model_names)) ** (1 - len(models))
        total = self.share_single + of_uniform
        return of_uniform / total if total > 0 else 1.0

    @property
    def settings(self) -> MixedSettings:
        """Its share."""
        return MixedSettings(share_single=self.share_single)

    @classmethod
    def from_saved(cls, saved: SavedRouter) -> Self:
        """Make the router of a record whose pool has been checked. Raises `RouterError` if its settings are broken."""
        settings = saved.settings(MixedSettings)
        return cls(settings.share_single, model_names=saved.record.model_names, name=saved.record.name)


class EpsilonGreedy:
    """Follows a router with probability 1 - epsilon, and draws uniformly from the allowed models otherwise.

    Every allowed model has a propensity of at least epsilon / M, so that the log supports the estimate of any policy.

    Attributes:
        name: Name in logs and tables.
        model_names: Names of its pool, length M.
        router: The router that is followed.
        epsilon: Probability of a uniform draw, in [0, 1].
    """

    def __init__(self, router: Router, epsilon: float, *, name: str | None = None) -> None:
        if not 0 <= epsilon <= 1:
            raise InvalidConfigError(
                f"epsilon is {epsilon}, must be in [0, 1]; it is the probability of a uniform draw"
            )
        self.name = name or f"epsilon-greedy:{epsilon}:{router.name}"
        self.model_names = router.model_names
        self.router = router
        self.epsilon = epsilon

    def action_probabilities(self, observations: Sequence[Observation]) -> FloatArray:
        """Probability of every model, shape (B, M). Raises as `distributions.action_masks` and the router."""
        masks = distributions.action_masks(observations, len(self.model_names))
        followed = np.asarray(self.router.action_probabilities(observations), dtype=np.float64)
        mixed: FloatArray = (1 - self.epsilon) * followed + self.epsilon * distributions.uniform(masks)
        return mixed


def parse_policy(text: str, *, pool: PoolCard, load_router: LoadRouter) -> Router:
    """Behaviour policy from its text.

    Args:
        text: One of `POLICY_FORMS`: `uniform`, `sticky:0.3`, `single:MODEL`, `mixed:0.375`, `epsilon-greedy:0.2:ROUTER`.
        pool: The pool that it acts on.
        load_router: Loads the router of an epsilon-greedy policy.

    Raises:
        UnknownNameError: If there is no such policy, or no such model in the pool.
        InvalidConfigError: If an argument is missing, too many, no number or out of range.
        PoolMismatchError: If the loaded router was made for another pool.
        RouterError: If the router cannot be loaded.
    """
    kind, _, rest = text.partition(":")
    if kind not in _PARSERS:
        raise unknown_name("behaviour policy", kind, POLICY_FORMS, fix=f"Forms: {'; '.join(POLICY_FORMS.values())}")
    return _PARSERS[kind](text, rest, pool, load_router)


def _bad_form(text: str, problem: str) -> InvalidConfigError:
    kind = text.partition(":")[0]
    return InvalidConfigError(f"behaviour policy '{text}': {problem}; write it as {POLICY_FORMS[kind]}")


def _number(text: str, value: str, what: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise _bad_form(text, f"{what} is '{value}', must be a number in [0, 1]") from error


def _parse_uniform(text: str, rest: str, pool: PoolCard, load_router: LoadRouter) -> Router:
    if rest or text.endswith(":"):
        raise _bad_form(text, f"it takes no argument, got '{rest}'")
    return UniformRouter(name="uniform", model_names=pool.model_names)


def _parse_sticky(text: str, rest: str, pool: PoolCard, load_router: LoadRouter) -> Router:
    return Sticky(_number(text, rest, "P_SWITCH"), model_names=pool.model_names, name=text)


def _parse_mixed(text: str, rest: str, pool: PoolCard, load_router: LoadRouter) -> Router:
    return Mixed(_number(text, rest, "SHARE_SINGLE"), model_names=pool.model_names, name=text)


def _parse_single(text: str, rest: str, pool: PoolCard, load_router: LoadRouter) -> Router:
    if not rest:
        raise _bad_form(text, f"the model is missing (models of pool '{pool.name}': {', '.join(pool.model_names)})")
    return single_router(rest, pool, name=text)


def _parse_epsilon_greedy(text: str, rest: str, pool: PoolCard, load_router: LoadRouter) -> Router:
    epsilon, _, source = rest.partition(":")
    if not source:
        raise _bad_form(text, "the router is missing")
    value = _number(text, epsilon, "EPSILON")
    router = load_router(source)
    if router.model_names != pool.model_names:
        raise PoolMismatchError(
            f"behaviour policy '{text}': router '{router.name}' was made for {', '.join(router.model_names)}, must be "
            f"made for pool '{pool.name}' ({', '.join(pool.model_names)}); train one for this pool"
        )
    return EpsilonGreedy(router, value, name=text)


_PARSERS: dict[str, Callable[[str, str, PoolCard, LoadRouter], Router]] = {
    "uniform": _parse_uniform,
    "sticky": _parse_sticky,
    "single": _parse_single,
    "mixed": _parse_mixed,
    "epsilon-greedy": _parse_epsilon_greedy,
}
