"""TextWorld behind the text-task protocol: generated text games, an expert that plans anew from every state.

A task is a kind of game that the card describes, a variation one generated game of it. The score is the share of the
game's points in percent.
Source: Côté et al., TextWorld: A Learning Environment for Text-based Games (2018), and the package `textworld`.
"""

import re
from pathlib import Path
from typing import Protocol

from mtrouter_rl.cards import EnvCard, parse_settings
from mtrouter_rl.envs.textworld.games import Game, GameStore, GameView, TextWorldGame, TextWorldSettings
from mtrouter_rl.errors import CallOrderError, CardError, InvalidConfigError, SimulatorError, unknown_name
from mtrouter_rl.protocols import ExpertPlan, TaskStart, TaskStep

_RULES = (
    "You play a text game. Type one command per turn, such as: look, inventory, examine cookbook, go north, open fridge, "
    "take red apple from fridge, drop knife, unlock red door with red key, cook pork chop with oven, slice carrot with knife, "
    "prepare meal, eat meal."
)
_UNKNOWN = "That's not a verb I recognise."
_COMMAND = re.compile(r"[A-Za-z][A-Za-z0-9' -]{0,119}")
_ROOM = re.compile(r"^-= .+? =-", re.MULTILINE)
_STATUS_LINE = re.compile(r"\n>.*\Z", re.DOTALL)
_QUESTION = re.compile(r"Would you like to RESTART.*\Z", re.DOTALL)
_NOT_UNDERSTOOD = re.compile(
    r"That's not a verb|I didn't understand|I only understood|You can't see any such|You seem to want"
)
_AMBIGUOUS = re.compile(r"Which do you mean|What do you want|What do you mean")
_HARMLESS = ("look", "inventory", "examine ")
_LOSING = ("put ", "insert ", "drop ")
_RISKY = ("eat ", "cook ", "slice ", "chop ", "dice ", "take ")
_MAX_OPTIONS = 6
_NOTHING_TO_DO = "look"


class Store(Protocol):
    """Where game files come from."""

    def path_of(self, task: str, variation: int) -> Path:
        """File of a game, made if it is not there."""

    def close(self) -> None:
        """Release what making games holds. May be called twice."""


def make_task(card: EnvCard) -> "TextWorldTask":
    """Text task of an environment card of family "textworld"; imports TextWorld at the first reset only.

    Raises:
        CardError: If the card's settings are not those of the family, or a task has no game.
    """
    games = parse_settings(card, TextWorldSettings).games
    tasks = card.counted_tasks()
    missing = sorted(set(tasks) - set(games))
    if missing:
        raise CardError(f"card '{card.name}', settings.games has no entry for {missing}; add one for each task")
    return TextWorldTask(n_variations=tasks, store=GameStore(games), game=TextWorldGame())


def readable(text: str) -> str:
    r"""What a game prints, without its title, status line and closing question.

    Example:
        >>> readable("\n\n-= Attic =-\nA room.\n\n\n\nA key.\n\n>   -= Attic =-0/3")
        '-= Attic =-\nA room.\n\nA key.'
    """
    text = _QUESTION.sub("", _STATUS_LINE.sub("", text))
    lines = [line.strip() for line in text.splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


class TextWorldTask:
    """A generated game, played by TextWorld's interpreter."""

    max_score = 100.0

    def __init__(self, *, n_variations: dict[str, int], store: Store, game: Game) -> None:
        """Create the task; use `make_task` to make it from a card.

        Args:
            n_variations: Number of variations of every task.
            store: Where game files come from.
            game: Whoever plays them.
        """
        self._n_variations = n_variations
        self._store = store
        self._game = game
        self._is_running = False

    def reset(self, task: str, variation: int, seed: int) -> TaskStart:
        """Start a game. The variation fixes everything, so the episode's seed changes nothing.

        Raises:
            UnknownNameError: If the card has no such task.
            InvalidConfigError: If the task has no such variation.
            MissingDependencyError: If the package textworld is not installed.
            SimulatorError: If the game cannot be made or started.
        """
        if task not in self._n_variations:
            raise unknown_name("TextWorld task", task, self._n_variations)
        if not 0 <= variation < self._n_variations[task]:
            raise InvalidConfigError(
                f"task '{task}' has no variation {variation}; it has 0 to {self._n_variations[task] - 1}"
            )
        self._is_running = False
        path = self._store.path_of(task, variation)
        try:
            self._view = self._game.start(path)
        except (OSError, ValueError, LookupError) as error:
            raise SimulatorError(
                f"game {path} cannot be started ({error}); delete it, it is then made again"
            ) from error
        self._is_running = True
        room = _ROOM.search(self._view.text)
        observation = self._view.text[room.start() :] if room else self._view.text
        return TaskStart(
            task_text=f"{_RULES}\n\n{readable(self._view.objective)}",
            observation=readable(observation),
            score=self._score(),
        )

    def step(self, action_text: str) -> TaskStep:
        """Execute one command; see `TextTask.step`. What the game refuses is of kind "impossible" or "ambiguous"."""
        self._refuse_if_over()
        command = action_text.strip()
        if not self._is_command(command):
            return TaskStep(observation=_UNKNOWN, score=self._score(), error="unknown_action")
        before = self._view
        self._view = self._game.play(command)
        self._is_running = self._view.ending == ""
        return TaskStep(
            observation=readable(self._view.text),
            score=self._score(),
            ending=self._view.ending,
            error=_error_kind(command, before, self._view),
        )

    def possible_actions(self) -> tuple[str, ...]:
        """Commands that change something now, as TextWorld lists them."""
        self._refuse_if_over()
        return tuple(self._view.commands)

    def expert_action(self) -> str:
        """First command of the plan that TextWorld's tracker makes from the present state; it knows the whole game.

        Where no plan is left, since something was lost for good, it looks around.
        """
        self._refuse_if_over()
        return self._view.policy[0] if self._view.policy else _NOTHING_TO_DO

    def expert_plan(self) -> ExpertPlan:
        """The tracker's plan; which command of it brings points is not known."""
        self._refuse_if_over()
        if not self._view.policy:
            return ExpertPlan(actions=(_NOTHING_TO_DO,), gains=(0.0,))
        return ExpertPlan(actions=tuple(self._view.policy))

    def mistakes(self) -> dict[str, tuple[str, ...]]:
        """Wrong commands that the game understands now: looking, walking off, putting things away, and what loses the game."""
        self._refuse_if_over()
        others = [command for command in self._view.commands if command != self.expert_action()]
        kinds = {
            "idle": [command for command in others if command.startswith(_HARMLESS)],
            "wander": [command for command in others if command.startswith("go ")],
            "drop": [command for command in others if command.startswith(_LOSING)],
            "fatal": [command for command in others if command.startswith(_RISKY) and self._game.loses(command)],
        }
        return {kind: tuple(commands[:_MAX_OPTIONS]) for kind, commands in kinds.items() if commands}

    def close(self) -> None:
        """Close the game and the process that makes games."""
        self._is_running = False
        self._game.close()
        self._store.close()

    def _refuse_if_over(self) -> None:
        if not self._is_running:
            raise CallOrderError("no TextWorld game is running; call reset() first, and again after a game has ended")

    def _is_command(self, command: str) -> bool:
        """Whether a text may go to the interpreter: a line of plain words that begins with one of the game's verbs.

        So no text can save, restore or undo a game, reveal what is hidden, or overflow the interpreter's input.
        """
        return bool(_COMMAND.fullmatch(command)) and command.split()[0].lower() in self._view.verbs

    def _score(self) -> float:
        return self.max_score * self._view.points / self._view.max_points


def _error_kind(command: str, before: GameView, after: GameView) -> str:
    is_listed = command.lower() in {listed.lower() for listed in before.commands}
    if is_listed or after.n_moves > before.n_moves:
        return ""
    if _NOT_UNDERSTOOD.search(after.text):
        return "unknown_action"
    return "ambiguous" if _AMBIGUOUS.search(after.text) else "impossible"
