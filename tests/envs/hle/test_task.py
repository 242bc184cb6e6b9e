import json

import pytest
import yaml

from mtrouter_rl.cards import EnvCard, card_root
from mtrouter_rl.cards.splits import episode_specs
from mtrouter_rl.envs.factory import build_env, resolve_card, resolve_env
from mtrouter_rl.envs.hle.judges import Verdict
from mtrouter_rl.envs.hle.sandbox import ProgramResult, SandboxLimits
from mtrouter_rl.envs.hle.search import Document, LocalCorpus
from mtrouter_rl.envs.hle.task import FileQuestions, HleTask, SyntheticTask, make_task
from mtrouter_rl.envs.hle.tools import ToolBox
from mtrouter_rl.errors import CallOrderError, CardError, InvalidConfigError, SimulatorError, UnknownNameError
from mtrouter_rl.protocols import ExpertTask, PlanningTask, TextTask
from mtrouter_rl.records import EpisodeSpec
from mtrouter_rl.rollout import run_episode
from mtrouter_rl.rollout.collection import fingerprint_cards
from mtrouter_rl.testing import ScriptedRouter

SHIPPED = yaml.safe_load((card_root() / "envs/hle.yaml").read_text(encoding="utf-8"))
SMALL = {"n_per_category": 10, "seed": 1}


def card(settings, **changes):
    return EnvCard.model_validate(SHIPPED | {"settings": settings} | changes)


def synthetic_card(**settings):
    tasks = {"train_tasks": {"math": 10, "physics": 10}, "ood_tasks": {"other": 10}}
    return card({"synthetic": SMALL} | settings, **tasks)


@pytest.fixture
def file_card(tmp_path):
    """Makes a card on a file with four questions of mathematics and one other."""
    path = tmp_path / "questions.jsonl"

    def make(*, train=None, ood=None, questions=("d", "b", "a", "c"), **settings):
        rows = [(name, "Math") for name in questions] + [("e", "Other")]
        lines = [
            json.dumps(
                {
                    "id": name,
                    "question": f"Question {name}?",
                    "image": "",
                    "answer": name.upper(),
                    "answer_type": "exactMatch",
                    "category": category,
                }
            )
            for name, category in rows
        ]
        path.write_text("\n".join(lines), encoding="utf-8")
        base = {"questions": str(path), "tools": ["python", "answer"]}
        tasks = {"train_tasks": train or {"math": "all"}, "ood_tasks": {"other": "all"} if ood is None else ood}
        return card(base | settings, **tasks)

    make.path = path
    return make


class FakeSandbox:
    """Answers every program with its own text; counts them."""

    limits = SandboxLimits()
    level = "namespaces"

    def __init__(self, **result):
        self.ran = []
        self._result = result

    def run(self, code, language):
        self.ran.append((language, code))
        return ProgramResult(**({"output": code, "exit_status": 0} | self._result))


def toolbox(sandbox=None, *, n_characters=200, remembers=True, text="iron melts " * 40):
    corpus = LocalCorpus([Document(id="iron 2", title="Iron", text=text)])
    return ToolBox(
        search=corpus, sandbox=sandbox or FakeSandbox(), n_characters=n_characters, remembers_programs=remembers
    )


def a_task(**more):
    source = make_task(synthetic_card())
    return HleTask(
        source, tools=more.get("tools", toolbox()), offered=SHIPPED["settings"]["tools"], judge=more["judge"]
    )


class FixedJudge:
    def __init__(self, verdict):
        self._verdict = verdict

    def judge(self, question, answer):
        if isinstance(self._verdict, Exception):
            raise self._verdict
        return self._verdict


# --- an episode


def test_the_expert_solves_a_question_step_by_step():
    task = make_task(synthetic_card())
    assert isinstance(task, ExpertTask)
    start = task.reset("physics", 0, 0)
    assert start.task_text.startswith("Synthetic question. Category: Physics.\n")
    assert start.observation == "Tools: search, browse, python, answer."
    tools = []
    for _ in range(25):
        step = task.step(task.expert_action())
        tools.append(step.hidden["tool"])
        assert step.error == ""
        if step.ending:
            break
    assert (step.ending, step.score) == ("solved", 1.0)
    assert tools[0] == "search"
    assert tools[-2:] == ["python", "answer"]
    for call in (lambda: task.step("answer: 1"), task.expert_action, task.mistakes):
        with pytest.raises(CallOrderError, match=r"no question is open; call reset\(\) first"):
            call()


def test_the_plan_begins_with_what_is_due_and_is_as_long_as_the_way_at_most():
    task = make_task(synthetic_card())
    assert isinstance(task, PlanningTask)
    task.reset("physics", 0, 0)
    plan = task.expert_plan()
    assert (plan.gains[-1], sum(plan.gains), plan.fatal_score) == (1.0, 1.0, 0.0)
    n_left, ending = len(plan.actions), ""
    while not ending:
        task.step("search: nothing like it")
        plan = task.expert_plan()  # one search may find more than its step is there for
        assert len(plan.actions) <= n_left
        assert plan.actions[0] == task.expert_action()
        ending = task.step(plan.actions[0]).ending
        n_left -= 1
    assert (ending, plan.actions) == ("solved", (task._progress.answer,))


def test_the_expert_goes_on_after_any_deviation():
    task = make_task(synthetic_card())
    task.reset("physics", 0, 0)
    for action in ("search: nothing like it", "nonsense", "browse: no-such-document", "python: 1/0", "search:"):
        due = task.expert_action()
        assert task.step(action).ending == ""
        assert task.expert_action() == due
    browse = next(step.action for step in task._made.steps if step.tool == "browse")
    task.step(browse)
    assert task.expert_action() != browse


def test_a_wrong_answer_ends_the_episode():
    task = make_task(synthetic_card())
    task.reset("math", 1, 0)
    wrong = task.mistakes()["fatal"]
    assert len(wrong) >= 3
    step = task.step(wrong[0])
    assert (step.ending, step.score, step.hidden["judged_by"]) == ("failed", 0.0, "numeric")


def test_mistakes_leave_the_question_open():
    task = make_task(synthetic_card())
    task.reset("math", 1, 0)
    for kind in ("idle", "wander"):
        for text in task.mistakes()[kind]:
            step = task.step(text)
            assert (step.ending, step.error) == ("", "")


@pytest.mark.parametrize(
    ("action", "error"),
    [
        ("", "no_action"),
        ("bash: ls", "unknown_tool"),
        ("answer:", "missing_argument"),
        ("browse: x", "unknown_document"),
    ],
)
def test_what_is_not_understood_is_an_error_kind(action, error):
    task = make_task(synthetic_card())
    task.reset("math", 0, 0)
    step = task.step(action)
    assert (step.error, step.ending, step.score) == (error, "", 0.0)


def test_unknown_tasks_and_variations():
    task = make_task(synthetic_card())
    with pytest.raises(UnknownNameError, match="unknown task 'maths'; did you mean 'math'"):
        task.reset("maths", 0, 0)
    with pytest.raises(InvalidConfigError, match="task 'math' has no variation 10; it has 0 to 9"):
        task.reset("math", 10, 0)


def test_a_judge_that_fails_fails_the_episode_and_what_it_cost_is_no_cost_of_the_episode():
    router = ScriptedRouter(name="first", model_names=(), decide=lambda _: [1, 0, 0, 0, 0, 0])
    config = resolve_card(synthetic_card())
    pair = episode_specs(config.card, "train")[0]
    spec = EpisodeSpec(task=pair[0], variation=pair[1], seed=3, split="train")
    verdict = Verdict(is_right=True, method="llm", hidden={"judge_cost_usd": 7.0})
    episodes = {}
    for name, judge in (("works", FixedJudge(verdict)), ("fails", FixedJudge(SimulatorError("judge is down")))):
        env = build_env(config)
        env._task._judge = judge
        env._task._tools = toolbox()
        env._task.expert_action = lambda: "answer: 1"
        episodes[name] = run_episode(env, router, spec)
    assert episodes["works"].episode.status == "completed"
    assert episodes["works"].hidden[-1]["judge_cost_usd"] == 7.0
    assert episodes["works"].episode.cost_usd < 1.0
    assert episodes["fails"].episode.status == "failed"
    assert "SimulatorError: judge is down" in episodes["fails"].episode.status_detail


# --- tools


def step_of(tools, action):
    task = a_task(tools=tools, judge=FixedJudge(Verdict(is_right=True, method="exact")))
    task.reset("math", 0, 0)
    return task.step(action)


def test_documents_have_pages():
    tools = toolbox()
    assert step_of(tools, "browse: iron 2").observation.startswith("[iron 2] page 1 of 3 Iron\niron melts")
    assert step_of(tools, "browse: [iron 2] 3").observation.startswith("[iron 2] page 3 of 3 ")
    assert step_of(tools, "browse: iron 2 4").error == "unknown_page"
    assert step_of(toolbox(text="short"), "browse: iron 2").observation == "[iron 2] Iron\nshort"


def test_searches_show_ids_titles_and_beginnings():
    assert step_of(toolbox(text="iron melts"), "search: melts").observation == "1. [iron 2] Iron: iron melts"
    assert step_of(toolbox(), "search: quark").observation == "No document matches."


def test_programs_are_remembered_by_their_text():
    sandbox = FakeSandbox()
    tools = toolbox(sandbox)
    steps = [step_of(tools, f"python: {code}") for code in ("print(1)", "print(2)", "print(1)")]
    assert steps[0] == steps[2]
    assert sandbox.ran == [("python", "print(1)"), ("python", "print(2)")]
    assert steps[0].hidden == {"tool": "python", "isolation": "namespaces", "exit_status": 0, "signal": None}


@pytest.mark.parametrize("case", [{"remembers": False}, {"stopped": "time_limit"}])
def test_programs_that_are_not_remembered(case):
    sandbox = FakeSandbox(**({"stopped": case["stopped"]} if "stopped" in case else {}))
    tools = toolbox(sandbox, remembers=case.get("remembers", True))
    for _ in range(2):
        step_of(tools, "python: print(1)")
    assert len(sandbox.ran) == 2


# --- cards and files


def test_a_file_fills_in_numbers_and_fingerprint(file_card):
    config = resolve_card(file_card())
    assert config.card.train_tasks == {"math": 4}
    assert config.card.ood_tasks == {"other": 1}
    task = make_task(config.card)
    assert isinstance(task, TextTask)
    assert not isinstance(task, ExpertTask)
    assert [task.reset("math", i, 0).task_text for i in range(4)] == [
        f"Category: Math.\nQuestion {name}?" for name in "abcd"
    ]
    assert task.step("answer: d").ending == "solved"
    before = fingerprint_cards(config)
    assert fingerprint_cards(resolve_card(file_card(questions="abcdx"))) != before


def test_a_file_that_has_changed_is_refused(file_card):
    config = resolve_card(file_card())
    file_card(questions="abx")
    with pytest.raises(InvalidConfigError, match=r"SHA-256 .* variations are positions in the file"):
        make_task(config.card)


def test_the_file_is_hidden_from_programs(file_card):
    task = make_task(resolve_card(file_card()).card)
    task.reset("math", 0, 0)
    assert "Question" not in task.step(f"python: print(open({str(file_card.path)!r}).read())").observation


def test_simulated_models_need_the_synthetic_set(file_card):
    config = resolve_card(file_card())
    with pytest.raises(InvalidConfigError, match=r"HleTask has no expert_action\(\) and mistakes\(\)"):
        build_env(config).reset(seed=0)


def test_a_smaller_number_than_the_file_holds(file_card):
    assert resolve_card(file_card(train={"math": 3})).card.train_tasks == {"math": 3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"math": 5}}, r"'math' is 5, but there are 4 questions of that category"),
        ({"train": {"physics": "all"}}, r"'physics' is all, but there are 0 questions"),
        ({"train": {"maths": 1}}, r"train_tasks: unknown category 'maths'; did you mean 'math'\?"),
        ({"tools": ["python"]}, r"must hold 'answer'"),
        ({"tools": ["search", "answer"]}, r"tools 'search' and 'browse' need 'search', which says where"),
        ({"synthetic": SMALL}, r"give either 'questions' \(a file\) or 'synthetic'"),
        ({"program": {"time": 3}}, r"settings.program.time"),
        ({"questions_sha256": "abc"}, r"settings.questions_sha256"),
    ],
)
def test_broken_cards(file_card, changes, message):
    with pytest.raises(CardError, match=message):
        resolve_card(file_card(**changes))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tools": ["search", "answer"]}, r"cannot be answered without browse, python"),
        ({"search": {"backend": "corpus"}}, r"the synthetic questions have a corpus of their own"),
        ({"synthetic": {"n_per_category": 9, "seed": 1}}, r"'math' is 10, but there are 9 questions"),
    ],
)
def test_broken_synthetic_cards(settings, message):
    with pytest.raises(CardError, match=message):
        make_task(synthetic_card(**settings))


def test_only_a_family_that_counts_may_leave_the_number_out():
    corridor = yaml.safe_load((card_root() / "envs/corridor.yaml").read_text(encoding="utf-8"))
    unresolved = EnvCard.model_validate(corridor | {"train_tasks": {"short": "all"}})
    with pytest.raises(CardError, match=r"task 'short' has 'all' variations, which family 'corridor' has not counted"):
        resolve_card(unresolved)


def test_the_shipped_card_is_the_papers_setting():
    config = resolve_env("hle")
    assert (config.limits.max_turns, config.limits.budget_usd) == (25, 5.0)
    assert list(config.card.train_tasks) == SHIPPED_TRAIN
    assert list(config.card.ood_tasks) == ["humanities-social-science", "other"]
    assert "SYNTHETIC" in config.card.description
    assert isinstance(make_task(config.card), SyntheticTask)
    assert not set(episode_specs(config.card, "test")) & set(episode_specs(config.card, "train"))


SHIPPED_TRAIN = ["math", "computer-science-ai", "physics", "biology-medicine", "chemistry", "engineering"]


def test_a_source_of_a_file_refuses_other_categories(file_card):
    task = make_task(resolve_card(file_card()).card)
    assert isinstance(task._source, FileQuestions)
    with pytest.raises(UnknownNameError, match="unknown task 'physics'"):
        task.reset("physics", 0, 0)
