"""Where a training's networks are; no GPU is needed, and what a GPU works out is tested nowhere."""

import dataclasses

import pytest
import torch

from mtrouter_rl.agents.parameters import JointParameters, LoopParameters
from mtrouter_rl.agents.q.device import random_state_kept, training_device
from mtrouter_rl.agents.q.joint_q import JointQFunctionFactory
from mtrouter_rl.agents.q.learners import Networks, QLearning, imitation_learner, q_learner
from mtrouter_rl.agents.q.networks import HistoryLayout
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.workers.peers import Peers
from mtrouter_rl.workflows.training import TrainRequest, load_agent, train_router
from tests.cases.routing_toy import StateFeatures


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:00", "cuda:01", "cuda:-1", "CPU", ""])
def test_other_names_are_refused(name):
    with pytest.raises(InvalidConfigError, match=rf"device is '{name}', must be 'cpu', 'cuda' or 'cuda:N'"):
        training_device(name)


def test_a_gpu_that_is_not_here_is_told(two_gpus):
    assert training_device("cuda") == torch.device("cuda")
    assert training_device("cuda:1") == torch.device("cuda", 1)
    for name in ("cuda:2", "cuda:128", "cuda:256", "cuda:99999"):
        with pytest.raises(
            InvalidConfigError, match=rf"device is '{name}', but torch .* finds 2 GPUs here; leave --device out"
        ):
            training_device(name)


LEARNING = [
    QLearning(),
    QLearning(learner="double_dqn", n_critics=2),
    QLearning(learner="nfq"),
    QLearning(learner="discrete_cql", conservatism=0.1),
    QLearning(learner="discrete_bcq", action_flexibility=0.3),
]


def make_factory():
    features = StateFeatures()
    layout, models = HistoryLayout.of_features(features), features.model_features.tolist()
    return JointQFunctionFactory.of(layout, JointParameters(), model_features=models), features.dim + len(models)


@pytest.mark.parametrize("learning", [*LEARNING, 0, 4], ids=lambda one: getattr(one, "learner", f"imitation-{one}"))
def test_all_networks_are_made_where_they_are_wanted(learning):
    """torch has a device "meta" everywhere: tensors without numbers, which show where things are."""
    factory, n_columns = make_factory()
    learner = (
        imitation_learner(dataclasses.replace(factory.observation_encoder(), memory_size=learning), logit_penalty=0.1)
        if isinstance(learning, int)
        else q_learner(learning, factory)
    )
    algorithm = learner.build(LoopParameters(), torch.device("meta"))
    algorithm.create_impl((n_columns,), 3)
    networks = Networks(algorithm)
    found = [one for network in networks.modules.values() for one in (*network.parameters(), *network.buffers())]
    assert found
    assert {tensor.device.type for tensor in found} == {"meta"}
    assert {one.device.type for group in networks.optimizer.param_groups for one in group["params"]} == {"meta"}


def test_the_random_state_of_the_caller_stays():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with random_state_kept():
        torch.manual_seed(5)
    assert torch.equal(torch.rand(3), expected)


def test_a_training_refuses_a_device_before_it_reads(corridor_config, corridor_log, tmp_path, two_gpus):
    def request(agent, device):
        card = load_agent(agent, corridor_config.card)
        return TrainRequest(
            agent=card, config=corridor_config, seed=0, out=tmp_path / "r", dataset=corridor_log, device=device
        )

    with pytest.raises(InvalidConfigError, match=r"device is 'cuda:7', but torch"):
        train_router(request("fitted-q", "cuda:7"), show_progress=False)
    with pytest.raises(
        InvalidConfigError, match=r"'task-table' is not trained in gradient steps, so --device cuda would do"
    ):
        train_router(request("task-table", "cuda"), show_progress=False)
    with pytest.raises(InvalidConfigError, match=r"--device is cuda and torchrun started 2 processes"):
        train_router(request("fitted-q", "cuda"), show_progress=False, peers=Peers(rank=0, n=2))
    assert not (tmp_path / "r").exists()
    on_processor = request("fitted-q", "cpu")
    assert on_processor.identity() == dataclasses.replace(on_processor, device="cuda").identity()
