import math

import pytest

from mtrouter_rl.envs.hle.plans import PlanStep, Progress
from mtrouter_rl.envs.hle.questions import TASK_NAMES
from mtrouter_rl.envs.hle.sandbox import Sandbox, SandboxLimits
from mtrouter_rl.envs.hle.search import LocalCorpus
from mtrouter_rl.envs.hle.synthetic import SyntheticSet
from mtrouter_rl.errors import InvalidConfigError

SET = SyntheticSet(n_per_category=60, seed=20251)
EVERY = [(task, variation) for task in TASK_NAMES for variation in range(60)]


def program_of(step):
    return step.action.removeprefix("python:\n```python\n").removesuffix("\n```")


def test_it_says_that_it_is_synthetic():
    for task, variation in EVERY:
        assert SET.get(task, variation).question.id == f"synthetic-{task}-{variation:03d}"
    assert all("synthetic" in document.text for document in SET.documents())


def test_the_same_seed_gives_the_same_questions_and_another_seed_others():
    again, other = SyntheticSet(n_per_category=60, seed=20251), SyntheticSet(n_per_category=60, seed=1)
    assert [again.get(*pair) for pair in EVERY[::17]] == [SET.get(*pair) for pair in EVERY[::17]]
    assert again.documents() == SET.documents()
    assert all(other.get(*pair) != SET.get(*pair) for pair in EVERY[::17])


def test_questions_are_different_and_need_several_calls():
    questions = [SET.get(*pair) for pair in EVERY]
    assert len({one.question.text for one in questions}) == len(questions)
    assert {len(one.steps) for one in questions} == {2, 3, 5}
    for task in TASK_NAMES:
        tools = {step.tool for variation in range(60) for step in SET.get(task, variation).steps}
        assert tools == {"search", "browse", "python"}


def test_wrong_answers_are_wrong_and_differ():
    for pair in EVERY:
        one = SET.get(*pair)
        assert len(set(one.wrong_answers)) == len(one.wrong_answers) >= 3
        assert one.question.answer not in one.wrong_answers


def test_multiple_choices_list_different_options_and_the_right_letter():
    chosen = [one for one in (SET.get(*pair) for pair in EVERY) if one.question.answer_type == "multipleChoice"]
    assert len(chosen) >= 60
    for one in chosen:
        options = one.question.options
        assert sorted(options) == list("ABCDE")
        assert len(set(options.values())) == 5
        result = float(one.steps[-1].evidence)
        assert math.isclose(float(options[one.question.answer]), result, rel_tol=1e-4)


def test_documents_have_names_of_their_own_and_are_found_by_the_plan():
    documents = SET.documents()
    assert len({document.id for document in documents}) == len(documents) == 2 * 60 * len(TASK_NAMES)
    corpus = LocalCorpus(documents)
    for pair in EVERY[::7]:
        for step in SET.get(*pair).steps:
            if step.tool == "search":
                assert corpus.search(step.action.removeprefix("search: "))[0].id == step.evidence


@pytest.mark.parametrize("task", TASK_NAMES)
def test_programs_print_what_the_plan_expects(task):
    """The expert's programs in the sandbox, on their own: one question of every shape would do, two programs a category."""
    sandbox = Sandbox(SandboxLimits())
    steps = [step for variation in (0, 1) for step in SET.get(task, variation).steps if step.tool == "python"]
    for step in steps[:2]:
        assert sandbox.run(program_of(step)).output.strip() == step.evidence


def test_a_product_that_is_worked_out_by_hand():
    """Heat = density x edge^3 x specific heat capacity x temperature difference, from the document's own numbers."""
    thing = SET._things["Physics"][2 * 3]
    one = SET.get("physics", 3)
    assert thing.name in one.question.text
    edge_cm, kelvin = (int(word) for word in one.question.text.split() if word.isdecimal())
    density, capacity, _ = thing.values
    assert f"{density} kg/m^3" in thing.document.text
    assert float(one.question.answer) == pytest.approx(
        density * (edge_cm / 100) ** 3 * capacity * kelvin / 1000, rel=1e-5
    )


def test_two_cultures_that_grow_alike_never_meet():
    for things in SET._things.values():
        assert all(a.values[0] != b.values[0] for a, b in zip(things[0::2], things[1::2], strict=True))


def test_too_many_questions():
    with pytest.raises(InvalidConfigError, match=r"n_per_category is 9999, must be at most 202"):
        SyntheticSet(n_per_category=9999, seed=0)


# --- plans


STEPS = (
    PlanStep(tool="search", action="search: a", evidence="a"),
    PlanStep(tool="browse", action="browse: a", evidence="a", needs=(0,)),
    PlanStep(tool="search", action="search: b", evidence="b"),
    PlanStep(tool="browse", action="browse: b", evidence="b", needs=(2,)),
    PlanStep(tool="python", action="python: print(3)", evidence="3", needs=(1, 3)),
)


def progress_after(*calls):
    progress = Progress(steps=STEPS, answer="answer: 3")
    for tool, observation in calls:
        progress.record(tool, observation)
    return progress.next_action()


@pytest.mark.parametrize(
    ("calls", "due"),
    [
        ([], "search: a"),
        ([("search", "1. [a] A: ...")], "browse: a"),
        ([("search", "1. [ab] AB: ...")], "search: a"),  # another document
        ([("browse", "[a] A")], "search: b"),  # opened without a search: the search is not needed any more
        ([("search", "1. [a] A\n2. [b] B")], "browse: a"),
        ([("search", "1. [a] A\n2. [b] B"), ("browse", "[a] A")], "browse: b"),
        ([("browse", "[b] B"), ("browse", "[a] A")], "python: print(3)"),
        ([("python", "[a] A")], "search: a"),
        ([("python", "33")], "search: a"),
        ([("python", "first\n3")], "answer: 3"),  # the result is known, however it was found
    ],
)
def test_the_expert_plans_from_what_is_known(calls, due):
    assert progress_after(*calls) == due
