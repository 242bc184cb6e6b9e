import json

import numpy as np
import pytest
import torch

from mtrouter_rl.agents.parameters import LoopParameters
from mtrouter_rl.agents.q import trainer
from mtrouter_rl.agents.q.fitted_q import FittedQ
from mtrouter_rl.agents.q.joint_q import JointQFunctionFactory
from mtrouter_rl.agents.q.learners import Q_FUNCTIONS, Networks, QLearning, q_learner, to_d3rlpy
from mtrouter_rl.agents.q.networks import HistoryLayout
from mtrouter_rl.errors import InvalidConfigError, RouterError
from mtrouter_rl.registry import ALGORITHMS
from mtrouter_rl.transitions.arrays import Transitions, make_transitions
from tests.cases.routing_toy import (
    JOINT,
    TINY,
    ListSink,
    features_of,
    make_card,
    make_context,
    make_dataset,
    make_episode,
    make_observation,
    make_turn,
    uniform_log,
)

TRAINED = ["fitted_q", "fitted_q_frontier", "fitted_q_budget", "monte_carlo_q", "myopic", "behavior_cloning"]


class KilledError(Exception):
    """Stands for the end of the process."""


class KillingSink:
    def __init__(self, at_step):
        self.at_step = at_step

    def scalar(self, name, value, step):
        if step >= self.at_step:
            raise KilledError


def train(algorithm, log, folder=None, sink=None, seed=0, **changes):
    parameters = TINY[algorithm] | {"dropout": 0.2} | changes
    made = ALGORITHMS.load(algorithm).from_card(make_card(algorithm, **parameters))
    return made.train(make_context(log, folder=folder, sink=sink, seed=seed, features=features_of(algorithm)()))


def weights(router):
    return router._ensemble.weights


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("algorithm", TRAINED)
def test_equal_seeds_give_equal_weights_and_others_do_not(algorithm, small_log):
    first = weights(train(algorithm, small_log))
    torch.rand(3)
    assert equal(first, weights(train(algorithm, small_log)))
    assert not equal(first, weights(train(algorithm, small_log, seed=1)))


@pytest.mark.parametrize("algorithm", TRAINED)
def test_one_row_of_what_follows_gives_the_weights_that_all_rows_give(algorithm, small_log, monkeypatch):
    short = weights(train(algorithm, small_log))
    monkeypatch.setattr(Transitions, "is_regression", False)
    assert equal(short, weights(train(algorithm, small_log)))


def test_training_leaves_global_random_state_alone(small_log):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train("fitted_q", small_log)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("algorithm", TRAINED)
@pytest.mark.parametrize("n_done", [1, 3])
def test_a_killed_training_resumes_to_the_same_weights(algorithm, n_done, small_log, tmp_path):
    steps = TINY[algorithm]["steps_per_iteration"]
    with pytest.raises(KilledError):
        train(algorithm, small_log, tmp_path, KillingSink(steps * n_done + 1))
    assert [path.name for path in tmp_path.iterdir()] == [f"iteration-{n_done:06d}"]
    (tmp_path / "partial-000009").mkdir()
    sink = ListSink()
    resumed = train(algorithm, small_log, tmp_path, sink)
    assert min(step for _, _, step in sink.points) == steps * (n_done + 1)
    assert equal(weights(resumed), weights(train(algorithm, small_log)))


def test_a_finished_training_is_not_run_again(small_log, tmp_path):
    first = train("fitted_q", small_log, tmp_path)
    sink = ListSink()
    assert equal(weights(first), weights(train("fitted_q", small_log, tmp_path, sink)))
    assert sink.points == []


def test_a_checkpoint_of_another_training_is_refused(small_log, tmp_path):
    train("fitted_q", small_log, tmp_path)
    with pytest.raises(
        RouterError,
        match=r"000004 belongs to another training: parameter learning_rate is 0\.0005 there and 0\.1 here; use another",
    ):
        train("fitted_q", small_log, tmp_path, learning_rate=0.1)
    with pytest.raises(RouterError, match=r"another training: seed is 0 there and 5 here"):
        train("fitted_q", small_log, tmp_path, seed=5)
    with pytest.raises(RouterError, match=r"another training: data is '.*' there and '.*' here"):
        train("fitted_q", uniform_log(n_episodes=61), tmp_path)


def test_a_broken_checkpoint_is_named(small_log, tmp_path):
    train("fitted_q", small_log, tmp_path)
    (tmp_path / "iteration-000004" / "state.safetensors").write_bytes(b"no tensors")
    with pytest.raises(RouterError, match=r"iteration-000004 cannot be read .*; delete it to train from the start"):
        train("fitted_q", small_log, tmp_path)


def test_counters_are_json_and_name_the_training(small_log, tmp_path):
    train("fitted_q", small_log, tmp_path)
    counters = json.loads((tmp_path / "iteration-000004" / "counters.json").read_text())
    assert counters["n_iterations_done"] == 4
    assert counters["identity"]["dataset_id"] == "toy-v1"


@pytest.mark.parametrize(
    ("algorithm", "names"),
    [
        ("fitted_q", {trainer.TD_LOSS, trainer.Q_MEAN, trainer.BELLMAN_RESIDUAL}),
        ("behavior_cloning", {trainer.IMITATION_LOSS}),
    ],
)
def test_metrics_are_written_at_the_end_of_every_iteration(algorithm, names, small_log):
    sink = ListSink()
    train(algorithm, small_log, sink=sink)
    assert {name for name, _, _ in sink.points} == names | {trainer.LEARNING_RATE, trainer.STEPS_PER_SECOND}
    assert sorted({step for _, _, step in sink.points}) == [5, 10, 15, 20]
    assert all(np.isfinite(value) for _, value, _ in sink.points)


def test_curves_are_of_the_router_that_the_iteration_gave(small_log):
    """Value of the first states and one-step residual, worked out again from the saved router, turn by turn."""
    sink, gamma = ListSink(), 0.9
    router = train("fitted_q", small_log, sink=sink, keep_last=1, gamma=gamma)
    context = make_context(small_log)
    starts, residuals = [], []
    for episode in small_log.completed:
        rows = context.features.of_episode(episode)
        masks = np.array([turn.action_mask for turn in episode.turns] + [(False,) * 3], dtype=np.float32)
        values = router._ensemble(torch.from_numpy(np.concatenate([rows, masks], axis=1)))[0].numpy()
        starts.append(values[0].max())
        for turn, logged in enumerate(episode.turns):
            is_last = logged.terminated or logged.truncated
            following = 0.0 if is_last else gamma * values[turn + 1].max()
            reward = context.reward.reward(logged.utility_gain, logged.cost_usd)
            residuals.append(abs(reward + following - values[turn, router.model_names.index(logged.model)]))
    last = {name: value for name, value, step in sink.points if step == 20}
    assert last[trainer.Q_MEAN] == pytest.approx(np.mean(starts), abs=1e-5)
    assert last[trainer.BELLMAN_RESIDUAL] == pytest.approx(np.mean(residuals), abs=1e-5)


@pytest.mark.parametrize("rates", [None, (0.001, 0.00075, 0.00025)], ids=["constant", "cosine"])
def test_weights_are_those_of_a_bare_loop_over_the_logged_transitions(small_log, rates):
    """Bit for bit: warm start, then Q-learning, on uniform draws from generators seeded by (seed, iteration).

    The cosine's learning rates stand here as numbers: a loop that does not set them ends with other weights.
    """
    settings = TINY["fitted_q"] | (
        {} if rates is None else {"schedule": "cosine", "n_iterations": 3, "learning_rate": 0.001}
    )
    parameters = FittedQ.from_card(make_card("fitted_q", **settings)).parameters
    context = make_context(small_log)
    transitions = make_transitions(small_log, context.features, reward=context.reward, gamma=1.0)
    layout = HistoryLayout.of_features(context.features)
    factory = JointQFunctionFactory.of(layout, parameters, model_features=context.features.model_features.tolist())
    sequences = [np.random.SeedSequence([0, stage]) for stage in range(parameters.n_iterations + 1)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(sequences[0].generate_state(1)[0]))
        algorithm = q_learner(QLearning(learner="double_dqn", gamma=1.0), factory).build(
            parameters, torch.device("cpu")
        )
        algorithm.create_impl((transitions.observations.shape[1],), 3)
        algorithm.set_grad_step(1)
        for iteration, sequence in enumerate(sequences[1:]):
            torch.manual_seed(int(sequence.generate_state(1)[0]))
            generator = np.random.default_rng(sequence)
            for group in Networks(algorithm).optimizer.param_groups if rates else ():
                group["lr"] = rates[iteration]
            source = transitions if iteration >= parameters.n_warm_start else transitions.as_return_regression()
            for _ in range(parameters.steps_per_iteration):
                drawn = source.batch(generator.integers(len(source), size=parameters.batch_size))
                algorithm.update(to_d3rlpy(drawn))
        last = Networks(algorithm).weights(Q_FUNCTIONS)
    expected = {name.removeprefix("0.network."): tensor[None] for name, tensor in last.items()}
    trained = weights(train("fitted_q", small_log, **settings | {"dropout": 0.0, "keep_last": 1}))
    assert equal(trained, expected)


def test_learning_rate_schedules():
    loop = LoopParameters(n_iterations=4, learning_rate=1.0, schedule="cosine")
    assert [loop.learning_rate_at(i) for i in range(4)] == pytest.approx([1.0, 0.853553, 0.5, 0.146447], abs=1e-6)
    assert LoopParameters(learning_rate=0.5).learning_rate_at(7) == 0.5


def test_a_diverging_training_and_a_negative_seed_are_errors(small_log):
    with pytest.raises(InvalidConfigError, match=r"the loss is (nan|inf), must be finite; .*lower learning_rate"):
        train("fitted_q", small_log, learning_rate=1e30)
    with pytest.raises(InvalidConfigError, match=r"seed is -1, must be 0 or more"):
        train("fitted_q", small_log, seed=-1)


def test_targets_respect_the_mask_of_the_next_state():
    """State 1 pays 1.0 for the large model, which is forbidden there in this log's second half, and 0.2 for the small."""
    allowed = [
        make_episode(
            [
                make_turn(1, state=0, next_state=1, gain=0, cost=0, mask=(True, True, False)),
                make_turn(
                    model, state=1, next_state=2, gain=gain, cost=0, mask=(True, False, model == 2), terminated=True
                ),
            ],
            index=index,
        )
        for index, (model, gain) in enumerate([(0, 0.2), (2, 1.0)] * 20)
    ]
    masked_start = [
        make_episode(
            [
                make_turn(0, state=2, next_state=1, gain=0, cost=0, mask=(True, True, False)),
                make_turn(0, state=1, next_state=2, gain=0.2, cost=0, mask=(True, False, False), terminated=True),
            ],
            index=100 + index,
            start=2,
        )
        for index in range(40)
    ]
    loop = {"n_iterations": 4, "steps_per_iteration": 60, "batch_size": 64, "learning_rate": 5e-3, "keep_last": 1}
    card = make_card("fitted_q", **JOINT, **loop, n_critics=1)
    router = FittedQ.from_card(card).train(make_context(make_dataset(allowed + masked_start)))
    value = router.q_values([make_observation(2, mask=(1, 1, 0))])[0, 0]
    assert value == pytest.approx(0.2, abs=0.1)  # 1.0 would be the forbidden model's
    assert router.q_values([make_observation(1)])[0, 2] == pytest.approx(1.0, abs=0.15)
