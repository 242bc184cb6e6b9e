"""The real levels of MiniGrid; `test_babyai_words.py` is their twin without."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from mtrouter_rl.cards import load_env_card
from mtrouter_rl.cards.splits import episode_specs
from mtrouter_rl.envs.babyai.task import make_task
from mtrouter_rl.errors import CallOrderError, CardError, InvalidConfigError, MissingDependencyError, UnknownNameError
from mtrouter_rl.protocols import ExpertTask
from mtrouter_rl.records import SPLITS
from mtrouter_rl.testing.contract import check_environment

CARD = load_env_card("babyai")
with_minigrid = pytest.mark.skipif(
    importlib.util.find_spec("minigrid") is None,
    reason="package 'minigrid' is not installed; pip install 'mtrouter-rl[babyai]' brings it",
)


@pytest.fixture(scope="module")
def task():
    task = make_task(CARD)
    yield task
    task.close()


def play(task, actions):
    return [task.step(action) for action in actions]


# --- without MiniGrid


def test_nothing_is_imported_before_reset():
    code = (
        "import sys; from mtrouter_rl.envs.factory import make_env; make_env('babyai'); make_env('textworld'); "
        "sys.exit(any(name in sys.modules for name in ('minigrid', 'pygame', 'textworld', 'jericho')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        MissingDependencyError, match=r"'minigrid' is missing; run: pip install 'mtrouter-rl\[babyai\]'"
    ):
        make_task(CARD).reset("GoToLocal", 0, seed=0)


def test_order_and_wrong_episodes():
    task = make_task(CARD)
    assert isinstance(task, ExpertTask)
    for call in (task.expert_action, task.mistakes, lambda: task.step("turn left")):
        with pytest.raises(CallOrderError, match=r"no BabyAI level is running; call reset\(\) first"):
            call()
    with pytest.raises(UnknownNameError, match=r"unknown BabyAI task 'GoToLocl'; did you mean 'GoToLocal'\?"):
        task.reset("GoToLocl", 0, seed=0)
    with pytest.raises(InvalidConfigError, match="task 'GoToLocal' has no variation 100; it has 0 to 99"):
        task.reset("GoToLocal", 100, seed=0)
    task.close()
    task.close()


def test_wrong_settings():
    with pytest.raises(CardError, match=r"(?s)card 'babyai' breaks its rules.*settings\.level_id.*Field required"):
        make_task(CARD.model_copy(update={"settings": {}}))


# --- with it


@with_minigrid
def test_a_level_in_words(task):
    start = task.reset("UnlockPickup", 3, seed=0)
    assert start.task_text.endswith("Your mission: pick up the blue box.")
    assert start.observation == (
        "You face east. Ahead: 2 steps free, then a wall. To the left: a wall. To the right: 1 step free, then a green key. "
        "You see a green key 2 steps right; a locked green door 3 steps ahead and 3 steps right. You carry nothing."
    )
    told = [
        step.observation.split(". ")[0] for step in play(task, ["turn right", "Go Forward ", "pick up", "go forward"])
    ]
    assert told == ["You turn right", "You go forward", "You pick up the green key", "You go forward"]
    assert task.reset("UnlockPickup", 3, seed=9) == start


@with_minigrid
def test_errors_cost_a_turn_and_change_nothing(task):
    start = task.reset("UnlockPickup", 3, seed=0)
    due = task.expert_action()
    for action, kind in (
        ("drop", "impossible"),
        ("toggle", "impossible"),
        ("dance", "unknown_action"),
        ("", "unknown_action"),
    ):
        step = task.step(action)
        assert (step.error, step.score, step.ending) == (kind, 0.0, "")
        assert step.observation.endswith(start.observation)
        assert task.expert_action() == due


@with_minigrid
def test_the_game_agrees_with_what_is_called_possible(task):
    """An action that is told to be impossible changes nothing in the game's own state; any other changes it."""
    rng = np.random.default_rng(0)
    n_possible = n_impossible = 0
    for variation in range(6):
        task.reset("UnlockPickup", variation, seed=0)
        for _ in range(30):
            carried, doors = task._env.carrying, task._env.grid.encode().tolist()
            before = (tuple(task._env.agent_pos), task._env.agent_dir, carried, doors)
            step = task.step(
                str(rng.choice(["turn left", "go forward", "pick up", "drop", "toggle", task.expert_action()]))
            )
            after = (
                tuple(task._env.agent_pos),
                task._env.agent_dir,
                task._env.carrying,
                task._env.grid.encode().tolist(),
            )
            assert (before == after) == (step.error == "impossible")
            n_possible, n_impossible = n_possible + (before != after), n_impossible + (before == after)
            if step.ending:
                break
    assert min(n_possible, n_impossible) > 20


@with_minigrid
def test_the_expert_solves_one_variation_of_every_task_in_time(task):
    for split in SPLITS:
        for name, variation in dict(episode_specs(CARD, split)).items():
            task.reset(name, variation, seed=0)
            step = None
            for _ in range(CARD.limits.max_turns):
                step = task.step(task.expert_action())
                if step.ending:
                    break
            assert (name, step.ending, step.score) == (name, "solved", 1.0)


@with_minigrid
@pytest.mark.parametrize("name", ["PutNextS5N2", "UnlockPickup", "OpenDoorsOrderN4", "BlockedUnlockPickup"])
def test_the_expert_recovers_from_any_actions(task, name):
    rng = np.random.default_rng(len(name))
    n_solved = 0
    for variation in range(8):
        task.reset(name, variation, seed=0)
        for turn in range(120):
            kinds = {kind: texts for kind, texts in task.mistakes().items() if kind != "fatal"}
            options = [text for texts in kinds.values() for text in texts]
            is_wrong = turn < 30 and rng.random() < 0.5 and options
            step = task.step(str(rng.choice(options)) if is_wrong else task.expert_action())
            if step.ending:
                n_solved += step.ending == "solved"
                break
    assert n_solved >= 7


@with_minigrid
def test_breaking_the_box_that_is_wanted_is_fatal(task):
    task.reset("UnlockPickup", 3, seed=0)
    while "fatal" not in task.mistakes():
        assert task.step(task.expert_action()).ending == ""
    assert (task.mistakes()["fatal"], task.expert_action()) == (("toggle",), "pick up")
    step = task.step("toggle")
    assert (step.ending, step.score, step.error) == ("failed", 0.0, "")
    assert step.observation == "You open the blue box; it falls apart. The mission cannot be accomplished any more."
    with pytest.raises(CallOrderError, match="after a level has ended"):
        task.step("turn left")


@with_minigrid
@pytest.mark.parametrize("name", ["OpenRedBlueDoorsDebug", "PickupDistDebug"])
def test_what_a_strict_level_punishes_is_called_fatal_and_nothing_else_is(task, name):
    rng = np.random.default_rng(1)
    n_fatal = 0
    for variation in range(20):
        task.reset(name, variation, seed=0)
        for _ in range(40):
            kinds = task.mistakes()
            options = [task.expert_action(), *(text for texts in kinds.values() for text in texts)]
            action = kinds["fatal"][0] if "fatal" in kinds else str(rng.choice(options))
            is_fatal = action in kinds.get("fatal", ())
            step = task.step(action)
            assert (step.ending == "failed") == is_fatal
            n_fatal += is_fatal
            if step.ending:
                break
    assert n_fatal >= 3


@with_minigrid
def test_an_unknown_level_is_named():
    card = CARD.model_copy(update={"settings": {"level_id": "BabyAI-{task}-v9"}})
    with pytest.raises(UnknownNameError, match=r"unknown BabyAI level 'BabyAI-GoToLocal-v9'; did you mean .*level_id"):
        make_task(card).reset("GoToLocal", 0, seed=0)


@with_minigrid
def test_contract():
    check_environment("babyai", n_episodes=19).raise_if_failed()
