"""One router at many cost weights, end to end in the toy corridor."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mtrouter_rl.agents.resolve import RouterRef, resolve_router, split_cost_weight
from mtrouter_rl.cli.program import main
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.evaluation.cost_weight_choice import ChoiceRule
from mtrouter_rl.evaluation.results import Results
from mtrouter_rl.reporting.plots import cost_score_figure
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.studies.frontier.run import choose_cost_weights, compare_frontier, sweep
from mtrouter_rl.workflows import EvaluateRequest, TrainRequest, evaluate_routers, load_agent, train_router

LOOP = {
    "n_iterations": 4,
    "steps_per_iteration": 40,
    "batch_size": 128,
    "learning_rate": 3e-3,
    "n_warm_start": 2,
    "keep_last": 2,
}


@pytest.fixture(scope="module")
def pool(corridor_config):
    with RolloutPool(corridor_config, n_workers=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def routers(tmp_path_factory, corridor_config, corridor_log):
    """Folders of a router for many weights, and of one for the weight 2."""
    out = tmp_path_factory.mktemp("routers")
    folders = {}
    for agent, weight in (("fitted-q-frontier", 0.5), ("fitted-q", 2.0)):
        card = load_agent(agent)
        request = TrainRequest(
            agent=card.model_copy(update={"parameters": card.parameters | LOOP}),
            config=corridor_config.at_cost_weight(weight),
            seed=0,
            out=out / agent,
            dataset=corridor_log,
        )
        folders[agent] = str(train_router(request, show_progress=False))
    return folders


def make_request(out, routers, **changes):
    return EvaluateRequest(**({"routers": tuple(routers), "split": "test", "n_seeds": 1, "out": out} | changes))


def test_a_router_is_named_with_its_weight_everywhere(routers, corridor_config, tmp_path):
    folder = routers["fitted-q-frontier"]
    assert split_cost_weight(f"{folder}@0.1") == (folder, 0.1)
    assert split_cost_weight("single:a@b") == ("single:a@b", None)
    plain, priced = (RouterRef.of(text) for text in (folder, f"{folder}@0.1"))
    assert plain.key.rpartition("#")[2] == priced.key.rpartition("#")[2] != ""
    assert plain.key != priced.key
    assert (plain(corridor_config).name, priced(corridor_config).name) == ("fitted-q-frontier", "fitted-q-frontier@0.1")
    assert plain(corridor_config).settings.cost_weight == 0.5  # that of its training
    explorer = RouterRef.of(f"epsilon-greedy:0.2:{folder}@0.1")
    assert explorer(corridor_config).router.settings.cost_weight == 0.1
    assert explorer.key.rpartition("#")[2] == priced.key.rpartition("#")[2]


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        ("@dear", r"the cost weight after '@' is 'dear', must be a number, such as .*@0\.4"),
        ("@50", r"cost weight is 50, must be from 0 to 40, the range of the training"),
        ("@-1", r"cost weight is -1, must be from 0 to 40"),
        ("@nan", r"cost weight is nan, must be from 0 to 40"),
    ],
)
def test_wrong_weights_are_refused(routers, corridor_config, suffix, message):
    with pytest.raises(InvalidConfigError, match=message):
        resolve_router(routers["fitted-q-frontier"] + suffix, corridor_config.pool)


def test_a_router_of_one_weight_cannot_be_told_another(routers, corridor_config):
    with pytest.raises(
        InvalidConfigError, match=r"'fitted-q' was not trained to be told a cost weight; leave out @0\.1"
    ):
        resolve_router(routers["fitted-q"] + "@0.1", corridor_config.pool)


def test_a_sweep_gives_a_row_for_every_weight_and_all_returns_at_one(pool, routers, tmp_path):
    folder = routers["fitted-q-frontier"]
    swept = sweep(pool.config, make_request(tmp_path, [folder, "random", "single:small"]), [0.0, 0.5, 4.0])
    assert swept.routers == (f"{folder}@0", f"{folder}@0.5", f"{folder}@4", "random", "single:small")
    results = evaluate_routers(pool, swept, show_progress=False)
    rows = {row.cost_weight: row for row in results.rows if row.family == "fitted-q-frontier"}
    assert list(rows) == [0.0, 0.5, 4.0]
    assert rows[4.0].policy == rows[4.0].label == "fitted-q-frontier@4"
    assert list(rows[4.0].paired) == ["random"]  # its own other weights are no baselines
    for row in results.rows:
        assert row.return_mean == pytest.approx(row.utility_mean - 0.5 * row.cost_usd_mean / 0.01)
    assert rows[0.0].cost_usd_mean != rows[4.0].cost_usd_mean
    # The router at the weight of the environment acts as the one that is not told any.
    plain = evaluate_routers(pool, make_request(tmp_path, [folder]), show_progress=False).row(
        "fitted-q-frontier", "test"
    )
    assert (plain.cost_weight, plain.cost_usd_mean, plain.score_mean) == (
        None,
        rows[0.5].cost_usd_mean,
        rows[0.5].score_mean,
    )


def test_report_plots_and_tensorboard_show_the_frontier(routers, tmp_path, capsys):
    words = ["--env", "corridor", "--workers", "1", "--out", str(tmp_path), "--cost-weights", "4", "0", "1"]
    assert main(["evaluate", "--router", routers["fitted-q-frontier"], "random", *words]) == 0
    assert "fitted-q-frontier@4" in capsys.readouterr().out
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Policies by the cost weight that they act at" in page
    assert list((tmp_path / "tensorboard" / "fitted-q-frontier_4").glob("events*"))
    results = Results.load(tmp_path / "results.json")
    (axes,) = cost_score_figure(results, "test").axes
    points = [results.row(f"fitted-q-frontier@{weight}", "test") for weight in (0, 1, 4)]
    expected = np.array([(row.cost_usd_mean, row.score_mean) for row in points])
    lines = [line.get_xydata() for line in axes.lines]
    assert any(line.shape == expected.shape and np.array_equal(line, expected) for line in lines)


@pytest.mark.parametrize(
    ("names", "weights", "message"),
    [
        (
            ["fitted-q-frontier", "fitted-q"],
            [1.0],
            r"'fitted-q' was not trained to be told a cost weight; evaluate it into",
        ),
        (["random"], [1.0], r"none of the routers \(random\) can be told a cost weight; give the folder"),
        (["fitted-q-frontier"], [1.0, 70.0], r"cost weight is 70, must be from 0 to 40"),
    ],
)
def test_sweeps_that_cannot_be_run_are_refused(pool, routers, tmp_path, names, weights, message):
    request = make_request(tmp_path, [routers.get(name, name) for name in names])
    with pytest.raises(InvalidConfigError, match=message):
        sweep(pool.config, request, weights)


def test_a_weight_is_chosen_on_validation_and_the_numbers_are_kept(pool, routers, tmp_path):
    folder = routers["fitted-q-frontier"]
    request = make_request(tmp_path, [folder, "random"])
    rule = ChoiceRule(match_score_of="single:small", score_tolerance=5.0)
    chosen, (choice,) = choose_cost_weights(pool, request, rule, cost_weights=[4.0, 0.0, 1.0], show_progress=False)
    rows = {row.policy: row for row in Results.load(tmp_path / "choice" / "results.json").rows}
    assert {row.split for row in rows.values()} == {"validation"}
    bound = rows["single:small"].score_mean - 5
    fitting = [w for w in (0.0, 1.0, 4.0) if rows[f"fitted-q-frontier@{w:g}"].score_mean >= bound]
    assert choice.cost_weight == max(fitting)
    assert chosen.routers == (f"{folder}@{choice.cost_weight:g}", "random")
    assert chosen.split == "test"
    written = json.loads((tmp_path / "cost_weight_choice.json").read_text())
    assert [one["cost_weight"] for one in written["choices"][0]["grid"]] == [0.0, 1.0, 4.0]
    assert written["choices"][0]["reference"]["score_mean"] == rows["single:small"].score_mean


def test_a_cost_is_kept_with_a_grid_over_the_range_of_the_training(pool, routers, tmp_path):
    request = make_request(tmp_path, [routers["fitted-q-frontier"]])
    _, (choice,) = choose_cost_weights(pool, request, ChoiceRule(target_cost_usd=10.0), show_progress=False)
    assert choice.cost_weight == 0.0  # any weight keeps it, so the smallest
    assert [one.cost_weight for one in choice.grid][:2] == [0.0, 0.03]
    assert len(choice.grid) == 10


def test_the_strongest_model_is_found_on_validation_if_no_router_is_it(pool, routers, tmp_path):
    request = make_request(tmp_path, [routers["fitted-q-frontier"]])
    rule = ChoiceRule(match_score_of="strongest", score_tolerance=300.0)
    _, (choice,) = choose_cost_weights(pool, request, rule, cost_weights=[0.0, 2.0], show_progress=False)
    assert choice.cost_weight == 2.0  # the tolerance takes anything
    found = json.loads((tmp_path / "choice" / "strongest" / "router.json").read_text())
    best = max(found["settings"]["validation_utilities"].values())
    assert choice.reference.policy == "strongest"
    assert choice.reference.score_mean == pytest.approx(100 * best)


def test_no_choice_without_validation_or_on_it(corridor_config, pool, routers, tmp_path):
    rule = ChoiceRule(target_cost_usd=1.0)
    request = make_request(tmp_path, [routers["fitted-q-frontier"]])
    with pytest.raises(InvalidConfigError, match=r"--split is validation, on which the cost weight is chosen"):
        choose_cost_weights(pool, replace(request, split="validation"), rule)
    splits = corridor_config.card.splits.model_copy(update={"validation": 0.0})
    bare = EnvConfig(
        card=corridor_config.card.model_copy(update={"splits": splits}),
        pool=corridor_config.pool,
        limits=corridor_config.limits,
        reward=corridor_config.reward,
    )
    for one in (rule, ChoiceRule(match_score_of="strongest")):
        with (
            RolloutPool(bare, n_workers=1) as other,
            pytest.raises(
                InvalidConfigError, match=r"'corridor' has no validation split, so no cost weight .*--cost-weights"
            ),
        ):
            choose_cost_weights(other, request, one)


def test_one_router_beside_one_trained_for_the_weight(pool, routers, tmp_path):
    request = make_request(tmp_path, [routers["fitted-q-frontier"]])
    comparison = compare_frontier(pool, request, [routers["fitted-q"]], show_progress=False)
    (pair,) = comparison.pairs
    assert (pair.cost_weight, pair.frontier.policy, pair.separate.policy) == (2.0, "fitted-q-frontier@2", "fitted-q")
    for row in (pair.frontier, pair.separate):
        assert row.return_mean == pytest.approx(row.utility_mean - 2.0 * row.cost_usd_mean / 0.01)
    difference = pair.frontier.paired["fitted-q"].return_
    assert difference.value == pytest.approx(pair.frontier.return_mean - pair.separate.return_mean)
    written = json.loads((tmp_path / "frontier.json").read_text())
    assert written["returns"] == "at the cost weight of each pair"
    table = comparison.table()
    assert [row[:2] for row in table.rows] == [("2", "fitted-q"), ("2", "fitted-q-frontier@2")]
    assert "at the weight of its own line" in table.caption
    # The results file beside it holds the same policies at the reward of the environment.
    row = Results.load(tmp_path / "results.json").row("fitted-q", "test")
    assert row.return_mean == pytest.approx(row.utility_mean - 0.5 * row.cost_usd_mean / 0.01)
    with pytest.raises(InvalidConfigError, match=r"router 'random' was trained for no cost weight"):
        compare_frontier(pool, request, ["random"])


def test_the_other_commands(routers, tmp_path, capsys):
    folder, other = routers["fitted-q-frontier"], routers["fitted-q"]
    common = ["--env", "corridor", "--per-task", "1", "--workers", "1", "--out", str(tmp_path / "run")]
    assert main(["frontier", folder, "--against", other, *common]) == 0
    assert "return, difference" in capsys.readouterr().out
    assert main(["evaluate", "--router", folder, *common, "--score-tolerance", "1"]) == 1
    assert "--score-tolerance is for --match-score-of POLICY, which is missing" in capsys.readouterr().err
    assert main(["evaluate", "--router", folder, *common, "--target-cost-usd", "1e-9", "--cost-weights", "4"]) == 1
    assert "at no cost weight of the grid is its mean cost on validation at most 1e-09 USD" in capsys.readouterr().err
