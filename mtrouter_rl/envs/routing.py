"""The MDP: at every turn choose the model that is called next, earn utility, spend money.

`RoutingEnv` knows a text task, a pool of models and whoever answers for them. It is the one place where money is
counted, the budget is kept and episodes are truncated.
"""

import functools
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from mtrouter_rl.cards import HarnessCard, RewardCard
from mtrouter_rl.cards.pool import ModelCard, PoolCard
from mtrouter_rl.envs.harness import MALFORMED, Harness
from mtrouter_rl.envs.spaces import Unicode
from mtrouter_rl.errors import (
    BackendError,
    CallOrderError,
    InvalidConfigError,
    MaskedActionError,
    unknown_name,
)
from mtrouter_rl.pools.prompt_cache import PromptCache
from mtrouter_rl.protocols import (
    BilledBackend,
    HiddenState,
    HiddenStateBackend,
    ListingTask,
    ModelBackend,
    Reply,
    SelectiveBackend,
    TaskStep,
    TextTask,
    WastedCallError,
)
from mtrouter_rl.records import EpisodeSpec, JsonValue, Message, Observation, TokenUsage, TurnView

MAX_WASTED_CALLS = 2
"""How often a turn goes on after a call that was billed and gave no answer."""

MONEY_TOLERANCE_USD = 1e-9
"""Slack for the rounding of sums of floats; a millionth of a cent's thousandth."""


@dataclass(frozen=True, kw_only=True)
class EpisodeLimits:
    """Limits outside the task, for one environment.

    Attributes:
        max_turns: Turn limit.
        budget_usd: Money of an episode, USD.
        max_output_tokens: Output limit of every call.
    """

    max_turns: int
    budget_usd: float
    max_output_tokens: int

    def __post_init__(self) -> None:
        """Check ranges: a budget of NaN would mask nothing, a turn limit of 0 would never act."""
        if self.max_turns < 1:
            raise InvalidConfigError(f"max_turns is {self.max_turns}, must be at least 1")
        if not (np.isfinite(self.budget_usd) and self.budget_usd > 0):
            raise InvalidConfigError(f"budget_usd is {self.budget_usd}, must be a finite number above 0")
        if self.max_output_tokens < 1:
            raise InvalidConfigError(f"max_output_tokens is {self.max_output_tokens}, must be at least 1")


def observation_space(n_models: int, limits: EpisodeLimits) -> spaces.Dict:
    """Space of `mtrouter_rl.records.Observation` for a pool of `n_models`."""
    turn_view = spaces.Dict(
        {"model": spaces.Discrete(n_models), "action": Unicode(), "observation": Unicode(), "error": Unicode()}
    )
    high = float(np.finfo(np.float32).max)
    return spaces.Dict(
        {
            "task": Unicode(),
            "first_observation": Unicode(),
            "history": spaces.Sequence(turn_view),
            "turn": spaces.Discrete(limits.max_turns + 1),
            "max_turns": spaces.Discrete(limits.max_turns + 1),
            "budget_left_usd": spaces.Box(0.0, high, shape=(1,), dtype=np.float32),
            "budget_usd": spaces.Box(0.0, high, shape=(1,), dtype=np.float32),
            "warm": spaces.MultiBinary(n_models),
            "action_mask": spaces.MultiBinary(n_models),
        }
    )


@dataclass(kw_only=True)
class _Paid:
    """All that is billed in one turn."""

    router_cost_usd: float
    usages: list[TokenUsage] = field(default_factory=list)
    calls_usd: float = 0.0
    latency_s: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def usage(self) -> TokenUsage:
        return functools.reduce(operator.add, self.usages)

    @property
    def cost_usd(self) -> float:
        return self.calls_usd + self.router_cost_usd

    def add(self, reply: Reply, cost_usd: float) -> None:
        self.usages.append(reply.usage)
        self.calls_usd += cost_usd
        self.latency_s += reply.latency_s

    def hidden(self) -> dict[str, JsonValue]:
        """What a log needs to tell why a turn has the tokens of several calls; nothing where it has those of one."""
        several: dict[str, JsonValue] = {"n_calls": len(self.usages)} if len(self.usages) > 1 else {}
        return several | ({"wasted_calls": list(self.problems)} if self.problems else {})


class RoutingEnv(gymnasium.Env[Observation, int]):
    """Gymnasium environment of turn-by-turn model routing.

    Observation: `mtrouter_rl.records.Observation`. Action: index into the pool. Reward: utility gained this turn minus
    `cost_weight` times the turn's cost in cost units. `terminated`: the task itself ended. `truncated`: the turn limit is
    reached, or no model's worst-case call fits the remaining budget and its context window any more.

    A model is allowed if its worst-case call (the known prompt with nothing cached, the longest output it may give, its
    prices) fits the remaining budget, and prompt and output fit its context window: the budget can never be exceeded. If
    no model is allowed at reset the mask is all zero and no money can be spent at all; the rollout logs such an episode
    with zero turns.

    A backend that knows bills and no tokens (`mtrouter_rl.protocols.BilledBackend`) is booked at its bills. What a call of it
    may cost at most is then the backend's word, and context windows mask nothing: the logged calls have fitted.

    A `mtrouter_rl.protocols.SelectiveBackend` rules out further models, such as those that cannot take over this history. A
    turn is billed for all that was paid in it: a call whose answer could not be used is booked, and the same model is called
    again while its worst case fits the budget, at most `MAX_WASTED_CALLS` times; with a harness, a reply without an action
    is answered once. If no action comes of it, the turn is of error kind "malformed_reply" and the task does not move.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - Gymnasium declares it on the instance
        "render_modes": ["ansi"],
        "render_fps": 1,
    }

    def __init__(
        self,
        *,
        task: TextTask,
        backend: ModelBackend,
        pool: PoolCard,
        specs: Sequence[EpisodeSpec],
        system_prompt: str,
        limits: EpisodeLimits,
        reward: RewardCard,
        harness: HarnessCard | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Create the environment; nothing is started before `reset`.

        Args:
            task: The text task that actions are executed in.
            backend: Who answers model calls.
            pool: The M models.
            specs: Episodes that `reset` draws from when it is told none; its seed then replaces theirs.
            system_prompt: First message of every conversation.
            limits: Turns, budget, output.
            reward: Cost weight and unit.
            harness: Prompts and form of the action; None for the plain conversation.
            render_mode: "ansi" for a text of the last turn, or None.

        Raises:
            CardError: If a template of the harness cannot be compiled.
            InvalidConfigError: If there is no episode to draw from, the render mode is unknown, or the harness lists actions
                and the task cannot.
        """
        if not specs:
            raise InvalidConfigError("specs is empty, must hold at least one episode; choose a split that has tasks")
        if render_mode not in (None, "ansi"):
            raise InvalidConfigError(f"render_mode is {render_mode!r}, must be 'ansi' or None")
        self.pool = pool
        self.limits = limits
        self.reward_card = reward
        self.render_mode = render_mode
        self.action_space = spaces.Discrete(len(pool.models))  # type: ignore[assignment]
        self.observation_space = observation_space(len(pool.models), limits)  # type: ignore[assignment]
        self._task = task
        self._backend = backend
        self._billed = backend if isinstance(backend, BilledBackend) else None
        self._selective = backend if isinstance(backend, SelectiveBackend) else None
        self._specs = tuple(specs)
        self._harness = Harness(harness, system_prompt, pool.token_counter)
        if self._harness.lists_actions and not isinstance(task, ListingTask):
            raise InvalidConfigError(
                f"harness.lists_actions is true, but {type(task).__name__} has no possible_actions(); leave it out"
            )
        self._is_running = False
        self._spent_usd = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: Seeds the draw of the episode and, unless the options name one, the episode itself.
            options: `{"spec": EpisodeSpec}` to run that episode; otherwise one is drawn from the split.

        Returns:
            The first observation, and an info with `spec`, `utility` and `budget_left_usd`.

        Raises:
            InvalidConfigError: If an option is unknown or the spec is none.
            SimulatorError: If the simulator cannot be started.
        """
        super().reset(seed=seed)
        self._is_running = False
        self._spent_usd = self._charged_usd = 0.0
        self.spec_of_episode = self._choose_spec(options or {})
        spec = self.spec_of_episode
        start = self._task.reset(spec.task, spec.variation, spec.seed)
        self._backend.start_episode(task=self._task, task_name=spec.task, variation=spec.variation, seed=spec.seed)
        self._task_text = start.task_text
        self._first_observation = start.observation
        self._score = start.score
        self._utility = start.score / self._task.max_score
        self._messages = self._harness.start(start.task_text, start.observation, self._possible_actions())
        self._n_prompt = self._harness.count(self._messages)
        self._shortened: dict[str, tuple[Sequence[Message], int]] = {}
        self._hindrances: Mapping[str, str] = {}
        self._history: tuple[TurnView, ...] = ()
        self._clock_s = 0.0
        self._prompt_cache = PromptCache(self.pool.prompt_cache, self.pool.bases)
        self._last_step: TaskStep | None = None
        self._is_running = True
        info = {"spec": spec, "utility": self._utility, "budget_left_usd": self.budget_left_usd}
        return self._observe(), info

    def step(self, action: int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Let one model act for one turn.

        Args:
            action: Index of the model in the pool.

        Returns:
            Observation, reward, terminated, truncated, and an info with everything that a log needs: `model`,
            `served_model`, `action_text`, `observation_text`, `usage` (TokenUsage), `cost_usd`, `router_cost_usd`,
            `utility_gain`, `utility`, `error`, `ending`, `latency_s`, `budget_left_usd`; and apart, under `hidden`, what only
            a simulator knows.

        Raises:
            CallOrderError: If called before `reset` or after the episode ended.
            InvalidConfigError: If the action is no index of the pool.
            MaskedActionError: If the model is not allowed this turn; names it, the price of the call and what is left.
            BackendError: If the call failed, used more tokens than it was allowed, or was served by a model without a price.
            SimulatorError: If the task broke; the call before it is paid, and the episode is over.
        """
        if not self._is_running:
            raise CallOrderError("step() was called before reset() or after the episode ended; call reset() first")
        if not self.action_space.contains(action):
            raise InvalidConfigError(f"action is {action!r}, must be an index in 0..{len(self.pool.models) - 1}")
        card = self.pool.models[int(action)]
        self._refuse_masked(card)
        paid = _Paid(router_cost_usd=self._charged_usd)
        reply = self._called(card, paid)
        said = self._harness.said(reply, card.name)
        read = self._harness.read(reply)
        if read.problem and self._is_allowed(card):
            self._extend(said, *self._harness.reminds(said, read.problem))
            reply = self._called(card, paid)
            said = self._harness.said(reply, card.name)
            read = self._harness.read(reply)
        self._is_running = False  # the money is spent: if the task breaks now, the episode cannot go on
        if read.problem:
            answers = self._harness.reminds(said, read.problem)
            step = TaskStep(observation=answers[0].content, score=self._score, error=MALFORMED)
            action_text = reply.text
        else:
            step = self._task.step(read.action)
            actions = () if step.ending else self._possible_actions()
            answers = self._harness.answers(said, step.observation, actions)
            action_text = read.action
        self._extend(said, *answers)
        self._charged_usd = 0.0
        return self._advance(int(action), action_text=action_text, reply=reply, step=step, paid=paid)

    def render(self) -> str | None:  # type: ignore[override]
        """Text of the last turn, in render mode "ansi"."""
        if self.render_mode != "ansi":
            return None
        if not self._history:
            return f"{self._task_text}\n{self._first_observation}"
        turn = self._history[-1]
        return f"[{self.pool.models[turn['model']].name}] > {turn['action']}\n{turn['observation']}"

    def close(self) -> None:
        """Close the text task and whatever it runs."""
        self._is_running = False
        self._task.close()

    @property
    def is_billed(self) -> bool:
        """Whether costs are bills of the backend, and no tokens are known."""
        return self._billed is not None

    @property
    def budget_left_usd(self) -> float:
        """Money left in this episode, USD."""
        return max(self.limits.budget_usd - self._spent_usd, 0.0)

    def action_masks(self, *, reserve_usd: float = 0.0) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which models are allowed this turn, shape (M,); the name is the one that sb3-contrib looks for.

        Args:
            reserve_usd: Money that is to be left besides, USD, such as for the decision itself.
        """
        allowed = [self._is_allowed(card, reserve_usd=reserve_usd) for card in self.pool.models]
        return np.array(allowed, dtype=np.bool_)

    def charge(self, cost_usd: float) -> None:
        """Book what the next turn's decision cost; the turn's cost includes it.

        Raises:
            CallOrderError: If no episode is running.
            BackendError: If the cost is no amount, or more than is left.
        """
        if not self._is_running:
            raise CallOrderError("charge() was called while no episode is running; call reset() first")
        if not 0 <= cost_usd <= self.budget_left_usd + MONEY_TOLERANCE_USD:
            raise BackendError(
                f"the decision of turn {len(self._history)} cost {cost_usd} USD, must be from 0 to the "
                f"{self.budget_left_usd:.6f} that are left; correct the router's most_usd()"
            )
        self._spent_usd += cost_usd
        self._charged_usd += cost_usd

    def hidden_state(self) -> HiddenState:
        """What only the simulator knows before this turn, for reference policies; no observation holds any of it.

        Raises:
            CallOrderError: If no episode is running.
            InvalidConfigError: If the backend has no hidden state: models behind an endpoint have none that can be read.
        """
        if not self._is_running:
            raise CallOrderError("hidden_state() was called while no episode is running; call reset() first")
        if not isinstance(self._backend, HiddenStateBackend):
            raise InvalidConfigError(
                f"pool '{self.pool.name}', backend '{self.pool.backend.kind}': it knows no hidden state; a reference policy "
                "that sees it needs simulated models"
            )
        return self._backend.hidden_state(
            utility=self._utility,
            n_prompt_tokens=self._n_prompt,
            output_limits=[self._n_output_limit(card) for card in self.pool.models],
        )

    def _choose_spec(self, options: Mapping[str, Any]) -> EpisodeSpec:
        unknown = sorted(set(options) - {"spec"})
        if unknown:
            raise InvalidConfigError(f"reset options {unknown} are unknown; the only one is 'spec' (an EpisodeSpec)")
        if "spec" in options:
            if not isinstance(options["spec"], EpisodeSpec):
                raise InvalidConfigError(f"reset option 'spec' is {options['spec']!r}, must be an EpisodeSpec")
            return options["spec"]
        drawn = self._specs[int(self.np_random.integers(len(self._specs)))]
        episode_seed = int(self.np_random.integers(2**31 - 1))
        return EpisodeSpec(task=drawn.task, variation=drawn.variation, seed=episode_seed, split=drawn.split)

    def _n_output_limit(self, card: ModelCard) -> int:
        return min(card.max_output_tokens, self.limits.max_output_tokens)

    def _possible_actions(self) -> Sequence[str]:
        return self._task.possible_actions() if self._harness.lists_actions else ()  # type: ignore[attr-defined]

    def _extend(self, *messages: Message) -> None:
        self._messages.extend(messages)
        self._shortened.clear()
        self._n_prompt += sum(map(self._harness.count_one, messages))

    def _prompt_for(self, card: ModelCard) -> tuple[Sequence[Message], int]:
        """The conversation as a model is shown it, and its number of tokens."""
        n_most = card.context_tokens - self._n_output_limit(card)
        if self._n_prompt <= n_most:
            return self._messages, self._n_prompt
        if card.name not in self._shortened:
            self._shortened[card.name] = self._harness.fit(self._messages, n_most=n_most)
        return self._shortened[card.name]

    def _worst_case_usd(self, card: ModelCard) -> float:
        if self._billed is not None:
            return self._billed.most_usd(card.name)
        return card.prices.worst_case_usd(n_prompt=self._prompt_for(card)[1], n_output=self._n_output_limit(card))

    def _fits_context(self, card: ModelCard) -> bool:
        if self._billed is not None:
            return True
        return self._prompt_for(card)[1] + self._n_output_limit(card) <= card.context_tokens

    def _is_allowed(self, card: ModelCard, *, reserve_usd: float = 0.0) -> bool:
        return (
            card.name not in self._hindrances
            and self._fits_context(card)
            and self._worst_case_usd(card) + reserve_usd <= self.budget_left_usd
        )

    def _called(self, card: ModelCard, paid: "_Paid") -> Reply:
        """Call a model until it gives an answer that can be used, and book all that was billed.

        Raises:
            BackendError: If it gives none.
        """
        while True:
            messages, n_prompt = self._prompt_for(card)
            turn, n_most = len(self._history), self._n_output_limit(card)
            try:
                reply = self._backend.reply(card.name, messages, turn=turn, max_output_tokens=n_most)
            except WastedCallError as error:
                wasted = Reply(text="", usage=error.usage, latency_s=0.0, served_model=card.name)
                paid.add(wasted, self._book(card, wasted, n_prompt=n_prompt))
                paid.problems.append(str(error))
                if len(paid.problems) > MAX_WASTED_CALLS or not self._is_allowed(card):
                    raise
                continue
            paid.add(reply, self._book(card, reply, n_prompt=n_prompt))
            return reply

    def _refuse_masked(self, card: ModelCard) -> None:
        if card.name in self._hindrances:
            raise MaskedActionError(
                f"model '{card.name}' is not allowed at turn {len(self._history)}: {self._hindrances[card.name]}; "
                "choose a model that the action mask allows"
            )
        if not self._fits_context(card):
            raise MaskedActionError(
                f"model '{card.name}' is not allowed at turn {len(self._history)}: prompt of {self._prompt_for(card)[1]} "
                f"tokens and output of up to {self._n_output_limit(card)} do not fit its context of {card.context_tokens}; "
                "choose a model that the action mask allows"
            )
        if not self._is_allowed(card):
            raise MaskedActionError(
                f"model '{card.name}' is not allowed at turn {len(self._history)}: its call may cost "
                f"{self._worst_case_usd(card):.6f} USD and {self.budget_left_usd:.6f} USD are left; "
                "choose a model that the action mask allows"
            )

    def _book(self, card: ModelCard, reply: Reply, *, n_prompt: int) -> float:
        """Price of the call, USD; refuses a reply that used more than the call was allowed."""
        usage = reply.usage
        if reply.served_model not in self.pool.model_names:
            unknown = unknown_name(f"model of pool '{self.pool.name}'", reply.served_model, self.pool.model_names)
            raise BackendError(
                f"model '{card.name}', turn {len(self._history)}: served by {unknown}; it has no price here"
            )
        counts = (usage.n_fresh, usage.n_cached, usage.n_written, usage.n_output)
        if min(counts) < 0 or not 0 <= reply.latency_s < math.inf:
            raise BackendError(
                f"model '{card.name}', turn {len(self._history)}: the reply counts {usage} in {reply.latency_s} s; tokens and "
                "seconds must be finite and at least 0, or a call would give money back"
            )
        cost_usd = self._cost_usd(card, reply)
        if usage.n_output > self._n_output_limit(card) or cost_usd > self.budget_left_usd + MONEY_TOLERANCE_USD:
            raise BackendError(
                f"model '{card.name}', turn {len(self._history)}: the reply used {usage.n_prompt} prompt and "
                f"{usage.n_output} output tokens for {cost_usd:.6f} USD, but the prompt was counted as {n_prompt}, the "
                f"output limit was {self._n_output_limit(card)} and {self.budget_left_usd:.6f} USD were left; "
                "use the token counter 'utf8_bytes' in the pool card if the endpoint counts more tokens than estimated"
            )
        self._prompt_cache.record(reply.served_model, n_prompt=usage.n_prompt, now_s=self._clock_s)
        self._clock_s += reply.latency_s
        self._spent_usd += cost_usd
        return cost_usd

    def _cost_usd(self, card: ModelCard, reply: Reply) -> float:
        """The bill where there is one, tokens times prices otherwise; a bill has to keep what was said of it before."""
        if self._billed is not None:
            most = self._billed.most_usd(card.name)
            if reply.cost_usd is None or not 0 <= reply.cost_usd <= most + MONEY_TOLERANCE_USD:
                raise BackendError(
                    f"model '{card.name}', turn {len(self._history)}: the reply was billed at {reply.cost_usd} USD, must be "
                    f"from 0 to {most:.6f}, which the backend gave as the most that the call costs; correct its most_usd()"
                )
            return reply.cost_usd
        if reply.cost_usd is not None:
            raise BackendError(
                f"model '{card.name}', turn {len(self._history)}: the reply has a bill of {reply.cost_usd} USD, but backend "
                f"'{self.pool.backend.kind}' has no most_usd(); add it, or leave the bill out"
            )
        return self.pool.model(reply.served_model).prices.cost_usd(reply.usage)

    def _advance(
        self, action: int, *, action_text: str, reply: Reply, step: TaskStep, paid: "_Paid"
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        utility = step.score / self._task.max_score
        utility_gain = utility - self._utility
        self._score, self._utility = step.score, utility
        view = TurnView(model=action, action=action_text, observation=step.observation, error=step.error)
        self._history = (*self._history, view)
        observation = self._observe()
        terminated = step.ending != ""
        is_out_of_turns = len(self._history) >= self.limits.max_turns
        truncated = is_out_of_turns or (not terminated and not observation["action_mask"].any())
        self._is_running = not (terminated or truncated)
        info = {
            "spec": self.spec_of_episode,
            "model": self.pool.models[action].name,
            "served_model": reply.served_model,
            "action_text": action_text,
            "observation_text": step.observation,
            "usage": paid.usage,
            "cost_usd": paid.cost_usd,
            "router_cost_usd": paid.router_cost_usd,
            "utility_gain": utility_gain,
            "utility": utility,
            "error": step.error,
            "ending": step.ending,
            "latency_s": paid.latency_s,
            "budget_left_usd": self.budget_left_usd,
            "hidden": {**reply.hidden, **step.hidden, **paid.hidden()},
        }
        reward = self.reward_card.reward(utility_gain, paid.cost_usd)
        return observation, float(reward), terminated, truncated, info

    def _observe(self) -> Observation:
        if self._selective is not None:
            self._hindrances = dict(self._selective.not_callable(self._messages))
        warm = [self._prompt_cache.is_warm(name, now_s=self._clock_s) for name in self.pool.model_names]
        return Observation(
            task=self._task_text,
            first_observation=self._first_observation,
            history=self._history,
            turn=np.int64(len(self._history)),
            max_turns=np.int64(self.limits.max_turns),
            budget_left_usd=np.array([self.budget_left_usd], dtype=np.float32),
            budget_usd=np.array([self.limits.budget_usd], dtype=np.float32),
            warm=np.array(warm, dtype=np.int8),
            action_mask=self.action_masks().astype(np.int8),
        )
