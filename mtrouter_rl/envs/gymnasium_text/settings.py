"""Settings of the family "gymnasium_text": which environment it is, where the variation goes, what is read from where."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mtrouter_rl.cards import EnvCard, RegularExpression
from mtrouter_rl.errors import CardError, unknown_name
from mtrouter_rl.records import Frozen

FULL_SCORE = "full_score"
REWARDS = "rewards"

Source = Annotated[str, Field(pattern=r"^(observation(\..+)?|info\..+)$")]
MistakeKind = Literal["idle", "wander", "drop", "fatal"]


class EnvSettings(Frozen):
    """Which environment, with which arguments.

    Attributes:
        id: Registered id, such as "my_package:Maze-v0"; the module before the colon is imported for it.
        entry_point: Class or function instead of an id, "module:Class".
        kwargs: Arguments of its construction.
    """

    id: str | None = None
    entry_point: Annotated[str, Field(pattern=r"^[\w.]+:[\w.]+$")] | None = None
    kwargs: dict[str, object] = Field(default_factory=dict)


class VariationSettings(Frozen):
    """How the environment is told the variation.

    Attributes:
        goes_to: "seed": seed of reset(). "option": key of reset()'s options. "kwarg": argument of the construction, which
            is repeated for it. "nothing": every task has one variation.
        key: Name of the option or argument.
        offset: Added to a variation that is passed as a number.
        values: Task -> what its variations stand for, such as the ids of its levels; else the number itself is passed.
    """

    goes_to: Literal["seed", "option", "kwarg", "nothing"]
    key: str = ""
    offset: int = 0
    values: dict[str, list[str | int]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.goes_to in ("option", "kwarg")) != bool(self.key):
            raise ValueError(f"variation.key must be given for 'option' and 'kwarg' alone, goes_to is '{self.goes_to}'")
        if self.goes_to == "seed" and any(isinstance(v, str) for values in self.values.values() for v in values):
            raise ValueError("variation.values must be numbers where they go to the seed")
        return self


class ErrorRule(Frozen):
    """One kind of error that an answer tells of.

    Attributes:
        kind: Name of the kind, such as "unknown_action".
        source: Where to look.
        pattern: The error is there if this is found in the source's text; without one, if the source is true.
    """

    kind: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    source: Source = "observation"
    pattern: RegularExpression | None = None


class ExpertSettings(Frozen):
    """Where an expert's next action is read from.

    Attributes:
        source: A text, or a list of texts.
        is_walkthrough: The list is fixed at reset and followed, so nothing is planned anew after a deviation; else the first
            text of what is shown now is the next action.
    """

    source: Source
    is_walkthrough: bool = False


class GymnasiumTextSettings(EnvSettings):
    """Settings of the family in an environment card.

    Attributes:
        tasks: Task -> what differs from `id`, `entry_point` and `kwargs` for it.
        variation: Where the variation goes; what is no seed is reset with the episode's seed.
        observation: Sources of the text that is shown, joined by line breaks.
        task_text: Source of the task's description, read at reset.
        task_texts: Task -> description, if the environment gives none.
        score: Source of the score so far, or "rewards" for the sum of rewards.
        max_score: Score of full success, a number or a source.
        success: Source that is true where a task that ended was solved, or "full_score".
        otherwise: Ending of a task that ended without success.
        truncation: What it means if the environment cuts an episode: "error", for a limit belongs into the card; or
            the ending that a rule of the task stands for.
        errors: Kinds of errors; the first that fits counts.
        expert: Where an expert's next action is; None if there is no expert.
        mistakes: Kind -> wrong actions, or a source of them. Only with an expert.
    """

    tasks: dict[str, EnvSettings] = Field(default_factory=dict)
    variation: VariationSettings
    observation: Annotated[tuple[Source, ...], Field(min_length=1)] = ("observation",)
    task_text: Source | None = None
    task_texts: dict[str, str] = Field(default_factory=dict)
    score: Source | Literal["rewards"]
    max_score: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Source
    success: Source | Literal["full_score"]
    otherwise: Literal["failed", "handed_in"] = "failed"
    truncation: Literal["error", "failed", "handed_in"] = "error"
    errors: tuple[ErrorRule, ...] = ()
    expert: ExpertSettings | None = None
    mistakes: dict[MistakeKind, tuple[str, ...] | Source] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.task_text is None) == (not self.task_texts):
            raise ValueError("give either task_text, a source, or task_texts, a text for every task")
        if self.mistakes and self.expert is None:
            raise ValueError("mistakes are for simulated models, which need an expert as well; add expert or drop them")
        return self

    def of_task(self, task: str) -> EnvSettings:
        """Environment and arguments of a task."""
        own = self.tasks.get(task, EnvSettings())
        is_other = own.id is not None or own.entry_point is not None
        return EnvSettings(
            id=own.id if is_other else self.id,
            entry_point=own.entry_point if is_other else self.entry_point,
            kwargs=self.kwargs | own.kwargs,
        )


def check_tasks(card: EnvCard, settings: GymnasiumTextSettings) -> None:
    """Check the settings against the tasks of their card.

    Raises:
        CardError: If a task is unknown or lacks something; names task and setting.
    """
    tasks = card.counted_tasks()
    for name, named in (
        ("tasks", settings.tasks),
        ("task_texts", settings.task_texts),
        ("variation.values", settings.variation.values),
    ):
        for task in named:
            if task not in tasks:
                raise CardError(f"card '{card.name}', settings.{name}: {unknown_name('task', task, tasks)}")
    for task, n_variations in tasks.items():
        _check_task(card, settings, task, n_variations)


def _check_task(card: EnvCard, settings: GymnasiumTextSettings, task: str, n_variations: int) -> None:
    where = f"card '{card.name}', task '{task}'"
    made = settings.of_task(task)
    if (made.id is None) == (made.entry_point is None):
        raise CardError(f"{where}: give either settings.id or settings.entry_point, there or in settings.tasks.{task}")
    if settings.task_texts and task not in settings.task_texts:
        raise CardError(f"{where}: settings.task_texts has no text for it; add one")
    values = settings.variation.values
    n_values = len(values[task]) if task in values else None
    if n_values is not None and n_values < n_variations:
        raise CardError(
            f"{where}: it has {n_variations} variations and settings.variation.values gives {n_values}; make them equal"
        )
    if values and n_values is None:
        raise CardError(f"{where}: settings.variation.values has no list for it; add one")
    if settings.variation.goes_to == "nothing" and n_variations != 1:
        raise CardError(
            f"{where}: it has {n_variations} variations, which go to nothing; give it 1, or say where they go"
        )
