"""What BabyAI is told as, and the rules about missions, on stand-ins: no package is needed."""

from types import SimpleNamespace

import numpy as np
import pytest

from mtrouter_rl.envs.babyai.expert import is_lost, pending
from mtrouter_rl.envs.babyai.words import ACTIONS, TEXTS, UNKNOWN, describe, name_of, tell_move


def thing(kind, color="red", **state):
    return SimpleNamespace(type=kind, color=color, **state)


WALL = thing("wall", "grey")
BALL, BOX, KEY = thing("ball", "blue"), thing("box", "grey"), thing("key")
OPEN, CLOSED, LOCKED = (
    thing("door", is_open=is_open, is_locked=is_locked)
    for is_open, is_locked in ((True, False), (False, False), (False, True))
)


class View:
    """A square view from rows of things; the player stands in the middle of the last one."""

    def __init__(self, *rows):
        self.rows = rows
        self.width, self.height = len(rows[0]), len(rows)

    def get(self, column, row):
        return self.rows[row][column]


def told(view, hidden=(), carrying=None, direction=3):
    is_visible = np.ones((view.width, view.height), dtype=bool)
    for column, row in hidden:
        is_visible[column, row] = False
    return describe(view, is_visible, direction=direction, carrying=carrying)


def test_a_whole_view():
    view = View(
        [WALL, WALL, CLOSED, WALL, WALL],
        [WALL, None, None, BALL, WALL],
        [WALL, BOX, None, None, WALL],
        [WALL, None, None, None, WALL],
        [WALL, None, None, KEY, WALL],
    )
    assert told(view, carrying=BALL) == (
        "You face north. Ahead: 3 steps free, then a closed red door. To the left: 1 step free, then a wall. "
        "To the right: a red key. You see a red key 1 step right; a grey box 2 steps ahead and 1 step left; "
        "a blue ball 3 steps ahead and 1 step right; a closed red door 4 steps ahead. You carry a blue ball."
    )


def test_what_is_hidden_is_not_told():
    view = View([BALL, None, BOX], [None, None, None], [None, None, OPEN])
    assert told(view, hidden=[(0, 0), (2, 0), (1, 0), (0, 2)], direction=0) == (
        "You face east. Ahead: 1 step free, further is out of sight. To the left: out of sight. "
        "To the right: an open red door. You see an open red door 1 step right. You carry nothing."
    )
    assert "You see no objects." in told(View([WALL] * 3, [None] * 3, [None] * 3))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (OPEN, "open red door"),
        (CLOSED, "closed red door"),
        (LOCKED, "locked red door"),
        (WALL, "wall"),
        (BALL, "blue ball"),
    ],
)
def test_names(given, words):
    assert name_of(given) == words


@pytest.mark.parametrize(
    ("action", "before", "carried", "is_done", "sentence"),
    [
        ("left", None, None, True, "You turn left."),
        ("forward", None, None, True, "You go forward."),
        ("forward", WALL, None, False, "You cannot go forward: a wall is in the way."),
        ("pickup", KEY, None, True, "You pick up the red key."),
        ("pickup", KEY, BALL, False, "You cannot pick up anything: you carry a blue ball already."),
        ("pickup", None, None, False, "You cannot pick up anything: there is nothing in front of you."),
        ("pickup", WALL, None, False, "You cannot pick up anything: the wall cannot be carried."),
        ("drop", None, KEY, True, "You drop the red key in front of you."),
        ("drop", None, None, False, "You cannot drop anything: you carry nothing."),
        ("drop", WALL, KEY, False, "You cannot drop the red key: a wall is in front of you."),
        ("toggle", None, None, False, "There is nothing to toggle in front of you."),
        ("toggle", BALL, None, False, "The blue ball cannot be toggled."),
        ("toggle", BOX, None, True, "You open the grey box; it falls apart."),
        ("toggle", OPEN, None, True, "You open the red door."),
        ("toggle", CLOSED, None, True, "You close the red door."),
        ("toggle", LOCKED, None, False, "The red door is locked: you need the red key."),
    ],
)
def test_what_came_of_an_action(action, before, carried, is_done, sentence):
    assert tell_move(action, before, carried, is_done=is_done) == sentence


def test_every_action_has_one_text():
    assert {TEXTS[name]: name for name in TEXTS} == ACTIONS
    assert all(text in UNKNOWN for text in ACTIONS)


# --- missions


def mission(kind, **parts):
    return type(kind, (), parts)()


def part(kind, *things):
    return mission(kind, desc=SimpleNamespace(obj_set=list(things)))


GO, TAKE = part("GoToInstr", BALL), part("PickupInstr", BOX)


@pytest.mark.parametrize(
    ("kind", "a_done", "b_done", "left"),
    [
        ("BeforeInstr", False, False, (GO, TAKE)),
        ("BeforeInstr", "continue", False, (GO, TAKE)),
        ("BeforeInstr", "success", "continue", (TAKE,)),
        ("AfterInstr", False, False, (TAKE, GO)),
        ("AfterInstr", False, "success", (GO,)),
        ("AndInstr", False, "success", (GO,)),
        ("AndInstr", "success", "success", ()),
    ],
)
def test_what_is_left_of_a_mission(kind, a_done, b_done, left):
    assert pending(mission(kind, instr_a=GO, instr_b=TAKE, a_done=a_done, b_done=b_done)) == left
    assert pending(GO) == (GO,)


def test_nested_missions():
    both = mission("AndInstr", instr_a=GO, instr_b=TAKE, a_done="success", b_done=False)
    assert pending(mission("BeforeInstr", instr_a=both, instr_b=GO, a_done=False, b_done=False)) == (TAKE, GO)


def test_a_mission_is_lost_with_the_last_thing_that_it_wants():
    twin = thing("box", "grey")
    put = mission("PutNextInstr", desc_move=SimpleNamespace(obj_set=[KEY]), desc_fixed=SimpleNamespace(obj_set=[BOX]))
    assert is_lost(TAKE, [BOX])
    assert is_lost(put, [BOX])
    assert not is_lost(part("PickupInstr", BOX, twin), [BOX])
    assert is_lost(part("PickupInstr", BOX, twin), [BOX, twin])
    assert not is_lost(part("GoToInstr", BOX), [BOX])  # MiniGrid still takes the place where it was
    assert not is_lost(mission("BeforeInstr", instr_a=TAKE, instr_b=GO, a_done="success", b_done=False), [BOX])
