"""Reference policies that see the simulator's hidden state: how much could any router gain here?

They are no routers. A router is a function of what it observes; these are shown, before every turn, what only the simulation
knows (`mtrouter_rl.protocols.HiddenState`): which action is due, who would do it with what probability, who is stuck. They
do not see luck: whether a call succeeds is drawn for them as for everybody.

What the planning one earns, closed-loop, is a lower bound on what the best policy with the hidden state would earn, since it
plans on a simplified model (`mtrouter_rl.evaluation.hidden_planning`). It is no bound of any kind on a single episode.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from mtrouter_rl.agents import distributions
from mtrouter_rl.agents.rules.heuristics import by_price
from mtrouter_rl.cards import RewardCard
from mtrouter_rl.cards.policy import REFERENCE, PolicyRef, reference_policy
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.errors import InvalidConfigError, unknown_name
from mtrouter_rl.evaluation.hidden_planning import action_values, problem_of
from mtrouter_rl.evaluation.results import (
    BELIEVING_REFERENCE,
    HIDDEN_REFERENCE,
    LIKELIEST_REFERENCE,
    MEMORYLESS_REFERENCE,
)
from mtrouter_rl.protocols import HiddenState, HiddenStatePolicy
from mtrouter_rl.records import FloatArray, Observation

_MIXING = 0.001
"""Return by which the choices of `MemorylessReference` are mixed. Of 0.001, 0.005, 0.02 and 0.05 it was the best in
ScienceWorld's worlds `paper` and `together-stuck`, on 146 validation episodes each."""
_VERSION = 1
"""Raised whenever a reference comes to decide otherwise: episodes of an older version are then not taken for its own."""


def _greedy(values: FloatArray, observation: Observation, *, pool: PoolCard) -> FloatArray:
    """All probability on the allowed model of the highest value; of equal ones, on the cheapest by `by_price`."""
    mask = distributions.action_masks([observation], len(pool.models))
    ranks = {name: rank for rank, name in enumerate(by_price(pool))}
    allowed = np.flatnonzero(mask[0])
    best = values[allowed].max()
    tied = [int(model) for model in allowed if np.isclose(values[model], best, rtol=0.0, atol=1e-9)]
    probabilities = np.zeros(len(pool.models))
    probabilities[min(tied, key=lambda model: ranks[pool.model_names[model]])] = 1.0
    return probabilities


class PlanningReference:
    """Plans to the end of the episode with the hidden state, anew before every turn; see `hidden_planning`.

    Attributes:
        name: Name in tables.
        model_names: Names of its pool, length M.
    """

    def __init__(self, *, name: str, pool: PoolCard, reward: RewardCard) -> None:
        """Make the policy for a pool and a reward."""
        self.name = name
        self.model_names = pool.model_names
        self._pool = pool
        self._reward = reward

    def values(self, observation: Observation, hidden: HiddenState) -> FloatArray:
        """Planned value of every model, shape (M,), masked ones included."""
        problem = problem_of(
            hidden,
            turns_left=int(observation["max_turns"]) - int(observation["turn"]),
            growth=self._growth(observation),
            pool=self._pool,
            reward=self._reward,
        )
        return action_values(problem)

    def privileged_action_probabilities(self, observation: Observation, hidden: HiddenState) -> FloatArray:
        """Probability 1 for the model with the highest planned value, shape (M,). Raises as `distributions.action_masks`."""
        return _greedy(self.values(observation, hidden), observation, pool=self._pool)

    def _growth(self, observation: Observation) -> float:
        """Tokens that a turn has added to the prompt so far, on average; 0 before the first."""
        counter = self._pool.token_counter
        added = [counter.count(turn["action"]) + counter.count(turn["observation"]) for turn in observation["history"]]
        return float(np.mean(added)) if added else 0.0


class BelievingReference(PlanningReference):
    """Plans as `PlanningReference`, but is not shown who is stuck: it knows how often models are, and what has failed so far.

    What it loses against the planning reference is what only the draw of who is stuck is worth. A router that had learned
    everything else perfectly would know no more than this one.
    """

    def values(self, observation: Observation, hidden: HiddenState) -> FloatArray:
        """As `PlanningReference.values`."""
        believed = replace(
            hidden,
            success=hidden.success * (1 - hidden.believed_stuck),
            stuck=np.zeros_like(hidden.stuck),
        )
        return super().values(observation, believed)


class MemorylessReference(PlanningReference):
    """Plans as `BelievingReference`, but remembers nothing of what failed, so that whoever is stuck may be called on and on.

    The best policy without memory draws its model, since a fixed one would never leave a model that is stuck. So models whose
    planned values are within some `_MIXING` of the best are drawn about as often: probabilities are in proportion to
    exp(value / `_MIXING`). What it loses against the believing reference is what remembering failures is worth to one who knows
    all else.

    Source: Singh, Jaakkola and Jordan, Learning without State-Estimation in Partially Observable Markovian Decision Processes
    (1994), for policies without memory that have to be stochastic.
    """

    def values(self, observation: Observation, hidden: HiddenState) -> FloatArray:
        """As `PlanningReference.values`."""
        expected = replace(hidden, success=hidden.success * (1 - hidden.often_stuck), stuck=np.zeros_like(hidden.stuck))
        return super().values(observation, expected)

    def privileged_action_probabilities(self, observation: Observation, hidden: HiddenState) -> FloatArray:
        """See the class, shape (M,). Raises as `distributions.action_masks`."""
        masks = distributions.action_masks([observation], len(self.model_names))
        probabilities: FloatArray = distributions.softmax(self.values(observation, hidden)[None] / _MIXING, masks)[0]
        return probabilities


class LikeliestSuccess:
    """Calls the model that is likeliest to do the action that is due, whatever it costs and whatever comes after.

    Attributes:
        name: Name in tables.
        model_names: Names of its pool, length M.
    """

    def __init__(self, *, name: str, pool: PoolCard, reward: RewardCard) -> None:
        """Make the policy for a pool; the reward is not looked at."""
        self.name = name
        self.model_names = pool.model_names
        self._pool = pool

    def privileged_action_probabilities(self, observation: Observation, hidden: HiddenState) -> FloatArray:
        """Probability 1 for the likeliest model, shape (M,). Raises as `distributions.action_masks`."""
        likely = np.where(hidden.stuck[0], 0.0, hidden.success[0])
        return _greedy(likely, observation, pool=self._pool)


_POLICIES: dict[str, tuple[str, Callable[..., HiddenStatePolicy]]] = {
    "hidden": (HIDDEN_REFERENCE, PlanningReference),
    "believing": (BELIEVING_REFERENCE, BelievingReference),
    "memoryless": (MEMORYLESS_REFERENCE, MemorylessReference),
    "likeliest": (LIKELIEST_REFERENCE, LikeliestSuccess),
}
REFERENCE_TEXTS = tuple(map(reference_policy, _POLICIES))
"""How reference policies are written where they may take part: `reference:hidden` and so on."""


def is_reference(text: str) -> bool:
    """Whether a text asks for a reference policy, and not for a router."""
    return PolicyRef.parse(text).form == REFERENCE


@dataclass(frozen=True, kw_only=True)
class ReferenceRef:
    """A reference policy by its text: small and picklable, made in the worker that runs it.

    Attributes:
        text: One of `REFERENCE_TEXTS`.
        reward: Cost weight and unit that it plans for.
        is_named_by_weight: Whether its name tells the cost weight, where several are compared.
    """

    text: str
    reward: RewardCard
    is_named_by_weight: bool = False

    @classmethod
    def of(cls, text: str, config: EnvConfig, *, cost_weight: float | None = None) -> "ReferenceRef":
        """Reference for an environment.

        Args:
            text: One of `REFERENCE_TEXTS`.
            config: The environment; decides the reward.
            cost_weight: Cost weight to plan for, then part of the name; None takes the environment's.

        Raises:
            UnknownNameError: If there is no such reference.
            InvalidConfigError: If the pool is not simulated, so that nothing hidden can be seen.
        """
        if text not in REFERENCE_TEXTS:
            raise unknown_name("reference policy", text, REFERENCE_TEXTS)
        if config.pool.backend.kind != "simulated":
            raise InvalidConfigError(
                f"'{text}' sees the hidden state of simulated models, and pool '{config.pool.name}' has the backend "
                f"'{config.pool.backend.kind}'; leave it out, or take a simulated pool"
            )
        reward = config.reward if cost_weight is None else config.reward.at(cost_weight)
        return cls(text=text, reward=reward, is_named_by_weight=cost_weight is not None)

    @property
    def policy(self) -> str:
        """Name of the policy."""
        name = _POLICIES[PolicyRef.parse(self.text).argument][0]
        return f"{name}@{self.reward.cost_weight:g}" if self.is_named_by_weight else name

    @property
    def key(self) -> str:
        """What tells references apart: the policy, and after '#' what else its decisions depend on."""
        weight, unit_usd = self.reward.cost_weight, self.reward.cost_unit_usd
        return f"{self.policy}#version {_VERSION}, {weight!r} x cost / {unit_usd!r} USD"

    @property
    def name(self) -> str:
        """What tells policies apart inside a worker."""
        return self.key

    def __call__(self, config: EnvConfig) -> HiddenStatePolicy:
        """Make the policy for an environment."""
        _, make = _POLICIES[PolicyRef.parse(self.text).argument]
        return make(name=self.policy, pool=config.pool, reward=self.reward)
