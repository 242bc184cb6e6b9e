"""A trained router that an agent asks, before every call, which model to take.

The messages go through the converter of the importers (`mtrouter_rl.datasets.importers.messages`), so a conversation that is
asked about and the same conversation in an imported log give the same features and the same values.
"""

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import numpy as np

from mtrouter_rl.agents.deployment import DEPLOYMENT_FILE, Deployment, load_deployment
from mtrouter_rl.agents.resolve import EncoderMaker, resolve_router, split_cost_weight
from mtrouter_rl.cards import load_pool_card
from mtrouter_rl.cards.pool import TOKENS_PER_PRICE_UNIT, PoolCard
from mtrouter_rl.datasets.importers.base import ModelNames, UnusableEpisodeError
from mtrouter_rl.datasets.importers.messages import Conversation, open_conversation, read_messages
from mtrouter_rl.embeddings.encoders import make_encoder
from mtrouter_rl.errors import (
    InvalidConfigError,
    NoModelAllowedError,
    unknown_name,
)
from mtrouter_rl.pools.handover import hindrance
from mtrouter_rl.protocols import ExplainingRouter, PaidDecision, PaidRouter, Router, ValueRouter
from mtrouter_rl.records import UNLIMITED_BUDGET_USD, FloatArray, Observation, TurnView


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Which model to call next, and why.

    Attributes:
        model: Name in the pool of the model to call.
        probability: Probability with which it was chosen: log it as `propensity`, and the log can be learned from.
        turn: Index of the turn that was decided, from 0.
        probabilities: Probability of every model; 0 for those that may not be called.
        q_values: Value of every model that may be called, in utility minus weighted cost; None if the router has no values.
        expected_cost_usd: What the next call of every model is expected to cost, USD, with what `cached_tokens` says is cached;
            None where the training log has no call of the model.
        cold_cache_usd: What the next call of every model costs more since its own prompt cache holds less of the conversation
            than the fullest one, USD; this is what a switch loses. Empty where nobody said what is cached.
        not_allowed: Model -> why it may not be called now.
        reason: The above in a sentence.
        cost_usd: What the decision itself cost, USD; above 0 for a router that asks a model, see `PaidRouter`.
    """

    model: str
    probability: float
    turn: int
    probabilities: Mapping[str, float]
    q_values: Mapping[str, float] | None
    expected_cost_usd: Mapping[str, float | None]
    not_allowed: Mapping[str, str]
    reason: str
    cold_cache_usd: Mapping[str, float] = field(default_factory=dict)
    cost_usd: float = 0.0


def load_router(
    folder: str | PathLike[str],
    *,
    pool: str | PathLike[str] | PoolCard | None = None,
    explore: float = 0.0,
    seed: int = 0,
    cache: Path | None = None,
    encoders: EncoderMaker = make_encoder,
) -> "LiveRouter":
    """Load a trained router so that an agent can ask it.

    Args:
        folder: What `mtrouter-rl train --out` wrote; `FOLDER@WEIGHT` for a router that can be told a cost weight.
        pool: Pool card, as a record, a name or a path; None takes the one that was saved with the router.
        explore: Share of the calls for which a model is drawn at random from those that may be called, so that the log tells
            of all of them; probabilities are exact.
        seed: Seed of the draws of a router that chooses by chance.
        cache: Folder of the embedding cache; None keeps vectors in memory alone.
        encoders: Makes the text encoder of the router.

    Raises:
        RouterError: If there is no router, or it cannot be read.
        ResultsError: If no pool is given and the router was saved without one.
        CardError, UnknownNameError: If the pool card cannot be read.
        PoolMismatchError: If the router was made for other models than the pool's.
        InvalidConfigError: If `explore` is outside [0, 1].
    """
    text = str(folder)
    place = Path(split_cost_weight(text)[0])
    saved = load_deployment(place) if pool is None or (place / DEPLOYMENT_FILE).is_file() else None
    if pool is None:
        assert saved is not None
        card = saved.pool
    else:
        card = pool if isinstance(pool, PoolCard) else load_pool_card(str(pool))
    router = resolve_router(text, card, cache=cache, encoders=encoders)
    return LiveRouter(router, card, saved, explore=explore, seed=seed)


class LiveRouter:
    """A router that is asked with chat messages. It may be shared between threads.

    Attributes:
        name: Name of the router.
        pool: Models and prices.
        pays_for_decisions: Whether it asks a model which model to call.
    """

    def __init__(
        self, router: Router, pool: PoolCard, saved: Deployment | None = None, *, explore: float = 0.0, seed: int = 0
    ) -> None:
        """Take a router.

        Args:
            router: The policy.
            pool: The models that it chooses from.
            saved: What was saved with it; None leaves expected costs out, and knows no limits.
            explore: Share of the calls for which a model is drawn at random.
            seed: Seed of the draws of a router that chooses by chance.

        Raises:
            InvalidConfigError: If `explore` is outside [0, 1].
        """
        if not 0 <= explore <= 1:
            raise InvalidConfigError(f"explore is {explore}, must be a share from 0 to 1")
        self._explore = explore
        self.name = router.name
        self.pool = pool
        self.pays_for_decisions = isinstance(router, PaidRouter)
        self._router = router
        self._saved = saved
        self._names = ModelNames(pool)
        self._rng = np.random.default_rng(seed)
        self._lock = threading.Lock()

    def choose(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        models: Sequence[str] = (),
        errors: Sequence[str] = (),
        budget_left_usd: float | None = None,
        budget_usd: float | None = None,
        max_turns: int | None = None,
        max_output_tokens: int | None = None,
        candidates: Sequence[str] | None = None,
        cached_tokens: Mapping[str, int] | None = None,
    ) -> Decision:
        """Choose the model of the next call.

        Args:
            messages: The conversation so far, as you would send it: chat messages of OpenAI's form or of another that the
                importers read, the last of which is no answer.
            models: Which model gave every answer in `messages`, in order; a message may say so itself by a key `model`.
            errors: Kind of error of every answer, in order, empty where it was none; leave out where your log has none.
            budget_left_usd: Money left, USD: models whose next call would cost more may not be called.
            budget_usd: Budget of the whole conversation, USD; None takes that of the training.
            max_turns: Turn limit of the conversation; None takes that of the training.
            max_output_tokens: Output limit of the next call: with it, what a call costs at most is held against the budget;
                without it, what it is expected to cost.
            candidates: Models that may be called now; None allows every model of the pool.
            cached_tokens: Model -> tokens of the conversation that its prompt cache holds now; a model that is left out has a
                cold cache. None if nobody knows.

        Raises:
            InvalidConfigError: If the messages are no conversation that waits for an answer, `models` does not name one model
                for every answer, or a number of cached tokens is below 0.
            UnknownNameError: If a model is not in the pool; names the nearest.
            NoModelAllowedError: If no model may be called; says why for each.
            BackendError: If the router asks a model, and it cannot be asked.
        """
        conversation = _conversation(messages)
        n_prompt = self._prompt_tokens(conversation)
        cached = None if cached_tokens is None else self._cached(cached_tokens, n_prompt)
        expected = self.expected_costs_usd(n_prompt, cached or {})
        hindered = self._hindrances(messages, models)

        def ruled_out(left: float | None) -> dict[str, str]:
            return hindered | self._not_allowed(
                n_prompt, expected, left=left, n_output=max_output_tokens, candidates=candidates
            )

        not_allowed = ruled_out(budget_left_usd)
        observation = self.observe(
            messages,
            models=models,
            errors=errors,
            budget_left_usd=budget_left_usd,
            budget_usd=budget_usd,
            max_turns=max_turns,
            not_allowed=tuple(not_allowed),
            warm=tuple(name for name, n_tokens in (cached or {}).items() if n_tokens),
        )
        if len(not_allowed) == len(self.pool.models):
            told = "; ".join(f"{name}: {why}" for name, why in not_allowed.items())
            raise NoModelAllowedError(f"no model may be called at turn {int(observation['turn'])}: {told}")
        paid = None
        if isinstance(self._router, PaidRouter):
            left = None if budget_left_usd is None else budget_left_usd - self._router.most_usd(observation)
            tight = ruled_out(left)
            if len(tight) < len(self.pool.models):  # else the budget does not hold a decision and a call
                not_allowed, observation = tight, {**observation, "action_mask": self._mask(tight)}
                paid = self._router.decide(observation)
        with self._lock:
            return self._decide(observation, expected, not_allowed, self._cold_cache(cached), paid)

    def observe(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        models: Sequence[str] = (),
        errors: Sequence[str] = (),
        budget_left_usd: float | None = None,
        budget_usd: float | None = None,
        max_turns: int | None = None,
        not_allowed: Sequence[str] = (),
        warm: Sequence[str] = (),
    ) -> Observation:
        """What the router sees of a conversation; arguments and errors as `choose`.

        `not_allowed` and `warm` are names in the pool. A router whose log said nothing of prompt caches is shown cold ones.
        """
        conversation = _conversation(messages)
        called = self._called(messages, conversation, models)
        if errors and len(errors) != len(called):
            raise InvalidConfigError(
                f"errors has {len(errors)} entries, must have one for each of {len(called)} answers"
            )
        history = tuple(
            TurnView(model=model, action=answer.action_text, observation=answer.observation_text, error=error)
            for model, answer, error in zip(called, conversation.answers, errors or [""] * len(called), strict=True)
        )
        return self.observation_of(
            history,
            opening=(conversation.task_text, conversation.first_observation),
            budget_left_usd=budget_left_usd,
            budget_usd=budget_usd,
            max_turns=max_turns,
            not_allowed=not_allowed,
            warm=warm,
        )

    def observation_of(
        self,
        history: tuple[TurnView, ...],
        *,
        opening: tuple[str, str],
        budget_left_usd: float | None = None,
        budget_usd: float | None = None,
        max_turns: int | None = None,
        not_allowed: Collection[str] = (),
        warm: Collection[str] = (),
    ) -> Observation:
        """What the router sees of turns that are known, and of the task text and first observation before them.

        Raises:
            InvalidConfigError: If no turn limit is known.
        """
        left, whole = self._budgets(budget_left_usd, budget_usd)
        sees_cache = self._saved is not None and self._saved.sees_cache
        return Observation(
            task=opening[0],
            first_observation=opening[1],
            history=history,
            turn=np.int64(len(history)),
            max_turns=np.int64(self._turn_limit(max_turns, len(history))),
            budget_left_usd=np.array([left], dtype=np.float32),
            budget_usd=np.array([whole], dtype=np.float32),
            warm=np.array([sees_cache and name in warm for name in self.pool.model_names], dtype=np.int8),
            action_mask=self._mask(not_allowed),
        )

    @property
    def turn_limit(self) -> int | None:
        """Turn limit of the training; None if the router was saved without one."""
        return self._saved.max_turns if self._saved else None

    def weigh(self, observation: Observation) -> tuple[FloatArray, Mapping[str, float] | None]:
        """What the router would do, exploration included, without drawing.

        Returns:
            Probability of every model, shape (M,), and the values of those that may be called, None if it has none.
        """
        with self._lock:
            return self._weigh(observation)

    def _mask(self, not_allowed: Collection[str]) -> np.ndarray[tuple[int], np.dtype[np.int8]]:
        return np.array([name not in not_allowed for name in self.pool.model_names], dtype=np.int8)

    def _weigh(
        self, observation: Observation, paid: PaidDecision | None = None
    ) -> tuple[FloatArray, Mapping[str, float] | None]:
        names, mask = self.pool.model_names, observation["action_mask"]
        chances = self._router.action_probabilities([observation])[0] if paid is None else paid.probabilities
        if self._explore:
            chances = (1 - self._explore) * chances + self._explore * mask / mask.sum()
        if not isinstance(self._router, ValueRouter):
            return chances, None
        numbers = self._router.q_values([observation])[0]
        return chances, {
            name: float(value) for name, value, is_free in zip(names, numbers, mask, strict=True) if is_free
        }

    def _decide(
        self,
        observation: Observation,
        expected: Mapping[str, float | None],
        not_allowed: Mapping[str, str],
        cold_cache: Mapping[str, float],
        paid: PaidDecision | None,
    ) -> Decision:
        names = self.pool.model_names
        chances, values = self._weigh(observation, paid)
        index = int(np.argmax(chances)) if chances.max() == 1.0 else int(self._rng.choice(len(names), p=chances))
        last = observation["history"][-1]["model"] if observation["history"] else None
        cost_usd = 0.0 if paid is None else paid.cost_usd
        more = f"; a model was asked for {cost_usd:.4g} USD" if paid is not None else ""
        if isinstance(self._router, ExplainingRouter):
            more += f"; {self._router.explain(observation)}"
        return Decision(
            model=names[index],
            probability=float(chances[index]),
            turn=int(observation["turn"]),
            probabilities={name: float(chance) for name, chance in zip(names, chances, strict=True)},
            q_values=values,
            expected_cost_usd=expected,
            not_allowed=not_allowed,
            reason=reason_of(
                names[index], None if last is None else names[last], values, expected, not_allowed, cold_cache
            )
            + more,
            cold_cache_usd=cold_cache,
            cost_usd=cost_usd,
        )

    def _called(
        self, messages: Sequence[Mapping[str, object]], conversation: Conversation, models: Sequence[str]
    ) -> list[int]:
        """Action of every answer so far."""
        said = [message.get("model") for message in messages]
        given = list(models) if models else [name for name in said if isinstance(name, str)]
        if len(given) != len(conversation.answers):
            raise InvalidConfigError(
                f"models names {len(given)} models, but the messages hold {len(conversation.answers)} answers: say which model "
                "gave each, oldest first, such as choose(messages, models=['small', 'big'])"
            )
        return [self.pool.index(self._known(name)) for name in given]

    def _known(self, name: str) -> str:
        found = self._names.find(name)
        if found is None:
            raise unknown_name(
                f"model of pool '{self.pool.name}'", name, self.pool.model_names, fix="The router knows no other models"
            )
        return found

    def expected_costs_usd(self, n_prompt: int, cached: Mapping[str, int]) -> dict[str, float | None]:
        """What a call with so many prompt tokens is expected to cost at every model; None where the log has no call of it."""
        return {name: self._expected_cost(name, n_prompt, cached.get(name, 0)) for name in self.pool.model_names}

    def _prompt_tokens(self, conversation: Conversation) -> int:
        texts = [conversation.system_text, conversation.task_text, conversation.first_observation]
        for answer in conversation.answers:
            texts += [answer.action_text, answer.observation_text]
        return self.prompt_tokens(texts)

    def prompt_tokens(self, texts: Sequence[str]) -> int:
        """Expected tokens of a prompt of some texts: characters at the log's rate, or by the pool's counter without a log."""
        rate = self._saved.tokens_per_character if self._saved else None
        if rate is None:
            return sum(self.pool.token_counter.count(text) for text in texts if text)
        return round(rate * sum(map(len, texts)))

    def _cached(self, given: Mapping[str, int], n_prompt: int) -> dict[str, int]:
        """Tokens in the cache of every model; variants share one."""
        cached = dict.fromkeys(self.pool.model_names, 0)
        for name, n_tokens in given.items():
            if n_tokens < 0:
                raise InvalidConfigError(f"cached_tokens['{name}'] is {n_tokens}, must be at least 0")
            base = self.pool.model(self._known(name)).base
            for model in self.pool.models:
                if model.base == base:
                    cached[model.name] = max(cached[model.name], min(n_tokens, n_prompt))
        return cached

    def _cold_cache(self, cached: Mapping[str, int] | None) -> dict[str, float]:
        """What calls cost more for what only another model's cache holds."""
        if not cached:
            return {}
        fullest = max(cached.values())
        prices = {name: self.pool.model(name).prices for name in cached}
        return {
            name: (fullest - n_tokens)
            * max(prices[name].input - prices[name].cached_input, 0.0)
            / TOKENS_PER_PRICE_UNIT
            for name, n_tokens in cached.items()
        }

    def _hindrances(self, messages: Sequence[Mapping[str, object]], models: Sequence[str]) -> dict[str, str]:
        """Models that cannot take this history over, with the reason."""
        authors = [self._known(name) for name in models]
        told = {name: hindrance(messages, authors, name, self.pool) for name in self.pool.model_names}
        return {name: why for name, why in told.items() if why}

    def _expected_cost(self, model: str, n_prompt: int, n_cached: int) -> float | None:
        calls = self._saved.calls.get(model) if self._saved else None
        if calls is None:
            return None
        prices = self.pool.model(model).prices
        prompt = (n_prompt - n_cached) * prices.input + n_cached * prices.cached_input
        return float(prompt + calls.mean_output_tokens * prices.output) / TOKENS_PER_PRICE_UNIT

    def _not_allowed(
        self,
        n_prompt: int,
        expected: Mapping[str, float | None],
        *,
        left: float | None,
        n_output: int | None,
        candidates: Sequence[str] | None,
    ) -> dict[str, str]:
        allowed = None if candidates is None else {self._known(name) for name in candidates}
        reasons: dict[str, str] = {}
        for model in self.pool.models:
            if allowed is not None and model.name not in allowed:
                reasons[model.name] = "not among the candidates"
            elif n_prompt >= model.context_tokens:
                reasons[model.name] = f"a prompt of about {n_prompt} tokens does not fit its {model.context_tokens}"
            elif left is not None:
                cost = expected[model.name]
                if n_output is not None or cost is None:
                    longest = min(model.max_output_tokens, n_output or model.max_output_tokens)
                    cost = model.prices.worst_case_usd(n_prompt=n_prompt, n_output=longest)
                if cost > left:
                    reasons[model.name] = f"its next call may cost {cost:.4g} USD, {left:.4g} USD are left"
        return reasons

    def _budgets(self, left: float | None, whole: float | None) -> tuple[float, float]:
        """(left, whole) budget as the router was trained to see it: a log without budgets taught it nothing about them."""
        trained = self._saved.budget_usd if self._saved else UNLIMITED_BUDGET_USD
        if trained >= UNLIMITED_BUDGET_USD:
            return UNLIMITED_BUDGET_USD, UNLIMITED_BUDGET_USD
        whole = trained if whole is None else whole
        return (whole if left is None else left), whole

    def _turn_limit(self, given: int | None, n_answers: int) -> int:
        """Turn limit as the router sees it; a conversation beyond its limit counts as in its last turn."""
        limit = given if given is not None else self._saved.max_turns if self._saved else None
        if limit is None:
            raise InvalidConfigError(
                f"max_turns is missing: router '{self.name}' was saved without the limits of its training; say how many "
                "answers the conversation may have"
            )
        return max(limit, n_answers + 1)


def _conversation(messages: Sequence[Mapping[str, object]]) -> Conversation:
    """The messages, as the importers read them.

    Raises:
        InvalidConfigError: If they are no conversation that waits for an answer.
    """
    try:
        return open_conversation(read_messages(messages))
    except UnusableEpisodeError as error:
        raise InvalidConfigError(f"messages: {error}") from error


def reason_of(
    model: str,
    last: str | None,
    values: Mapping[str, float] | None,
    expected: Mapping[str, float | None],
    not_allowed: Mapping[str, str],
    cold_cache: Mapping[str, float],
) -> str:
    """Why a model was chosen, in a sentence."""
    parts = []
    if values is not None:
        others = {name: value for name, value in values.items() if name != model and name not in not_allowed}
        parts.append(f"value {values[model]:.3f}")
        if others:
            best = max(others, key=lambda name: others[name])
            parts.append(f"the best other is {best} with {others[best]:.3f}")
    cost = expected[model]
    if cost is not None:
        parts.append(f"about {cost:.4g} USD for the call")
    if last is not None and last != model:
        lost = cold_cache.get(model)
        more = f", so it costs {lost:.4g} USD more" if lost else ""
        parts.append(f"changes from {last}" + (more or ", whose prompt cache is of no use to it"))
    if not_allowed:
        parts.append("not allowed: " + "; ".join(f"{name} ({why})" for name, why in sorted(not_allowed.items())))
    return f"{model}: " + ("; ".join(parts) if parts else "the router's rule says so")
