import pytest

from mtrouter_rl.cards import load_env_card
from mtrouter_rl.envs.corridor import make_task
from mtrouter_rl.errors import CallOrderError, CardError, InvalidConfigError, UnknownNameError
from mtrouter_rl.protocols import ExpertTask, PlanningTask


@pytest.fixture
def task():
    return make_task(load_env_card("corridor"))


def test_the_expert_solves_it(task):
    assert isinstance(task, ExpertTask)
    start = task.reset("middle", 3, seed=0)
    assert start.task_text == "Pass the middle corridor."
    scores = []
    ending = ""
    while not ending:
        step = task.step(task.expert_action())
        scores.append(step.score)
        ending = step.ending
    assert ending == "solved"
    assert scores == pytest.approx([100 * i / 6 for i in range(1, 7)])


def test_the_variation_decides_and_the_seed_does_not(task):
    def plan(variation, seed):
        task.reset("long", variation, seed)
        actions = []
        for _ in range(9):
            actions.append(task.expert_action())
            task.step(actions[-1])
        return actions

    assert plan(0, 0) == plan(0, 1)
    assert len({tuple(plan(variation, 0)) for variation in range(5)}) == 5


def test_mistakes_lose_time_or_the_game(task):
    task.reset("short", 0, seed=0)
    due = task.expert_action()
    idle = task.step("wait")
    assert (idle.score, idle.ending, idle.error) == (0.0, "", "")
    nonsense = task.step("hmm")
    assert (nonsense.score, nonsense.ending, nonsense.error) == (0.0, "", "unknown_action")
    assert task.expert_action() == due
    assert task.mistakes() == {"idle": ("wait",), "fatal": ("jump into pit",)}
    fatal = task.step("jump into pit")
    assert (fatal.score, fatal.ending) == (-100.0, "failed")


@pytest.mark.parametrize("method", ["expert_action", "step"])
def test_order(task, method):
    call = (lambda: task.step("wait")) if method == "step" else task.expert_action
    with pytest.raises(CallOrderError, match=r"not running; call reset\(\) first"):
        call()
    task.reset("short", 0, seed=0)
    call()
    task.step("jump into pit")
    with pytest.raises(CallOrderError, match=r"call reset\(\) first"):
        call()


def test_wrong_episodes(task):
    with pytest.raises(UnknownNameError, match=r"unknown task 'shrot'; did you mean 'short'\?"):
        task.reset("shrot", 0, seed=0)
    with pytest.raises(InvalidConfigError, match="variation is -1, must be at least 0"):
        task.reset("short", -1, seed=0)


def test_wrong_settings():
    card = load_env_card("corridor").model_copy(update={"settings": {"obstacle": {}}})
    with pytest.raises(CardError, match=r"(?s)card 'corridor', settings: .*obstacles"):
        make_task(card)


def test_the_plan_is_what_the_expert_does(task):
    assert isinstance(task, PlanningTask)
    task.reset("middle", 3, seed=0)
    plan = task.expert_plan()
    assert (len(plan.actions), sum(plan.gains), plan.fatal_score) == (6, pytest.approx(100.0), -100.0)
    task.step("wait")
    assert task.expert_plan() == plan
    for action in plan.actions:
        assert action == task.expert_action()
        task.step(action)
    with pytest.raises(CallOrderError):
        task.expert_plan()
