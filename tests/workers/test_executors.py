"""The same tasks in this process, in processes and on a Ray cluster, also when workers and nodes are lost."""

import os
import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mtrouter_rl.agents.resolve import RouterRef
from mtrouter_rl.cards.splits import sample_specs
from mtrouter_rl.cli.program import main
from mtrouter_rl.errors import CardError, InvalidConfigError, MissingDependencyError, SimulatorError
from mtrouter_rl.rollout import RolloutJob, RolloutPool
from mtrouter_rl.workers.executors import (
    Cluster,
    check_workers,
    end_with_parent,
    parse_workers,
    result_of,
    start_executor,
)
from mtrouter_rl.workflows import TrainRequest, load_agent
from mtrouter_rl.workflows.quick_study import train_side_by_side

ray = pytest.importorskip("ray")
RAY = Cluster()
SETTINGS = {"include_dashboard": False, "log_to_driver": False}


@pytest.fixture(scope="module")
def cluster():
    """A cluster that the program has joined before, so that it is started once."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=2, runtime_env=seen_by_workers(), **SETTINGS)
    yield
    ray.shutdown()


def seen_by_workers():
    return {"env_vars": {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}}


@dataclass(frozen=True)
class DyingOnce:
    """Makes a router; the first worker that is asked for one dies."""

    folder: Path
    name: str = "dying-once"

    def __call__(self, config):
        try:
            (self.folder / "died").touch(exist_ok=False)
        except FileExistsError:
            return RouterRef.of("uniform", None)(config)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@dataclass(frozen=True)
class Slow:
    """Makes a router, and lets a node be taken away meanwhile."""

    name: str = "slow"

    def __call__(self, config):
        time.sleep(1)
        return RouterRef.of("uniform", None)(config)


def played(config, workers, factory=None):
    specs = sample_specs(config.card, "train", n_episodes=20, seed=1)
    factory = factory or RouterRef.of("uniform", None)
    jobs = [RolloutJob(key=(0, 0, n), factory=factory, specs=specs[n : n + 5]) for n in range(0, 20, 5)]
    with RolloutPool(config, n_workers=workers) as pool:
        done = {job.key: episodes for job, episodes in pool.run(jobs)}
    return [(traced.episode, traced.hidden) for key in sorted(done) for traced in done[key]]


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def raise_value_error(text):
    raise ValueError(text, 3)


def test_what_workers_may_be():
    assert [str(parse_workers(text)) for text in ("3", "ray", "ray:auto", "ray:ray://host:10001")] == [
        *("3", "ray", "ray:auto", "ray:ray://host:10001")
    ]
    for text in ("rays", "ray:", "two", ""):
        with pytest.raises(ValueError):  # noqa: PT011
            parse_workers(text)
    with pytest.raises(InvalidConfigError, match="workers is 0, must be at least 1"):
        check_workers(0)


@pytest.mark.usefixtures("cluster")
def test_a_cluster_plays_the_same_episodes_as_processes(corridor_config):
    here = played(corridor_config, 1)
    assert len(here) == 20
    assert played(corridor_config, RAY) == here


@pytest.mark.usefixtures("cluster")
def test_a_killed_worker_of_a_cluster_changes_nothing(corridor_config, tmp_path):
    here = played(corridor_config, 1)
    found = played(corridor_config, RAY, DyingOnce(tmp_path))
    assert (tmp_path / "died").exists()
    assert found == here


@pytest.mark.usefixtures("cluster")
def test_errors_come_back_as_they_were_raised_and_a_task_that_kills_every_worker_is_given_up(
    corridor_config, monkeypatch
):
    monkeypatch.setattr("mtrouter_rl.workers.executors.RETRIES", 1)
    with start_executor(RAY, initializer=end_with_parent) as executor:
        with pytest.raises(ValueError, match="wrong") as raised:
            result_of(executor.submit(raise_value_error, "wrong"))
        assert type(raised.value) is ValueError
        assert raised.value.args == ("wrong", 3)
        with pytest.raises(SimulatorError, match=r"lost 2 times with its worker or its node"):
            result_of(executor.submit(die))
    wrong = replace(corridor_config, card=corridor_config.card.model_copy(update={"settings": {"obstacle": {}}}))
    with pytest.raises(CardError, match="card 'corridor', settings"):
        played(wrong, RAY)


@pytest.mark.usefixtures("cluster")
def test_commands_take_a_cluster(tmp_path):
    for name, workers in (("here", "1"), ("ray", "ray")):
        words = [
            "collect",
            "--env",
            "corridor",
            "--policy",
            "uniform",
            "--episodes",
            "60",
            "--workers",
            workers,
            "--quiet",
        ]
        assert main([*words, "--out", str(tmp_path / name)]) == 0
    for path in sorted((tmp_path / "here").rglob("*.parquet")):
        assert path.read_bytes() == (tmp_path / "ray" / path.relative_to(tmp_path / "here")).read_bytes()


@pytest.mark.usefixtures("cluster")
def test_trainings_on_a_cluster_end_with_the_same_router(corridor_config, corridor_log, tmp_path):
    for name, workers in (("here", 1), ("ray", RAY)):
        trainings = [
            TrainRequest(
                agent=load_agent(agent, corridor_config.card),
                config=corridor_config,
                seed=0,
                out=tmp_path / name / agent,
                dataset=corridor_log,
            )
            for agent in ("task-table", "turn-ridge")
        ]
        train_side_by_side(trainings, n_workers=workers, show_progress=False)
    kept = sorted((tmp_path / "here").rglob("*"))
    files = [path for path in kept if path.name == "router.json" or path.suffix in (".npz", ".safetensors")]
    assert len(files) >= 2
    for path in files:
        assert path.read_bytes() == (tmp_path / "ray" / path.relative_to(tmp_path / "here")).read_bytes()


def test_models_that_cost_money_are_called_from_this_machine_alone(corridor_config):
    pool = corridor_config.pool
    backend = pool.backend.model_copy(update={"kind": "openai_compatible"})
    paid = replace(corridor_config, pool=pool.model_copy(update={"backend": backend}))
    with pytest.raises(InvalidConfigError, match=r"workers is 'ray', but pool 'corridor.*' calls real models"):
        RolloutPool(paid, n_workers=RAY)


def test_a_cluster_needs_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'mtrouter-rl\[ray\]'"):
        start_executor(RAY, initializer=end_with_parent)


def test_a_lost_node_changes_nothing(corridor_config):
    from ray.cluster_utils import Cluster as Nodes

    here = played(corridor_config, 1)
    ray.shutdown()
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        lost = nodes.add_node(num_cpus=2)
        ray.init(address=nodes.address, runtime_env=seen_by_workers(), log_to_driver=False)
        specs = sample_specs(corridor_config.card, "train", n_episodes=20, seed=1)
        jobs = [RolloutJob(key=(0, 0, n), factory=Slow(), specs=specs[n : n + 5]) for n in range(0, 20, 5)]
        done = {}
        with RolloutPool(corridor_config, n_workers=Cluster(address=nodes.address)) as pool:
            for number, (job, episodes) in enumerate(pool.run(jobs)):
                done[job.key] = episodes
                if number == 0:
                    nodes.add_node(num_cpus=1)
                    nodes.remove_node(lost, allow_graceful=False)
        assert [(one.episode, one.hidden) for key in sorted(done) for one in done[key]] == here
    finally:
        ray.shutdown()
        nodes.shutdown()


def test_no_cluster_at_an_address_is_told(monkeypatch):
    monkeypatch.setattr("ray.init", lambda **_: (_ for _ in ()).throw(ConnectionError("nobody there")))
    with pytest.raises(InvalidConfigError, match=r"workers is 'ray:auto', but no cluster answers there: nobody there"):
        start_executor(Cluster(address="auto"), initializer=end_with_parent)
