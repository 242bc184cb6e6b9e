"""Additions of graded length, one after another: a small world that weak and strong models of any endpoint can really play.

It needs nothing but Python. Every question is asked until it is answered or the turns are over, so a better model is worth its
price on long numbers and wasted on short ones.
"""

import re
import zlib

import numpy as np
from pydantic import ValidationError

from mtrouter_rl.cards import EnvCard
from mtrouter_rl.errors import CallOrderError, CardError, InvalidConfigError, unknown_name
from mtrouter_rl.protocols import ExpertPlan, TaskStart, TaskStep
from mtrouter_rl.records import Frozen, PositiveInt

_NUMBER = re.compile(r"-?\d+")


class SumsSettings(Frozen):
    """Settings of the family in an environment card.

    Attributes:
        digits: Task -> digits of the numbers of each of its questions, in order.
    """

    digits: dict[str, tuple[PositiveInt, ...]]


def make_task(card: EnvCard) -> "SumsTask":
    """Text task of an environment card of family "sums".

    Raises:
        CardError: If the card's settings are not those of the family.
    """
    try:
        settings = SumsSettings.model_validate(card.settings)
    except ValidationError as error:
        raise CardError(f"card '{card.name}', settings: {error}") from error
    return SumsTask(settings.digits)


class SumsTask:
    """The task: answer all questions. Every answer brings the same part of 100."""

    max_score = 100.0

    def __init__(self, digits: dict[str, tuple[int, ...]]) -> None:
        """Create the task; `digits` maps a task to the lengths of the numbers of its questions."""
        self._digits = digits
        self._pairs: list[tuple[int, int]] = []
        self._n_right = 0

    def reset(self, task: str, variation: int, seed: int) -> TaskStart:
        """Start an episode; the variation decides the numbers, the seed changes nothing."""
        if task not in self._digits:
            raise unknown_name("task", task, self._digits)
        if variation < 0:
            raise InvalidConfigError(f"variation is {variation}, must be at least 0")
        rng = np.random.default_rng([zlib.crc32(task.encode()), variation])
        self._pairs = [
            (int(rng.integers(10 ** (n - 1), 10**n)), int(rng.integers(10 ** (n - 1), 10**n)))
            for n in self._digits[task]
        ]
        self._n_right = 0
        text = f"Answer {len(self._pairs)} questions, one a turn. Write the number alone."
        return TaskStart(task_text=text, observation=self._question())

    def step(self, action_text: str) -> TaskStep:
        """Take an answer: the last number of a text counts."""
        self._refuse_if_over()
        numbers = _NUMBER.findall(action_text.replace(",", ""))
        error = "" if numbers else "no_number"
        is_right = bool(numbers) and numbers[-1] == self.expert_action()
        self._n_right += is_right
        score = self.max_score * self._n_right / len(self._pairs)
        if self._n_right == len(self._pairs):
            return TaskStep(observation="All are right.", score=score, ending="solved")
        told = "Right." if is_right else "There is no number in it." if error else "Wrong."
        return TaskStep(observation=f"{told} {self._question()}", score=score, error=error)

    def expert_action(self) -> str:
        """The sum that is asked for."""
        self._refuse_if_over()
        return str(sum(self._pairs[self._n_right]))

    def expert_plan(self) -> ExpertPlan:
        """The answers that are left; every one brings the same score."""
        self._refuse_if_over()
        left = self._pairs[self._n_right :]
        return ExpertPlan(
            actions=tuple(str(a + b) for a, b in left), gains=(self.max_score / len(self._pairs),) * len(left)
        )

    def mistakes(self) -> dict[str, tuple[str, ...]]:
        """A wrong sum loses a turn."""
        return {"idle": (str(sum(self._pairs[self._n_right]) + 1),)}

    def close(self) -> None:
        """Nothing to release."""
        self._pairs = []

    def _question(self) -> str:
        first, second = self._pairs[self._n_right]
        return f"What is {first} + {second}?"

    def _refuse_if_over(self) -> None:
        if self._n_right >= len(self._pairs):
            raise CallOrderError("no question is open; call reset() first")
