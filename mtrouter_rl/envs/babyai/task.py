"""BabyAI behind the text-task protocol: MiniGrid's own engine, its partial view told in words, its bot as the expert.

A task is a BabyAI level, a variation is the seed of its grid and mission. Success scores 1, as in the benchmark; its
bonus for speed is left out, for turns are priced by what they cost.
Source: Chevalier-Boisvert et al., BabyAI: A Platform to Study the Sample Efficiency of Grounded Language Learning (2019),
and the package `minigrid`.
"""

import contextlib
import importlib.util
import io
import os
from typing import Any

from mtrouter_rl.cards import EnvCard, parse_settings
from mtrouter_rl.envs.babyai.expert import BabyAIExpert, is_lost, pending
from mtrouter_rl.envs.babyai.words import ACTIONS, TEXTS, UNKNOWN, describe, tell_move
from mtrouter_rl.errors import (
    CallOrderError,
    InvalidConfigError,
    MissingDependencyError,
    SimulatorError,
    unknown_name,
)
from mtrouter_rl.protocols import Ending, TaskStart, TaskStep
from mtrouter_rl.records import Frozen

_RULES = (
    "You walk on a grid of rooms and see only a part of it. Each turn you do one of: "
    + ", ".join(ACTIONS)
    + ". You act on what is one step ahead: you pick it up, or toggle it (open or close a door, unlock it with the key of its "
    "color in your hands, or break a box). You carry one object at most and drop it one step ahead. To go to something "
    "means to stand before it and face it."
)


class BabyAISettings(Frozen):
    """Settings of the family in an environment card.

    Attributes:
        level_id: Gymnasium id of a task's level; `{task}` stands for the task.
    """

    level_id: str


def make_task(card: EnvCard) -> "BabyAITask":
    """Text task of an environment card of family "babyai"; imports MiniGrid at the first reset only.

    Raises:
        CardError: If the card's settings are not those of the family.
    """
    return BabyAITask(parse_settings(card, BabyAISettings), n_variations=card.counted_tasks())


class BabyAITask:
    """A BabyAI level. Score 1 on success, else 0."""

    max_score = 1.0

    def __init__(self, settings: BabyAISettings, *, n_variations: dict[str, int]) -> None:
        """Create the task; use `make_task` to make it from a card.

        Args:
            settings: Settings of the family.
            n_variations: Number of variations of every task.
        """
        self._settings = settings
        self._n_variations = n_variations
        self._envs: dict[str, Any] = {}
        self._is_running = False

    def reset(self, task: str, variation: int, seed: int) -> TaskStart:
        """Start an episode. The variation is the seed of the level; the episode's seed changes nothing.

        Raises:
            UnknownNameError: If the card has no such task, or MiniGrid no such level.
            InvalidConfigError: If the task has no such variation.
            MissingDependencyError: If the package minigrid is not installed.
        """
        if task not in self._n_variations:
            raise unknown_name("BabyAI task", task, self._n_variations)
        if not 0 <= variation < self._n_variations[task]:
            raise InvalidConfigError(
                f"task '{task}' has no variation {variation}; it has 0 to {self._n_variations[task] - 1}"
            )
        if task not in self._envs:
            self._envs[task] = _make_level(self._settings.level_id.format(task=task))
        self._env = self._envs[task]
        with contextlib.redirect_stdout(io.StringIO()):  # MiniGrid prints every mission that it rejects
            self._env.reset(seed=variation)
        self._expert = BabyAIExpert(self._env)
        self._destroyed: list[Any] = []
        self._is_running = True
        return TaskStart(task_text=f"{_RULES}\n\nYour mission: {self._env.mission}.", observation=self._describe())

    def step(self, action_text: str) -> TaskStep:
        """Execute one action; see `TextTask.step`. An action that changes nothing is of error kind "impossible"."""
        self._refuse_if_over()
        name = ACTIONS.get(action_text.strip().lower())
        if name is None:
            return TaskStep(observation=f"{UNKNOWN} {self._describe()}", score=0.0, error="unknown_action")
        before, carried = self._ahead(), self._env.carrying
        is_done = self._is_possible(name)
        action = self._env.actions[name]
        is_won, is_over = self._play(action)
        if name == "toggle" and is_done and before.type == "box":
            self._destroyed.append(before)
        told = tell_move(name, before, carried, is_done=is_done)
        error = "" if is_done else "impossible"
        ending: Ending = "solved" if is_won else "failed" if is_over or self._is_lost() else ""
        if ending:
            self._is_running = False
            outcome = "The mission is accomplished." if is_won else "The mission cannot be accomplished any more."
            return TaskStep(observation=f"{told} {outcome}", score=float(is_won), ending=ending, error=error)
        self._expert.record(action)
        return TaskStep(observation=f"{told} {self._describe()}", score=0.0, error=error)

    def expert_action(self) -> str:
        """What MiniGrid's bot would do, after any deviation."""
        self._refuse_if_over()
        return TEXTS[self._expert.due]

    def mistakes(self) -> dict[str, tuple[str, ...]]:
        """Wrong actions now: what changes nothing, turns and steps off the way, dropping, and what makes the mission fail."""
        self._refuse_if_over()
        others = [name for name in TEXTS if name != self._expert.due]
        possible = [name for name in others if self._is_possible(name)]
        kinds = {
            "idle": [name for name in others if name not in possible],
            "wander": [name for name in possible if name in ("left", "right", "forward")],
            "drop": [name for name in possible if name == "drop"],
            "fatal": [name for name in possible if self._is_fatal(name)],
        }
        return {kind: tuple(TEXTS[name] for name in names) for kind, names in kinds.items() if names}

    def close(self) -> None:
        """Forget the levels."""
        self._is_running = False
        self._envs.clear()

    def _refuse_if_over(self) -> None:
        if not self._is_running:
            raise CallOrderError("no BabyAI level is running; call reset() first, and again after a level has ended")

    def _play(self, action: Any) -> tuple[bool, bool]:  # noqa: ANN401 - an action of MiniGrid
        """Execute an action; whether the mission succeeded, and whether it is over. MiniGrid's step limit does not count."""
        try:
            _, reward, is_over, _, _ = self._env.step(action)
        except (AssertionError, ValueError, IndexError, AttributeError) as error:
            raise SimulatorError(
                f"MiniGrid failed at '{TEXTS[action.name]}': {type(error).__name__}: {error}"
            ) from error
        return bool(is_over and reward > 0), bool(is_over)

    def _describe(self) -> str:
        view, is_visible = self._env.gen_obs_grid()
        return describe(view, is_visible, direction=int(self._env.agent_dir), carrying=self._env.carrying)

    def _ahead(self) -> Any:  # noqa: ANN401 - an object of MiniGrid, or None
        return self._env.grid.get(*self._env.front_pos)

    def _is_possible(self, name: str) -> bool:
        """Whether an action would change anything; MiniGrid's rules, by the method of `MiniGridEnv.step`."""
        ahead, carried = self._ahead(), self._env.carrying
        if name == "forward":
            return ahead is None or bool(ahead.can_overlap())
        if name == "pickup":
            return ahead is not None and bool(ahead.can_pickup()) and carried is None
        if name == "drop":
            return ahead is None and carried is not None
        if name == "toggle":
            return ahead is not None and (ahead.type == "box" or self._can_turn_door(ahead, carried))
        return True

    @staticmethod
    def _can_turn_door(ahead: Any, carried: Any) -> bool:  # noqa: ANN401 - objects of MiniGrid
        if ahead.type != "door":
            return False
        has_key = carried is not None and carried.type == "key" and carried.color == ahead.color
        return not ahead.is_locked or has_key

    def _is_lost(self) -> bool:
        return bool(self._destroyed) and is_lost(self._env.instrs, self._destroyed)

    def _is_fatal(self, name: str) -> bool:
        """Whether a possible action makes the mission fail: a box that it wants is broken, or a strict level punishes it."""
        ahead = self._ahead()
        if name == "toggle" and ahead.type == "box":
            return is_lost(self._env.instrs, [*self._destroyed, ahead])
        due = pending(self._env.instrs)[0]
        if not getattr(due, "strict", False) or not hasattr(due, "desc"):
            return False
        is_wanted = any(ahead is thing for thing in due.desc.obj_set)
        verb = {"OpenInstr": "toggle", "PickupInstr": "pickup"}.get(type(due).__name__)
        return name == verb and not is_wanted


def _make_level(level_id: str) -> Any:  # noqa: ANN401 - an environment of MiniGrid
    """MiniGrid's environment of a level, without wrappers."""
    if importlib.util.find_spec("minigrid") is None:
        raise MissingDependencyError(
            "package 'minigrid' is missing; run: pip install 'mtrouter-rl[babyai]' (or [envs] for all suites)"
        )
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # pygame, which MiniGrid draws with, greets on stdout
    import gymnasium
    import minigrid  # noqa: F401 - registers the levels

    if level_id not in gymnasium.registry:
        levels = [name for name in gymnasium.registry if name.startswith("BabyAI-")]
        raise unknown_name("BabyAI level", level_id, levels, fix="Correct the task or settings.level_id in the card")
    return gymnasium.make(level_id, disable_env_checker=True).unwrapped
