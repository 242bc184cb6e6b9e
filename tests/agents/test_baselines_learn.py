"""Closed-loop on the toy corridor, where a dear model pays only now and then: what plain learners and rules come to."""

import pytest

from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.workflows import EvaluateRequest, TrainRequest, evaluate_routers, load_agent, train_router

AGENTS = ("turn-ridge", "turn-neighbors", "turn-clusters", "task-ridge", "cascade", "strongest", "interleave")


@pytest.fixture(scope="module")
def returns(tmp_path_factory, corridor_config, corridor_log):
    """Mean return on test by policy."""
    out = tmp_path_factory.mktemp("baselines")
    with RolloutPool(corridor_config, n_workers=1) as pool:
        for name in AGENTS:
            request = TrainRequest(
                agent=load_agent(name),
                config=corridor_config,
                seed=0,
                out=out / name,
                dataset=corridor_log,
                validation_folder=out / "validation",
            )
            train_router(request, pool=pool, show_progress=False)
        routers = ("random", "cheapest", *(str(out / name) for name in AGENTS))
        request = EvaluateRequest(routers=routers, split="test", n_seeds=4, out=out / "run")
        results = evaluate_routers(pool, request, show_progress=False)
    return {row.policy: row.return_mean for row in results.split_rows("test")}


@pytest.mark.parametrize("name", ["turn-ridge", "turn-neighbors", "turn-clusters", "task-ridge"])
def test_regressions_on_a_uniform_log_beat_the_policy_that_logged_it_and_the_cheapest(name, returns):
    assert returns[name] > returns["random"] + 0.05
    assert returns[name] > returns["cheapest"] + 0.05


def test_the_cascade_beats_both_of_its_models(returns):
    assert returns["cascade"] > max(returns["cheapest"], returns["strongest"]) + 0.02


def test_a_rule_that_does_not_look_stays_behind_the_cascade(returns):
    assert returns["interleave"] < returns["cascade"] - 0.1
