"""Any Gymnasium environment that is played in text, plugged in by a card alone: family "gymnasium_text".

The environment takes a string as action and shows text, as its observation or inside of it. The card's settings say where
the variation goes, and where text, score, success and errors are read from. A *source* is "observation", "observation.KEY"
of a dictionary, or "info.KEY"; a key may hold dots.
"""

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium

from mtrouter_rl.cards import EnvCard, is_named_by_installed_card, parse_settings
from mtrouter_rl.envs.gymnasium_text.settings import (
    FULL_SCORE,
    REWARDS,
    EnvSettings,
    GymnasiumTextSettings,
    check_tasks,
)
from mtrouter_rl.errors import CallOrderError, InvalidConfigError, MissingDependencyError, SimulatorError, unknown_name
from mtrouter_rl.protocols import Ending, TaskStart, TaskStep
from mtrouter_rl.registry import check_code_allowed, load_target

MAX_SCORE = 100.0


def make_task(card: EnvCard) -> "GymnasiumTextTask":
    """Text task of an environment card of family "gymnasium_text"; makes no environment before the first reset.

    Raises:
        CardError: If the card's settings are not those of the family, or do not fit its tasks.
        InvalidConfigError: If the card names code, belongs to no installed package, and the user does not allow code.
    """
    settings = parse_settings(card, GymnasiumTextSettings)
    check_tasks(card, settings)
    tasks = card.counted_tasks()
    for made in map(settings.of_task, tasks):
        what, name = ("settings.entry_point", made.entry_point) if made.id is None else ("settings.id", made.id)
        if ":" in str(name) and not is_named_by_installed_card(str(name)):
            check_code_allowed(str(name), what=f"card '{card.name}', {what}")
    return (GymnasiumTextTask if settings.expert is None else GymnasiumExpertTask)(settings, tasks)


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """What the environment shows at a time."""

    observation: object
    info: Mapping[str, object]
    rewards: float = 0.0

    def get(self, source: str, *, setting: str) -> object:
        """Value of a source.

        Raises:
            InvalidConfigError: If it is not there; lists what is.
        """
        root, _, key = source.partition(".")
        if not key:
            return self.observation
        holder = self.info if root == "info" else self.observation
        if not isinstance(holder, Mapping):
            raise InvalidConfigError(
                f"settings.{setting} is '{source}', but the {root} is a {type(holder).__name__} without keys; "
                f"say '{root}' alone, or correct the environment"
            )
        if key not in holder:
            raise InvalidConfigError(
                f"settings.{setting} is '{source}': {unknown_name(f'key of the {root}', key, map(str, holder))}; "
                "correct the key, or make the environment give it (often an argument under kwargs)"
            )
        return holder[key]

    def text(self, source: str, *, setting: str) -> str:
        """Text of a source.

        Raises:
            InvalidConfigError: If it is no text.
        """
        value = self.get(source, setting=setting)
        if not isinstance(value, str):
            raise InvalidConfigError(
                f"settings.{setting} is '{source}', which is of type {type(value).__name__}, must be a str; "
                "name the key that holds text"
            )
        return value

    def number(self, source: str, *, setting: str) -> float:
        """Number of a source.

        Raises:
            InvalidConfigError: If it is none.
        """
        value: Any = self.get(source, setting=setting)
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise InvalidConfigError(
                f"settings.{setting} is '{source}', which is {value!r}, must be a number"
            ) from error

    def texts(self, source: str, *, setting: str) -> list[str]:
        """Texts of a source that holds one or a list of them.

        Raises:
            InvalidConfigError: If it holds something else.
        """
        value = self.get(source, setting=setting)
        if isinstance(value, str):
            return [value]
        if isinstance(value, Sequence) and all(isinstance(text, str) for text in value):
            return list(value)
        raise InvalidConfigError(
            f"settings.{setting} is '{source}', which is {value!r:.80}, must be a text or a list of them"
        )


@dataclass(kw_only=True)
class _Episode:
    """State of the present episode."""

    shown: _Shown
    max_score: float
    walkthrough: list[str] = field(default_factory=list)
    is_cut: bool = False
    is_over: bool = False


class GymnasiumTextTask:
    """A Gymnasium environment as a text task; scores are scaled so that full success is 100."""

    max_score = MAX_SCORE

    def __init__(self, settings: GymnasiumTextSettings, tasks: Mapping[str, int]) -> None:
        """Create the task; use `make_task`, which checks the settings against the card."""
        self._settings = settings
        self._tasks = dict(tasks)
        self._env: gymnasium.Env[Any, Any] | None = None
        self._made: EnvSettings | None = None
        self._episode: _Episode | None = None

    def reset(self, task: str, variation: int, seed: int) -> TaskStart:
        """Start an episode.

        Raises:
            UnknownNameError: If the card has no such task.
            InvalidConfigError: If the task has no such variation, or the environment does not show what the settings name.
            MissingDependencyError: If the environment is not installed.
            SimulatorError: If it raises.
        """
        if task not in self._tasks:
            raise unknown_name("task", task, self._tasks)
        if not 0 <= variation < self._tasks[task]:
            raise InvalidConfigError(f"task '{task}' has no variation {variation}; it has 0 to {self._tasks[task] - 1}")
        self._episode = None
        goes_to, key, value = (
            self._settings.variation.goes_to,
            self._settings.variation.key,
            self._value(task, variation),
        )
        made = self._settings.of_task(task)
        if goes_to == "kwarg":
            made = made.model_copy(update={"kwargs": made.kwargs | {key: value}})
        env = self._make(made)
        arguments = {
            "seed": value if goes_to == "seed" else seed,
            "options": {key: value} if goes_to == "option" else None,
        }
        observation, info = _call(env, "reset", n_values=(2,), **arguments)
        shown = _Shown(observation=observation, info=info)
        self._episode = _Episode(shown=shown, max_score=self._full(shown))
        if self._settings.expert is not None and self._settings.expert.is_walkthrough:
            self._episode.walkthrough = shown.texts(self._settings.expert.source, setting="expert.source")
        source = self._settings.task_text
        return TaskStart(
            task_text=self._settings.task_texts[task] if source is None else shown.text(source, setting="task_text"),
            observation=self._text(shown),
            score=0.0 if self._settings.score == REWARDS else self._score(self._episode),
        )

    def step(self, action_text: str) -> TaskStep:
        """Execute one action; see `TextTask.step`.

        Raises:
            CallOrderError: If no episode is running.
            InvalidConfigError: If the environment does not show what the settings name, or has cut the episode.
            SimulatorError: If it raises.
        """
        episode = self._running()
        if episode.is_cut:
            raise InvalidConfigError(
                "the environment truncated the episode by a limit of its own before limits.max_turns of the card was "
                "reached: lift that limit (an argument under settings.kwargs) and set limits.max_turns, or, if it is a "
                "rule of the task, say by settings.truncation how the task ends ('failed' or 'handed_in')"
            )
        # A method of the older interface gives four values; its flag for the end is that of the task.
        answer = _call(self._env, "step", action_text, n_values=(4, 5))
        observation, reward, terminated, info = *answer[:3], answer[-1]
        truncated = len(answer) == 5 and bool(answer[3])
        episode.shown = _Shown(observation=observation, info=info, rewards=episode.shown.rewards + float(reward))
        if episode.walkthrough and episode.walkthrough[0] == action_text:
            episode.walkthrough.pop(0)
        score = self._score(episode)
        ending = self._ending(episode, score, terminated=bool(terminated), truncated=truncated)
        episode.is_over = ending != ""
        return TaskStep(
            observation=self._text(episode.shown), score=score, ending=ending, error=self._error(episode.shown)
        )

    def close(self) -> None:
        """Close the environment, if there is one."""
        self._episode = None
        env, self._env, self._made = self._env, None, None
        if env is not None:
            with contextlib.suppress(Exception):  # it is thrown away, and may be broken already
                env.close()  # type: ignore[no-untyped-call]

    def _value(self, task: str, variation: int) -> str | int:
        values = self._settings.variation.values.get(task)
        return variation + self._settings.variation.offset if values is None else values[variation]

    def _make(self, made: EnvSettings) -> gymnasium.Env[Any, Any]:
        if self._env is None or made != self._made:
            self.close()
            self._env = _make_env(made)
            self._made = made
        return self._env

    def _running(self) -> _Episode:
        if self._episode is None or self._episode.is_over:
            raise CallOrderError("no episode is running; call reset() first, and again after a task has ended")
        return self._episode

    def _text(self, shown: _Shown) -> str:
        return "\n".join(shown.text(source, setting="observation") for source in self._settings.observation)

    def _full(self, shown: _Shown) -> float:
        if not isinstance(self._settings.max_score, str):
            return self._settings.max_score
        full = shown.number(self._settings.max_score, setting="max_score")
        if not full > 0:
            raise InvalidConfigError(
                f"settings.max_score is '{self._settings.max_score}', which is {full}, must be above 0"
            )
        return full

    def _score(self, episode: _Episode) -> float:
        source = self._settings.score
        raw = episode.shown.rewards if source == REWARDS else episode.shown.number(source, setting="score")
        return MAX_SCORE * raw / episode.max_score

    def _ending(self, episode: _Episode, score: float, *, terminated: bool, truncated: bool) -> Ending:
        if terminated:
            source = self._settings.success
            is_full = score >= MAX_SCORE * (1 - 1e-9)
            is_solved = is_full if source == FULL_SCORE else bool(episode.shown.get(source, setting="success"))
            return "solved" if is_solved else self._settings.otherwise
        if truncated and self._settings.truncation != "error":
            return self._settings.truncation
        episode.is_cut = truncated  # an error if the card's own limit does not end the episode here as well
        return ""

    def _error(self, shown: _Shown) -> str:
        for rule in self._settings.errors:
            if rule.pattern is None:
                is_there = bool(shown.get(rule.source, setting="errors.source"))
            else:
                is_there = re.search(rule.pattern, shown.text(rule.source, setting="errors.source")) is not None
            if is_there:
                return rule.kind
        return ""


class GymnasiumExpertTask(GymnasiumTextTask):
    """The same with an expert whose next action the environment shows."""

    def expert_action(self) -> str:
        """Next action of the expert; see `ExpertTask.expert_action`."""
        episode, expert = self._running(), self._settings.expert
        assert expert is not None
        shown = episode.shown
        due = episode.walkthrough if expert.is_walkthrough else shown.texts(expert.source, setting="expert.source")
        if not due:
            raise SimulatorError(f"the expert ('{expert.source}') knows no further action, and the task has not ended")
        return due[0]

    def mistakes(self) -> dict[str, tuple[str, ...]]:
        """Wrong actions of the card that are not the expert's; see `ExpertTask.mistakes`."""
        episode, due = self._running(), self.expert_action()
        kinds: dict[str, tuple[str, ...]] = {}
        for kind, texts in self._settings.mistakes.items():
            named = episode.shown.texts(texts, setting=f"mistakes.{kind}") if isinstance(texts, str) else texts
            wrong = tuple(text for text in named if text and text != due)
            if wrong:
                kinds[kind] = wrong
        return kinds


def _make_env(made: EnvSettings) -> gymnasium.Env[Any, Any]:
    """Make the environment, without any turn limit of its registration: that of the card is the only one."""
    name = made.id or made.entry_point
    try:
        if made.id is not None:
            return gymnasium.make(made.id, max_episode_steps=-1, disable_env_checker=True, **made.kwargs)
        make: Any = load_target(str(made.entry_point), what="settings.entry_point", looks_here=True)
        env: gymnasium.Env[Any, Any] = make(**made.kwargs)
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise MissingDependencyError(
            f"environment '{name}' cannot be made: {error}; install its package, and name the module that registers it "
            "('module:Id-v0')"
        ) from error
    except InvalidConfigError:
        raise
    except TypeError as error:
        raise InvalidConfigError(
            f"environment '{name}' does not take settings.kwargs {made.kwargs}: {error}"
        ) from error
    except Exception as error:
        raise SimulatorError(f"environment '{name}' could not be made: {type(error).__name__}: {error}") from None
    return env


def _call(env: Any, method: str, *arguments: object, n_values: tuple[int, ...], **named: object) -> tuple[Any, ...]:  # noqa: ANN401
    """Call the environment; whatever it raises is a broken simulator, what it returns is checked."""
    try:
        answer = getattr(env, method)(*arguments, **named)
    except Exception as error:  # it is somebody else's code; an error may hold what does not pickle, so its text alone
        raise SimulatorError(f"the environment raised in {method}(): {type(error).__name__}: {error}") from None
    if not isinstance(answer, tuple) or len(answer) not in n_values or not isinstance(answer[-1], Mapping):
        expected = "(observation, info)" if method == "reset" else "(observation, reward, terminated, truncated, info)"
        raise InvalidConfigError(
            f"the environment's {method}() gave {answer!r:.100}, must be {expected} with a dictionary as info; "
            "use an environment of the Gymnasium interface, or write a text task"
        )
    return answer
