"""A synthetic question set, made by code from a seed: invented things in generated documents, answers that are worked out.

These are NOT questions of Humanity's Last Exam and say nothing about it. They have its categories, its two types of answer and
its tools, so that the environment can be run, tested and learned in without the gated data set; and each has a known plan, so
that simulated models have an expert to imitate.
"""

import functools
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mtrouter_rl.envs.hle.plans import PlanStep
from mtrouter_rl.envs.hle.questions import CATEGORIES, Question, task_name
from mtrouter_rl.envs.hle.search import Document
from mtrouter_rl.envs.hle.synthetic_topics import TOPICS, Formula, Topic
from mtrouter_rl.errors import InvalidConfigError

_SYLLABLES = (
    "bar",
    "cel",
    "dor",
    "fen",
    "gal",
    "hul",
    "jor",
    "kem",
    "lan",
    "mir",
    "nol",
    "per",
    "qua",
    "rin",
    "sol",
    "tev",
    "ulm",
    "vel",
)
_ENDS = ("ax", "eon", "id", "ine", "or", "um", "yx", "ane", "oth", "is")
_LETTERS = "ABCDE"
_QUESTION_STREAM, _NAME_STREAM = 0, 1


@dataclass(frozen=True, kw_only=True)
class Thing:
    """An invented thing and what its document states.

    Attributes:
        name: One word that nothing else has.
        topic: Of its category.
        values: Of the topic's quantities.
    """

    name: str
    topic: Topic
    values: tuple[int, int, int]

    @property
    def document(self) -> Document:
        """The document about it."""
        kind = self.topic.thing
        facts = [
            f"Its {quantity.name} is {value}{' ' if quantity.unit else ''}{quantity.unit}."
            for quantity, value in zip(self.topic.quantities, self.values, strict=True)
        ]
        text = (
            f"{self.name} is a synthetic {kind}: a program invented it, and there is no such {kind}. What is stated about it "
            f"follows. {' '.join(facts)}"
        )
        return Document(id=self.name.lower(), title=f"{self.name} ({kind})", text=text)

    def variables(self, letter: str) -> dict[str, int]:
        """Its values as the variables of a program."""
        return {f"{letter}_{index}": value for index, value in enumerate(self.values)}


@dataclass(frozen=True, kw_only=True)
class SyntheticQuestion:
    """A synthetic question and the way to its answer.

    Attributes:
        question: The question, in the form of those of a file; its id begins with "synthetic-".
        steps: The plan.
        wrong_answers: Plausible wrong answers.
    """

    question: Question
    steps: tuple[PlanStep, ...]
    wrong_answers: tuple[str, ...]


class SyntheticSet:
    """Questions of all categories; a question is made when it is first asked for."""

    def __init__(self, *, n_per_category: int, seed: int) -> None:
        """Draw the invented things; two for every question."""
        self.n_per_category = n_per_category
        self._seed = seed
        self._things: Mapping[str, tuple[Thing, ...]] = {
            category: self._draw_things(category, index) for index, category in enumerate(CATEGORIES)
        }
        self._category = {task_name(category): category for category in CATEGORIES}
        self.get = functools.lru_cache(maxsize=None)(self._make)

    def documents(self) -> tuple[Document, ...]:
        """The corpus: a document about every thing."""
        return tuple(thing.document for things in self._things.values() for thing in things)

    def elsewhere(self, task: str, variation: int) -> tuple[Document, Document]:
        """Documents of another question of the category, which lead away."""
        things = self._things[self._category[task]]
        start = 2 * variation + 2
        return things[start % len(things)].document, things[(start + 1) % len(things)].document

    def _generator(self, category: str, stream: int, index: int = 0) -> np.random.Generator:
        return np.random.default_rng([self._seed, zlib.crc32(category.encode()), stream, index])

    def _draw_things(self, category: str, number: int) -> tuple[Thing, ...]:
        """Two things for every question, which differ in their first quantity. No two categories share a name."""
        topic, rng = TOPICS[category], self._generator(category, _NAME_STREAM)
        n_things = 2 * self.n_per_category
        n_names = len(_SYLLABLES) ** 2 * len(_ENDS) // len(CATEGORIES)
        if n_things > n_names:
            raise InvalidConfigError(
                f"settings.synthetic.n_per_category is {self.n_per_category}, must be at most {n_names // 2}: there are no "
                "more names for things"
            )
        chosen = rng.choice(n_names, size=n_things, replace=False) * len(CATEGORIES) + number
        values = np.stack([rng.integers(one.low, one.high + 1, size=n_things) for one in topic.quantities], axis=1)
        is_same = values[0::2, 0] == values[1::2, 0]
        values[1::2, 0] += np.where(is_same, np.where(values[1::2, 0] > topic.quantities[0].low, -1, 1), 0)
        return tuple(
            Thing(name=_name(int(name)), topic=topic, values=(int(row[0]), int(row[1]), int(row[2])))
            for name, row in zip(chosen, values, strict=True)
        )

    def _make(self, task: str, variation: int) -> SyntheticQuestion:
        """Question of a task; `get` remembers it."""
        category = self._category[task]
        topic = TOPICS[category]
        first, second = self._things[category][2 * variation : 2 * variation + 2]
        maker = _Maker(
            id=f"synthetic-{task}-{variation:03d}",
            category=category,
            topic=topic,
            things=(first, second),
            rng=self._generator(category, _QUESTION_STREAM, variation),
        )
        return maker.make(topic.shapes[variation % len(topic.shapes)])


def _name(number: int) -> str:
    number, end = divmod(number, len(_ENDS))
    first, second = divmod(number, len(_SYLLABLES))
    return f"{_SYLLABLES[first]}{_SYLLABLES[second]}{_ENDS[end]}".capitalize()


@dataclass(frozen=True, kw_only=True)
class _Maker:
    """Makes one question of a given shape."""

    id: str
    category: str
    topic: Topic
    things: tuple[Thing, Thing]
    rng: np.random.Generator

    def make(self, shape: str) -> SyntheticQuestion:
        if shape == "stated":
            return self._stated()
        if shape == "computed":
            return self._computed()
        if shape == "about_two":
            return self._looked_up(self.topic.about_two, self.things, is_choice=False)
        return self._looked_up(self.topic.about_one, self.things[:1], is_choice=shape == "choice")

    def _stated(self) -> SyntheticQuestion:
        thing, index = self.things[0], int(self.rng.integers(len(self.topic.quantities)))
        quantity = self.topic.quantities[index]
        text = f"What is the {quantity.name} of the {self.topic.thing} {thing.name}?{_in_unit(quantity.unit)}"
        return self._finish(text, self._reading(thing, before=0), thing.values[index])

    def _computed(self) -> SyntheticQuestion:
        formula = self.topic.computed
        numbers = self._draw(formula)
        first, value = _program(formula.program, numbers)
        second, result = _program(formula.second, numbers | {"first": value})
        steps = (
            PlanStep(tool="python", action=_python(first), evidence=str(value)),
            PlanStep(tool="python", action=_python(second), evidence=str(result), needs=(0,)),
        )
        return self._finish(formula.ask.format(**numbers) + _in_unit(formula.unit), steps, result)

    def _looked_up(self, formula: Formula, things: tuple[Thing, ...], *, is_choice: bool) -> SyntheticQuestion:
        numbers = self._draw(formula)
        letters = "ab"[: len(things)]
        variables = {
            name: value
            for letter, one in zip(letters, things, strict=True)
            for name, value in one.variables(letter).items()
        }
        program, result = _program(formula.program, variables | numbers)
        steps: tuple[PlanStep, ...] = ()
        for thing in things:
            steps += self._reading(thing, before=len(steps))
        needs = tuple(range(1, len(steps), 2))
        steps += (PlanStep(tool="python", action=_python(program), evidence=str(result), needs=needs),)
        names = dict(zip(letters, (thing.name for thing in things), strict=True))
        text = formula.ask.format(**numbers, **names) + _in_unit(formula.unit)
        return self._finish_choice(text, steps, result) if is_choice else self._finish(text, steps, result)

    def _draw(self, formula: Formula) -> dict[str, int | float]:
        return {name: int(self.rng.integers(low, high + 1)) for name, (low, high) in formula.ranges.items()}

    def _reading(self, thing: Thing, *, before: int) -> tuple[PlanStep, PlanStep]:
        """Find and open the document about a thing, as steps number `before` and the next."""
        return (
            PlanStep(tool="search", action=f"search: {thing.name} {self.topic.thing}", evidence=thing.document.id),
            PlanStep(tool="browse", action=f"browse: {thing.document.id}", evidence=thing.document.id, needs=(before,)),
        )

    def _finish(self, text: str, steps: tuple[PlanStep, ...], result: int | float) -> SyntheticQuestion:
        question = Question(
            id=self.id, text=text, answer=_show(result), answer_type="exactMatch", category=self.category
        )
        return SyntheticQuestion(question=question, steps=steps, wrong_answers=tuple(_distractors(result, n=3)))

    def _finish_choice(self, text: str, steps: tuple[PlanStep, ...], result: int | float) -> SyntheticQuestion:
        options = [_show(result), *_distractors(result, n=len(_LETTERS) - 1)]
        order = self.rng.permutation(len(options))
        lines = [f"{letter}. {options[index]}" for letter, index in zip(_LETTERS, order, strict=True)]
        answer = _LETTERS[int(np.flatnonzero(order == 0)[0])]
        question = Question(
            id=self.id,
            text="\n".join([text, "Answer Choices:", *lines]),
            answer=answer,
            answer_type="multipleChoice",
            category=self.category,
        )
        wrong = tuple(letter for letter in _LETTERS if letter != answer)
        return SyntheticQuestion(question=question, steps=steps, wrong_answers=wrong)


def _in_unit(unit: str) -> str:
    return f" Give the answer in {unit}." if unit else ""


def _program(body: str, variables: Mapping[str, int | float]) -> tuple[str, int | float]:
    """A whole program, and what it sets `result` to. Its text is our own, so that it may run in this process."""
    program = "\n".join([*(f"{name} = {value!r}" for name, value in variables.items()), body])
    namespace: dict[str, int | float] = {}
    exec(program, namespace)
    return f"{program}\nprint(result)", namespace["result"]


def _python(program: str) -> str:
    return f"python:\n```python\n{program}\n```"


def _show(result: int | float) -> str:
    return str(result) if isinstance(result, int) else f"{result:.6g}"


def _distractors(result: int | float, *, n: int) -> list[str]:
    """Wrong results near the right one, all different."""
    if isinstance(result, int):
        return [str(result + shift) for shift in (1, -1, 10, -10)[:n]]
    return [_show(result * factor) for factor in (0.5, 1.1, 2.0, 0.9)[:n]]
