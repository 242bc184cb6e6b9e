"""A training step through d3rlpy is the same step in bare torch: what the benchmark of its overhead compares."""

import importlib.util
from pathlib import Path

import pytest
import torch

from mtrouter_rl.agents.parameters import JointParameters, LoopParameters
from mtrouter_rl.agents.q.joint_q import JointQFunctionFactory
from mtrouter_rl.agents.q.networks import HistoryLayout

SCRIPT = Path(__file__).parents[3] / "scripts" / "bench" / "learner_overhead.py"
SIZES = JointParameters(text_projection=4, history_hidden=(8,), model_hidden=4, residual_dim=2, joint_hidden=(8, 4))
LAYOUT = HistoryLayout(n_columns=10, text_blocks=((0, 4), (4, 8)))


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("learner_overhead", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sides(bench):
    factory = JointQFunctionFactory.of(LAYOUT, SIZES, model_features=[[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
    transitions = bench.random_transitions(10, 3, n_episodes=20, n_turns=5)
    loop = LoopParameters(batch_size=16, steps_per_iteration=3, learning_rate=1e-2)
    through = bench.ThroughD3rlpy(factory, loop, transitions)
    return through, bench.BareTorch(through.network, loop, transitions)


def test_losses_and_weights_are_equal_to_the_bit(bench, sides):
    """Eight steps are two renewals of the target network and two steps after them."""
    through, bare = sides
    before = {name: tensor.clone() for name, tensor in bare.network.state_dict().items()}
    with torch.random.fork_rng(devices=[]):
        bench.check_equal(through, bare, n_steps=8)
    assert not all(torch.equal(before[name], tensor) for name, tensor in bare.network.state_dict().items())
    assert torch.equal(
        bare.target.joint_model.weight, through.algorithm.impl.modules.targ_q_funcs[0].network.joint_model.weight
    )


def test_a_difference_is_told(bench, sides):
    through, bare = sides
    with torch.no_grad():
        bare.network.joint_model.weight[0, 0] += 1
    with (
        torch.random.fork_rng(devices=[]),
        pytest.raises(SystemExit, match=r"the loss is .* bare torch|weights differ at"),
    ):
        bench.check_equal(through, bare, n_steps=8)
