"""A language model as router: it reads the task and the history, and names the model that is called next.

Its own calls are paid for: `mtrouter_rl.protocols.PaidRouter`. Nothing is learned.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from mtrouter_rl.agents import distributions
from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.parameters import CardAlgorithm
from mtrouter_rl.agents.rules.heuristics import by_price
from mtrouter_rl.agents.rules.rule_router import RuleRouter
from mtrouter_rl.agents.saving import SavedRouter
from mtrouter_rl.agents.training import provenance
from mtrouter_rl.cards import check_card_name, load_pool_card
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.errors import BackendError, CardError, InvalidConfigError, RouterError
from mtrouter_rl.pools.openai_compatible import make_backend
from mtrouter_rl.protocols import ModelBackend, PaidDecision, WastedCallError
from mtrouter_rl.records import FloatArray, Frozen, JsonValue, Message, Observation, PositiveInt

_INSTRUCTIONS = """You choose which language model takes the next turn of a task. Dearer models tend to be better. Prices are in
USD per million tokens. Choose the cheapest that will do this turn right. Reply with the name of one model and nothing else.

Models:
{models}"""
_BACKEND = "openai_compatible"


class LLMRouterParameters(Frozen):
    """Parameters of `LLMRouter`.

    Attributes:
        pool: Name of the pool card that says where the model that is asked answers, and what it costs.
        model: The model that is asked, of that pool.
        max_output_tokens: Longest answer.
        max_prompt_tokens: Longest prompt, by the token counter of its pool; the oldest turns are left out first. None takes
            what its window holds.
    """

    pool: Annotated[str, Field(min_length=1)]
    model: Annotated[str, Field(min_length=1)]
    max_output_tokens: PositiveInt = 32
    max_prompt_tokens: PositiveInt | None = None


class LLMRouterSettings(LLMRouterParameters):
    """What an `LLMRoutingRouter` is made of.

    A saved router names a pool card and holds none of it: an address and the name of a key from a stranger's file would send
    the key to the stranger.

    Attributes:
        models: What is said of each model that may be named.
        order: Models from the cheapest, for decisions that are not paid for.
    """

    models: dict[str, str]
    order: tuple[str, ...]


class LLMRoutingRouter(RuleRouter[LLMRouterSettings]):
    """Asks a model before every turn. An answer that names no allowed model, or several, leaves the model as it is."""

    KIND: ClassVar[str] = "llm_router"
    SETTINGS: ClassVar[type[Frozen]] = LLMRouterSettings

    def most_usd(self, observation: Observation) -> float:
        """See `PaidRouter.most_usd`."""
        card = self._pool.model(self.settings.model)
        messages = self.messages(observation)
        n_prompt = sum(self._pool.token_counter.count(message.content) for message in messages)
        return card.prices.worst_case_usd(n_prompt=n_prompt, n_output=self._n_output)

    def decide(self, observation: Observation) -> PaidDecision:
        """See `PaidRouter.decide`."""
        messages, turn = self.messages(observation), int(observation["turn"])
        prices = self._pool.model(self.settings.model).prices
        hidden: dict[str, JsonValue]
        try:
            reply = self._backend.reply(self.settings.model, messages, turn=turn, max_output_tokens=self._n_output)
        except WastedCallError as error:
            hidden = {"router_reply": "", "router_error": str(error)}
            row = self.action_probabilities([observation])[0]
            return PaidDecision(probabilities=row, cost_usd=prices.cost_usd(error.usage), hidden=hidden)
        named = named_models(reply.text, self._allowed(observation))
        hidden = {"router_reply": reply.text[:200]}
        if len(named) == 1:
            row = np.array([float(name == named[0]) for name in self.model_names])
        else:
            hidden["router_error"] = f"names {len(named)} allowed models"
            row = self.action_probabilities([observation])[0]
        return PaidDecision(probabilities=row, cost_usd=prices.cost_usd(reply.usage), hidden=hidden)

    def action_probabilities(self, observations: Sequence[Observation]) -> FloatArray:
        """What is done without asking, shape (B, M): the last model goes on if it is allowed, else the cheapest one does.

        Raises as `distributions.action_masks`.
        """
        masks = distributions.action_masks(observations, len(self.model_names))
        values = np.broadcast_to(self._preferences, masks.shape).copy()
        for row, observation in enumerate(observations):
            if observation["history"]:
                values[row, observation["history"][-1]["model"]] = 1.0
        return distributions.greedy(values, masks)

    def messages(self, observation: Observation) -> list[Message]:
        """What the model is asked with.

        Raises:
            BackendError: If the names of the models alone do not fit.
        """
        allowed = self._allowed(observation)
        system = _INSTRUCTIONS.format(models="\n".join(f"- {name}: {self.settings.models[name]}" for name in allowed))
        card = self._pool.model(self.settings.model)
        window = card.context_tokens - self._n_output
        room = min(window, self.settings.max_prompt_tokens or window) - self._pool.token_counter.count(system)
        if room <= 0:
            raise BackendError(
                f"router '{self.name}': the names of {len(allowed)} models do not fit the prompt of '{card.name}'; raise "
                "max_prompt_tokens, or ask a model with a larger window"
            )
        return [Message(role="system", content=system), Message(role="user", content=self._told(observation, room))]

    @classmethod
    def check_settings(cls, saved: SavedRouter, settings: LLMRouterSettings) -> None:
        """See `RuleRouter.check_settings`."""
        names = saved.record.model_names
        if sorted(settings.order) != sorted(names) or sorted(settings.models) != sorted(names):
            raise RouterError(
                f"router {saved.folder}: order and models must hold every model of its pool once ({', '.join(names)}); "
                "correct router.json"
            )
        try:
            check_card_name("pools", settings.pool, where=f"router {saved.folder}: settings.pool")
        except InvalidConfigError as error:
            raise RouterError(str(error)) from error

    def _allowed(self, observation: Observation) -> list[str]:
        return [name for name, bit in zip(self.model_names, observation["action_mask"], strict=True) if bit]

    @cached_property
    def _pool(self) -> PoolCard:
        return routing_pool(self.settings)

    @cached_property
    def _backend(self) -> ModelBackend:
        return make_backend(self._pool)

    @property
    def _n_output(self) -> int:
        return min(self.settings.max_output_tokens, self._pool.model(self.settings.model).max_output_tokens)

    @cached_property
    def _preferences(self) -> FloatArray:
        ranks = {model: rank for rank, model in enumerate(self.settings.order)}
        return -np.array([ranks[model] for model in self.model_names], dtype=np.float64)

    def _told(self, observation: Observation, room: int) -> str:
        """Task and history within `room` tokens: whole turns, the newest first; the task has half of the room at most."""
        count = self._pool.token_counter.count
        question = "\n\nWhich model takes the next turn?"
        head = f"Task: {observation['task']}\n{observation['first_observation']}"
        while head and count(head) > room // 2:
            head = head[: len(head) * 2 // 3]
        left = room - count(head) - count(question)
        turns: list[str] = []
        for index, turn in reversed(list(enumerate(observation["history"]))):
            error = f" ({turn['error']})" if turn["error"] else ""
            text = (
                f"\n\nTurn {index}, {self.model_names[turn['model']]}{error}: {turn['action']}\n> {turn['observation']}"
            )
            note = f"\n\n({index + 1} earlier turns are left out)"
            if count(text) + (count(note) if index else 0) > left:
                turns += [note] if count(note) <= left else []
                break
            turns.append(text)
            left -= count(text)
        return "".join([head, *reversed(turns), question])


def named_models(text: str, names: Sequence[str]) -> list[str]:
    """Names that occur in a text, whatever their case; one that is part of another counts only where it stands alone.

    Example:
        >>> named_models("I would take GPT-5-mini.", ["gpt-5", "gpt-5-mini"])
        ['gpt-5-mini']
    """
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    found = re.findall(rf"(?<![\w-])(?:{pattern})(?![\w-])", text, re.IGNORECASE) if names else []
    lower = {name.lower(): name for name in names}
    return list(dict.fromkeys(lower[one.lower()] for one in found))


def routing_pool(parameters: LLMRouterParameters) -> PoolCard:
    """The pool card of the model that is asked.

    Raises:
        CardError: If its backend is no endpoint.
        UnknownNameError: If there is no such card, or no such model in it.
    """
    check_card_name("pools", parameters.pool, where="parameters.pool of the agent card")
    pool = load_pool_card(parameters.pool)
    pool.index(parameters.model)
    if pool.backend.kind != _BACKEND:
        raise CardError(
            f"pool card '{pool.name}': backend.kind is '{pool.backend.kind}', but a model that is asked which model to call "
            f"needs '{_BACKEND}'; see docs/call-real-models.md"
        )
    return pool


class LLMRouter(CardAlgorithm[LLMRouterParameters]):
    """A language model names the next model.

    Source: the baseline "LLM router" of the routing literature, such as the prompted router in Ong et al., RouteLLM (2024).
    """

    parameters_model: ClassVar[type[Frozen]] = LLMRouterParameters

    def train(self, context: TrainingContext) -> LLMRoutingRouter:
        """Make the router; nothing is asked yet.

        Raises:
            CardError, UnknownNameError: As `routing_pool`.
        """
        routing_pool(self.parameters)
        return LLMRoutingRouter(
            name=self.card.name,
            model_names=context.pool.model_names,
            settings=LLMRouterSettings(
                **self.parameters.model_dump(), models=_described(context.pool), order=by_price(context.pool)
            ),
            provenance=provenance(context, self.card, self.parameters),
        )


def _described(pool: PoolCard) -> dict[str, str]:
    return {
        model.name: f"input {model.prices.input:g}, output {model.prices.output:g}, window {model.context_tokens}"
        for model in pool.models
    }
