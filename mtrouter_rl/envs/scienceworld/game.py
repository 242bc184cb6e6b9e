"""One step of a ScienceWorld game, without what the engine's Python interface does besides.

`PythonInterface.step` looks around, lists the inventory, keeps both in a history that nobody reads here, and writes every
name that could be used to its output. The game below it is asked directly: the same answers, scores and endings, for less.
"""

from typing import Any, NamedTuple

_OF_THE_INTERFACE = frozenset({"help", "objects", "task"})
"""What the interface answers itself; the game is not played on."""
_TRIMMED = "".join(map(chr, range(33)))
"""What Java's `trim` takes away at both ends."""
_NOT_UNDERSTOOD = (
    "Unknown action.  Type 'help' for a list of actions, and 'objects' for a list of possible object referents. "
)
"""What the interface says where the game says nothing."""


class GameStep(NamedTuple):
    """What came of an action.

    Attributes:
        observation: What the game says.
        score: Score so far, 1 for full success.
        is_completed: Whether the game is over.
    """

    observation: str
    score: float
    is_completed: bool


class Game:
    """A game that was loaded into the engine; the next one that is loaded is another `Game`."""

    def __init__(self, engine: Any) -> None:  # noqa: ANN401 - a Java object
        """Take the game that the engine holds now; nothing is played."""
        self._engine = engine
        self._game = engine.agentInterface().get()
        self._last = GameStep(observation="", score=0.0, is_completed=False)

    def step(self, action: str) -> GameStep:
        """Play an action. Errors are those of py4j."""
        if action.strip(_TRIMMED).lower() in _OF_THE_INTERFACE:
            return self._last._replace(observation=str(self._engine.step(action)))
        observation, score, is_completed = str(self._game.step(action).toString())[1:-1].rsplit(",", 2)
        self._last = GameStep(observation or _NOT_UNDERSTOOD, float(score), is_completed == "true")
        return self._last
