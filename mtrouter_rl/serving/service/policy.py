"""Which model a turn gets, and with what probability: router, exploration, canary share, shadow, fall-back, all in one rule.

A session belongs to the router or to the default model; `canary` is the share of the first. Given everything that was chosen
so far, a session is the router's with some probability w, so a model is named with probability
`w * p_router + (1 - w) * p_default`. That is what is logged; multiplied over the turns it is the probability of the whole
conversation under the mixture. In shadow mode w is 0. If the router fails or is late, it is replaced at this turn by the
fall-back alone, so that nothing else could have been called and the probability is that of what could.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.errors import InvalidConfigError, unknown_name
from mtrouter_rl.records import FloatArray
from mtrouter_rl.serving.service.rows import Arm, Kind

_HASH_RANGE = 2.0**64


@dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """How models are drawn.

    Attributes:
        canary: Share of the sessions in which the router chooses; the default chooses in the others.
        is_shadow: Whether the router only says what it would have chosen, and the default is called.
        default: Model of the other sessions and of the shadow mode.
        fallback: Model where the router fails or is late; None makes that an error.
        decide_within_s: When it is late, seconds.
    """

    canary: float = 1.0
    is_shadow: bool = False
    default: str | None = None
    fallback: str | None = None
    decide_within_s: float = 2.0

    def check(self, pool: PoolCard) -> None:
        """See that it can be done with a pool.

        Raises:
            InvalidConfigError: If a share is none, a model is not in the pool, or the default is missing.
        """
        if not 0 <= self.canary <= 1:
            raise InvalidConfigError(f"canary is {self.canary}, must be a share from 0 to 1")
        if not self.decide_within_s > 0:
            raise InvalidConfigError(f"decide_within_s is {self.decide_within_s}, must be above 0")
        for name in (self.default, self.fallback):
            if name is not None and name not in pool.model_names:
                raise unknown_name(f"model of pool '{pool.name}'", name, pool.model_names)
        if self.default is None and (self.is_shadow or self.canary < 1):
            what = (
                "the shadow mode calls"
                if self.is_shadow
                else f"the sessions outside the canary share {self.canary:g} call"
            )
            raise InvalidConfigError(f"default is missing: {what} a default model; give --default MODEL")

    def arm_of(self, session_id: str) -> Arm:
        """Who chooses in a session: decided by its id alone, so that every replica says the same."""
        if self.is_shadow:
            return "default"
        number = int.from_bytes(blake2b(session_id.encode(), digest_size=8, person=b"canary").digest(), "big")
        return "router" if number / _HASH_RANGE < self.canary else "default"

    @property
    def router_weight(self) -> float:
        """Probability, before anything was chosen, that a session is the router's."""
        return 0.0 if self.is_shadow else self.canary


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A model that was drawn.

    Attributes:
        model: Its index.
        propensity: Probability with which it was named.
        probabilities: Of every model, shape (M,).
        candidates: Which models had a chance or might have had one, shape (M,).
        router_weight: Probability, given this choice too, that the session is the router's.
        kind: Who named it.
    """

    model: int
    propensity: float
    probabilities: FloatArray
    candidates: FloatArray
    router_weight: float
    kind: Kind


@dataclass(frozen=True, kw_only=True)
class Chances:
    """What each of the two would do at a turn; each sums to 1.

    Attributes:
        router: Probabilities of the router, or of the fall-back in its place; None in shadow mode if it failed.
        default: Probabilities of the default.
        is_fallback: Whether the fall-back stands in for the router.
    """

    router: FloatArray | None
    default: FloatArray
    is_fallback: bool = False


def draw(
    chances: Chances, allowed: FloatArray, *, arm: Arm, router_weight: float, is_shadow: bool, rng: np.random.Generator
) -> Drawn:
    """Draw the model of a turn.

    Args:
        chances: What router and default would do.
        allowed: Which models may be called, shape (M,).
        arm: Whose the session is.
        router_weight: Probability that it is the router's, given all choices so far.
        is_shadow: Whether the router is only asked.
        rng: Of the draw.
    """
    router = chances.default if chances.router is None else chances.router
    mixture = router_weight * router + (1 - router_weight) * chances.default
    own = router if arm == "router" else chances.default
    index = int(np.argmax(own)) if own.max() == 1.0 else _drawn(own, rng)
    weight = router_weight * float(router[index]) / float(mixture[index])
    kind: Kind = "shadow" if is_shadow else "default" if arm == "default" else "router"
    candidates = allowed
    if chances.is_fallback:
        candidates = (mixture > 0).astype(float)
        kind = "fallback" if arm == "router" else kind
    return Drawn(
        model=index,
        propensity=min(float(mixture[index]), 1.0),
        probabilities=mixture,
        candidates=candidates,
        router_weight=min(weight, 1.0),
        kind=kind,
    )


def _drawn(chances: FloatArray, rng: np.random.Generator) -> int:
    """What `rng.choice(len(chances), p=...)` draws, without its checks, which take longer than all the rest."""
    shares = np.cumsum(chances / chances.sum())
    return int((shares / shares[-1]).searchsorted(rng.random(), side="right"))


def one_hot(index: int, size: int) -> FloatArray:
    """Probability 1 for one model."""
    chances = np.zeros(size)
    chances[index] = 1.0
    return chances


def default_chances(pool: PoolCard, default: str | None, allowed: FloatArray) -> FloatArray:
    """The default model, or the cheapest one that is allowed where it is not."""
    if default is not None and allowed[pool.index(default)]:
        return one_hot(pool.index(default), len(allowed))
    prices = [model.prices.input + model.prices.output for model in pool.models]
    cheapest = min((index for index in range(len(allowed)) if allowed[index]), key=lambda index: prices[index])
    return one_hot(cheapest, len(allowed))


def shown(values: FloatArray, pool: PoolCard) -> Mapping[str, float]:
    """A number for every model, by its name."""
    return {name: float(value) for name, value in zip(pool.model_names, values, strict=True)}
