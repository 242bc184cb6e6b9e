"""The task on a small made-up game, which needs no package; then on TextWorld's real games, where they are installed."""

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from mtrouter_rl.cards import load_env_card
from mtrouter_rl.envs.textworld import games as textworld_games
from mtrouter_rl.envs.textworld.games import CoinCollector, GameStore, GameView
from mtrouter_rl.envs.textworld.task import TextWorldTask, make_task, readable
from mtrouter_rl.errors import (
    CallOrderError,
    CardError,
    InvalidConfigError,
    MissingDependencyError,
    SimulatorError,
    UnknownNameError,
)
from mtrouter_rl.files import CACHE_VARIABLE
from mtrouter_rl.protocols import ExpertTask
from mtrouter_rl.testing.contract import check_environment

CARD = load_env_card("textworld")
with_textworld = pytest.mark.skipif(
    importlib.util.find_spec("textworld") is None,
    reason="package 'textworld' is not installed; pip install 'mtrouter-rl[textworld]' brings it (it compiles jericho)",
)
STATUS = "\n\n>                 -= Hall =-0/3"


class MadeUpGame:
    """A hall and a kitchen with an egg: fry it, eat the meal; eating it raw loses."""

    def __init__(self):
        self.n_closed = 0

    def start(self, path):
        if path.suffix == ".bad":
            raise ValueError("no game")
        self.room, self.has_egg, self.is_fried, self.n_moves = "hall", False, False, 0
        return self._view("   $$$ TITLE $$$\n\nFry the egg and eat it.\n\n-= Hall =-\nA hall.\n\n\n\nA door." + STATUS)

    def play(self, command):
        known = self._commands()
        if command not in known:
            words = {"take all": "What do you want to take?", "take moon": "You can't see any such thing."}
            return self._view(words.get(command, "You can't go that way.") + STATUS)
        self.n_moves += command not in ("look", "inventory")
        if command.startswith("go "):
            self.room = "kitchen" if self.room == "hall" else "hall"
        elif command in ("take egg", "drop egg"):
            self.has_egg = command == "take egg"
        elif command == "cook egg":
            self.is_fried = True
        elif command == "eat egg":
            won = self.is_fried
            end = "*** The End ***" if won else "*** You lost! ***"
            return self._view(
                f"Gone.\n\n{end}\n\nWould you like to RESTART, RESTORE a saved game?", "solved" if won else "failed"
            )
        return self._view("Done." + STATUS)

    def loses(self, command):
        return command == "eat egg" and not self.is_fried

    def close(self):
        self.n_closed += 1

    def _commands(self):
        here = ["inventory", "look", "go west" if self.room == "kitchen" else "go east"]
        if self.has_egg:
            here += ["drop egg", "eat egg"] + (["cook egg"] if self.room == "kitchen" and not self.is_fried else [])
        elif self.room == "kitchen":
            here.append("take egg")
        return here

    def _view(self, text, ending=""):
        to_kitchen = ["go east"] if self.room == "hall" and not (self.has_egg and self.is_fried) else []
        policy = (
            *to_kitchen,
            *([] if self.has_egg else ["take egg"]),
            *([] if self.is_fried else ["cook egg"]),
            "eat egg",
        )
        return GameView(
            text=text,
            objective="Fry the egg and eat it.",
            points=self.has_egg + self.is_fried + 2 * (ending == "solved"),
            max_points=4,
            ending=ending,
            n_moves=self.n_moves,
            commands=tuple(sorted(self._commands())),
            policy=() if ending else policy,
            verbs=frozenset({"go", "take", "drop", "cook", "eat", "look", "inventory"}),
        )


class MadeUpStore:
    def __init__(self, suffix=".z8"):
        self.suffix = suffix
        self.n_closed = 0

    def path_of(self, task, variation):
        return Path(f"{task}-{variation}{self.suffix}")

    def close(self):
        self.n_closed += 1


@pytest.fixture
def task():
    return TextWorldTask(n_variations={"egg": 2}, store=MadeUpStore(), game=MadeUpGame())


# --- without TextWorld


def test_a_game_is_told_without_its_decoration(task):
    start = task.reset("egg", 0, seed=0)
    assert start.task_text.endswith("\n\nFry the egg and eat it.")
    assert (start.observation, start.score) == ("-= Hall =-\nA hall.\n\nA door.", 0.0)
    assert readable("Bye.\n\n*** The End ***\n\nWould you like to RESTART?\n> ") == "Bye.\n\n*** The End ***"


def test_the_expert_wins_and_the_score_is_a_share_of_the_points(task):
    assert isinstance(task, ExpertTask)
    task.reset("egg", 0, seed=0)
    steps = []
    while not (steps and steps[-1].ending):
        steps.append(task.step(task.expert_action()))
    assert [(step.score, step.ending) for step in steps] == [(0, ""), (25, ""), (50, ""), (100, "solved")]
    assert steps[-1].observation == "Gone.\n\n*** The End ***"


def test_the_expert_plans_anew_after_any_mistake(task):
    task.reset("egg", 0, seed=0)
    for command in ("go east", "take egg", "go west", "drop egg"):
        task.step(command)
    assert task.expert_action() == "go east"


def test_mistakes_by_kind(task):
    task.reset("egg", 0, seed=0)
    assert task.mistakes() == {"idle": ("inventory", "look")}
    task.step("go east")
    task.step("take egg")
    assert task.mistakes() == {
        "idle": ("inventory", "look"),
        "wander": ("go west",),
        "drop": ("drop egg",),
        "fatal": ("eat egg",),
    }
    lost = task.step("eat egg")
    assert (lost.ending, lost.score, lost.observation) == ("failed", 25.0, "Gone.\n\n*** You lost! ***")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("look", ""),
        (" go east ", ""),
        ("go up", "impossible"),
        ("take all", "ambiguous"),
        ("take moon", "unknown_action"),
        ("dance", "unknown_action"),
        ("restore", "unknown_action"),
        ("tw-reveal", "unknown_action"),
        ("go east. take egg", "unknown_action"),
        ("go east\ntake egg", "unknown_action"),
        ("go " + "x" * 200, "unknown_action"),
        ("gö east", "unknown_action"),
        ("", "unknown_action"),
    ],
)
def test_error_kinds(task, text, kind):
    task.reset("egg", 0, seed=0)
    assert task.step(text).error == kind


def test_order_and_wrong_episodes(task):
    for call in (task.expert_action, task.mistakes, lambda: task.step("look")):
        with pytest.raises(CallOrderError, match=r"no TextWorld game is running; call reset\(\) first"):
            call()
    with pytest.raises(UnknownNameError, match=r"unknown TextWorld task 'eg'; did you mean 'egg'\?"):
        task.reset("eg", 0, seed=0)
    with pytest.raises(InvalidConfigError, match="task 'egg' has no variation 2; it has 0 to 1"):
        task.reset("egg", 2, seed=0)
    task.reset("egg", 1, seed=0)
    task.close()
    task.close()
    assert (task._game.n_closed, task._store.n_closed) == (2, 2)
    with pytest.raises(CallOrderError):
        task.step("look")


def test_a_broken_game_file_is_named():
    task = TextWorldTask(n_variations={"egg": 2}, store=MadeUpStore(".bad"), game=MadeUpGame())
    with pytest.raises(
        SimulatorError, match=r"game egg-1\.bad cannot be started \(no game\); delete it, it is then made"
    ):
        task.reset("egg", 1, seed=0)


def test_a_missing_package_names_the_extra_and_the_compiler(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"(?s)pip install 'mtrouter-rl\[textworld\]'.*C compiler"):
        make_task(CARD).reset("coin-short", 0, seed=0)


@pytest.mark.parametrize(
    ("games", "message"),
    [
        ({}, r"settings\.games has no entry for \['coin-distractors', 'coin-long', .*add one for each task"),
        ({"coin-short": {"challenge": "coin_collector", "level": 301}}, r"(?s)games\.coin-short.*level.*301"),
        ({"coin-short": {"challenge": "chess"}}, r"(?s)games\.coin-short.*cooking"),
    ],
)
def test_wrong_settings(games, message):
    with pytest.raises(CardError, match=message):
        make_task(CARD.model_copy(update={"settings": {"games": games}}))


@pytest.fixture
def store(monkeypatch, tmp_path):
    """A store whose games cannot be made, with or without TextWorld: its folder is a file."""
    monkeypatch.setattr(textworld_games, "refuse_without_textworld", lambda: None)
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "0")
    (tmp_path / "textworld-0").write_text("in the way", encoding="utf-8")
    store = GameStore({"coin": CoinCollector(challenge="coin_collector", level=1)}, folder=tmp_path)
    yield store
    store.close()
    store.close()


def test_what_the_making_process_says_is_told(store):
    with pytest.raises(SimulatorError, match=r"could not make game 3 of task 'coin' in .*: [A-Za-z]+Error: .*folder"):
        store.path_of("coin", 3)
    assert store._maker.poll() is None  # one bad request does not end it


def test_a_making_process_that_dies_is_told(store, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(SimulatorError, match="the process that makes TextWorld games ended with status 1"):
        store.path_of("coin", 3)


# --- with it


@pytest.fixture(scope="module")
def games(tmp_path_factory):
    """Real games, made in a cache folder of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        task = make_task(CARD)
        yield task
        task.close()


def play_with_mistakes(task, name, *, p_mistake):
    task.reset(name, 0, seed=0)
    rng = np.random.default_rng(0)
    seen = []
    for _ in range(CARD.limits.max_turns):
        wrong = [text for kind, texts in task.mistakes().items() if kind != "fatal" for text in texts]
        action = str(rng.choice(wrong)) if wrong and rng.random() < p_mistake else task.expert_action()
        seen.append((action, task.step(action)))
        if seen[-1][1].ending:
            break
    return seen


@with_textworld
@pytest.mark.parametrize("name", ["coin-short", "treasure-doors", "cooking-house"])
def test_real_games_are_won_in_spite_of_mistakes(games, name):
    seen = play_with_mistakes(games, name, p_mistake=0.2)
    assert (seen[-1][1].ending, seen[-1][1].score) == ("solved", 100.0)
    assert seen == play_with_mistakes(games, name, p_mistake=0.2)
    assert not any(mark in step.observation for _, step in seen for mark in ("$$", ">", "RESTART"))


@with_textworld
def test_losing_a_real_game(games):
    games.reset("cooking-house", 0, seed=0)
    while "fatal" not in games.mistakes():
        assert games.step(games.expert_action()).ending == ""
    lost = games.step(games.mistakes()["fatal"][0])
    assert lost.ending == "failed"
    assert "*** You lost! ***" in lost.observation


@with_textworld
def test_a_game_is_made_once_and_is_the_same_everywhere(games, tmp_path):
    first = games._store.path_of("coin-short", 0)
    made_at = first.stat().st_mtime_ns
    assert games._store.path_of("coin-short", 0).stat().st_mtime_ns == made_at
    other = GameStore(games._store._games, folder=tmp_path)
    second = other.path_of("coin-short", 0)
    other.close()
    assert second.read_bytes() == first.read_bytes()
    assert sorted(path.suffix for path in second.parent.iterdir()) == [".json", ".z8"]


@with_textworld
def test_contract(games):
    tasks = {"train_tasks": {"coin-short": 5}, "ood_tasks": {"treasure-doors": 1, "cooking-house": 1}, "topics": {}}
    check_environment(CARD.model_copy(update=tasks), n_episodes=6).raise_if_failed()
