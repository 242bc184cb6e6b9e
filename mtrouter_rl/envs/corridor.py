"""A tiny text task without any simulator: a corridor of obstacles, each passed by one kind of action.

It is the stand-in of the tests and the smallest example of a plug-in: deterministic, in milliseconds, with an expert,
a way to lose, and states in which one model is better than another.
"""

import zlib

import numpy as np
from pydantic import ValidationError

from mtrouter_rl.cards import EnvCard
from mtrouter_rl.cards.files import check_no_truth_counts
from mtrouter_rl.errors import CallOrderError, CardError, InvalidConfigError, unknown_name
from mtrouter_rl.protocols import ExpertPlan, TaskStart, TaskStep
from mtrouter_rl.records import Frozen

_OBSTACLES = {
    "walk north": "The corridor goes on to the north.",
    "open door": "A closed door is in your way.",
    "take key": "A key lies on the floor; you will need it.",
    "solve riddle": "A stone face asks you a riddle.",
}
_PIT = "jump into pit"
_PIT_SCORE = -100.0


class CorridorSettings(Frozen):
    """Settings of the family in an environment card.

    Attributes:
        obstacles: Obstacles of every task, name -> how many.
    """

    obstacles: dict[str, int]


def make_task(card: EnvCard) -> "CorridorTask":
    """Text task of an environment card of family "corridor".

    Raises:
        CardError: If the card's settings are not those of the family.
    """
    try:
        settings = CorridorSettings.model_validate(card.settings)
    except ValidationError as error:
        raise CardError(f"card '{card.name}', settings: {error}") from error
    check_no_truth_counts(card.settings, settings, card=f"'{card.name}'", inside=("settings",))
    return CorridorTask(settings.obstacles)


class CorridorTask:
    """The task: pass all obstacles. Score 0 to 100; jumping into the pit ends the episode at -100."""

    max_score = 100.0

    def __init__(self, obstacles: dict[str, int]) -> None:
        """Create the task; `obstacles` maps a task name to its number of obstacles."""
        self._n_obstacles = obstacles
        self._plan: tuple[str, ...] = ()
        self._n_passed = 0
        self._is_over = True

    def reset(self, task: str, variation: int, seed: int) -> TaskStart:
        """Start an episode; the variation decides the obstacles, the seed changes nothing."""
        if task not in self._n_obstacles:
            raise unknown_name("task", task, self._n_obstacles)
        if variation < 0:
            raise InvalidConfigError(f"variation is {variation}, must be at least 0")
        rng = np.random.default_rng([zlib.crc32(task.encode()), variation])
        kinds = tuple(_OBSTACLES)
        self._plan = tuple(kinds[i] for i in rng.integers(0, len(kinds), size=self._n_obstacles[task]))
        self._n_passed = 0
        self._is_over = False
        return TaskStart(task_text=f"Pass the {task} corridor.", observation=_OBSTACLES[self._plan[0]])

    def step(self, action_text: str) -> TaskStep:
        """Execute one action."""
        self._refuse_if_over()
        if action_text == _PIT:
            self._is_over = True
            return TaskStep(observation="You fall into the pit.", score=_PIT_SCORE, ending="failed")
        error = "" if action_text in _OBSTACLES or action_text == "wait" else "unknown_action"
        if action_text == self._plan[self._n_passed]:
            self._n_passed += 1
        score = 100.0 * self._n_passed / len(self._plan)
        if self._n_passed == len(self._plan):
            self._is_over = True
            return TaskStep(observation="You reach the exit.", score=score, ending="solved")
        due = _OBSTACLES[self._plan[self._n_passed]]
        text = f"You cannot do that. {due}" if error else due
        return TaskStep(observation=text, score=score, error=error)

    def possible_actions(self) -> tuple[str, ...]:
        """What the corridor understands, and what ends it."""
        self._refuse_if_over()
        return (*_OBSTACLES, "wait", _PIT)

    def expert_action(self) -> str:
        """The action that passes the obstacle in front."""
        self._refuse_if_over()
        return self._plan[self._n_passed]

    def expert_plan(self) -> ExpertPlan:
        """What passes the obstacles that are left; every one brings the same score."""
        self._refuse_if_over()
        left = self._plan[self._n_passed :]
        gains = (self.max_score / len(self._plan),) * len(left)
        return ExpertPlan(actions=left, gains=gains, fatal_score=_PIT_SCORE)

    def mistakes(self) -> dict[str, tuple[str, ...]]:
        """Actions that lose time ("idle") or the game ("fatal")."""
        return {"idle": ("wait",), "fatal": (_PIT,)}

    def close(self) -> None:
        """Nothing to release."""
        self._is_over = True

    def _refuse_if_over(self) -> None:
        if self._is_over:
            raise CallOrderError("the corridor is not running; call reset() first")
