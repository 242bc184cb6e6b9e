"""The seams, all in one place: what a task, a model backend, a text encoder and a router have to do.

They are structural protocols: a third party implements the methods and needs to inherit nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from mtrouter_rl.errors import BackendError
from mtrouter_rl.records import BoolArray, FloatArray, JsonValue, Message, Observation, TokenUsage

Ending = Literal["", "solved", "failed", "handed_in"]
"""How the task itself ended; empty while it goes on. A limit outside the task is no ending."""


@dataclass(frozen=True, kw_only=True)
class TaskStart:
    """What a text task shows at reset.

    Attributes:
        task_text: What has to be done, in words.
        observation: First observation.
        score: Score before the first action, same unit as `TaskStep.score`.
    """

    task_text: str
    observation: str
    score: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TaskStep:
    """What a text task answers to one action.

    Attributes:
        observation: Text that the environment prints.
        score: Score so far (not the gain), at most `TextTask.max_score`.
        ending: How the task ended with this action; empty while it goes on.
        error: Kind of error that the action was ("unknown_action", "ambiguous", ...); empty if it was understood.
        hidden: What only the task knows about this step, such as a judge's own cost; logged apart, never shown to a router.
    """

    observation: str
    score: float
    ending: Ending = ""
    error: str = ""
    hidden: Mapping[str, JsonValue] = field(default_factory=dict)


@runtime_checkable
class TextTask(Protocol):
    """A long-horizon environment that is played in text.

    Attributes:
        max_score: Score of full success; utility is score / max_score.
    """

    max_score: float

    def reset(self, task: str, variation: int, seed: int) -> TaskStart:
        """Start an episode. The same arguments must give the same episode.

        Raises:
            UnknownNameError: If there is no such task.
            InvalidConfigError: If the task has no such variation.
            SimulatorError: If the simulator cannot be started.
        """

    def step(self, action_text: str) -> TaskStep:
        """Execute one action. Any text is allowed; what is not understood is an error kind, never an exception.

        Raises:
            CallOrderError: If called before `reset` or after the task ended.
            SimulatorError: If the simulator breaks.
        """

    def close(self) -> None:
        """Release processes and memory. May be called twice; a later `reset` starts anew."""


@runtime_checkable
class ListingTask(TextTask, Protocol):
    """A text task that can list what may be done now, for prompts that name it."""

    def possible_actions(self) -> Sequence[str]:
        """Actions that the task understands in the present state.

        Raises:
            CallOrderError: If called before `reset` or after the task ended.
        """


@runtime_checkable
class ExpertTask(TextTask, Protocol):
    """A text task that also knows what an expert would do next; simulated models need it."""

    def expert_action(self) -> str:
        """Next action of an expert that re-plans after any deviation.

        Raises:
            CallOrderError: If called before `reset` or after the task ended.
        """

    def mistakes(self) -> Mapping[str, Sequence[str]]:
        """Plausible wrong actions in the present state, by kind; a kind without any action is left out.

        Kinds: "idle" (loses a turn), "wander" (leads away), "drop" (loses something), "fatal" (ends the task badly).
        """


@dataclass(frozen=True, kw_only=True)
class ExpertPlan:
    """What an expert still has to do from the present state, if nothing goes wrong.

    Attributes:
        actions: Its actions, the one that is due first; at least one.
        gains: Score that each of them brings, same length, same unit as `TaskStep.score`; None where nobody knows.
        fatal_score: Score at which a fatal mistake ends the task; None where it stays as it is.
    """

    actions: tuple[str, ...]
    gains: tuple[float, ...] | None = None
    fatal_score: float | None = None


@runtime_checkable
class PlanningTask(ExpertTask, Protocol):
    """A task whose expert also tells its whole plan. Reference policies plan along it; nothing else needs it."""

    def expert_plan(self) -> ExpertPlan:
        """Plan from the present state to the end of the task; its first action is `expert_action()`.

        Raises:
            CallOrderError: If called before `reset` or after the task ended.
        """


class WastedCallError(BackendError):
    """A model call was billed and gave no answer that can be used: a cut stream, another model's answer, broken JSON.

    Attributes:
        usage: Tokens that were billed.
        served_model: Who answered, as far as the reply says; empty if it does not.
    """

    def __init__(self, message: str, *, usage: TokenUsage, served_model: str = "") -> None:
        super().__init__(message)
        self.usage = usage
        self.served_model = served_model

    def __reduce__(self) -> tuple[object, ...]:
        """Worker processes hand it back whole."""
        return _wasted, (str(self), self.usage, self.served_model)


def _wasted(message: str, usage: TokenUsage, served_model: str) -> WastedCallError:
    return WastedCallError(message, usage=usage, served_model=served_model)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a model call gives.

    Attributes:
        text: The reply: the action to execute.
        usage: Tokens as billed.
        latency_s: Duration of the call, seconds.
        served_model: Model that really answered.
        cost_usd: What the call cost, USD, where that is known and its tokens are not, as of a `BilledBackend`; None where
            tokens times prices say it.
        message: The assistant message itself, with tool calls and thinking; None if it is the text alone.
        hidden: What only a simulator or an endpoint knows about this reply; logged apart, never shown to a router.
    """

    text: str
    usage: TokenUsage
    latency_s: float
    served_model: str
    cost_usd: float | None = None
    message: Message | None = None
    hidden: Mapping[str, JsonValue] = field(default_factory=dict)


@runtime_checkable
class ModelBackend(Protocol):
    """Whoever answers model calls: simulated models, or an endpoint over the network."""

    def start_episode(self, *, task: TextTask, task_name: str, variation: int, seed: int) -> None:
        """Told at every reset. An endpoint has nothing to do here; a simulation binds to the task and seeds itself."""

    def reply(self, model: str, messages: Sequence[Message], *, turn: int, max_output_tokens: int) -> Reply:
        """Call a model.

        Args:
            model: Name as in the pool card.
            messages: The whole conversation, oldest first.
            turn: Turn index of the episode, from 0.
            max_output_tokens: Output limit of this call.

        Raises:
            UnknownNameError: If the model is not in the pool.
            BackendError: If the call failed; a failed call is neither free nor a zero score.
            WastedCallError: If it was billed and gave no answer that can be used.
        """


@runtime_checkable
class SelectiveBackend(ModelBackend, Protocol):
    """A backend that knows of models that cannot be called now: out of order, or unable to take over this history."""

    def not_callable(self, messages: Sequence[Message]) -> Mapping[str, str]:
        """Model -> why it cannot be called for this conversation now. The action mask rules them out for this turn."""


@runtime_checkable
class BilledBackend(ModelBackend, Protocol):
    """A backend that knows bills and no tokens, such as a log of costs: every `Reply` of it has a `cost_usd`.

    Prices and context windows of the pool then decide nothing: what may be called is what `most_usd` says fits the budget.
    """

    def most_usd(self, model: str) -> float:
        """What the next call of a model costs at most, USD; the same for every task, so that no mask tells of the future.

        Raises:
            UnknownNameError: If the model is not in the pool.
        """


@dataclass(frozen=True, kw_only=True)
class HiddenState:
    """What only a simulator knows of the present state. No router sees it: it is for reference policies alone.

    It holds probabilities, not luck: whether the call of this turn would succeed is not in it. L is the number of planned
    actions, M the number of models in pool order.

    Attributes:
        actions: What the expert has to do, the action that is due first, length L >= 1.
        skills: Skill of each action.
        topic: Topic of the task.
        is_whole_plan: Whether the actions reach the end of the task; else only the one that is due is known.
        gains: Utility that each action brings, shape (L,); None where nobody knows.
        utility: Utility so far.
        fatal_utility: Utility at which a fatal failure ends the task; None where it stays as it is.
        success: Probability that a model does an action if it is not stuck at it, shape (L, M).
        stuck: Which models are stuck at which action in this episode, and so never do it, shape (L, M).
        often_stuck: Probability that a model is stuck at an action, to one who has seen nothing of this episode, shape (M,).
        believed_stuck: Probability that they are, to one who knows how often models get stuck and has seen this episode's
            failures, but does not see `stuck`, shape (L, M).
        failures: Share of every kind of failure among the failures of a model at an action, kind -> shape (L, M).
        repairs: Probability that a model does the action that makes up for a failure of that kind, kind -> shape (M,).
        n_output_tokens: Expected length of a reply, shape (M,).
        n_prompt_tokens: Length of the next prompt.
        n_cached_tokens: Part of it that a model would read from its prompt cache, shape (M,).
    """

    actions: tuple[str, ...]
    skills: tuple[str, ...]
    topic: str
    is_whole_plan: bool
    gains: FloatArray | None
    utility: float
    fatal_utility: float | None
    success: FloatArray
    stuck: BoolArray
    often_stuck: FloatArray
    believed_stuck: FloatArray
    failures: Mapping[str, FloatArray]
    repairs: Mapping[str, FloatArray]
    n_output_tokens: FloatArray
    n_prompt_tokens: int
    n_cached_tokens: FloatArray


@runtime_checkable
class HiddenStateBackend(ModelBackend, Protocol):
    """A backend that knows what is hidden from routers: simulated models do, an endpoint cannot."""

    def hidden_state(self, *, utility: float, n_prompt_tokens: int, output_limits: Sequence[int]) -> HiddenState:
        """The hidden state before the next call.

        Args:
            utility: Utility so far, which the environment knows.
            n_prompt_tokens: Length of the next prompt.
            output_limits: Output limit of the next call, by model in pool order.

        Raises:
            CallOrderError: If no episode has been started.
        """


@runtime_checkable
class HiddenStatePolicy(Protocol):
    """A policy that sees the hidden state. It is no `Router`, on purpose: nobody could deploy it.

    Attributes:
        name: Name in tables.
        model_names: Names of the pool that it was made for, in pool order, length M.
    """

    name: str
    model_names: tuple[str, ...]

    def privileged_action_probabilities(self, observation: Observation, hidden: HiddenState) -> FloatArray:
        """Probability of every model, shape (M,); sums to 1, and masked models have probability 0."""


@runtime_checkable
class TextEncoder(Protocol):
    """A frozen text encoder.

    Attributes:
        name: Identifies encoder, weights and settings: two encoders with one name give the same vectors.
        dim: Size E of a vector.
    """

    name: str
    dim: int

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Encode texts, one row each, shape (len(texts), dim), unit length (the empty text may be all zero)."""


@runtime_checkable
class Router(Protocol):
    """A routing policy: a distribution over the allowed models at every turn.

    A router is a function of the observation alone. Whatever it keeps between calls is a cache that changes no number.

    Attributes:
        name: Name in logs, tables and plots.
        model_names: Names of the pool that it was made for, in pool order, length M.
    """

    name: str
    model_names: tuple[str, ...]

    def action_probabilities(self, observations: Sequence[Observation]) -> FloatArray:
        """Probability of every model for a batch of B observations, shape (B, M).

        Rows sum to 1; masked models have probability 0. Greedy routers are one-hot.
        """


@dataclass(frozen=True, kw_only=True)
class PaidDecision:
    """What a router that pays for its decisions decided.

    Attributes:
        probabilities: Probability of every model, shape (M,); sums to 1, and masked models have probability 0.
        cost_usd: What the decision cost, USD, at most what `PaidRouter.most_usd` said.
        hidden: What was asked and answered, for the log's hidden part.
    """

    probabilities: FloatArray
    cost_usd: float
    hidden: Mapping[str, JsonValue] = field(default_factory=dict)


@runtime_checkable
class PaidRouter(Router, Protocol):
    """A router whose decisions cost money, such as a language model that is asked which model to call.

    The cost is booked on the turn that is decided, as `Turn.router_cost_usd`, and counts against the episode's budget. If the
    budget does not hold a decision and a call, `action_probabilities` decides, which must be free.
    """

    def most_usd(self, observation: Observation) -> float:
        """What a decision costs at most, USD."""

    def decide(self, observation: Observation) -> PaidDecision:
        """Decide, and say what it cost.

        Raises:
            BackendError: If the model cannot be asked; the episode then fails.
        """


@runtime_checkable
class ValueRouter(Router, Protocol):
    """A router that also has action values."""

    def q_values(self, observations: Sequence[Observation]) -> FloatArray:
        """Action values for a batch of B observations, shape (B, M)."""


@runtime_checkable
class ExplainingRouter(Router, Protocol):
    """A router that can say more of a decision than its values do."""

    def explain(self, observation: Observation) -> str:
        """Why it chooses as it does, in a phrase."""


@runtime_checkable
class PricedRouter(Router, Protocol):
    """A router that can act at any cost weight of a range."""

    def at(self, cost_weight: float) -> Router:
        """The router that acts at another cost weight, named `NAME@WEIGHT`.

        Raises:
            InvalidConfigError: If the weight is outside the range.
        """

    def cost_weight_grid(self, n: int) -> tuple[float, ...]:
        """Some n cost weights that cover the range, ascending."""


@runtime_checkable
class SavableRouter(Router, Protocol):
    """A router that can be stored in a folder and read back without pickles."""

    def save(self, folder: Path) -> None:
        """Write `router.json` (config, pool, provenance) and, if there are any, `weights.safetensors`."""


class MetricSink(Protocol):
    """Where training writes its curves; `mtrouter_rl.reporting.tensorboard.sink` has the one for TensorBoard."""

    def scalar(self, name: str, value: float, step: int) -> None:
        """Record one point of a curve. `name` is one of `mtrouter_rl.metric_names`."""
