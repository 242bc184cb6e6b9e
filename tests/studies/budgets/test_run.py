"""Policies under several budgets in the toy corridor."""

import json
from dataclasses import replace

import pytest

from mtrouter_rl.cli.program import main
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.evaluation.results import Results
from mtrouter_rl.studies.budgets.record import is_cut_short
from mtrouter_rl.studies.budgets.run import evaluate_budgets, parse_budgets
from mtrouter_rl.workflows import EvaluateRequest, TrainRequest, train_router

POLICIES = ("single:large", "single:small", "cheapest", "random")
TIGHT_USD, MIDDLE_USD, FULL_USD = 0.0004, 0.008, 0.5


@pytest.fixture(scope="module")
def swept(tmp_path_factory, corridor_config):
    out = tmp_path_factory.mktemp("budgets")
    request = EvaluateRequest(routers=POLICIES, split="test", n_seeds=2, out=out)
    budgets = (FULL_USD, TIGHT_USD, MIDDLE_USD)
    return request, *evaluate_budgets(corridor_config, request, budgets, n_workers=1, show_progress=False)


def test_every_policy_has_a_row_under_every_budget_and_none_spends_more(swept):
    request, results, _ = swept
    assert {(row.policy, row.budget_usd) for row in results.rows} == {
        (policy, usd) for policy in POLICIES for usd in (TIGHT_USD, MIDDLE_USD, FULL_USD)
    }
    assert all(row.budget_violations == 0 and row.cost_usd_mean <= row.budget_usd for row in results.rows)
    assert Results.load(request.out / "results.json") == results
    labels = {row.label for row in results.rows if row.policy == "random"}
    assert "random (budget 0.0004 USD)" in labels


def test_less_money_cuts_more_episodes_short_and_buys_less(swept):
    request, _, sweep = swept
    share = {(one.policy, one.budget_usd): one.cut_short_share for one in sweep.outcomes}
    score = {(one.policy, one.budget_usd): one.score_mean for one in sweep.outcomes}
    assert share["random", FULL_USD] == 0 < share["random", TIGHT_USD]
    assert share["cheapest", TIGHT_USD] == share["single:small", TIGHT_USD]  # one ran, the other took over its episodes
    assert score["single:large", FULL_USD] > score["single:large", TIGHT_USD]
    assert [one.budget_usd for one in sweep.outcomes] == sorted(one.budget_usd for one in sweep.outcomes)
    assert json.loads((request.out / "budgets.json").read_text())["outcomes"][0]["budget_usd"] == TIGHT_USD


def test_hulls_and_pairs_are_within_one_budget(swept):
    _, results, _ = swept
    for usd in (TIGHT_USD, FULL_USD):
        gains = [row.hull_gain for row in results.rows if row.budget_usd == usd and row.policy == "single:small"]
        assert gains == [0.0]


def test_a_router_for_every_budget_runs_under_each(tmp_path, corridor_config, corridor_log, tiny_agent, capsys):
    request = TrainRequest(
        agent=tiny_agent("fitted-q-budget"), config=corridor_config, seed=0, out=tmp_path / "b", dataset=corridor_log
    )
    folder = train_router(request, show_progress=False)
    words = ["--env", "corridor", "--per-task", "2", "--workers", "1", "--out", str(tmp_path / "run")]
    assert main(["evaluate", "--router", str(folder), "random", *words, "--budgets", "0.01x", "0.5"]) == 0
    shown = capsys.readouterr().out
    assert "fitted-q-budget" in shown
    assert "0.005" in shown
    assert "budget 0.005 USD" in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert main(["evaluate", "--router", "random", *words, "--max-turns", "3", "--budgets", "0.02"]) == 1
    assert "holds results of another setting" in capsys.readouterr().err


def test_a_further_budget_is_added_to_the_file(tmp_path, corridor_config):
    request = EvaluateRequest(routers=("random",), split="test", n_seeds=1, per_task=1, out=tmp_path)
    evaluate_budgets(corridor_config, request, (0.5,), n_workers=1, show_progress=False)
    evaluate_budgets(corridor_config, request, (0.02,), n_workers=1, show_progress=False)
    assert [row.budget_usd for row in Results.load(tmp_path / "results.json").rows] == [0.5, 0.02]


def test_rows_without_a_budget_are_not_mixed_with_those_of_several(swept, corridor_config, tmp_path):
    request, results, _ = swept
    plain = results.model_copy(update={"rows": (results.rows[0].model_copy(update={"budget_usd": None}),)})
    plain.save(tmp_path / "results.json")
    with pytest.raises(
        InvalidConfigError, match=r"holds rows of an evaluation at the environment's own budget; choose"
    ):
        evaluate_budgets(corridor_config, replace(request, out=tmp_path), (0.1,), n_workers=1)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["much"], r"'much' is no budget; give USD above 0, or times the environment's 0\.5 USD, such as 0\.1x"),
        (["0x"], r"'0x' is no budget"),
        (["-1"], r"'-1' is no budget"),
        (["inf"], r"'inf' is no budget"),
        (["0.1", "0.2x"], r"0\.1, 0\.2x name one budget twice"),
    ],
)
def test_bad_budgets(texts, message):
    with pytest.raises(InvalidConfigError, match=message):
        parse_budgets(texts, 0.5)


def test_an_end_by_the_turn_limit_or_the_task_is_no_cut(swept, corridor_config):
    from mtrouter_rl.workflows import episodes_of_run

    request, _, _ = swept
    (episode, *_) = episodes_of_run(request.out / "budgets" / "0.5")["test"]["random"]
    last = episode.turns[-1]
    truncated = replace(episode, turns=(*episode.turns[:-1], replace(last, terminated=False, truncated=True)))
    assert not is_cut_short(episode)
    assert is_cut_short(truncated)
    assert is_cut_short(replace(episode, turns=()))
    assert not is_cut_short(replace(truncated, max_turns=len(truncated.turns)))
