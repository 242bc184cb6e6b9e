"""TextWorld's games: made once per (task, variation), kept in the user's cache folder, and played by its interpreter."""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeAlias

from pydantic import Field

from mtrouter_rl.envs.textworld.maker import GAME_SUFFIX
from mtrouter_rl.errors import MissingDependencyError, SimulatorError
from mtrouter_rl.files import cache_folder
from mtrouter_rl.protocols import Ending
from mtrouter_rl.records import Frozen

_CLOSE_TIMEOUT_S = 10.0


class CoinCollector(Frozen):
    """Walk through a maze and take the coin; see `textworld.challenges.tw_coin_collector` for the levels."""

    challenge: Literal["coin_collector"]
    level: Annotated[int, Field(ge=1, le=300)]


class TreasureHunter(Frozen):
    """Find one object and do not take another; see `textworld.challenges.tw_treasure_hunter` for the levels."""

    challenge: Literal["treasure_hunter"]
    level: Annotated[int, Field(ge=1, le=30)]


class Cooking(Frozen):
    """Gather ingredients, prepare them by the recipe, cook and eat the meal.

    TextWorld's limit on the inventory ("drop") is no setting here: with it its tracker has no plan, so there is no expert.

    Attributes:
        recipe: Number of ingredients.
        take: How many of them have to be fetched.
        open: Whether containers and doors are closed.
        cook: Whether ingredients have to be cooked.
        cut: Whether ingredients have to be cut.
        go: Number of rooms.
    """

    challenge: Literal["cooking"]
    recipe: Annotated[int, Field(ge=1, le=5)]
    take: Annotated[int, Field(ge=0, le=5)]
    open: bool = False
    cook: bool = False
    cut: bool = False
    go: Literal[1, 6, 9, 12] = 1


GameSettings: TypeAlias = Annotated[CoinCollector | TreasureHunter | Cooking, Field(discriminator="challenge")]


class TextWorldSettings(Frozen):
    """Settings of the family in an environment card.

    Attributes:
        games: What kind of game every task is.
    """

    games: dict[str, GameSettings]


@dataclass(frozen=True, kw_only=True)
class GameView:
    """What a game shows at a turn, and what only its tracker knows.

    Attributes:
        text: What the game prints, with its decoration.
        objective: What has to be done.
        points: Points so far.
        max_points: Points of full success.
        ending: How the game ended; empty while it goes on.
        n_moves: How many actions had an effect so far.
        commands: Commands that the game would understand now, sorted.
        policy: Commands that lead to full success from here; empty if there are none.
        verbs: First words of commands.
    """

    text: str
    objective: str
    points: int
    max_points: int
    ending: Ending
    n_moves: int
    commands: tuple[str, ...]
    policy: tuple[str, ...]
    verbs: frozenset[str]


class Game(Protocol):
    """Whoever plays a game; the tests have one without TextWorld."""

    def start(self, path: Path) -> GameView:
        """Start the game of a file anew."""

    def play(self, command: str) -> GameView:
        """Execute a command."""

    def loses(self, command: str) -> bool:
        """Whether one of the present commands would end the game badly."""

    def close(self) -> None:
        """Release what the game holds. May be called twice."""


def refuse_without_textworld() -> None:
    """Check that the package is there.

    Raises:
        MissingDependencyError: If it is not; says what to install.
    """
    if importlib.util.find_spec("textworld") is None:
        raise MissingDependencyError(
            "package 'textworld' is missing; run: pip install 'mtrouter-rl[textworld]' (or [envs] for all suites); "
            "it compiles its dependency jericho, so a C compiler and make are needed"
        )


class GameStore:
    """Game files by (task, variation)."""

    def __init__(self, games: Mapping[str, GameSettings], *, folder: Path | None = None) -> None:
        """Open the store; makes nothing yet.

        Args:
            games: Settings of every task's games.
            folder: Where games are kept; None takes the user's cache folder.
        """
        self._games = games
        self._folder = folder
        self._maker: subprocess.Popen[str] | None = None

    def path_of(self, task: str, variation: int) -> Path:
        """File of a game, which is made if it is not there.

        Raises:
            MissingDependencyError: If a game has to be made and TextWorld is not installed.
            SimulatorError: If it cannot be made.
        """
        refuse_without_textworld()
        settings = self._games[task].model_dump_json()
        version = importlib.metadata.version("textworld")
        folder = (self._folder or cache_folder()) / f"textworld-{version}"
        path = folder / f"{task}-{zlib.crc32(settings.encode()):08x}" / f"{variation}{GAME_SUFFIX}"
        if not path.is_file():
            self._make(task, variation, path)
        return path

    def close(self) -> None:
        """Stop the process that makes games, if one runs."""
        if self._maker is None:
            return
        maker, self._maker = self._maker, None
        try:
            with contextlib.suppress(BrokenPipeError):
                maker.communicate(timeout=_CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            maker.kill()
            maker.communicate()

    def _make(self, task: str, variation: int, path: Path) -> None:
        options = self._games[task].model_dump()
        request = {
            "challenge": options.pop("challenge"),
            "options": options,
            "seed": zlib.crc32(f"{task}/{variation}".encode()),
            "path": str(path),
        }
        answer = self._ask(request)
        if answer["error"]:
            raise SimulatorError(
                f"TextWorld could not make game {variation} of task '{task}' in {path.parent}: {answer['error']}; "
                "check the card's settings.games and that the folder can be written"
            )

    def _ask(self, request: Mapping[str, object]) -> dict[str, str]:
        if self._maker is None:
            self._maker = subprocess.Popen(
                [sys.executable, "-m", "mtrouter_rl.envs.textworld.maker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
                env=os.environ | {"PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        assert self._maker.stdin is not None
        assert self._maker.stdout is not None
        try:
            self._maker.stdin.write(json.dumps(request) + "\n")
            self._maker.stdin.flush()
            line = self._maker.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            status = self._maker.wait()
            self._maker = None
            raise SimulatorError(
                f"the process that makes TextWorld games ended with status {status}; "
                "run 'python -m mtrouter_rl.envs.textworld.maker' to see why"
            )
        answer: dict[str, str] = json.loads(line)
        return answer


class TextWorldGame:
    """A game in TextWorld's own interpreter, with its tracker of state and quests."""

    def __init__(self) -> None:
        """Start nothing before `start`."""
        self._env: Any = None

    def start(self, path: Path) -> GameView:
        """See `Game.start`."""
        import textworld

        self.close()
        wanted = textworld.EnvInfos(
            feedback=True,
            objective=True,
            score=True,
            max_score=True,
            moves=True,
            verbs=True,
            admissible_commands=True,
            policy_commands=True,
        )
        with warnings.catch_warnings():  # the interpreter warns that it does not know this game by name
            warnings.simplefilter("ignore")
            self._env = textworld.start(str(path), wanted)
            self._env.seed(0)
            self._state = self._env.reset()
        return self._view()

    def play(self, command: str) -> GameView:
        """See `Game.play`."""
        self._state, _, _ = self._env.step(command)
        return self._view()

    def loses(self, command: str) -> bool:
        """See `Game.loses`; played out in a copy of the tracker."""
        progression = self._state["_game_progression"]
        actions = progression.valid_actions
        commands = self._env._inform7.gen_commands_from_actions(actions)
        if command not in commands:
            return False
        tried = progression.copy()
        tried.update(actions[commands.index(command)])
        return bool(tried.failed)

    def close(self) -> None:
        """See `Game.close`."""
        if self._env is not None:
            self._env.close()
            self._env = None

    def _view(self) -> GameView:
        state = self._state
        return GameView(
            text=state["feedback"],
            objective=state["objective"],
            points=int(state["score"] or 0),
            max_points=int(state["max_score"]),
            ending="solved" if state["won"] else "failed" if state["lost"] else "",
            n_moves=int(state["moves"]),
            commands=tuple(state["admissible_commands"]),
            policy=tuple(state["policy_commands"] or ()),
            verbs=frozenset(state["verbs"]),
        )
