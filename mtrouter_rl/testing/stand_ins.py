"""Scripted stand-ins for the seams of `mtrouter_rl.protocols`: a task, a backend and a router that do as they are told.

For tests of this package and of whoever plugs something in: no simulator, no network, no randomness of their own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.errors import CallOrderError, MTRouterError
from mtrouter_rl.protocols import Reply, TaskStart, TaskStep, TextTask
from mtrouter_rl.records import FloatArray, Message, Observation, TokenUsage


class ScriptedTask:
    """A `TextTask` that plays a fixed list of steps, whatever the actions are.

    Attributes:
        max_score: Score of full success.
        actions: What was played in the present episode.
        n_resets: How many episodes were started.
        n_closed: How often `close` was called.
    """

    def __init__(
        self,
        steps: Sequence[TaskStep | MTRouterError],
        *,
        start: TaskStart | None = None,
        max_score: float = 100.0,
    ) -> None:
        """Create the task.

        Args:
            steps: What each action is answered with, at least one; the last is repeated. An error is raised instead.
            start: What reset shows; None takes a short text.
            max_score: Score of full success.
        """
        self._steps = tuple(steps)
        self._start = start or TaskStart(task_text="Do as scripted.", observation="It begins.")
        self._is_running = False
        self.max_score = max_score
        self.actions: list[str] = []
        self.n_resets = 0
        self.n_closed = 0

    def reset(self, task: str, variation: int, seed: int) -> TaskStart:
        """Start the script again; the arguments change nothing."""
        self._is_running = True
        self.actions = []
        self.n_resets += 1
        return self._start

    def step(self, action_text: str) -> TaskStep:
        """Play the next step of the script.

        Raises:
            CallOrderError: If called before `reset` or after the script ended the task.
            MTRouterError: If the script says so.
        """
        if not self._is_running:
            raise CallOrderError("the scripted task is not running; call reset() first")
        step = self._steps[min(len(self.actions), len(self._steps) - 1)]
        self.actions.append(action_text)
        if isinstance(step, MTRouterError):
            raise step
        self._is_running = step.ending == ""
        return step

    def close(self) -> None:
        """Count the call; nothing to release."""
        self._is_running = False
        self.n_closed += 1


@dataclass(frozen=True, kw_only=True)
class ModelCall:
    """One call as a `ScriptedBackend` received it.

    Attributes:
        model: Name of the model.
        messages: The conversation at that time.
        turn: Turn index.
        max_output_tokens: Output limit of the call.
        n_prompt: Tokens of the conversation by the pool's own counter.
    """

    model: str
    messages: tuple[Message, ...]
    turn: int
    max_output_tokens: int
    n_prompt: int


@dataclass(kw_only=True)
class ScriptedBackend:
    """A `ModelBackend` that answers with a function of the call.

    Attributes:
        pool: The pool, for its token counter.
        answer: Reply to a call; `plain_reply` is one. May raise `BackendError`.
        calls: Every call so far, over all episodes.
    """

    pool: PoolCard
    answer: Callable[[ModelCall], Reply]
    calls: list[ModelCall] = field(default_factory=list)

    def start_episode(self, *, task: TextTask, task_name: str, variation: int, seed: int) -> None:
        """Nothing to do."""

    def reply(self, model: str, messages: Sequence[Message], *, turn: int, max_output_tokens: int) -> Reply:
        """Record the call and answer it."""
        call = ModelCall(
            model=self.pool.model(model).name,
            messages=tuple(messages),
            turn=turn,
            max_output_tokens=max_output_tokens,
            n_prompt=sum(self.pool.token_counter.count(message.content) for message in messages),
        )
        self.calls.append(call)
        return self.answer(call)


def plain_reply(call: ModelCall) -> Reply:
    """A short reply in one second, its whole prompt billed as fresh, one output token."""
    return Reply(
        text=f"act {call.turn}",
        usage=TokenUsage(n_fresh=call.n_prompt, n_output=1),
        latency_s=1.0,
        served_model=call.model,
    )


@dataclass(frozen=True, kw_only=True)
class ScriptedRouter:
    """A `Router` whose distribution is a function of the observation.

    Attributes:
        name: Name in logs.
        model_names: Names of the pool, length M.
        decide: Probability of every model for one observation, length M.
    """

    name: str
    model_names: tuple[str, ...]
    decide: Callable[[Observation], Sequence[float]]

    def action_probabilities(self, observations: Sequence[Observation]) -> FloatArray:
        """Probability of every model, shape (B, M); given on unchecked."""
        return np.array([self.decide(observation) for observation in observations], dtype=np.float64)
