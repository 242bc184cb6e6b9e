"""The router of the factors: it keeps a belief of every conversation, and calls the model of the best expected return."""

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from mtrouter_rl.agents import distributions
from mtrouter_rl.agents.factored.due import DueNetworks, FactoredSettings
from mtrouter_rl.agents.factored.factors import Factors
from mtrouter_rl.agents.factored.kinds import agreement
from mtrouter_rl.agents.factored.prices import CallTokens, size_of
from mtrouter_rl.agents.factored.shrinkage import EffectTable, SuccessTable
from mtrouter_rl.agents.factored.stuck import StuckBelief, sharpened
from mtrouter_rl.agents.q.learned_router import LearnedRouter
from mtrouter_rl.agents.q.networks import StateDict
from mtrouter_rl.agents.saving import SavedRouter
from mtrouter_rl.cards.policy import name_at
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.embeddings.history_sources import HistoryKey, key_of_observation
from mtrouter_rl.errors import RouterError
from mtrouter_rl.records import FloatArray, Frozen, Observation
from mtrouter_rl.transitions.arrays import FORBIDDEN_Q
from mtrouter_rl.transitions.cost_weights import CostWeights

NETWORK_PREFIX = "due."
"""Before the names of the networks' weights; those of the factors begin with "factor."."""
_FACTOR_PREFIX = "factor."
_N_STATES = 4096


@dataclass(frozen=True, kw_only=True)
class _State:
    """What is known before a turn: probability of every kind to be due, shape (K,), the networks' memory, who may be stuck."""

    due: FloatArray
    memory: Tensor
    belief: StuckBelief


@dataclass(frozen=True, kw_only=True)
class _Chain:
    """States of one conversation that are not known yet: before each of some turns that follow one another.

    Attributes:
        before: What is known one turn earlier; None where the chain begins with the conversation.
        keys: Of every state.
        observations: Likewise.
    """

    before: _State | None
    keys: list[HistoryKey]
    observations: list[Observation]


class FactoredRouter(LearnedRouter[FactoredSettings]):
    """Calls the allowed model of the highest Q-value, the lower index on a tie.

    Q(h, m) is a sum of what is learned apart: the probability that m does what is due, unless it is stuck, times what a useful
    turn is worth; what m gains or loses beside that; and the expected price of the call, from the prices of the pool that the
    router is loaded with. A changed price therefore changes its choices without a new training.

    Attributes:
        pool: The models, with the prices that calls are expected to cost.
    """

    KIND: ClassVar[str] = "factored"
    SETTINGS: ClassVar[type[Frozen]] = FactoredSettings
    pool: PoolCard

    @classmethod
    def of(cls, router: Self, pool: PoolCard) -> Self:
        """The same router with the prices of a pool."""
        router.pool = pool
        router._states = OrderedDict()
        return router

    _states: OrderedDict[HistoryKey, _State]

    def at(self, cost_weight: float) -> Self:
        """The same router at another cost weight, named after it: it weighs the price of a call by the new one.

        All else stays as it was learned. What later turns cost, at the weight of the training, is part of it. So Q-values are
        not those of a return any more: their differences between models are what counts.

        Raises:
            InvalidConfigError: If the weight is below 0 or not finite.
        """
        provenance = self.provenance
        if provenance is not None and cost_weight != self.settings.reward.cost_weight:
            provenance = provenance.model_copy(update={"reward": None})
        made = type(self)(
            name=name_at(self.name, cost_weight),
            model_names=self.model_names,
            features=self.features,
            settings=self.settings.model_copy(update={"reward": self.settings.reward.at(cost_weight)}),
            weights=self.weights,
            provenance=provenance,
        )
        return self.of(made, self.pool)

    def cost_weight_grid(self, n: int) -> tuple[float, ...]:
        """Up to 40, where money is nearly all that counts; see `CostWeights.grid`. It may be told any other weight as well."""
        return CostWeights(high=40.0).grid(n)

    @classmethod
    def from_saved(cls, saved: SavedRouter) -> Self:
        """See `LearnedRouter.from_saved`."""
        return cls.of(super().from_saved(saved), saved.pool)

    @cached_property
    def _networks(self) -> DueNetworks:
        weights = {name: one for name, one in self.weights.items() if name.startswith(NETWORK_PREFIX)}
        return DueNetworks(self.settings, {name.removeprefix(NETWORK_PREFIX): one for name, one in weights.items()})

    @cached_property
    def factors(self) -> Factors:
        """What it knows beside what is due."""
        arrays = {
            name.removeprefix(_FACTOR_PREFIX): one.numpy()
            for name, one in self.weights.items()
            if name.startswith(_FACTOR_PREFIX)
        }
        return Factors(
            success=SuccessTable(**{name: arrays[f"success.{name}"] for name in ("level", "kinds", "main", "pairs")}),
            effects=EffectTable(main=arrays["effects.main"], pairs=arrays["effects.pairs"]),
            stuckness=self.settings.stuckness,
            use_value=self.settings.use_value,
            level=arrays["level"],
            shares=arrays["shares"],
        )

    @cached_property
    def tokens(self) -> CallTokens:
        """What it expects of the tokens of a call."""
        names = [field.name for field in dataclasses.fields(CallTokens)]
        return CallTokens(**{name: self.weights[f"{_FACTOR_PREFIX}tokens.{name}"].numpy() for name in names})

    def q_values(self, observations: Sequence[Observation]) -> FloatArray:
        """Expected return of calling each model now and going on as the log did; `FORBIDDEN_Q` for masked models.

        Returns:
            Shape (B, M).

        Raises:
            InvalidConfigError: If a mask has another length than M.
            MaskedActionError: If an observation allows no model.
        """
        masks = distributions.action_masks(observations, len(self.model_names))
        states = self._followed(observations)
        due = np.stack([state.due for state in states])
        stuck = np.stack([state.belief.chances(sharpened(state.due)) for state in states])
        sizes = np.array([size_of(observation) for observation in observations])
        warm = np.array([observation["warm"] for observation in observations], dtype=np.float64)
        costs = self.settings.reward.weighted(self.tokens.costs_usd(sizes, warm, self.pool))
        values = self.factors.q_values(due, stuck, costs, turns=sizes[:, 1])
        return np.where(masks, values, FORBIDDEN_Q)

    def action_probabilities(self, observations: Sequence[Observation]) -> FloatArray:
        """Probability 1 for the allowed model of highest Q-value, shape (B, M). Raises as `q_values`."""
        values = self.q_values(observations)
        return distributions.greedy(values, distributions.action_masks(observations, len(self.model_names)))

    def _followed(self, observations: Sequence[Observation]) -> list[_State]:
        """What is known of every conversation. What was known one turn before is taken up, else it is read from its start."""
        keys = [key_of_observation(observation, len(self.model_names)) for observation in observations]
        found = {key: self._states[key] for key in keys if key in self._states}
        missing = {key: one for key, one in zip(keys, observations, strict=True) if key not in found}
        while missing:
            chains = self._chains(missing, found)
            for chain, (due, memories) in zip(chains, self._due(chains), strict=True):
                state = chain.before
                for key, row, memory in zip(chain.keys, due, memories, strict=True):
                    belief = self._fresh_belief() if state is None else self._after(state, key[2][-1])
                    # Copies, since a part of an array keeps the whole of it in memory.
                    state = found[key] = _State(due=row.copy(), memory=memory.clone(), belief=belief)
                    missing.pop(key, None)
        for key in keys:
            self._states[key] = found[key]
            self._states.move_to_end(key)
        while len(self._states) > _N_STATES:
            self._states.popitem(last=False)
        return [found[key] for key in keys]

    def _chains(self, missing: Mapping[HistoryKey, Observation], found: Mapping[HistoryKey, _State]) -> list[_Chain]:
        """The states that are missing, those of a conversation one after the other.

        Where a conversation goes on in several ways, one of them is followed; the others are still missing then.
        """
        chains = list[_Chain]()
        growing = dict[HistoryKey, _Chain]()
        for key, observation in sorted(missing.items(), key=lambda item: len(item[0][2])):
            task, first, turns = key
            before = (task, first, turns[:-1])
            chain = growing.pop(before, None) if turns else None
            if chain is None:
                if turns and before in missing:
                    continue
                known = found.get(before, self._states.get(before)) if turns else None
                earlier = range(0 if known is None else len(turns), len(turns))
                chain = _Chain(
                    before=known,
                    keys=[(task, first, turns[:turn]) for turn in earlier],
                    observations=[_prefix(observation, turn) for turn in earlier],
                )
                chains.append(chain)
            chain.keys.append(key)
            chain.observations.append(observation)
            growing[key] = chain
        return chains

    def _fresh_belief(self) -> StuckBelief:
        return StuckBelief.start(
            self.settings.stuckness, n_models=len(self.model_names), n_kinds=len(self.settings.kinds)
        )

    def _after(self, state: _State, turn: "tuple[int, str, str, str]") -> StuckBelief:
        model, action, _, error = turn
        kind = np.array([self.settings.kinds.index(action)])
        use = agreement(state.due[None], kind, np.array([bool(error)]))[0]
        success = self.factors.success(state.due)[model]
        return state.belief.after(model, weights=sharpened(state.due), use=float(use), success=float(success))

    def _due(self, chains: Sequence[_Chain]) -> list[tuple[FloatArray, Tensor]]:
        """For every chain the probability of every kind to be due, shape (T, K), and memories, see `DueNetworks.follow`."""
        features = self.features.of_observations([one for chain in chains for one in chain.observations])
        bits = np.zeros((len(features), len(self.model_names)), dtype=np.float32)
        rows = np.concatenate([features, bits], axis=1)
        edges = np.cumsum([len(chain.keys) for chain in chains])[:-1]
        memories = [self._networks.no_memory if chain.before is None else chain.before.memory for chain in chains]
        return self._networks.follow(np.split(rows, edges), memories)

    @classmethod
    def check_weights(cls, saved: SavedRouter, settings: FactoredSettings, weights: StateDict) -> None:
        """See `LearnedRouter.check_weights`."""
        expected = expected_tensors(settings, n_models=len(saved.record.model_names))
        found = {name: (one.dtype, *one.shape) for name, one in weights.items()}
        differing = [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]
        if differing:
            raise RouterError(
                f"router {saved.folder}: the weights do not fit router.json at {', '.join(differing[:3])}; both files must "
                "come from one training"
            )


def expected_tensors(settings: FactoredSettings, *, n_models: int) -> dict[str, tuple[torch.dtype | int, ...]]:
    """Type and shape of all tensors of a router, by name."""
    n_kinds = len(settings.kinds)
    network = settings.make_network().state_dict()
    factors: dict[str, tuple[int, ...]] = {
        "success.level": (1,),
        "success.kinds": (n_kinds,),
        "success.main": (n_models,),
        "success.pairs": (n_kinds, n_models),
        "effects.main": (n_models,),
        "effects.pairs": (n_kinds, n_models),
        "level": (n_kinds + 3,),
        "shares": (n_models,),
        "tokens.prompt": (3,),
        "tokens.output": (n_models,),
        "tokens.cached_share": (1,),
    }
    return {
        **{f"{NETWORK_PREFIX}{name}": (one.dtype, settings.n_members, *one.shape) for name, one in network.items()},
        **{f"{_FACTOR_PREFIX}{name}": (torch.float64, *shape) for name, shape in factors.items()},
    }


def as_weights(networks: StateDict, factors: Factors, tokens: CallTokens) -> dict[str, Tensor]:
    """All tensors of a router, by the names under which it is saved."""
    arrays = {
        **{f"success.{name}": getattr(factors.success, name) for name in ("level", "kinds", "main", "pairs")},
        **{f"effects.{name}": getattr(factors.effects, name) for name in ("main", "pairs")},
        "level": factors.level,
        "shares": factors.shares,
        **{f"tokens.{field.name}": getattr(tokens, field.name) for field in dataclasses.fields(CallTokens)},
    }
    return {f"{NETWORK_PREFIX}{name}": one for name, one in networks.items()} | {
        f"{_FACTOR_PREFIX}{name}": torch.from_numpy(np.ascontiguousarray(one, dtype=np.float64))
        for name, one in arrays.items()
    }


def _prefix(observation: Observation, turn: int) -> Observation:
    """What was seen before an earlier turn, or now. Money and caches are as now: the networks do not look at them."""
    if turn == len(observation["history"]):
        return observation
    return {**observation, "history": observation["history"][:turn], "turn": np.int64(turn)}
