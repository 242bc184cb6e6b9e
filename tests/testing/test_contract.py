"""The contract kit passes what is sound, and names exactly the rule that something breaks."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mtrouter_rl.cards import load_env_card
from mtrouter_rl.cli.program import main
from mtrouter_rl.envs.factory import resolve_card, resolve_env
from mtrouter_rl.errors import ContractError, InvalidConfigError
from mtrouter_rl.protocols import Reply
from mtrouter_rl.records import TokenUsage
from mtrouter_rl.testing import ScriptedBackend
from mtrouter_rl.testing.contract import CHECKS, Check, check_environment, run_checks
from mtrouter_rl.testing.env_checks import check_budget
from mtrouter_rl.testing.subject import Subject

FAULTS = [
    ("Unseeded", "seeding", "after 0 step.* gives? the same episode; fix: draw all randomness in reset"),
    ("Leaking", "seeding", r"the same actions, twice in one process: after 1 step\(s\)"),
    ("Hashed", "fresh_process", r"in this process and in a fresh one: after 0 step\(s\).*use no hash\(\) of texts"),
    ("Nan", "scores", r"and 1 step\(s\): the score is nan, max_score is 100.*not NaN for 'none yet'"),
    ("AboveMax", "scores", "the score is 150.0, max_score is 100.0; rule: the score so far is finite and never above"),
    ("Won", "endings", "the ending is 'won'; rule: an ending is one of '', 'solved', 'failed', 'handed_in'"),
    ("GoesOn", "endings", r"to the ending '\w+', then step\(\): it was executed; rule: .* a CallOrderError"),
    ("StartsItself", "endings", r"step\(\) before reset\(\): it was executed"),
    ("IndexErrorBefore", "endings", r"step\(\) before reset\(\): IndexError: tuple index out of range"),
    (
        "Strict",
        "texts",
        r"step\(''\): ValueError: not enough values.*return TaskStep\(\.\.\., error='unknown_action'\)",
    ),
    ("NoNul", "texts", r"step\('open\\x00door'\): ValueError: embedded null byte"),
    ("Wordy", "texts", "TaskStep.error is 'You cannot do that!'; rule: an error is a kind in lower_case"),
    ("Dictionary", "protocol", "it returned a dict; rule: step.. returns a TaskStep"),
    ("Bytes", "protocol", "TaskStep.observation is of type bytes; rule: TaskStep.observation is a str"),
    ("Surrogate", "protocol", "TaskStart.task_text cannot be written as UTF-8: surrogates not allowed"),
    ("NoScale", "members", "read max_score: 0.0; rule: max_score is a finite number above 0"),
    ("NoClose", "members", "NoClose has no close; rule: a text task has max_score, reset"),
    ("Crashing", "protocol", r"it raised ZeroDivisionError: division by zero \(broken_tasks.py:\d+\)"),
    ("Lazy", "expert", r"ended in success, not: \w+ \d+ \(not over after 20 turns, score 0\).*mend the expert"),
    ("NoExpert", "expert", "NoExpert has no expert_action.. and mistakes..; rule: a simulated pool needs an expert"),
    ("Stubborn", "replanning", r"inject up to 2 mistakes into each of \d episodes.* 0 still ended in success"),
    ("Confused", "mistakes", r"a mistake of kind 'idle', expert_action\(\): LookupError: no plan for this state"),
    ("Advancing", "queries", "once asking the expert at every turn and once not: .* work on a copy of the state"),
    ("Silly", "mistakes", r"'silly': .* maps kinds \(idle, wander, drop, fatal\) to lists of texts"),
    ("EmptyKind", "mistakes", r"'drop': '\(\)'; rule: .* leaves out a kind without any"),
    (
        "DeadlyIdle",
        "mistakes",
        "a mistake of kind 'idle': the task ended 'failed'; rule: .*; fix: list it under 'fatal'",
    ),
    ("ClosesOnce", "close", r"OSError: already closed; rule: close\(\) may be called at any time, twice as well"),
    ("ClosesForGood", "close", "CallOrderError: it was closed; rule: .* starts anew after it"),
    (
        "FewVariations",
        "variations",
        r"reset\('short', 19, seed=0\): InvalidConfigError: no variation 19; rule: the card says",
    ),
    ("TooLong", "gymnasium", "first_observation|observation space"),
]


@pytest.fixture
def _broken_tasks(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("MTROUTER_RL_ALLOW_CODE", "1")


def subject_of(card, n_episodes=5):
    config = resolve_card(card)
    return Subject(config, n_episodes=n_episodes, seed=0, expert_threshold=0.95, replan_threshold=0.8)


def broken_card(fault):
    settings = {"family": "broken_tasks:make_task", "settings": {"fault": fault}}
    return load_env_card("corridor").model_copy(update=settings)


def test_every_check_can_fail():
    untested = {check.name for check in CHECKS} - {check for _, check, _ in FAULTS}
    assert untested == {"splits", "limits", "budget"}  # below; no task can break the limits, RoutingEnv keeps them


@pytest.mark.usefixtures("_broken_tasks")
@pytest.mark.parametrize(("fault", "check", "message"), FAULTS, ids=lambda value: value if value.isalpha() else "")
def test_a_fault_fails_exactly_its_check(fault, check, message):
    # The other process takes seconds to start: it is tried where it is what fails.
    checks = [one for one in CHECKS if one.name != "fresh_process" or check == "fresh_process"]
    results = run_checks(subject_of(broken_card(fault)), checks)
    failed = {result.name: result.detail for result in results if result.status == "failed"}
    assert list(failed) == [check], failed
    assert re.search(message, failed[check]), failed[check]


def test_the_toy_passes_every_check(capsys):
    assert main(["check-env", "corridor", "--episodes", "8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [["passed", check.name] for check in CHECKS]
    assert lines[-1] == f"corridor: {len(CHECKS)} passed, 0 failed, 0 skipped"


@pytest.mark.usefixtures("_broken_tasks")
def test_what_needs_a_failed_check_is_skipped_with_the_reason():
    results = {one.name: one for one in run_checks(subject_of(broken_card("Dictionary")))}
    assert results["protocol"].status == "failed"
    assert (results["budget"].status, results["budget"].detail) == (
        "skipped",
        "needs 'gymnasium', which failed or was not tried",
    )


@pytest.mark.usefixtures("_broken_tasks")
def test_the_command_prints_json_and_exits_with_1(tmp_path, capsys):
    card = tmp_path / "broken.yaml"
    card.write_text(json.dumps(broken_card("FewVariations").model_dump(mode="json")), encoding="utf-8")
    assert main(["check-env", str(card), "--episodes", "3", "--json"]) == 1
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    assert (report["env"], report["is_passed"]) == ("corridor", False)
    assert {one["name"]: one["status"] for one in report["results"]}["variations"] == "failed"
    assert shown.err == "mtrouter-rl check-env: environment 'corridor' breaks its contract: variations\n"


@pytest.mark.usefixtures("_broken_tasks")
def test_a_report_is_raised_with_every_failure():
    report = check_environment(broken_card("NoScale"), n_episodes=2)
    with pytest.raises(ContractError, match=r"environment 'corridor' breaks its contract:\n  members: read max_score"):
        report.raise_if_failed()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_tasks": {"short": 1}, "ood_tasks": {}}, "no .task, variation. is left for validation, test"),
        ({"train_tasks": {"short": 4}, "ood_tasks": {}}, "no .task, variation. is left for test"),
    ],
)
def test_empty_splits(change, message):
    splits = {"variations_per_task": 4, "train": 0.7, "validation": 0.2, "seed": 0}
    card = load_env_card("corridor")
    card = type(card).model_validate(card.model_dump() | change | {"splits": splits})
    results = run_checks(subject_of(card), [CHECKS[0]])
    assert results[0].status == "failed"
    assert re.search(message, results[0].detail), results[0].detail


def test_a_backend_that_spends_too_much_fails_the_budget_check(monkeypatch):
    def greedy(call):
        usage = TokenUsage(n_fresh=call.n_prompt * 50, n_output=1)
        return Reply(text="wait", usage=usage, latency_s=1.0, served_model=call.model)

    subject = subject_of(load_env_card("corridor"))
    monkeypatch.setattr(subject, "make_backend", lambda: ScriptedBackend(pool=subject.pool, answer=greedy))
    results = run_checks(subject, [Check(name="budget", run=check_budget)])
    assert results[0].status == "failed"
    assert "BackendError" in results[0].detail


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_episodes": 0}, "n_episodes is 0, must be at least 1"),
        ({"expert_threshold": 1.5}, r"expert_threshold is 1.5, must be a share in \[0, 1\]"),
        ({"replan_threshold": -0.1}, r"replan_threshold is -0.1, must be a share"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(InvalidConfigError, match=message):
        check_environment("corridor", **arguments)


@pytest.mark.usefixtures("_broken_tasks")
def test_thresholds_decide():
    config = resolve_card(broken_card("Lazy"))
    checks = [check for check in CHECKS if check.name in ("splits", "members", "variations", "protocol", "expert")]
    for threshold, status in ((0.95, "failed"), (0.2, "passed")):
        subject = Subject(config, n_episodes=12, seed=0, expert_threshold=threshold, replan_threshold=0.8)
        assert {one.name: one.status for one in run_checks(subject, checks)}["expert"] == status


@pytest.mark.usefixtures("_broken_tasks")
@pytest.mark.parametrize(("expert_solves", "status"), [(0.95, "failed"), (0.3, "passed"), (0.7, "failed")])
def test_the_card_says_what_the_expert_solves(expert_solves, status):
    config = resolve_card(broken_card("Lazy").model_copy(update={"expert_solves": expert_solves}))
    checks = [check for check in CHECKS if check.name in ("splits", "members", "variations", "protocol", "expert")]
    subject = Subject(config, n_episodes=12, seed=0, expert_threshold=None, replan_threshold=0.8)
    expert = next(one for one in run_checks(subject, checks) if one.name == "expert")
    assert expert.status == status
    assert ("and some of every task" in expert.detail) == (expert_solves == 0.95)


def test_the_sample_takes_tasks_in_turn_and_variations_once():
    specs = Subject(resolve_env("corridor"), n_episodes=200, seed=0, expert_threshold=1.0, replan_threshold=1.0).specs
    assert len({(spec.task, spec.variation) for spec in specs}) == len(specs) == 50
    assert [spec.task for spec in specs[:6]] == ["short", "middle", "long"] * 2


def test_importing_the_stand_ins_imports_no_checks():
    code = "import sys, mtrouter_rl.testing; assert 'mtrouter_rl.testing.contract' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
