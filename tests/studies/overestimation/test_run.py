"""Predicted against achieved return of the routers of a finished run, in the toy corridor."""

import json
import shutil

import numpy as np
import pytest

from mtrouter_rl.agents.resolve import RouterRef
from mtrouter_rl.cli.program import main
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import ResultsError, RouterError
from mtrouter_rl.evaluation.query_router import observations_of, revisit, value_meaning
from mtrouter_rl.evaluation.value_calibration import calibrate
from mtrouter_rl.reporting.tables import to_plain
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.studies.overestimation.run import (
    OVERESTIMATION_FILE,
    Overestimation,
    measure_overestimation,
    overestimation_table,
)
from mtrouter_rl.transitions.arrays import discounted_returns
from mtrouter_rl.workflows import EvaluateRequest, TrainRequest, evaluate_routers, load_agent, train_router

SMALL = {"n_iterations": 3, "steps_per_iteration": 8, "batch_size": 32}


@pytest.fixture(scope="module")
def run(tmp_path_factory, corridor_config, corridor_log):
    """A run as a study leaves it: routers beside the episodes of theirs and of a policy without values."""
    out = tmp_path_factory.mktemp("runs") / "mine"
    folders = []
    for name in ("fitted-q-bcq", "monte-carlo-q", "behavior-cloning", "fitted-q-frontier"):
        card = load_agent(name)
        card = card.model_copy(update={"parameters": card.parameters | SMALL})
        request = TrainRequest(
            agent=card, config=corridor_config, seed=0, out=out / "routers" / name, dataset=corridor_log
        )
        folders.append(str(train_router(request, show_progress=False)))
    with RolloutPool(corridor_config, n_workers=1) as pool:
        for split in ("test", "ood"):
            request = EvaluateRequest(
                routers=(*folders[:3], f"{folders[3]}@0.1", "random"), split=split, n_seeds=1, out=out, per_task=2
            )
            evaluate_routers(pool, request, show_progress=False)
    return out


@pytest.fixture(scope="module")
def found(run):
    return measure_overestimation(run, show_progress=False)


def test_every_router_with_values_has_a_row_per_split(found):
    assert {(row.policy, row.learner, row.gamma) for row in found.rows} == {
        ("fitted-q-bcq", "discrete_bcq", 0.95),
        ("monte-carlo-q", "monte_carlo_q", 1.0),
        ("fitted-q-frontier@0.1", "double_dqn", 0.95),
    }
    assert [row.split for row in found.rows] == ["test"] * 3 + ["ood"] * 3
    assert set(found.without_values) == {"behavior-cloning", "random"}
    assert next(row for row in found.rows if row.policy == "fitted-q-frontier@0.1").cost_weight == 0.1


def test_numbers_are_those_of_the_episodes(run, found, corridor_config):
    """Worked out again, turn by turn, from the episodes on disk and the saved router."""
    row = next(row for row in found.rows if (row.policy, row.split) == ("fitted-q-bcq", "test"))
    router = RouterRef.of(str(run / "routers" / "fitted-q-bcq"))(corridor_config)
    predicted, achieved = [], []
    for episode in Dataset.load(run / "episodes" / "test" / "fitted-q-bcq").completed:
        values = router.q_values(observations_of(episode, corridor_config.pool))
        predicted += [values[turn, router.model_names.index(model)] for turn, model in enumerate(episode.models)]
        unit = corridor_config.reward.cost_unit_usd
        rewards = [turn.utility_gain - corridor_config.cost_weight * turn.cost_usd / unit for turn in episode.turns]
        achieved += discounted_returns(np.array(rewards), 0.95).tolist()
    assert row.n_turns == len(predicted)
    assert row.predicted == pytest.approx(np.mean(predicted), abs=1e-6)
    assert row.achieved == pytest.approx(np.mean(achieved), abs=1e-6)
    assert row.overestimation == pytest.approx(np.mean(predicted) - np.mean(achieved), abs=1e-6)
    low, high = row.overestimation_ci95
    assert low < row.overestimation < high


def test_numbers_are_those_of_tensorboard(run, found, corridor_config):
    row = next(row for row in found.rows if (row.policy, row.split) == ("monte-carlo-q", "ood"))
    router = RouterRef.of(str(run / "routers" / "monte-carlo-q"))(corridor_config)
    episodes = Dataset.load(run / "episodes" / "ood" / "monte-carlo-q").episodes
    traced = revisit({"monte-carlo-q": episodes}, {"monte-carlo-q": router}, corridor_config.pool)["monte-carlo-q"]
    meaning = value_meaning(router, env="corridor")
    shown = calibrate(traced, meaning, model_names=router.model_names, seed=found.seed)
    assert row.overestimation_ci95 == shown.overestimation.ends
    assert row.calibration_error == shown.error


def test_the_command_writes_and_prints(run, tmp_path, capsys):
    assert main(["overestimation", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "fitted-q-bcq" in printed
    assert "discrete_bcq" in printed
    assert "without a router folder: " in printed
    saved = Overestimation.load(run / OVERESTIMATION_FILE)
    assert {row.policy for row in saved.rows} == {"fitted-q-bcq", "monte-carlo-q", "fitted-q-frontier@0.1"}
    broken = json.loads((run / OVERESTIMATION_FILE).read_text())
    broken["rows"][0]["n_turns"] = 0
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    with pytest.raises(ResultsError, match=r"broken\.json breaks the schema of Overestimation"):
        Overestimation.load(tmp_path / "broken.json")


def test_a_table_of_several_runs_names_them(found):
    lines = to_plain(overestimation_table([("runs/a", found), ("runs/b", found)])).splitlines()
    assert lines[0].split()[:2] == ["run", "policy"]
    assert sum(line.startswith("runs/b") for line in lines) == 6


def test_routers_elsewhere_are_given_by_their_folders(run, tmp_path):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("routers"))
    with pytest.raises(ResultsError, match=r"no router with Q-values ran .*looked at: none.*--router"):
        measure_overestimation(tmp_path / "run", show_progress=False)
    found = measure_overestimation(tmp_path / "run", routers=[run / "routers" / "monte-carlo-q"], show_progress=False)
    assert {row.policy for row in found.rows} == {"monte-carlo-q"}


def test_another_router_of_the_same_name_is_refused(run, tmp_path, corridor_config, corridor_log):
    card = load_agent("monte-carlo-q")
    card = card.model_copy(update={"parameters": card.parameters | SMALL})
    request = TrainRequest(agent=card, config=corridor_config, seed=1, out=tmp_path / "other", dataset=corridor_log)
    train_router(request, show_progress=False)
    with pytest.raises(RouterError, match=r"is not the one that ran the episodes of 'monte-carlo-q' on split"):
        measure_overestimation(run, routers=[tmp_path / "other"], show_progress=False)
    with pytest.raises(RouterError, match=r"both named 'monte-carlo-q'; give one of them"):
        measure_overestimation(run, routers=[tmp_path / "other", run / "routers" / "monte-carlo-q"])
