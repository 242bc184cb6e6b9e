"""The expert of BabyAI: MiniGrid's own bot, told of every action, and started anew where it loses its thread.

Source: Chevalier-Boisvert et al., BabyAI: A Platform to Study the Sample Efficiency of Grounded Language Learning (2019),
section 3.4 for the bot, and the package `minigrid`.
"""

from collections.abc import Sequence
from typing import Any

_BOT_ERRORS = (AssertionError, AttributeError, IndexError, TypeError, RecursionError, RuntimeError)
_MAX_SEARCHES = 400


def pending(instruction: Any) -> tuple[Any, ...]:  # noqa: ANN401 - an instruction of MiniGrid
    """The single instructions of a mission that are still to be carried out, in the order in which they have to be."""
    if not hasattr(instruction, "instr_a"):
        return (instruction,)
    first, second = pending(instruction.instr_a), pending(instruction.instr_b)
    is_first_done, is_second_done = instruction.a_done == "success", instruction.b_done == "success"
    if type(instruction).__name__ == "AfterInstr":
        first, second = second, first
        is_first_done, is_second_done = is_second_done, is_first_done
    return (() if is_first_done else first) + (() if is_second_done else second)


def is_lost(instruction: Any, destroyed: Sequence[Any]) -> bool:  # noqa: ANN401
    """Whether a mission cannot be accomplished any more, since what it wants picked up or moved is destroyed."""
    wanted = [getattr(part, name).obj_set for part in pending(instruction) for name in _carried_descriptions(part)]
    return any(things and all(_is_among(thing, destroyed) for thing in things) for things in wanted)


def _carried_descriptions(part: Any) -> tuple[str, ...]:  # noqa: ANN401
    kinds = {"PickupInstr": ("desc",), "PutNextInstr": ("desc_move", "desc_fixed")}
    return kinds.get(type(part).__name__, ())


def _is_among(thing: Any, others: Sequence[Any]) -> bool:  # noqa: ANN401
    return any(thing is other for other in others)


class BabyAIExpert:
    """Plans the next action; has to be told every action that was played, the expert's own or not."""

    def __init__(self, env: Any) -> None:  # noqa: ANN401 - an environment of MiniGrid
        """Plan the first action of an episode that has just begun."""
        self._env = env
        self._bot = _new_bot(env)
        self._due = self._plan(None)

    @property
    def due(self) -> str:
        """Name of MiniGrid's action that is next."""
        return self._due

    def record(self, action: Any) -> None:  # noqa: ANN401 - an action of MiniGrid
        """Plan anew after an action was played, whatever it was."""
        self._due = self._plan(action)

    def _plan(self, action: Any) -> str:  # noqa: ANN401
        """The bot's advice; where it breaks or believes itself done, that of a new bot; at last a look around.

        The bot was made to advise learners, but some deviations (such as picking up a wrong thing twice) violate what it
        takes for granted. A new bot knows what the old one saw, and only what is left of the mission.
        """
        for is_last_try in (False, True):
            try:
                advice = self._bot.replan(action)
            except _BOT_ERRORS:
                advice = None
            except Exception as error:
                if type(error).__name__ != "DisappearedBoxError":
                    raise
                advice = None
            if advice is not None and advice.name != "done":
                return str(advice.name)
            if not is_last_try:
                self._bot, action = self._bot_from_here(), None
        return "left"

    def _bot_from_here(self) -> Any:  # noqa: ANN401
        bot = _new_bot(self._env)
        bot.vis_mask = self._bot.vis_mask
        bot.stack = []
        for part in reversed(pending(self._env.instrs)):
            bot._process_instr(part)
        if self._env.carrying is not None:
            _drop_first(bot)
        return bot


def _drop_first(bot: Any) -> None:  # noqa: ANN401
    """Let the bot begin by putting down what it carries: its plans for a mission assume empty hands."""
    from minigrid.utils.baby_ai_bot import DropSubgoal, GoNextToSubgoal

    bot._process_obs()
    place = bot._find_drop_pos()
    if place is not None:
        bot.stack.append(DropSubgoal(bot))
        bot.stack.append(GoNextToSubgoal(bot, place))


def _new_bot(env: Any) -> Any:  # noqa: ANN401
    from minigrid.utils.baby_ai_bot import BabyAIBot

    class BoundedBot(BabyAIBot):  # type: ignore[misc]
        """MiniGrid's bot, which gives up where it would search for ever."""

        def replan(self, action_taken: Any = None) -> Any:  # noqa: ANN401
            self.bfs_counter = 0
            return super().replan(action_taken)

        def _breadth_first_search(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
            if self.bfs_counter > _MAX_SEARCHES:
                raise RuntimeError(f"more than {_MAX_SEARCHES} searches for one action")
            return super()._breadth_first_search(*arguments, **options)

    return BoundedBot(env)
