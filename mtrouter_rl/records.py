"""The typed words that every other module shares: messages, token usage, turns and episodes.

Everything here is frozen. The dataclasses hold plain Python values, so that a record can be compared, pickled to a worker
process and written to Parquet without a converter of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypedDict

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

FloatArray = npt.NDArray[np.floating]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.integer]

JsonValue = str | int | float | bool | None | list["JsonValue"] | dict[str, "JsonValue"]

Count = Annotated[int, Field(ge=0)]
PositiveInt = Annotated[int, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Ends = tuple[float, float]
"""(low, high) of an interval."""

EpisodeKey = tuple[str, int, int]
"""(task, variation, seed): what evaluation pairs episodes of different policies by."""

SCORE_PER_UTILITY = 100.0
"""Score of full success: score = 100 * utility, as the paper's tables print it."""

Split = Literal["train", "validation", "test", "ood"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test", "ood")

EpisodeStatus = Literal["completed", "failed"]
"""`completed`: the episode ran to its end and counts. `failed`: it broke for outside reasons (a backend or simulator
error); it is stored and counted, and never scored."""

UsageSource = Literal["logged", "reconstructed", "cost_only"]
"""`logged`: the tokens of every call are those that were billed. `reconstructed`: they were worked out from totals or
texts by a stated rule, and so was the cost. `cost_only`: the log says what calls cost and nothing of tokens; the counts are
all 0 and stand for nothing, and the cost is the log's own, whatever the prices of the pool."""

UNLIMITED_BUDGET_USD = 1e6
"""Budget of an imported episode that was run without one: more than any episode can spend."""

UNLIMITED_TURNS = 1_000_000
"""Turn limit of an imported episode that was run without one, as far as the log says. Never its own length: nobody knows that
before it is over, so a router that was shown it would learn from hindsight."""


class Frozen(BaseModel):
    """Base of everything that is read from a file: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FiniteRecord(Frozen):
    """Base of the records of result files: as `Frozen`, and no NaN or infinity anywhere."""

    model_config = ConfigDict(allow_inf_nan=False, populate_by_name=True)


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A tool that an assistant message calls.

    Attributes:
        id: What the message that answers it names it by.
        name: Name of the tool.
        arguments: JSON text.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, kw_only=True)
class Message:
    """One chat message, as every chat-completion endpoint takes it.

    Attributes:
        role: "system", "user", "assistant" or "tool".
        content: Plain text.
        tool_calls: What an assistant message calls.
        tool_call_id: The call that a tool message answers; empty elsewhere.
        author: Model, by its name in the pool, that wrote an assistant message; empty if nobody says.
        raw: An assistant message as its endpoint gave it, with thinking and signatures; None if it holds nothing more.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    author: str = ""
    raw: Mapping[str, JsonValue] | None = None


@dataclass(frozen=True, kw_only=True)
class TokenUsage:
    """Tokens of one model call, split the way vendors bill them. Prompt tokens = fresh + cached + written.

    Attributes:
        n_fresh: Prompt tokens billed at the plain input price.
        n_cached: Prompt tokens read from a warm prompt cache.
        n_written: Prompt tokens written to the prompt cache and billed for that (0 where writing is free).
        n_output: Generated tokens, hidden thinking included if it is billed.
    """

    n_fresh: int
    n_cached: int = 0
    n_written: int = 0
    n_output: int

    @property
    def n_prompt(self) -> int:
        """All prompt tokens of the call."""
        return self.n_fresh + self.n_cached + self.n_written

    def __add__(self, other: "TokenUsage") -> "TokenUsage":
        """Tokens of two calls together."""
        return TokenUsage(
            n_fresh=self.n_fresh + other.n_fresh,
            n_cached=self.n_cached + other.n_cached,
            n_written=self.n_written + other.n_written,
            n_output=self.n_output + other.n_output,
        )


class TurnView(TypedDict):
    """What a router may know of a past turn. Nothing hidden, no score."""

    model: int
    action: str
    observation: str
    error: str


class Observation(TypedDict):
    """What a router may know before a turn; the value space of `RoutingEnv.observation_space`.

    Keys:
        task: Task text.
        first_observation: What the environment showed at reset.
        history: The turns so far, oldest first.
        turn: Index of the turn to be decided, from 0, as an int64 scalar.
        max_turns: Turn limit of the episode, as an int64 scalar.
        budget_left_usd: Remaining budget in USD, float32, shape (1,).
        budget_usd: Budget of the whole episode in USD, float32, shape (1,).
        warm: 1 where the model holds a warm prompt cache, int8, shape (M,).
        action_mask: 1 where the model may be called this turn, int8, shape (M,).
    """

    task: str
    first_observation: str
    history: tuple[TurnView, ...]
    turn: np.int64
    max_turns: np.int64
    budget_left_usd: npt.NDArray[np.float32]
    budget_usd: npt.NDArray[np.float32]
    warm: npt.NDArray[np.int8]
    action_mask: npt.NDArray[np.int8]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One logged turn: what was chosen, what came of it, what it cost.

    Attributes:
        model: Name of the model that the behaviour policy chose.
        served_model: Name of the model that really answered; differs from `model` if a fall-back took over.
        action_text: What the model wrote and the environment executed.
        observation_text: What the environment answered.
        usage: Tokens of the call.
        cost_usd: Price of the turn, USD, >= 0; equals tokens times the prices of `served_model` plus `router_cost_usd`, unless
            the episode's `usage_source` is "cost_only".
        utility_gain: Change of utility caused by this turn, no unit.
        propensity: Probability with which the behaviour policy chose `model`, in (0, 1]; None if nobody knows, which
            only an imported log may say.
        action_mask: Which models were allowed, in pool order, shape (M,).
        warm: Which models held a warm prompt cache before the turn, in pool order, shape (M,).
        error: Kind of error that the action was, empty if none.
        latency_s: Duration of the model call, seconds; None if it was not logged, which only an imported log may say.
        terminated: The task itself ended with this turn.
        truncated: A limit outside the task (turns, budget) stopped the episode after this turn.
        router_cost_usd: Part of `cost_usd` that was paid for the decision itself, USD, >= 0; above 0 where a language model
            was asked which model to call.
        parents: Indices of the earlier turns that this one comes from, smallest first: several where answers of sub-agents or
            parallel calls meet, none, (), where it starts from the task alone. None if the log does not say; then it comes
            from the turn before.
    """

    model: str
    served_model: str
    action_text: str
    observation_text: str
    usage: TokenUsage
    cost_usd: float
    utility_gain: float
    propensity: float | None
    action_mask: tuple[bool, ...]
    warm: tuple[bool, ...]
    error: str
    latency_s: float | None
    terminated: bool
    truncated: bool
    router_cost_usd: float = 0.0
    parents: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One logged episode, from reset to its end.

    Attributes:
        episode_id: Unique within a dataset.
        task: Task name, such as "boil".
        variation: Index of the task's variation, >= 0.
        seed: Seed of the episode: of the simulated models, and of the environment where it has one.
        split: Which split (task, variation) belongs to.
        task_text: Task description shown to the model.
        first_observation: What the environment showed at reset.
        behavior_policy: Name of the policy that chose the models.
        budget_usd: Budget of the episode, USD.
        max_turns: Turn limit of the episode.
        turns: The T turns, in order. Empty only if the episode failed, or was truncated before its first call.
        status: See `EpisodeStatus`.
        status_detail: Why it failed, empty otherwise.
        usage_source: See `UsageSource`.
        extra: What the original log said besides, by name: kept for splits and diagnosis, never shown to a router.
    """

    episode_id: str
    task: str
    variation: int
    seed: int
    split: Split
    task_text: str
    first_observation: str
    behavior_policy: str
    budget_usd: float
    max_turns: int
    turns: tuple[Turn, ...]
    status: EpisodeStatus = "completed"
    status_detail: str = ""
    usage_source: UsageSource = "logged"
    extra: Mapping[str, JsonValue] = field(default_factory=dict)

    @property
    def utility(self) -> float:
        """Utility at the end: the sum of gains; 1 is full success, some tasks punish below 0."""
        return sum(turn.utility_gain for turn in self.turns)

    @property
    def cost_usd(self) -> float:
        """Money spent over all turns, USD."""
        return sum(turn.cost_usd for turn in self.turns)

    @property
    def models(self) -> tuple[str, ...]:
        """Chosen model of every turn, length T."""
        return tuple(turn.model for turn in self.turns)

    @property
    def parents(self) -> tuple[tuple[int, ...], ...]:
        """The turns that every turn comes from, length T: those that it names, else the turn before."""
        before = ((), *((index,) for index in range(len(self.turns) - 1)))
        return tuple(
            chained if turn.parents is None else turn.parents for turn, chained in zip(self.turns, before, strict=False)
        )


@dataclass(frozen=True, kw_only=True)
class EpisodeSpec:
    """Which episode to run; the pairing key of evaluation is (task, variation, seed)."""

    task: str
    variation: int
    seed: int
    split: Split

    @property
    def key(self) -> str:
        """Readable identifier, unique for (task, variation, seed).

        Example:
            >>> EpisodeSpec(task="boil", variation=3, seed=7, split="test").key
            'boil-v3-s7'
        """
        return f"{self.task}-v{self.variation}-s{self.seed}"


@dataclass(frozen=True, kw_only=True)
class TracedEpisode:
    """An episode together with what a router must never see or need not log.

    Attributes:
        episode: The log.
        hidden: Per turn, what only a simulator knows (why a simulated model failed); stored apart from the log.
        action_probabilities: Probability of every model at every turn, shape (T, M).
        q_values: Action values at every turn if the router has any, shape (T, M), else None.
    """

    episode: Episode
    hidden: tuple[Mapping[str, JsonValue], ...] = ()
    action_probabilities: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))
    q_values: FloatArray | None = None


def episode_key(episode: Episode) -> EpisodeKey:
    """Pairing key of an episode: (task, variation, seed)."""
    return (episode.task, episode.variation, episode.seed)
