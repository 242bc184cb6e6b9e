"""BabyAI in words: the actions that a player may type, and what the player's partial view is told as.

Everything here works on the objects of a MiniGrid environment (`type`, `color`, `is_open`, `is_locked`, `grid.get`), and
needs no package itself.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

ACTIONS = {
    "turn left": "left",
    "turn right": "right",
    "go forward": "forward",
    "pick up": "pickup",
    "drop": "drop",
    "toggle": "toggle",
}
"""What a player may type -> name of MiniGrid's action."""

TEXTS = {name: text for text, name in ACTIONS.items()}
"""Name of MiniGrid's action -> what a player types for it."""

UNKNOWN = f"That is no action. The actions are: {', '.join(ACTIONS)}."

_COMPASS = ("east", "south", "west", "north")


def name_of(thing: Any) -> str:  # noqa: ANN401 - an object of MiniGrid
    """An object in words, without its article, such as "closed red door".

    Example:
        >>> from types import SimpleNamespace
        >>> name_of(SimpleNamespace(type="door", color="red", is_open=False, is_locked=True))
        'locked red door'
    """
    if thing.type == "wall":
        return "wall"
    if thing.type != "door":
        return f"{thing.color} {thing.type}"
    state = "open" if thing.is_open else "locked" if thing.is_locked else "closed"
    return f"{state} {thing.color} door"


def with_article(words: str) -> str:
    """Words with "a" or "an" before them.

    Example:
        >>> with_article("open red door"), with_article("grey ball")
        ('an open red door', 'a grey ball')
    """
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def describe(
    view: Any,  # noqa: ANN401 - a grid of MiniGrid
    is_visible: npt.NDArray[np.bool_],
    *,
    direction: int,
    carrying: Any,  # noqa: ANN401 - an object of MiniGrid, or None
) -> str:
    """The player's view in words.

    Args:
        view: Square part of the grid, turned so that the player stands in the middle of the last row and faces the first.
        is_visible: Which cells of it the player sees, shape (width, height).
        direction: Where the player faces: 0 east, 1 south, 2 west, 3 north.
        carrying: What the player carries.

    Returns:
        Where the player faces, how far each way is free, every visible object with its place, and what is carried.
    """
    column, row = view.width // 2, view.height - 1
    ways = (("Ahead", (0, -1)), ("To the left", (-1, 0)), ("To the right", (1, 0)))
    free = [f"{name}: {_way(view, is_visible, (column, row), step)}." for name, step in ways]
    seen = _things(view, is_visible, (column, row))
    things = f"You see {'; '.join(seen)}." if seen else "You see no objects."
    hands = f"You carry {with_article(name_of(carrying))}." if carrying else "You carry nothing."
    return " ".join([f"You face {_COMPASS[direction]}.", *free, things, hands])


def _way(
    view: Any,  # noqa: ANN401
    is_visible: npt.NDArray[np.bool_],
    start: tuple[int, int],
    step: tuple[int, int],
) -> str:
    """How many steps are free in a direction, and what ends them."""
    n_free = 0
    column, row = start[0] + step[0], start[1] + step[1]
    while 0 <= column < view.width and 0 <= row < view.height and is_visible[column, row]:
        thing = view.get(column, row)
        if thing is not None:
            end = with_article(name_of(thing))
            return f"{_steps(n_free)} free, then {end}" if n_free else end
        n_free += 1
        column, row = column + step[0], row + step[1]
    return f"{_steps(n_free)} free, further is out of sight" if n_free else "out of sight"


def _things(view: Any, is_visible: npt.NDArray[np.bool_], start: tuple[int, int]) -> list[str]:  # noqa: ANN401
    """Every visible object that is no wall, nearest rows first, from left to right."""
    told = []
    for row in reversed(range(view.height)):
        for column in range(view.width):
            thing = view.get(column, row)
            if (column, row) == start or thing is None or thing.type == "wall" or not is_visible[column, row]:
                continue
            told.append(f"{with_article(name_of(thing))} {_place(start[1] - row, column - start[0])}")
    return told


def _place(n_ahead: int, n_right: int) -> str:
    """Place of a thing, seen from the player.

    Example:
        >>> _place(2, -1), _place(0, 3)
        ('2 steps ahead and 1 step left', '3 steps right')
    """
    ahead = f"{_steps(n_ahead)} ahead" if n_ahead else ""
    side = f"{_steps(abs(n_right))} {'right' if n_right > 0 else 'left'}" if n_right else ""
    return " and ".join(filter(None, (ahead, side)))


def _steps(n: int) -> str:
    return f"{n} step{'' if n == 1 else 's'}"


def tell_move(action: str, before: Any, carried: Any, *, is_done: bool) -> str:  # noqa: ANN401
    """What came of an action, in a sentence.

    Args:
        action: Name of MiniGrid's action.
        before: What was in front of the player before it, or None.
        carried: What the player carried before it, or None.
        is_done: Whether it changed anything.
    """
    if action in ("left", "right"):
        return f"You turn {action}."
    if action == "forward":
        return (
            "You go forward." if is_done else f"You cannot go forward: {with_article(name_of(before))} is in the way."
        )
    if action == "pickup":
        return _tell_pickup(before, carried, is_done=is_done)
    if action == "drop":
        return _tell_drop(before, carried, is_done=is_done)
    return _tell_toggle(before, carried, is_done=is_done)


def _tell_pickup(before: Any, carried: Any, *, is_done: bool) -> str:  # noqa: ANN401
    if is_done:
        return f"You pick up the {name_of(before)}."
    if carried is not None:
        return f"You cannot pick up anything: you carry {with_article(name_of(carried))} already."
    what = "there is nothing in front of you" if before is None else f"the {name_of(before)} cannot be carried"
    return f"You cannot pick up anything: {what}."


def _tell_drop(before: Any, carried: Any, *, is_done: bool) -> str:  # noqa: ANN401
    if is_done:
        return f"You drop the {name_of(carried)} in front of you."
    if carried is None:
        return "You cannot drop anything: you carry nothing."
    return f"You cannot drop the {name_of(carried)}: {with_article(name_of(before))} is in front of you."


def _tell_toggle(before: Any, carried: Any, *, is_done: bool) -> str:  # noqa: ANN401
    if before is None:
        return "There is nothing to toggle in front of you."
    if before.type == "door":
        return _tell_door(before, carried, is_done=is_done)
    if is_done:
        return f"You open the {name_of(before)}; it falls apart."
    return f"The {name_of(before)} cannot be toggled."


def _tell_door(door: Any, carried: Any, *, is_done: bool) -> str:  # noqa: ANN401
    """The door is the object itself, so it shows its state after the action."""
    if not is_done:
        return f"The {door.color} door is locked: you need the {door.color} key."
    return f"You {'open' if door.is_open else 'close'} the {door.color} door."
