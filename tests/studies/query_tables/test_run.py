import dataclasses
import json
import re

import numpy as np
import pytest

from mtrouter_rl.cards import load_pool_card
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.cli.program import run_command
from mtrouter_rl.datasets.importers.base import ImportReport, ImportSource
from mtrouter_rl.datasets.importers.query_table import Answer, OneTurnBuilder, Query
from mtrouter_rl.datasets.info import DatasetInfo
from mtrouter_rl.datasets.rewrite import write_dataset
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import DatasetError, InvalidConfigError, RouterError, UnknownNameError
from mtrouter_rl.records import TokenUsage, TracedEpisode
from mtrouter_rl.studies.query_tables.metrics import (
    cost_saved,
    default_hard_k,
    expected_cost,
    gain_interval,
    hard_queries,
    one_turn_metrics,
    pareto_distance,
    point_of,
)
from mtrouter_rl.studies.query_tables.routings import (
    cheapest_correct_routing,
    oracle_routing,
    random_routing,
    router_routing,
    routing_of,
    single_routing,
    task_table_routing,
)
from mtrouter_rl.studies.query_tables.run import CompareSettings, baseline_routings, compare
from mtrouter_rl.studies.query_tables.table import OneTurnTable
from mtrouter_rl.testing import ScriptedRouter

CARD = load_pool_card("corridor-three")
FLAT = {"input": 0.0, "cached_input": 0.0, "output": 1.0}  # one output token costs 1e-6 USD
POOL = PoolCard.model_validate(
    CARD.model_dump()
    | {
        "name": "three",
        "prompt_cache": None,
        "models": [
            CARD.models[index].model_dump() | {"name": name, "aliases": (), "prices": FLAT}
            for index, name in enumerate(("low", "middle", "high"))
        ],
    }
)

# Four queries of two tasks. Means: low (0.25, 1), middle (0.5, 2), high (0.625, 4); cost in micro-dollars.
SCORES = np.array([[1.0, 1.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.5]])
COSTS = np.array([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0], [1.0, 2.0, 3.0], [1.0, 2.0, 5.0]]) * 1e-6
TASKS = ("a", "a", "b", "b")
N_TOKENS = np.rint(COSTS * 1e6).astype(int)


def make_episodes(scores=SCORES, tasks=TASKS):
    builder = OneTurnBuilder(ImportSource(paths=(), pool=POOL, report=ImportReport(format="test")))
    for row, (task, values) in enumerate(zip(tasks, scores, strict=True)):
        query = Query(task=task, query_id=str(row), variation=row, text=f"{task}: question {row}")
        for column, score in enumerate(values):
            answer = Answer(
                model=POOL.model_names[column],
                response="",
                score=float(score),
                usage=TokenUsage(n_fresh=1, n_output=int(N_TOKENS[row % 4, column])),
                usage_source="logged",
                logged_cost_usd=None,
            )
            yield builder.episode(query, answer)


def make_info(**changes):
    fields = {
        "dataset_id": "suite-v1",
        "env": "suite",
        "pool_name": POOL.name,
        "models": POOL.models,
        "prompt_cache": None,
        "behavior_policy": "mixed",
        "split": "train",
        "seed": 0,
        "n_episodes_planned": 12,
        "max_turns": 1,
        "budget_usd": 1.0,
        "is_simulated": False,
        "package_version": "0",
        "created_by": {},
        "origin": "imported",
        "assumptions": ("Prompts are billed in full.",),
    }
    return DatasetInfo(**(fields | changes))


def make_dataset(episodes=None):
    return Dataset(info=make_info(), episodes=tuple(make_episodes() if episodes is None else episodes))


def make_table(scores=SCORES, tasks=TASKS):
    return OneTurnTable.of(make_dataset(make_episodes(scores, tasks)))


TABLE = make_table()
BEST_CHOICE = np.array([0, 1, 2, 2])
"""Right everywhere at the least cost: accuracy (1 + 1 + 1 + 0.5) / 4, cost (1 + 2 + 3 + 5) / 4."""


def metrics(routing, **settings):
    return one_turn_metrics(TABLE, routing, **settings)


def test_the_table_is_what_the_episodes_say():
    assert TABLE.models == ("low", "middle", "high")
    assert TABLE.queries == (("a", 0), ("a", 1), ("b", 2), ("b", 3))
    assert TABLE.scores.tolist() == SCORES.tolist()
    np.testing.assert_allclose(TABLE.costs_usd, COSTS)
    assert [episode.variation for episode in TABLE.examples] == [0, 1, 2, 3]
    assert TABLE.models[TABLE.best_single] == "high"
    np.testing.assert_allclose(TABLE.single_points, [(1e-6, 0.25), (2e-6, 0.5), (4e-6, 0.625)])


def test_the_order_of_episodes_moves_no_number():
    table = OneTurnTable.of(make_dataset(reversed(list(make_episodes()))))
    assert table.queries == TABLE.queries[::-1]
    assert table.scores.tolist() == SCORES[::-1].tolist()


def changed_turn(episode, **changes):
    return dataclasses.replace(episode, turns=(dataclasses.replace(episode.turns[0], **changes),))


def bad_episodes(kind):
    episodes = list(make_episodes())
    last = episodes[-1]
    bad = {
        "empty": [],
        "missing": episodes[:4] + episodes[5:-1],
        "failed": [*episodes[:-1], dataclasses.replace(last, status="failed", status_detail="x")],
        "twice": [*episodes, dataclasses.replace(last, episode_id="again", seed=1)],
        "turns": [*episodes[:-1], dataclasses.replace(last, turns=last.turns * 2)],
        "served": [*episodes[:-1], changed_turn(last, served_model="low")],
        "text": [*episodes[:-1], dataclasses.replace(last, task_text="another")],
    }
    return bad[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "dataset 'suite-v1' has no completed episode"),
        ("missing", r"task 'a', variation 1 has no answer of model 'middle' \(first of 2 missing pairs out of 12\)"),
        ("failed", r"task 'b', variation 3 has no answer of model 'high' \(first of 1 missing pairs"),
        ("twice", "episode 'again': model 'high' has answered task 'b', variation 3 before, in episode 'b/3/high'"),
        ("turns", "episode 'b/3/high' has 2 turns, must have 1"),
        ("served", "model is 'high', but 'low' answered"),
        ("text", "its text differs from that of episode 'b/3/low'"),
    ],
)
def test_tables_that_are_refused(kind, message):
    with pytest.raises(DatasetError, match=message):
        OneTurnTable.of(make_dataset(bad_episodes(kind)))


def test_a_choice_worked_by_hand():
    found = metrics(routing_of(BEST_CHOICE, 3), hard_k=1)
    assert found.accuracy == pytest.approx(3.5 / 4)
    assert found.task_mean_accuracy == pytest.approx((1.0 + 0.75) / 2)
    assert found.cost_usd == pytest.approx(11e-6 / 4)
    assert found.gain_over_random == pytest.approx(0.875 - 5.5 / 12)
    assert found.relative_gain_over_random == pytest.approx((0.875 - 5.5 / 12) / (5.5 / 12))
    assert found.gain_over_best == pytest.approx(0.25)
    assert found.relative_gain_over_best == pytest.approx(0.25 / 0.625)
    assert found.gap_to_oracle == pytest.approx(0.0)
    assert found.reaches_best
    assert found.cost_saved_at_equal_performance == pytest.approx(1 - 2.75 / 4)  # against the best, which costs 4
    assert found.performance_gained_at_equal_cost == pytest.approx(0.875 - (0.5 + 0.125 * 0.75 / 2))
    assert found.pareto_distance == 0.0
    assert (found.recall_on_hard, found.n_hard) == (1.0, 2)


def test_a_single_model_worked_by_hand():
    found = metrics(single_routing(TABLE, 0), hard_k=1)
    assert (found.accuracy, found.task_mean_accuracy) == (0.25, 0.25)
    assert found.gain_over_best == pytest.approx(-0.375)
    assert found.gap_to_oracle == pytest.approx(0.625)
    assert found.relative_gap_to_oracle == pytest.approx(0.625 / 0.875)
    assert not found.reaches_best
    assert found.cost_saved_at_equal_performance == pytest.approx(0.0)
    assert found.performance_gained_at_equal_cost == pytest.approx(0.0)
    assert (found.recall_on_hard, found.n_hard) == (0.0, 2)


def test_tasks_weigh_alike_in_their_mean():
    table = make_table(np.array([[1.0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]]), ("a", "a", "a", "b"))
    found = one_turn_metrics(table, single_routing(table, 0))
    assert (found.accuracy, found.task_mean_accuracy) == (0.75, 0.5)


def test_random_is_an_exact_expectation():
    found = metrics(random_routing(TABLE), hard_k=1)
    assert found.accuracy == pytest.approx(SCORES.mean())
    assert found.cost_usd == pytest.approx(COSTS.mean())
    assert found.gain_over_random == pytest.approx(0.0)
    assert found.recall_on_hard == pytest.approx(1 / 3)


def test_oracle_takes_the_best_answer_and_the_cheapest_of_several():
    assert oracle_routing(TABLE).argmax(axis=1).tolist() == [0, 1, 2, 2]
    assert metrics(oracle_routing(TABLE)).gap_to_oracle == 0.0


def test_cheapest_correct_spends_nothing_where_nobody_solves():
    assert cheapest_correct_routing(TABLE).argmax(axis=1).tolist() == [0, 1, 2, 0]
    assert cheapest_correct_routing(TABLE, solved_score=0.5).argmax(axis=1).tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("hard_k", "solved_score", "hard"),
    [
        (1, 1.0, [False, True, True, False]),
        (2, 1.0, [False, True, True, False]),
        (3, 1.0, [True, True, True, False]),
        (1, 0.5, [False, True, True, True]),
    ],
)
def test_hard_queries(hard_k, solved_score, hard):
    assert hard_queries(TABLE, hard_k=hard_k, solved_score=solved_score).tolist() == hard


@pytest.mark.parametrize(("n_models", "hard_k"), [(1, 1), (2, 1), (3, 2), (9, 2)])
def test_a_query_that_all_models_solve_is_not_hard_by_default(n_models, hard_k):
    table = dataclasses.replace(TABLE, models=tuple(map(str, range(n_models))))
    assert default_hard_k(table) == hard_k


def test_no_hard_query_is_no_recall():
    found = one_turn_metrics(make_table(np.ones((4, 3))), routing_of(BEST_CHOICE, 3), hard_k=1)
    assert (found.recall_on_hard, found.n_hard) == (None, 0)


def test_nothing_is_relative_to_nothing():
    table = make_table(np.zeros((4, 3)))
    found = one_turn_metrics(table, single_routing(table, 2))
    assert (found.relative_gain_over_best, found.relative_gain_over_random, found.relative_gap_to_oracle) == (None,) * 3


@pytest.mark.parametrize(
    ("cost", "accuracy", "saved"),
    [
        (2.0, 1.0, 0.5),  # as good as the best, which costs 4
        (2.0, 2.0, 0.5),  # better than the best
        (1.0, 0.75, 2 / 3),  # halfway between 2 and 4
        (3.0, 0.5, -0.5),  # as good as the middle, which costs 2
        (2.0, -1.0, -1.0),  # below the cheapest, which costs 1
    ],
)
def test_cost_saved(cost, accuracy, saved):
    singles = [(1.0, 0.0), (2.0, 0.5), (4.0, 1.0), (5.0, 0.9)]
    assert cost_saved(cost, accuracy, singles=singles) == pytest.approx(saved)


def test_nothing_is_saved_against_free_models():
    assert cost_saved(0.0, 1.0, singles=[(0.0, 0.5), (1.0, 0.2)]) is None


@pytest.mark.parametrize(
    ("point", "rivals", "distance"),
    [
        ((1.0, 0.0), [], 0.0),  # a vertex
        ((2.0, 0.9), [], 0.0),  # above the front
        ((0.5, -1.0), [], 0.0),  # cheaper than all
        ((2.0, 0.0), [], 0.25),  # 1 of 4 too dear
        ((5.0, 0.6), [], 0.4),  # 0.4 of 1 too weak; the other vertex is a full range cheaper
        ((2.0, 0.0), [(2.0, 0.1)], 0.1),
        ((2.0, 0.0), [(2.0, 0.0)], 0.25),  # nobody is a rival of itself
        ((2.0, 0.0), [(3.0, 0.0)], 0.25),  # dominated rivals are not on the front
        ((6.0, 0.9), [(5.0, 1.2)], np.hypot(0.25, 0.3)),
        ((5.0, 1.0), [(5.0 + 1e-13, 1.0 + 1e-13)], 0.0),  # rounding
    ],
)
def test_pareto_distance(point, rivals, distance):
    assert pareto_distance(point, singles=[(1.0, 0.0), (5.0, 1.0)], rivals=rivals) == pytest.approx(distance)


def test_pareto_distance_where_all_single_models_are_alike():
    assert pareto_distance((2.0, 0.5), singles=[(1.0, 0.5), (1.0, 0.5)]) == pytest.approx(1.0)


def test_pareto_distance_knows_no_currency():
    singles, rivals = [(1.0, 0.0), (5.0, 1.0)], [(2.0, 0.7)]
    in_cents = [(100 * cost, score) for cost, score in singles], [(100 * cost, score) for cost, score in rivals]
    here = pareto_distance((4.0, 0.3), singles=singles, rivals=rivals)
    assert pareto_distance((400.0, 0.3), singles=in_cents[0], rivals=in_cents[1]) == pytest.approx(here)
    assert here == pytest.approx(np.hypot(2 / 4, 0.4))  # to the rival; 3/4 and 0.7 to the others


def suite(n=200):
    """Two tasks: in each another model is right 9 times out of 10, and only the task tells which."""
    rng = np.random.default_rng(0)
    tasks = tuple(rng.choice(["a", "b"], size=n).tolist())
    scores = np.zeros((n, 3))
    right = np.array([0 if task == "a" else 2 for task in tasks])
    scores[np.arange(n), right] = rng.random(n) < 0.9
    return make_table(scores, tasks)


def test_the_task_table_finds_the_model_of_every_task():
    table = suite()
    found = one_turn_metrics(table, task_table_routing(table, seed=0))
    assert found.accuracy == pytest.approx(0.9, abs=0.05)
    assert found.gain_over_best > 0.3


def test_the_task_table_is_out_of_sample():
    # Every query is a task of its own, on which one model alone is right: in sample a table is perfect, in truth it
    # knows nothing but the mean over the others.
    scores = np.eye(3)[np.random.default_rng(1).integers(3, size=60)]
    table = make_table(scores, tuple(map(str, range(60))))
    found = one_turn_metrics(table, task_table_routing(table, seed=0))
    assert found.accuracy < 0.6


def test_the_task_table_weighs_cost():
    table = make_table(np.tile([0.9, 0.9, 1.0], (4, 1)), ("a",) * 4)
    by_score = task_table_routing(table, seed=0, n_folds=2)
    by_both = task_table_routing(table, seed=0, n_folds=2, usd_weight=1e6)
    assert by_score.argmax(axis=1).tolist() == [2] * 4
    assert by_both.argmax(axis=1).tolist() == [0] * 4


def test_the_task_table_repeats_itself():
    table = suite()
    one, two = (task_table_routing(table, seed=3) for _ in range(2))
    assert (one == two).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_folds": 1}, "n_folds is 1, must be from 2 to the number of queries, 4"),
        ({"n_folds": 5}, "n_folds is 5"),
        ({"n_folds": 2, "usd_weight": -1.0}, r"usd_weight is -1\.0"),
        ({"n_folds": 2, "usd_weight": float("nan")}, "usd_weight is nan"),
    ],
)
def test_task_tables_that_are_refused(settings, message):
    with pytest.raises(InvalidConfigError, match=message):
        task_table_routing(TABLE, seed=0, **settings)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (np.array([0, 3]), "must be indices of the 3 models"),
        (np.array([-1, 0]), r"choices lie in \[-1, 0\]"),
        (np.array([0.0, 1.0]), r"must be \(N,\) integers"),
        (np.array([[0]]), r"must be \(N,\) integers"),
    ],
)
def test_choices_that_are_refused(choices, message):
    with pytest.raises(InvalidConfigError, match=message):
        routing_of(choices, 3)


@pytest.mark.parametrize(
    ("routing", "settings", "message"),
    [
        (np.ones((3, 3)) / 3, {}, r"routing has shape \(3, 3\), must be \(4, 3\)"),
        (np.ones((4, 3)), {}, r"row 0 of the routing is \[1\.0, 1\.0, 1\.0\], must be >= 0 and sum to 1"),
        (np.tile([1.5, -0.5, 0.0], (4, 1)), {}, "row 0 of the routing"),
        (np.full((4, 3), np.nan), {}, "row 0 of the routing"),
        (np.ones((4, 3)) / 3, {"hard_k": 0}, "hard_k is 0, must be at least 1"),
    ],
)
def test_routings_that_are_refused(routing, settings, message):
    with pytest.raises(InvalidConfigError, match=message):
        metrics(routing, **settings)


def test_a_routers_view_and_its_probabilities():
    seen = []

    def decide(observation):
        seen.append(observation["task"])
        return (0.5, 0.5, 0.0) if observation["task"].startswith("a") else (0.0, 0.0, 1.0)

    router = ScriptedRouter(name="scripted", model_names=TABLE.models, decide=decide)
    observations = [{"task": episode.task_text} for episode in TABLE.examples]
    routing = router_routing(TABLE, router, observations)
    assert seen == [episode.task_text for episode in TABLE.examples]
    assert metrics(routing).accuracy == pytest.approx((1.0 + 0.5 + 1.0 + 0.5) / 4)
    assert expected_cost(TABLE, routing) == pytest.approx((1.5 + 1.5 + 3 + 5) / 4 * 1e-6)


@pytest.mark.parametrize(
    ("row", "message"),
    [((1.0, 0.0), r"of shape \(4, 2\), must be \(4, 3\)"), ((0.5, 0.0, 0.0), "rows that are no probabilities")],
)
def test_routers_that_break_their_contract(row, message):
    router = ScriptedRouter(name="broken", model_names=TABLE.models, decide=lambda _: row)
    with pytest.raises(RouterError, match=f"router 'broken' returned .*{message}"):
        router_routing(TABLE, router, [{}] * 4)


def test_intervals_are_of_queries_and_paired():
    table = suite()
    best = gain_interval(table, single_routing(table, table.best_single), seed=0, n_resamples=200)
    assert (best.low, best.value, best.high) == (0.0, 0.0, 0.0)
    oracle = gain_interval(table, oracle_routing(table), seed=0, n_resamples=200)
    assert oracle.is_above_zero
    assert oracle.n_clusters == table.n_queries


def test_a_comparison_has_every_baseline():
    settings = CompareSettings(n_folds=2, n_resamples=100)
    rows = {row.name: row.metrics for row in compare(TABLE, baseline_routings(TABLE, settings), settings)}
    assert list(rows) == [
        "single:low",
        "single:middle",
        "single:high",
        "random",
        "task table (cross-validated)",
        "oracle",
        "cheapest correct",
    ]
    assert rows["oracle"].accuracy == max(row.accuracy for row in rows.values())
    # The oracle is no rival: it would put every single model below the front.
    assert [rows[f"single:{name}"].pareto_distance for name in TABLE.models] == [0.0, 0.0, 0.0]
    assert rows["random"].pareto_distance > 0


def test_a_router_moves_the_front():
    settings = CompareSettings(n_folds=2, n_resamples=100)
    routings = {"single:high": single_routing(TABLE, 2), "mine": routing_of(BEST_CHOICE, 3)}
    rows = {row.name: row.metrics for row in compare(TABLE, routings, settings)}
    assert point_of(TABLE, routings["mine"]) == pytest.approx((2.75e-6, 0.875))
    assert rows["mine"].pareto_distance == 0.0
    assert rows["single:high"].pareto_distance == pytest.approx(2 / 3)  # to the middle; more to the other two


# The command.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("suite") / "log"
    write_dataset(path, make_info(), (TracedEpisode(episode=episode) for episode in make_episodes()))
    return path


def run(*arguments):
    run_command(["lab", "one-turn", *map(str, arguments)])


def test_the_command_prints_a_table(folder, capsys):
    run(folder, "--folds", 2, "--resamples", 100, "--k", 1)
    text = capsys.readouterr().out
    assert "4 queries of 2 tasks, 3 models; best single model in hindsight: high" in text
    assert re.search(r"^oracle +0\.8750 .* \+0\.2500 ", text, re.MULTILINE)
    assert "of the 2 queries that 1 to 1 models solve" in text
    assert "assumed: Prompts are billed in full." in text
    assert "note:" not in text
    run(folder, "--folds", 2, "--resamples", 100, "--router", "uniform")
    assert "note: a router that was trained on these queries has seen their outcomes" in capsys.readouterr().out


def test_the_command_prints_json(folder, capsys):
    run(folder, "--json", "--folds", 2, "--resamples", 100, "--router", "single:middle", "uniform")
    data = json.loads(capsys.readouterr().out)
    assert (data["n_queries"], data["best_single"], data["settings"]["hard_k"]) == (4, "high", 2)
    policies = {policy.pop("name"): policy for policy in data["policies"]}
    assert policies["router:single:middle"] == policies["single:middle"]
    assert policies["router:uniform"]["accuracy"] == pytest.approx(policies["random"]["accuracy"])
    assert policies["single:low"]["accuracy_interval"][0] <= 0.25


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--k", 0], InvalidConfigError, "hard_k is 0"),
        (["--folds", 9], InvalidConfigError, "n_folds is 9"),
        (["--resamples", 5, "--folds", 2], InvalidConfigError, "n_resamples is 5"),
        (["--router", "nobody", "--folds", 2], UnknownNameError, "unknown router 'nobody'"),
    ],
)
def test_what_the_command_refuses(folder, arguments, error, message):
    with pytest.raises(error, match=message):
        run(folder, *arguments)
