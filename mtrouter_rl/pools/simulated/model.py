"""What one simulated model can do: its entry in the pool card, and what follows from it before anything is drawn."""

import math
from collections.abc import Collection, Sequence
from statistics import NormalDist
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from mtrouter_rl.records import FloatArray, Frozen

FailureKind = Literal["malformed", "idle", "wander", "drop", "fatal"]


class OutputTokens(Frozen):
    """Length of a reply in tokens, hidden thinking included: log-normal.

    Attributes:
        median: Median, tokens.
        sigma: Standard deviation of the logarithm.
        per_second: Generation speed, tokens per second.
    """

    median: Annotated[float, Field(gt=0)]
    sigma: Annotated[float, Field(ge=0, le=3)]
    per_second: Annotated[float, Field(gt=0)]


class SimulatedModel(Frozen):
    """What one simulated model can do.

    Attributes:
        ability: Logit of success at a skill of difficulty 0.
        skills: Strength (logit) by skill, on top of the ability, scaled by the card's `complementarity`.
        topics: Strength (logit) by topic, likewise.
        stuck: Probability to be stuck at a sub-goal: drawn once per episode, sub-goal and model; a model that is stuck
            fails there every time.
        failures: Weight of every kind of failure; a kind that the state does not offer falls back to "malformed".
        fatal_skills: Skills at which a failure may be fatal; elsewhere the weight of "fatal" does not count.
        output_tokens: Length of a reply.
    """

    ability: float
    skills: dict[str, float] = Field(default_factory=dict)
    topics: dict[str, float] = Field(default_factory=dict)
    stuck: Annotated[float, Field(ge=0, le=1)]
    failures: dict[FailureKind, Annotated[float, Field(ge=0)]]
    fatal_skills: tuple[str, ...] = ()
    output_tokens: OutputTokens

    @model_validator(mode="after")
    def _can_fail_somehow(self) -> "SimulatedModel":
        if self.failures.get("malformed", 0.0) <= 0.0:
            raise ValueError("failures.malformed must be above 0: it is what every other kind falls back to")
        return self

    def failure_weights(self, skill: str) -> dict[FailureKind, float]:
        """Weight of every kind of failure at a skill."""
        return {kind: weight for kind, weight in self.failures.items() if kind != "fatal" or skill in self.fatal_skills}


def expected_length(tokens: OutputTokens, *, limit: int) -> float:
    """Expected length of a reply that is cut at a limit, in tokens: mean of a log-normal variable, censored from above.

    Rounding to whole tokens, and to at least one, is left out.

    Args:
        tokens: The distribution.
        limit: Most tokens of a reply.

    Source: Johnson, Kotz and Balakrishnan, Continuous Univariate Distributions (1994), section 14.3 (partial
    expectations of the log-normal).

    Example:
        >>> expected_length(OutputTokens(median=100, sigma=0.0, per_second=1), limit=80)
        80.0
    """
    if tokens.sigma == 0:
        return min(tokens.median, float(limit))
    edge = math.log(limit / tokens.median) / tokens.sigma
    normal = NormalDist()
    below = tokens.median * math.exp(tokens.sigma**2 / 2) * normal.cdf(edge - tokens.sigma)
    return below + limit * (1 - normal.cdf(edge))


def failure_shares(
    models: Sequence[SimulatedModel], skills: Sequence[str], *, offered: Collection[str], is_silent: bool = False
) -> dict[str, FloatArray]:
    """Share of every kind among the failures of M models at L planned actions, kind -> shape (L, M).

    A kind that the state does not offer counts as "malformed", which is "idle" where the models fail silently and the state
    offers that. What later states will offer is not known: they are taken to
    offer what the present one does, and fatal mistakes wherever the card lets a model make them.

    Args:
        models: The M models.
        skills: Skills of the L actions, the one that is due first.
        offered: Kinds of mistakes that the present state offers.
        is_silent: Whether malformed replies are idle actions.
    """
    kinds: tuple[FailureKind, ...] = ("malformed", "idle", "wander", "drop", "fatal")

    def row(skill: str, offered: Collection[str]) -> FloatArray:
        other: FailureKind = "idle" if is_silent and "idle" in offered else "malformed"
        shares = np.zeros((len(kinds), len(models)))
        for column, model in enumerate(models):
            for kind, weight in model.failure_weights(skill).items():
                shares[kinds.index(kind if kind in offered else other), column] += weight
        result: FloatArray = shares / shares.sum(axis=0)
        return result

    later = {skill: row(skill, {*offered, "fatal"}) for skill in dict.fromkeys(skills[1:])}
    stacked = np.stack([row(skills[0], offered), *(later[skill] for skill in skills[1:])])
    return {kind: stacked[:, number] for number, kind in enumerate(kinds)}
