"""The environment card: tasks, splits, limits, reward and pool."""

import re
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from mtrouter_rl.errors import CardError, InvalidConfigError
from mtrouter_rl.records import FloatArray, Frozen

NumberT = TypeVar("NumberT", float, FloatArray)


def _number_or_all(value: object) -> object:
    is_number = isinstance(value, int) and not isinstance(value, bool) and value > 0
    if not is_number and value != "all":
        raise ValueError("must be a whole number above 0, or 'all' where the family counts its variations itself")
    return value


NVariations = Annotated[int | Literal["all"], BeforeValidator(_number_or_all)]
"""How many variations a task has; "all" where the family can count them, see `mtrouter_rl.registry.CARD_COMPLETERS`."""


class SplitCard(Frozen):
    """How the variations of every task are split.

    Attributes:
        variations_per_task: At most this many variations of a task are used.
        train: Share of the variations of a training task that goes to the train split.
        validation: Share that goes to validation; the rest is test.
        seed: Seed of the draw.
    """

    variations_per_task: Annotated[int, Field(gt=0)]
    train: Annotated[float, Field(gt=0, lt=1)]
    validation: Annotated[float, Field(ge=0, lt=1)]
    seed: int

    @model_validator(mode="after")
    def _leaves_a_test_split(self) -> "SplitCard":
        if self.train + self.validation >= 1:
            raise ValueError(
                f"train + validation is {self.train + self.validation}, must be below 1 to leave a test split"
            )
        return self


class RewardCard(Frozen):
    """Reward of a turn: utility gained - cost_weight * cost_usd / cost_unit_usd.

    Attributes:
        cost_weight: Price of one cost unit in utility, no unit.
        cost_unit_usd: USD of one cost unit, such as what the strongest model spends on an episode.
    """

    cost_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    cost_unit_usd: Annotated[float, Field(gt=0, allow_inf_nan=False)]

    def reward(self, utility_gain: NumberT, cost_usd: NumberT) -> NumberT:
        """Reward of one turn, or of each of many: `utility_gain` and `cost_usd` are numbers or arrays of one shape.

        Example:
            >>> RewardCard(cost_weight=0.5, cost_unit_usd=2.0).reward(1.0, 0.4)
            0.9
        """
        return utility_gain - self.weighted(cost_usd)

    def weighted(self, cost_usd: NumberT) -> NumberT:
        """What a cost takes off the return, in units of utility: of a number or of an array."""
        return cost_usd * (self.cost_weight / self.cost_unit_usd)

    def at(self, cost_weight: float) -> "RewardCard":
        """The same reward at another cost weight.

        Raises:
            InvalidConfigError: If the weight is below 0 or not finite.
        """
        if not 0 <= cost_weight < float("inf"):
            raise InvalidConfigError(f"cost_weight is {cost_weight}, must be a finite number of at least 0")
        return self.model_copy(update={"cost_weight": cost_weight})


class LimitsCard(Frozen):
    """Limits outside the task.

    Attributes:
        max_turns: Turns of an episode, after which it is truncated.
        budget_usd: Money of an episode, USD; no call that could exceed it is ever made.
        max_output_tokens: Output limit asked for in every call, on top of the model's own.
    """

    max_turns: Annotated[int, Field(gt=0)]
    budget_usd: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    max_output_tokens: Annotated[int, Field(gt=0)]


def _regular_expression(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from error
    return pattern


RegularExpression = Annotated[str, AfterValidator(_regular_expression)]
"""Text that `re.compile` takes."""


class SkillPattern(Frozen):
    """A kind of action, read off an action text by a regular expression (searched from the start, first match wins)."""

    skill: str
    pattern: RegularExpression


class ToolCard(Frozen):
    """The tool by which a model says its action.

    Attributes:
        name: Its name.
        description: What it does.
        argument: Name of its one argument, the action.
        argument_description: What the argument is.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "act"
    description: str = "Carries out one action in the environment."
    argument: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "action"
    argument_description: str = "The action, as plain text."


class HarnessCard(Frozen):
    """How models that talk are prompted, and where the action stands in their replies; see `mtrouter_rl.envs.harness`.

    Templates are Jinja. A name that a template may not use is an error.

    Attributes:
        system: First message; may use `system_prompt`.
        start: The task; may use `task`, `observation` and `actions`.
        turn: What the environment answered; may use `observation` and `actions`.
        reminder: Answer to a reply without one action, given once a turn; may use `problem`.
        action: "plain": the whole reply. "fenced": what stands in its one fenced block. "tool": the argument of a tool call.
        tool: The tool, for "tool".
        lists_actions: Whether templates are given the actions that are possible; the task must know them.
        keeps_turns: The last turns that are never shortened where a history does not fit a model's window.
    """

    system: str = "{{ system_prompt }}"
    start: str = "{{ task }}\n\n{{ observation }}"
    turn: str = "{{ observation }}"
    reminder: str = "Your reply cannot be used: {{ problem }}. Reply again."
    action: Literal["plain", "fenced", "tool"] = "plain"
    tool: ToolCard = ToolCard()
    lists_actions: bool = False
    keeps_turns: Annotated[int, Field(ge=1)] = 4

    @property
    def tool_definition(self) -> dict[str, object] | None:
        """The tool that takes the action, in OpenAI's form; None where actions are text."""
        if self.action != "tool":
            return None
        argument = {"type": "string", "description": self.tool.argument_description}
        parameters = {"type": "object", "properties": {self.tool.argument: argument}, "required": [self.tool.argument]}
        described = {"name": self.tool.name, "description": self.tool.description, "parameters": parameters}
        return {"type": "function", "function": described}


EXPERT_SOLVES = 0.95
"""Share of episodes that an expert is to solve if the card says nothing."""


class EnvCard(Frozen):
    """An environment: which tasks, splits, limits, reward and pool.

    Attributes:
        name: Name of the card, and of the environment in logs.
        description: What it is.
        family: Registered name of the text task behind it, such as "scienceworld".
        pool: Default pool card, name or path.
        system_prompt: First message of every conversation; the task text follows it.
        harness: Prompts and form of the action for models that talk; None for plain messages, where a reply is the action.
        train_tasks: Task -> number of its variations (or "all", where the family counts them), split into train, validation
            and test.
        ood_tasks: Held-out task types, likewise; all their variations are the "ood" split.
        splits: How variations are split.
        limits: Turns, budget, output.
        reward: Utility minus cost.
        skills: Patterns that tell the skill of an action, in order.
        topics: Topic of every task, such as "heat"; tasks may share topics.
        settings: Checked by the family.
        studies: What is the environment's own in studies, by their names ("quick", "full"): sizes, other pools. Checked by the
            study itself.
        agents: Parameters of agent cards that are others in this environment, by name; also of the cards that extend these.
        expert_solves: Share of episodes that the expert is to solve within the turn limit; `check-env` holds it to that. Say
            so where paths are longer than the limit. From `EXPERT_SOLVES` on it is to solve some of every task as well.
    """

    name: str
    description: str
    family: str
    pool: str
    system_prompt: str
    harness: HarnessCard | None = None
    train_tasks: Annotated[dict[str, NVariations], Field(min_length=1)]
    ood_tasks: dict[str, NVariations] = Field(default_factory=dict)
    splits: SplitCard
    limits: LimitsCard
    reward: RewardCard
    skills: tuple[SkillPattern, ...] = ()
    topics: dict[str, str] = Field(default_factory=dict)
    settings: dict[str, object] = Field(default_factory=dict)
    studies: dict[str, dict[str, object]] = Field(default_factory=dict)
    agents: dict[str, dict[str, object]] = Field(default_factory=dict)
    expert_solves: Annotated[float, Field(ge=0, le=1)] = EXPERT_SOLVES

    @model_validator(mode="before")
    @classmethod
    def _sections_of_studies_have_moved(cls, data: object) -> object:
        moved = {"study": "quick", "full_study": "full"}
        found = [name for name in moved if isinstance(data, dict) and name in data]
        if found:
            raise ValueError("; ".join(f"'{name}' is now 'studies.{moved[name]}': write it there" for name in found))
        return data

    @model_validator(mode="after")
    def _tasks_are_unique(self) -> "EnvCard":
        repeated = sorted(set(self.train_tasks) & set(self.ood_tasks))
        if repeated:
            raise ValueError(
                f"task(s) {repeated} are both in train_tasks and ood_tasks; a held-out task must not be trained on"
            )
        return self

    def counted_tasks(self, *, is_ood: bool | None = None) -> dict[str, int]:
        """Tasks with their numbers of variations: the training ones, the held-out ones, or, by default, both.

        Raises:
            CardError: If one is "all" still: only the family can tell how many that is.
        """
        kinds = {True: self.ood_tasks, False: self.train_tasks, None: self.train_tasks | self.ood_tasks}
        counted: dict[str, int] = {}
        for task, number in kinds[is_ood].items():
            if not isinstance(number, int):
                raise CardError(
                    f"card '{self.name}': task '{task}' has 'all' variations, which family '{self.family}' has not counted; "
                    "resolve the card with mtrouter_rl.envs.factory.resolve_env, or write the number"
                )
            counted[task] = number
        return counted
