from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mtrouter_rl.agents.resolve import resolve_router
from mtrouter_rl.datasets.info import read_info
from mtrouter_rl.datasets.logged import logged_env
from mtrouter_rl.envs.corridor import CorridorTask
from mtrouter_rl.errors import InvalidConfigError, SimulatorError
from mtrouter_rl.evaluation.validation_run import ValidationRun
from mtrouter_rl.metric_names import BELLMAN_RESIDUAL, LEARNING_RATE, Q_MEAN, STEPS_PER_SECOND, TD_LOSS, TRAINING
from mtrouter_rl.workflows import TrainRequest, load_agent, train_router

VALIDATION = {name for name in TRAINING if name.startswith("validation/")}


@pytest.fixture
def request_of(tmp_path, corridor_config, corridor_log, tiny_agent):
    def make(name, *, agent="fitted-q", **changes):
        return TrainRequest(
            agent=tiny_agent(agent),
            config=corridor_config,
            seed=0,
            out=tmp_path / name,
            dataset=corridor_log,
            encoder="hashing",
            **changes,
        )

    return make


def curves(folder):
    run = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {tag: {point.step: point.value for point in run.Scalars(tag)} for tag in run.Tags()["scalars"]}


@pytest.mark.parametrize("agent", ["fitted-q", "behavior-cloning"])
def test_curves_are_written_and_the_weights_are_the_same_without_them(agent, request_of):
    train_router(request_of("plain", agent=agent), show_progress=False)
    watched = request_of("watched", agent=agent, evaluate_every=2, evaluate_episodes=4)
    train_router(watched, show_progress=False)
    found = curves(watched.out)
    assert {tag for tag in found if tag.startswith("validation/")} == VALIDATION
    assert all(list(found[tag]) == [16, 24] for tag in VALIDATION), "after iteration 2, and the last one"
    plain, with_curves = (load_file(watched.out.parent / name / "weights.safetensors") for name in ("plain", "watched"))
    assert plain.keys() == with_curves.keys()
    assert all(torch.equal(plain[name], with_curves[name]) for name in plain)


def test_the_last_point_is_that_of_the_router_that_is_saved(request_of, corridor_config):
    request = request_of("watched", evaluate_every=5, evaluate_episodes=3)
    train_router(request, show_progress=False)
    with ValidationRun(corridor_config, n_episodes=3) as run:
        expected = run(resolve_router(str(request.out), corridor_config.pool))
    found = curves(request.out)
    for name, value in expected.items():
        assert list(found[name]) == [24]
        assert found[name][24] == pytest.approx(value, rel=1e-5)


def test_all_curves_of_a_training(request_of):
    request = request_of("plain")
    train_router(request, show_progress=False)
    found = curves(request.out)
    assert set(found) == {TD_LOSS, Q_MEAN, BELLMAN_RESIDUAL, LEARNING_RATE, STEPS_PER_SECOND}
    assert all(list(points) == [8, 16, 24] for points in found.values())
    rate = request.agent.parameters["learning_rate"]
    assert list(found[LEARNING_RATE].values()) == pytest.approx([rate] * 3)
    assert min(found[STEPS_PER_SECOND].values()) > 0


class KilledError(Exception):
    """Stands for the end of the process."""


def test_a_training_that_is_killed_while_it_is_evaluated_goes_on_with_that_evaluation(request_of, monkeypatch):
    request = request_of("watched", evaluate_every=2, evaluate_episodes=2)

    def kill(*_):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(ValidationRun, "__call__", kill)
        with pytest.raises(KilledError):
            train_router(request, show_progress=False)
    train_router(request, show_progress=False)
    other = request_of("other", evaluate_every=2, evaluate_episodes=2)
    train_router(other, show_progress=False)
    for tag in VALIDATION:
        assert curves(request.out)[tag] == curves(other.out)[tag]


def test_the_same_episodes_every_time(corridor_config):
    router = resolve_router("random", corridor_config.pool)
    with ValidationRun(corridor_config, n_episodes=5) as run:
        first = run(router)
        assert run(router) == first
    with ValidationRun(corridor_config, n_episodes=5) as run:
        assert run(router) == first


@pytest.mark.parametrize("always", [False, True])
def test_episodes_that_break_are_counted_and_never_scored(always, corridor_config, monkeypatch, caplog):
    reset = CorridorTask.reset

    def break_down(self, task, variation, seed):
        if task == "short" or always:
            raise SimulatorError("the engine is gone")
        return reset(self, task, variation, seed)

    monkeypatch.setattr(CorridorTask, "reset", break_down)
    router = resolve_router("single:middle", corridor_config.pool)
    with ValidationRun(corridor_config, n_episodes=4) as run:
        if always:
            with pytest.raises(
                InvalidConfigError, match=r"none of its 4 episodes .*the engine is gone.*--evaluate-every"
            ):
                run(router)
            return
        found = run(router)
    assert found["validation/n_failed"] == 2
    assert "2 of 4 episodes failed" in caplog.text


@pytest.mark.parametrize(
    ("agent", "changes", "message"),
    [
        ("fitted-q", {"evaluate_every": 0}, r"--evaluate-every is 0, must be at least 1"),
        ("fitted-q", {"evaluate_every": 1, "evaluate_episodes": 0}, r"--evaluate-episodes is 0, must be at least 1"),
        ("random", {"evaluate_every": 1}, r"agent 'random' is not trained in iterations"),
    ],
)
def test_wrong_numbers_and_agents(agent, changes, message, request_of):
    request = request_of("wrong", **changes)
    with pytest.raises(InvalidConfigError, match=message):
        train_router(replace(request, agent=load_agent(agent)), show_progress=False)


def test_an_imported_log_cannot_be_run(corridor_log):
    config = logged_env(read_info(corridor_log), cost_weight=0.5, cost_unit_usd=0.01)
    with pytest.raises(InvalidConfigError, match=r"is an imported log, there is nothing that could be run: leave out"):
        ValidationRun(config, n_episodes=1)
