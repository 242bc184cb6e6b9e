"""The whole study on tables with known answers: where restarts help, where nothing does, where there is too little."""

import json
import random

import numpy as np
import pytest

from mtrouter_rl.cli import main
from mtrouter_rl.datasets.importers.suites.build import SuiteRequest, build_suite
from mtrouter_rl.envs.replay.made_up import MadeUpCard, make_up
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.studies.replay.crossval import BEST_SINGLE, PRICES, cross_validate, group_folds, time_folds
from mtrouter_rl.studies.replay.exact import NOBODY, ExactSuite
from mtrouter_rl.studies.replay.families import (
    BudgetPolicy,
    ConformalCascade,
    Known,
    Restarts,
    Rule,
    Singles,
    pareto,
    turn_limits,
)
from mtrouter_rl.studies.replay.learned import LearnedRestart, RunTexts, mean_of_alive, worth_starting
from mtrouter_rl.studies.replay.record import RESULTS_FILE, ReplayResults
from mtrouter_rl.studies.replay.run import study_suite
from tests.cases.replay_suites import STRONG, by_hand, write_table


@pytest.fixture(scope="module")
def helping(tmp_path_factory):
    path = write_table(tmp_path_factory.mktemp("suite") / "helps.csv", n_tasks=120)
    return build_suite(SuiteRequest(outcomes=path))


@pytest.fixture(scope="module")
def found(helping):
    return study_suite(helping)


def known_of(suite):
    return Known(exact=ExactSuite(suite), vectors=np.zeros((suite.n_tasks, 4)), tasks=np.arange(suite.n_tasks))


def row(results, family, goal, scheme="groups"):
    return next(one for one in results.comparisons if (one.family, one.goal, one.scheme) == (family, goal, scheme))


@pytest.mark.parametrize("family", ["restart, turns", "restart, USD", "restart, learned"])
def test_restarts_are_found_where_they_help(found, family):
    """quick costs 0.04 where it solves; after 4 turns all that still run fail: deep for 1 USD solves them.

    That scores 100 for 0.04 + 1/3, a third of what deep costs alone; a blind mixture of the two at that cost scores some 83.
    """
    for goal in ("save", "gain"):
        one = row(found, family, goal)
        assert one.score.value == pytest.approx(100.0)
        assert one.cost_usd.value < 0.55
        assert one.saving.value > 0.4
        assert one.saving.is_above_zero
        assert one.hull_gain.is_above_zero
        assert one.p_adjusted <= 0.05
        assert one.answer == "shown"
        assert (one.moves[0].first, one.moves[0].second) == ("quick", "deep")
    assert "SHOWN by" in found.answers[0]


def test_every_comparison_is_corrected_for_all(found):
    p_values = np.sort([one.p_value for one in found.comparisons])
    assert min(one.p_adjusted for one in found.comparisons) == pytest.approx(min(1.0, p_values[0] * len(p_values)))
    assert len(found.comparisons) == 2 * 2 * 5  # no task text, no run turn by turn


def test_what_is_missing_is_said(found):
    told = " ".join(found.left_out)
    assert "No router reads task texts" in told
    assert "No rule counts errors" in told
    assert found.layout_source == "assumed"


def test_how_much_hangs_on_the_layout_is_shown(found):
    gains = {(one.shape, one.family, one.goal): one.hull_gain for one in found.layouts}
    assert len(gains) == 3 * 3 * 2
    assert gains["flat", "restart, turns", "gain"] != gains["quadratic", "restart, turns", "gain"]


def test_an_unseen_model_is_called_by_what_its_table_says(found):
    rows = {one.model: one for one in found.transfer}
    assert rows["quick"].unseen == pytest.approx(rows["quick"].seen, abs=0.05)
    assert rows["quick"].without < rows["quick"].unseen
    assert rows["bad"].share_started == 0.0


def test_where_nothing_helps_nothing_is_claimed(tmp_path):
    """Models whose runs tell nothing: most families abstain, none is shown."""
    suite = build_suite(SuiteRequest(outcomes=write_table(tmp_path / "t.csv", n_tasks=90, seed=3, helps=False)))
    results = study_suite(suite)
    assert not [one for one in results.comparisons if one.answer == "shown"]
    assert [one for one in results.comparisons if one.answer == "abstained"]
    assert "SHOWN by" not in " ".join(results.answers)


def test_the_record_and_the_report_come_back(found, tmp_path, capsys):
    path = write_table(tmp_path / "t.csv", n_tasks=20, header=("turns", "cost", "score", "model", "task"))
    assert main(["lab", "replay", str(path), "--out", str(tmp_path / "run"), "--quiet"]) == 0
    assert "Power: two policies" in capsys.readouterr().out
    results = ReplayResults.load(tmp_path / "run" / RESULTS_FILE)
    assert (results.n_tasks, results.best_model) == (20, "deep")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    for words in ("What came of it", "quick", "Restarts on held-out tasks", "How the suite was read"):
        assert words in page
    assert {path.name for path in (tmp_path / "run" / "plots").iterdir()} == {
        "frontier_groups.png",
        "frontier_time.png",
    }


def test_too_few_tasks_are_told(tmp_path, capsys):
    few = write_table(tmp_path / "few.csv", n_tasks=13, seed=1, helps=False)
    assert main(["lab", "replay", str(few), "--out", str(tmp_path / "run"), "--json", "--quiet"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert {one["answer"] for one in results["comparisons"]} <= {"abstained", "too few to tell", "excluded"}
    fewer = write_table(tmp_path / "fewer.csv", n_tasks=11)
    assert main(["lab", "replay", str(fewer), "--out", str(tmp_path / "run")]) == 1
    assert "has 11 tasks and 3 models, must have at least 12" in capsys.readouterr().err


def test_a_suite_of_one_turn_is_routed_once(tmp_path):
    path = write_table(tmp_path / "t.csv", n_tasks=24)
    rows = [line.rsplit(",", 1)[0] for line in path.read_text().splitlines()]
    path.write_text("\n".join(rows) + "\n")
    tasks = tmp_path / "tasks.csv"
    names = sorted({line.split(",")[0] for line in rows[1:]})
    tasks.write_text("task,text\n" + "".join(f"{name},words {name}\n" for name in names))
    results = study_suite(build_suite(SuiteRequest(outcomes=path, others=(tasks,))))
    assert {one.family for one in results.comparisons} == {"task text, ridge", "task text, neighbors"}
    assert "No restart is studied: every run has one turn." in results.left_out
    assert (results.layouts, results.transfer) == ((), ())


def test_a_suite_is_made_and_played_by_commands(tmp_path, capsys):
    path = write_table(tmp_path / "t.csv", n_tasks=20)
    out = tmp_path / "suite"
    assert main(["suite", str(path), "--out", str(out)]) == 0
    assert "20 tasks in 5 groups, 3 models" in capsys.readouterr().out
    assert main(["suite", str(path), "--out", str(out)]) == 1
    assert "holds a suite already" in capsys.readouterr().err
    evaluate = [
        "evaluate",
        "--env",
        str(out / "env.yaml"),
        "--router",
        "single:quick",
        "uniform",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main([*evaluate, "--seeds", "1"]) == 0
    assert "single:quick" in capsys.readouterr().out


# --- parts


def test_folds_hold_out_whole_groups():
    groups = ["a"] * 5 + ["b"] * 3 + ["c"] * 2
    folds = group_folds(groups, 2, seed=0)
    assert [sorted({groups[n] for n in fold.test}) for fold in folds] == [["a"], ["b", "c"]]
    for fold in folds:
        assert sorted([*fold.train, *fold.test]) == list(range(10))
    alone = group_folds(["a"] * 7, 3, seed=0)
    assert sorted(n for fold in alone for n in fold.test) == list(range(7))


def test_folds_by_time_learn_from_what_came_before():
    orders = [4.0, 1.0, 3.0, 2.0, 40.0, 10.0, 30.0, 20.0]
    folds = time_folds(["a"] * 4 + ["b"] * 4, orders)
    assert [fold.test.tolist() for fold in folds] == [[2, 6], [0, 4]]
    assert [sorted(fold.train.tolist()) for fold in folds] == [[1, 3, 5, 7], [1, 2, 3, 5, 6, 7]]
    assert time_folds(["a"], [None]) == []


def test_a_family_is_never_asked_about_tasks_it_learned_from():
    seen = []

    class Spy:
        name = "spy"

        def fit(self, train, weights):
            learned = set(train.tasks.tolist())

            class Policy:
                told = "spy"

                def legs(self, known):
                    seen.append(learned & set(known.tasks.tolist()))
                    return Singles().fit(known, [0.0])[0].legs(known)

            return [Policy() for _ in weights]

    suite = make_up(MadeUpCard(n_tasks=24, seed=0))
    folds = group_folds([task.group for task in suite.tasks], 5, seed=0)
    held = cross_validate(Spy(), known_of(suite), folds, seed=0)
    assert len(seen) == len(folds) * len(PRICES) * 3  # once, and twice within (two other groups)
    assert not any(seen)
    assert held.tasks.tolist() == list(range(24))
    assert set(held.chosen["save"].tolist()) <= {*range(len(PRICES)), BEST_SINGLE}


def test_limits_of_rules_by_hand():
    exact = ExactSuite(by_hand())
    assert turn_limits(exact, STRONG, "turns", 3).tolist() == [3, 3]
    assert turn_limits(exact, STRONG, "usd", 0.5).tolist() == [1, 1]
    assert turn_limits(exact, STRONG, "usd", 0.6).tolist() == [1, 2]
    limits = turn_limits(exact, STRONG, "errors", 1)
    assert (limits[0] > 1000, limits[1]) == (True, 1)  # errors are known of the run of task b alone


def test_a_budget_is_never_exceeded():
    suite = make_up(MadeUpCard(n_tasks=30, seed=2))
    known = known_of(suite)
    rng = random.Random(0)
    for _ in range(50):
        first, second = rng.sample(range(5), 2)
        total = rng.uniform(0.001, 0.6)
        policy = BudgetPolicy(
            first=first,
            second=rng.choice([second, NOBODY]),
            head_usd=total * rng.random(),
            total_usd=total,
            names=suite.models,
        )
        assert known.exact.value(policy.legs(known)).costs_usd.max() <= total + 1e-9


def test_the_cascade_leaves_failing_runs_as_often_as_it_says():
    """Over many draws of calibration tasks, at least 1 - alpha of failing runs are left before they end."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(60):
        suite = make_up(MadeUpCard(n_tasks=120, seed=int(rng.integers(10_000))))
        policy = ConformalCascade().fit(known_of(suite), [0.0])[0]
        if not isinstance(policy, Rule) or policy.kind != "turns":
            continue
        fresh = make_up(MadeUpCard(n_tasks=400, seed=int(rng.integers(10_000))))
        failing = fresh.n_turns[fresh.scores[:, policy.first] < 1.0, policy.first]
        shares.append((failing > policy.after).mean())
    assert len(shares) > 10
    assert np.mean(shares) >= 0.5 - 0.02  # the most generous alpha


def test_pareto_and_tables_by_hand():
    assert pareto(np.array([1.0, 2.0, 3.0]), np.array([5.0, 4.0, 9.0])) == [0, 2]
    assert worth_starting(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 0.46, 0.44, 0.9])).tolist() == [0, 1, 3]
    values = np.array([[1.0], [0.0]])
    is_alive = np.array([[[True, True]], [[True, False]]])
    table = mean_of_alive(values, is_alive)
    assert table[0, :, 0].tolist() == pytest.approx([0.5, (1.0 + 8 * 0.5) / 9])


def test_reading_runs_helps_where_they_tell():
    """A run whose first words are 'lost' fails: the router that reads them leaves it at once, the other cannot know."""
    from mtrouter_rl.envs.replay.layout import Layout
    from mtrouter_rl.envs.replay.suite import RunTurn, Suite, SuiteHead, SuiteTask

    rng = np.random.default_rng(1)
    fails = rng.random(90) < 0.4
    words = {True: "lost lost nowhere", False: "found it here"}
    turns = {
        (n, 0): tuple(RunTurn(cost_usd=0.1, action=words[bool(fail)], observation="") for _ in range(10))
        for n, fail in enumerate(fails)
    }
    suite = Suite(
        head=SuiteHead(name="s", models=("a", "b"), layout=Layout(shape="flat"), layout_source="given"),
        tasks=tuple(SuiteTask(id=f"{'xyz'[n % 3]}-{n}", group="xyz"[n % 3]) for n in range(90)),
        scores=np.stack([~fails, np.ones(90)], axis=1).astype(float),
        costs_usd=np.stack([np.ones(90), np.full(90, 2.0)], axis=1),
        n_turns=np.full((90, 2), 10),
        turns=turns,
    )
    known = known_of(suite)
    folds = group_folds([task.group for task in suite.tasks], 3, seed=0)
    price = [0.3]
    reached = []
    for texts in (RunTexts.of(suite), None):
        returns = []
        for fold in folds:
            policy = LearnedRestart(texts=texts).fit(known.part(fold.train), price)[0]
            outcome = known.exact.part(fold.test).value(policy.legs(known.part(fold.test)))
            returns.append(outcome.scores - price[0] * outcome.costs_usd)
        reached.append(np.concatenate(returns).mean())
    assert reached[0] > reached[1] + 0.05


def test_families_are_equal_for_equal_seeds(helping):
    known = known_of(helping)
    folds = group_folds([task.group for task in helping.tasks], 3, seed=0)
    one, other = (cross_validate(Restarts("turns", "r"), known, folds, seed=0) for _ in range(2))
    assert one.told == other.told
    assert np.array_equal(one.of_goal("save").models, other.of_goal("save").models)


def test_a_suite_of_one_model_is_refused():
    suite = make_up(MadeUpCard(n_tasks=30, seed=0)).part(models=[0])
    with pytest.raises(InvalidConfigError, match="has 30 tasks and 1 models"):
        study_suite(suite)
