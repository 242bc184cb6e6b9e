"""The expert without the engine: a house of rooms in which doors and things behave as ScienceWorld's do."""

import re

import pytest

from mtrouter_rl.envs.scienceworld.task import Replanner, _Move, _undo, error_kind

NO_WAY = "It's not clear how to get there from here."
CLOSED = "The door is not open."
UNKNOWN = "No known action matches that input."
AMBIGUOUS = "Ambiguous request: Please enter the number for the action you intended (or blank to cancel):\n0:\ta\n1:\tb"


class House:
    """Rooms in a row (hall, kitchen, garden), a door that can be closed, one item; records moves with a replanner."""

    rooms = ("hall", "kitchen", "garden")

    def __init__(self, path, *, has_item=False):
        self.replanner = Replanner(list(path))
        self.room = "hall"
        self.closed = set()
        self.has_item = has_item
        self.done = []

    @property
    def due(self):
        return self.replanner.next_action()

    def play(self, action):
        before = self.room
        observation = self._answer(action)
        self.replanner.record(_Move(action=action, observation=observation, came_from=before, now_at=self.room))
        return observation

    def follow(self, n=1):
        played = []
        for _ in range(n):
            played.append(self.due)
            self.play(self.due)
        return played

    def _answer(self, action):
        verb, _, rest = action.partition(" to ")
        if verb == "go":
            if abs(self.rooms.index(rest) - self.rooms.index(self.room)) != 1:
                return NO_WAY
            if frozenset((rest, self.room)) in self.closed:
                return CLOSED
            self.room = rest
            return f"You move to the {rest}."
        if verb == "open door":
            self.closed.discard(frozenset((rest, self.room)))
            return "The door is now open."
        if verb == "close door":
            self.closed.add(frozenset((rest, self.room)))
            return "The door is now closed."
        return self._handle(action)

    def _handle(self, action):
        if action == "drop cup" and self.has_item:
            self.has_item = False
            return f"You move the cup to the {self.room}."
        if action == "pick up cup":
            self.has_item = True
            return "You move the cup to the inventory."
        if re.match("look|work|wait", action):
            self.done.append((self.room, action, self.has_item))
            return "Done."
        return UNKNOWN


PATH = ("go to kitchen", "work 1", "go to garden", "work 2")
WORK = [("kitchen", "work 1", False), ("garden", "work 2", False)]


def test_follows_the_path():
    house = House(PATH)
    assert tuple(house.follow(4)) == PATH
    assert house.done == WORK
    assert house.due == "look around"  # nothing is left to do


def test_asking_changes_nothing():
    house = House(PATH)
    assert [house.due for _ in range(5)] == ["go to kitchen"] * 5


def test_idle_and_nonsense_lose_a_turn_alone():
    house = House(PATH)
    house.follow()
    for action in ("look around", "please work 1", "wait"):
        house.play(action)
        assert house.due == "work 1"


def test_walks_back():
    house = House(PATH)
    house.follow()
    house.play("go to hall")
    assert house.follow(4) == ["go to kitchen", "work 1", "go to garden", "work 2"]
    assert house.done == WORK


def test_nested_wandering_is_walked_back_in_reverse():
    house = House(("work 1", "go to kitchen", "work 2"))
    house.play("go to kitchen")
    house.play("go to garden")
    assert house.follow(5) == ["go to kitchen", "go to hall", "work 1", "go to kitchen", "work 2"]


def test_wandering_back_by_accident_cancels_out():
    house = House(("work 1",))
    house.play("go to kitchen")
    house.play("go to garden")
    house.follow()
    assert house.due == "go to hall"
    house.follow()
    assert house.due == "work 1"


def test_wandering_on_while_walking_back():
    house = House(("work 1",))
    house.play("go to kitchen")
    assert house.due == "go to hall"
    house.play("go to garden")
    assert house.follow(3) == ["go to kitchen", "go to hall", "work 1"]


def test_a_failed_attempt_to_wander_needs_no_repair():
    house = House(("work 1",))
    assert house.play("go to garden") == NO_WAY
    assert house.due == "work 1"


def test_what_was_dropped_is_picked_up():
    house = House(("work 1",), has_item=True)
    house.play("drop cup")
    assert house.follow(2) == ["pick up cup", "work 1"]
    assert house.done == [("hall", "work 1", True)]


def test_dropped_elsewhere_is_picked_up_there_before_walking_back():
    house = House(("work 1",), has_item=True)
    house.play("go to kitchen")
    house.play("drop cup")
    assert house.follow(3) == ["pick up cup", "go to hall", "work 1"]


def test_dropped_and_then_wandered_off():
    house = House(("work 1",), has_item=True)
    house.play("drop cup")
    house.play("go to kitchen")
    assert house.follow(3) == ["go to hall", "pick up cup", "work 1"]


def test_dropping_nothing_needs_no_repair():
    house = House(("work 1",), has_item=False)
    assert house.play("drop cup") == UNKNOWN
    assert house.due == "work 1"


def test_opens_a_closed_door():
    house = House(PATH)
    house.closed.add(frozenset(("hall", "kitchen")))
    assert house.follow(4) == ["go to kitchen", "open door to kitchen", "go to kitchen", "work 1"]
    assert house.done == WORK[:1]


def test_a_door_that_was_closed_by_mistake_is_opened_again():
    house = House(PATH)
    house.play("close door to kitchen")
    assert house.follow(3) == ["open door to kitchen", "go to kitchen", "work 1"]


def test_repeats_what_failed_and_then_gives_up():
    house = House(("burn", "work 1"))
    assert house.follow(4) == ["burn", "burn", "burn", "work 1"]


def test_a_success_allows_new_repeats():
    house = House(("burn", "work 1", "burn", "work 2"))
    assert house.follow(8) == ["burn"] * 3 + ["work 1"] + ["burn"] * 3 + ["work 2"]


def _record(replanner, action, observation, *, at="hall"):
    replanner.record(_Move(action=action, observation=observation, came_from=at, now_at=at))


def test_an_ambiguity_is_answered_with_the_number_of_the_path():
    replanner = Replanner(["pour cup", "1", "wait"])
    _record(replanner, "pour cup", AMBIGUOUS)
    assert replanner.next_action() == "1"
    _record(replanner, "1", "You pour.")
    assert replanner.next_action() == "wait"


def test_an_ambiguity_that_the_path_does_not_have_is_answered_with_the_first():
    replanner = Replanner(["pour cup", "wait"])
    _record(replanner, "pour cup", AMBIGUOUS)
    assert replanner.next_action() == "0"
    _record(replanner, "0", "You pour.")
    assert replanner.next_action() == "wait"


def test_an_ambiguity_that_was_not_answered_is_asked_again():
    replanner = Replanner(["pour cup", "1", "wait"])
    _record(replanner, "pour cup", AMBIGUOUS)
    _record(replanner, "look around", UNKNOWN)  # that cancels the request
    assert replanner.next_action() == "pour cup"
    _record(replanner, "pour cup", AMBIGUOUS)
    assert replanner.next_action() == "1"


CANCELLED = "Unknown action.  Type 'help' for a list of actions, and 'objects' for a list of possible object referents."


def test_an_ambiguity_of_somebody_elses_action_is_cancelled_not_completed():
    replanner = Replanner(["wait", "work"])
    _record(replanner, "focus on cup", AMBIGUOUS)
    assert replanner.next_action() == "wait"
    _record(replanner, "wait", CANCELLED)
    assert replanner.next_action() == "wait"
    _record(replanner, "wait", "You wait.")
    assert replanner.next_action() == "work"


def test_repairs_in_between_do_not_make_it_repeat_for_ever():
    house = House(("burn", "work 1"))
    played = []
    for _ in range(3):
        played.extend(house.follow())
        house.play("go to kitchen")
        played.extend(house.follow())
    assert played == ["burn", "go to hall"] * 3
    assert house.due == "work 1"


def test_a_wrong_number_counts_as_an_answer_of_its_own():
    replanner = Replanner(["pour cup", "1", "wait"])
    _record(replanner, "pour cup", AMBIGUOUS)
    _record(replanner, "0", "You pour the wrong one.")
    assert replanner.next_action() == "pour cup"


@pytest.mark.parametrize(
    ("action", "observation", "expected"),
    [
        ("drop red cup", "You move the red cup to the hall.", "pick up red cup"),
        ("drop cup in inventory", "You move the cup to the hall.", "pick up cup"),
        ("put down cup", "You move the cup to the hall.", "pick up cup"),
        ("move cup to sink", "You move the cup to the sink.", "pick up cup"),
        ("drop cup", "You do not have that.", ""),
        ("close door to hall", "The door is now closed.", "open door to hall"),
        ("close cupboard", "The cupboard is already closed.", ""),
        ("activate stove", "The stove is now activated.", "deactivate stove"),
        ("deactivate stove", "The stove is now deactivated.", "activate stove"),
        ("open cupboard", "The cupboard is now open.", ""),
        ("look around", "This room is called the hall.", ""),
    ],
)
def test_undo(action, observation, expected):
    assert _undo(action, observation) == expected


@pytest.mark.parametrize(
    ("observation", "kind"),
    [
        (UNKNOWN, "unknown_action"),
        (AMBIGUOUS, "ambiguous"),
        (NO_WAY, "impossible"),
        (CLOSED, "impossible"),
        ("The door is now open.", ""),
        ("", ""),
        ("You read: No known action matches that input.", ""),
    ],
)
def test_error_kind(observation, kind):
    assert error_kind(observation) == kind


# --- the plan that is left


def left(house, gains):
    return list(zip(*house.replanner.actions_left(gains), strict=True))


def test_the_plan_left_is_what_is_due_and_what_the_path_brings():
    house = House(["go to kitchen", "look around", "go to hall"])
    gains = [10.0, 0.0, 90.0]
    assert left(house, gains) == [("go to kitchen", 10.0), ("look around", 0.0), ("go to hall", 90.0)]
    house.follow()
    assert left(house, gains) == [("look around", 0.0), ("go to hall", 90.0)]
    house.play("go to garden")
    assert left(house, gains)[0] == (house.due, 0.0) == ("go to kitchen", 0.0)
    assert left(house, gains)[1:] == [("look around", 0.0), ("go to hall", 90.0)]
    house.follow(3)
    assert left(house, gains) == [(house.due, 0.0)] == [("look around", 0.0)]


def test_a_number_that_answers_a_lost_request_is_asked_for_again():
    replanner = Replanner(["pick up red", "1", "look around"])
    replanner.record(_Move(action="pick up red", observation=AMBIGUOUS, came_from="hall", now_at="hall"))
    assert replanner.actions_left([0.0, 5.0, 0.0]) == (("1", "look around"), (5.0, 0.0))
    replanner.record(_Move(action="wave", observation="Unknown action.", came_from="hall", now_at="hall"))
    assert replanner.actions_left([0.0, 5.0, 0.0]) == (("pick up red", "1", "look around"), (0.0, 5.0, 0.0))
    assert replanner.next_action() == "pick up red"
