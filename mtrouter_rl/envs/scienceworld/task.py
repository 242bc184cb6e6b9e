"""ScienceWorld behind the text-task protocol: its own engine, driven directly, with an expert that re-plans.

`ScienceWorldEnv.step` lists every valid action after every step, which takes several times as long as the step itself
(`scripts/bench/env_speed.py` measures it). Here the engine is asked for what is needed only: the same observations, scores
and endings, and nothing else.
Source: Wang et al., ScienceWorld: Is your Agent Smarter than a 5th Grader? (2022), and the package `scienceworld`.
"""

import importlib.metadata
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, ValidationError

from mtrouter_rl.cards import EnvCard, card_root
from mtrouter_rl.cards.files import check_no_truth_counts
from mtrouter_rl.envs.scienceworld.game import Game, GameStep
from mtrouter_rl.envs.scienceworld.gold_paths import GoldPaths
from mtrouter_rl.envs.scienceworld.jvm import ScienceWorldJvm
from mtrouter_rl.errors import CallOrderError, CardError, InvalidConfigError, SimulatorError, unknown_name
from mtrouter_rl.protocols import Ending, ExpertPlan, TaskStart, TaskStep
from mtrouter_rl.records import Frozen

_AMBIGUOUS = "Ambiguous request"
_CANCELLED = "Unknown action."
_UNKNOWN = ("No known action matches that input.", _CANCELLED)
_NO_WAY = "It's not clear how to get there from here."
_CLOSED = "The door is not open."
_LOCATION = re.compile(r"This (?:room|outside location) is called the (.+?)\.")
_OPEN_DOOR = re.compile(r"A door to the (.+?) \(that is open\)")
_THING = re.compile(r"^\t(?:an? |the )([a-z ]+?)(?:,| \(|\.|$)", re.MULTILINE)
_ITEM = re.compile(r"^\t(?:an? |the )([a-z ]+?)(?:,| \(|$)", re.MULTILINE)
_NO_FOCUS = {"agent", "substance called air", "ground"}
_MAX_REPEATS = 2
_MAX_FATAL_OPTIONS = 5
_GOAL = re.compile(r"^\d+\tfalse\s+(\w+)", re.MULTILINE)
_PUNISHED_GOALS = re.compile(r"Goal(Find(?!AnswerBox)|FocusOn(?!Nonliving))")


class ScienceWorldSettings(Frozen):
    """Settings of the family in an environment card.

    Attributes:
        heap_mb: Upper bound of the Java heap of every worker's JVM, MiB.
        simplifications: ScienceWorld's simplification string, empty for the full game.
        gold_paths: File of gold paths beside the environment cards; None makes every path when it is first needed.
    """

    heap_mb: Annotated[int, Field(ge=128)]
    simplifications: str
    gold_paths: str | None = None


def engine_version() -> str:
    """Version of the installed package `scienceworld`."""
    return importlib.metadata.version("scienceworld")


def make_task(card: EnvCard) -> "ScienceWorldTask":
    """Text task of an environment card of family "scienceworld"; starts no JVM before the first reset.

    Raises:
        CardError: If the card's settings are not those of the family.
    """
    try:
        settings = ScienceWorldSettings.model_validate(card.settings)
    except ValidationError as error:
        raise CardError(f"card '{card.name}', settings: {error}") from error
    check_no_truth_counts(card.settings, settings, card=f"'{card.name}'", inside=("settings",))
    return ScienceWorldTask(settings)


def error_kind(observation: str) -> str:
    """Kind of error that ScienceWorld's answer tells of; empty if the action was understood and possible.

    Example:
        >>> error_kind("No known action matches that input.")
        'unknown_action'
        >>> error_kind("The door is now open.")
        ''
    """
    if observation.startswith(_UNKNOWN):
        return "unknown_action"
    if observation.startswith(_AMBIGUOUS):
        return "ambiguous"
    if observation.startswith((_NO_WAY, _CLOSED)):
        return "impossible"
    return ""


@dataclass(frozen=True, kw_only=True)
class _Move:
    """One action that was played, what the engine answered, and where it led."""

    action: str
    observation: str
    came_from: str
    now_at: str


class ScienceWorldTask:
    """A ScienceWorld game. One JVM, started at the first reset and kept until `close`."""

    max_score = 100.0
    fatal_score = -100.0

    def __init__(self, settings: ScienceWorldSettings) -> None:
        """Create the task; use `make_task` to make it from a card."""
        self._settings = settings
        self._jvm: ScienceWorldJvm | None = None
        self._gold_paths: GoldPaths | None = None
        self._n_variations: dict[str, int] = {}
        self._is_running = False

    def reset(self, task: str, variation: int, seed: int) -> TaskStart:
        """Start a game. ScienceWorld's variation fixes everything, so the seed changes nothing.

        Raises:
            UnknownNameError: If ScienceWorld has no such task.
            InvalidConfigError: If the task has no such variation.
            SimulatorError: If the engine breaks.
        """
        engine = self._start_engine()
        if task not in self._n_variations:
            raise unknown_name("ScienceWorld task", task, self._n_variations)
        if not 0 <= variation < self._n_variations[task]:
            raise InvalidConfigError(
                f"task '{task}' has no variation {variation}; it has 0 to {self._n_variations[task] - 1}"
            )
        self._task_name, self._variation = task, variation
        observation = self._load(engine)
        self._replanner: Replanner | None = None
        self._played: list[_Move] = []
        self._is_running = True
        self._place = self._location()
        return TaskStart(task_text=str(self._call(engine.getTaskDescription)), observation=observation)

    def step(self, action_text: str) -> TaskStep:
        """Execute one action; see `TextTask.step`. A negative score ends the game as failed, as in ScienceWorld."""
        self._running_engine()
        observation, share, is_completed = self._play(action_text)
        score = round(100 * share)
        ending: Ending = ""
        if score < 0:
            ending = "failed"
        elif is_completed:
            ending = "solved" if score >= self.max_score else "failed"
        self._remember(action_text, observation)
        self._is_running = ending == ""
        return TaskStep(observation=observation, score=float(score), ending=ending, error=error_kind(observation))

    def expert_action(self) -> str:
        """Next action of the gold path, or the one that repairs a deviation from it."""
        self._running_engine()
        return self._expert().next_action()

    def expert_plan(self) -> ExpertPlan:
        """Repairs that are due, then the rest of the gold path, with the score that each action brings on the path itself.

        What the path's actions bring is found by playing it, once a variation, and kept. That reloads the game, which is then
        played again up to here.
        """
        engine = self._running_engine()
        key = (self._task_name, self._variation)
        path = self._store().get(*key, lambda: self._make_gold_path_in_game(engine))
        gains_of_path = self._store().gains(*key, lambda: self._play_gold_path(engine, path))
        actions, gains = self._expert().actions_left(gains_of_path)
        return ExpertPlan(actions=actions, gains=gains, fatal_score=self.fatal_score)

    def mistakes(self) -> dict[str, tuple[str, ...]]:
        """Plausible wrong actions in the present state; see `ExpertTask.mistakes`."""
        engine = self._running_engine()
        look = str(self._call(engine.freeActionLook))
        due = self.expert_action()
        wander = [f"go to {place}" for place in _OPEN_DOOR.findall(look)]
        things = [thing for thing in _THING.findall(look.split("You also see:")[0]) if thing not in _NO_FOCUS]
        fatal = [f"focus on {thing}" for thing in dict.fromkeys(things) if f"focus on {thing}" != due]
        kinds = {
            "idle": ["look around", "inventory", "task"],
            "wander": wander,
            "drop": [f"drop {item}" for item in _ITEM.findall(str(self._call(engine.freeActionInventory)))],
            "fatal": fatal[:_MAX_FATAL_OPTIONS] if due.startswith("focus on") else self._untimely(fatal, due),
        }
        return {kind: tuple(sorted(set(actions) - {due})) for kind, actions in kinds.items() if set(actions) - {due}}

    def close(self) -> None:
        """Stop the JVM, if one runs."""
        self._is_running = False
        if self._jvm is not None:
            self._jvm.close()
            self._jvm = None

    def __enter__(self) -> "ScienceWorldTask":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def jvm_pid(self) -> int | None:
        """Process id of the JVM; None while none runs."""
        return None if self._jvm is None else self._jvm.pid

    def gold_path(self, task: str, variation: int) -> list[str]:
        """Gold path of a variation, from the store or made now. A game in progress is lost."""
        engine = self._start_engine()
        self._is_running = False
        return self._store().get(task, variation, lambda: self._make_gold_path(engine, task, variation))

    def _untimely(self, wrong: Sequence[str], due: str) -> list[str]:
        """A wrong focus while something else is due. The game ends at it while what it waits for next is a focus.

        It then waits for one of a right thing; where any thing will do, or an answer box, nothing is offered here.
        """
        if due.isdigit():  # the game waits for the number of an option
            return []
        ahead = str(self._call(self._running_engine().getGoalProgressStr)).partition("Unordered and Optional")[0]
        goal = _GOAL.search(ahead)
        if goal is None or not _PUNISHED_GOALS.match(goal.group(1)):
            return []
        return [action for action in wrong if "substance" not in action and not self._expert().does(action)][:1]

    def _start_engine(self) -> Any:  # noqa: ANN401 - a Java object
        if self._jvm is None:
            self._jvm = ScienceWorldJvm(heap_mb=self._settings.heap_mb)
            engine = self._jvm.engine
            names = [str(name) for name in self._call(engine.getTaskNames)]
            self._n_variations = {name: int(self._call(engine.getTaskMaxVariations, name)) for name in names}
        return self._jvm.engine

    def _running_engine(self) -> Any:  # noqa: ANN401 - a Java object
        if self._jvm is None or not self._is_running:
            raise CallOrderError(
                "no ScienceWorld game is running; call reset() first, and again after a game has ended"
            )
        return self._jvm.engine

    def _call(self, method: Any, *arguments: object) -> Any:  # noqa: ANN401 - a Java method and what it returns
        from py4j.protocol import Py4JError

        try:
            return method(*arguments)
        except (Py4JError, OSError) as error:
            # py4j's errors hold sockets and do not pickle: keep the text alone.
            raise SimulatorError(f"ScienceWorld's engine failed: {type(error).__name__}: {error}") from None

    def _store(self) -> GoldPaths:
        if self._gold_paths is None:
            name = self._settings.gold_paths
            shipped = card_root() / "envs" / name if name else None
            self._gold_paths = GoldPaths(shipped=shipped, version=engine_version())
        return self._gold_paths

    def _make_gold_path(self, engine: Any, task: str, variation: int) -> list[str]:  # noqa: ANN401
        self._call(engine.load, task, variation, self._settings.simplifications, True)
        return [str(action) for action in self._call(engine.getGoldActionSequence)]

    def _load(self, engine: Any) -> str:  # noqa: ANN401
        self._call(engine.load, self._task_name, self._variation, self._settings.simplifications, False)
        self._game: Game = self._call(Game, engine)
        return self._play("look around").observation

    def _play(self, action: str) -> GameStep:
        played: GameStep = self._call(self._game.step, action)
        return played

    def _remember(self, action: str, observation: str) -> None:
        """Keep what was played, so that an expert that is asked late knows it as well."""
        move = _Move(action=action, observation=observation, came_from=self._place, now_at=self._location())
        self._place = move.now_at
        self._played.append(move)
        if self._replanner is not None:
            self._replanner.record(move)

    def _expert(self) -> "Replanner":
        if self._replanner is None:
            engine = self._running_engine()
            key = (self._task_name, self._variation)
            replanner = Replanner(self._store().get(*key, lambda: self._make_gold_path_in_game(engine)))
            for move in self._played:
                replanner.record(move)
            self._replanner = replanner
        return self._replanner

    def _make_gold_path_in_game(self, engine: Any) -> list[str]:  # noqa: ANN401
        """Make a missing gold path during a game; that reloads the game, so play it again up to here."""
        path = self._make_gold_path(engine, self._task_name, self._variation)
        self._replay(engine)
        return path

    def _play_gold_path(self, engine: Any, path: list[str]) -> tuple[float, ...]:  # noqa: ANN401
        """Score that each action of a gold path brings; after the end of the task it is 0."""
        self._load(engine)
        scores, is_completed = [0.0], False
        for action in path:
            if is_completed:
                break
            _, share, is_completed = self._play(action)
            scores.append(100 * share)
        self._replay(engine)
        gains = [round(after - before, 6) for before, after in itertools.pairwise(scores)]
        return (*gains, *(0.0,) * (len(path) - len(gains)))

    def _replay(self, engine: Any) -> None:  # noqa: ANN401
        """Play a game that was reloaded again up to where it was."""
        self._load(engine)
        for move in self._played:
            self._play(move.action)

    def _location(self) -> str:
        found = _LOCATION.search(str(self._call(self._running_engine().freeActionLook)))
        return found.group(1) if found else ""


class Replanner:
    """Follows a gold path and repairs deviations: walks back, repeats what failed, picks up again, undoes.

    It keeps a stack of repairs; while there are any, the top one is the expert's next action.
    """

    def __init__(self, path: list[str]) -> None:
        """Start at the beginning of a gold path."""
        self._path = path
        self._position = 0
        self._repairs: list[str] = []
        self._n_failures: dict[str, int] = {}
        self._is_ambiguous = False

    def next_action(self) -> str:
        """What the expert does now."""
        if self._is_ambiguous:
            return self._number_due()
        if self._repairs:
            return self._repairs[-1]
        self._position = self._before_number()
        return self._path[self._position] if self._position < len(self._path) else "look around"

    def does(self, action: str) -> bool:
        """Whether an action is on the gold path."""
        return action in self._path

    def actions_left(self, gains: Sequence[float]) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """What the expert does from here if nothing goes wrong, and what each action brings; a repair brings nothing.

        Args:
            gains: What each action of the whole gold path brings.
        """
        start = self._position if self._is_ambiguous else self._before_number()
        answer = [("0", 0.0)] if self._is_ambiguous and not self._is_number_next() else []
        repairs = [(action, 0.0) for action in reversed(self._repairs)]
        rest = zip(self._path[start:], gains[start:], strict=True)
        both = [*answer, *repairs, *rest] or [("look around", 0.0)]
        return tuple(action for action, _ in both), tuple(gain for _, gain in both)

    def record(self, move: "_Move") -> None:
        """Learn what was done and what came of it.

        An ambiguous request that somebody else made is not answered, for that would complete a mistake: the expert's next
        action cancels it and is then repeated.
        """
        is_own = move.action == self.next_action()
        was_ambiguous = self._is_ambiguous
        self._is_ambiguous = is_own and move.observation.startswith(_AMBIGUOUS)
        if is_own:
            self._advance(move, was_ambiguous=was_ambiguous)
        else:
            self._repair(move)

    def _number_due(self) -> str:
        """Answer to an ambiguous request: the gold path's number if it has one here, else the first."""
        if not self._repairs and self._position < len(self._path) and self._path[self._position].isdigit():
            return self._path[self._position]
        return "0"

    def _before_number(self) -> int:
        """Position on the path; a number there answers a request that was lost meanwhile: the request is made again."""
        position = self._position
        while 0 < position < len(self._path) and self._path[position].isdigit():
            position -= 1
        return position

    def _advance(self, move: "_Move", *, was_ambiguous: bool) -> None:
        if move.observation.startswith(_CANCELLED):
            return  # it was read as no answer to somebody's ambiguous request, and not executed
        if error_kind(move.observation) in ("unknown_action", "impossible"):
            self._n_failures[move.action] = self._n_failures.get(move.action, 0) + 1
            if self._n_failures[move.action] <= _MAX_REPEATS:
                self._prepare_repeat(move.action)
                return
        self._n_failures.pop(move.action, None)
        if was_ambiguous and not self._is_number_next():
            return
        if self._repairs:
            self._repairs.pop()
        else:
            self._position += 1

    def _is_number_next(self) -> bool:
        return not self._repairs and self._position < len(self._path) and self._path[self._position].isdigit()

    def _prepare_repeat(self, failed: str) -> None:
        """What failed is repeated; a walk through a door that may have been closed opens it first."""
        if failed.startswith("go to "):
            self._repairs.append(f"open door to {failed.removeprefix('go to ')}")

    def _repair(self, move: "_Move") -> None:
        if move.came_from != move.now_at:
            self._walked(came_from=move.came_from, now_at=move.now_at)
        elif error_kind(move.observation) == "":
            undo = _undo(move.action, move.observation)
            if undo:
                self._repairs.append(undo)

    def _walked(self, *, came_from: str, now_at: str) -> None:
        if self._repairs and self._repairs[-1] == f"go to {now_at}":
            self._repairs.pop()
        else:
            self._repairs.append(f"go to {came_from}")


_INVERSES = {"close": "open", "activate": "deactivate", "deactivate": "activate"}


def _undo(action: str, observation: str) -> str:
    """Action that undoes one that was not the expert's; empty if nothing needs to be undone.

    Example:
        >>> _undo("drop thermometer", "You move the thermometer to the kitchen.")
        'pick up thermometer'
        >>> _undo("look around", "This room is called the kitchen.")
        ''
    """
    dropped = re.match(r"(?:drop|put down|move) (.+?)(?: to .+)?$", action)
    if dropped and observation.startswith("You move"):
        return f"pick up {dropped.group(1).removesuffix(' in inventory')}"
    verb, _, thing = action.partition(" ")
    if verb in ("close", "activate", "deactivate") and " is now " in observation:
        return f"{_INVERSES[verb]} {thing}"
    return ""
