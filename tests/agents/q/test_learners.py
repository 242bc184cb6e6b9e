"""Every algorithm that fitted-Q can run: finds the optimum, keeps to masks, resumes, and is the same after loading."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mtrouter_rl.agents.loading import load_router, save_router
from mtrouter_rl.agents.q import trainer
from mtrouter_rl.agents.q.constrained_router import ConstrainedQRouter
from mtrouter_rl.agents.q.fitted_q import FittedQ
from mtrouter_rl.agents.q.joint_q import JointQFunctionFactory
from mtrouter_rl.agents.q.learners import IMITATOR, Q_FUNCTIONS, Networks, QLearning, q_learner, to_d3rlpy
from mtrouter_rl.agents.q.networks import HistoryLayout
from mtrouter_rl.errors import CardError, RouterError
from mtrouter_rl.registry import ALGORITHMS
from mtrouter_rl.transitions.arrays import make_transitions
from tests.cases.routing_toy import (
    JOINT,
    POOL,
    TINY,
    ListSink,
    StateFeatures,
    make_card,
    make_context,
    make_dataset,
    make_episode,
    make_observation,
    make_turn,
    optimal_values,
    policy_value,
    skewed_log,
)

LEARNERS = {
    "dqn": {"learner": "dqn"},
    "double_dqn": {"learner": "double_dqn"},
    "ensemble": {"learner": "double_dqn", "n_critics": 2},
    "nfq": {"learner": "nfq"},
    "discrete_cql": {"learner": "discrete_cql", "conservatism": 0.01},
    "discrete_bcq": {"learner": "discrete_bcq", "action_flexibility": 0.3, "logit_penalty": 0.001},
}
LOOP = {"n_iterations": 9, "steps_per_iteration": 60, "batch_size": 128, "learning_rate": 4e-3, "keep_last": 3}
OBSERVATIONS = [
    make_observation(state, mask=mask) for state in range(3) for mask in [(1, 1, 1), (1, 0, 1), (0, 1, 1), (0, 0, 1)]
]


def train(learner, log, *, folder=None, sink=None, **parameters):
    card = make_card("fitted_q", **(LEARNERS[learner] | parameters))
    return FittedQ.from_card(card).train(make_context(log, folder=folder, sink=sink))


def build(settings, features=None):
    """The algorithm of a learner, its networks made from seed 0."""
    features = features or StateFeatures()
    parameters = FittedQ.from_card(make_card("fitted_q", **TINY["fitted_q"])).parameters
    factory = JointQFunctionFactory.of(
        HistoryLayout.of_features(features), parameters, model_features=features.model_features.tolist()
    )
    torch.manual_seed(0)
    algorithm = q_learner(settings, factory).build(parameters, torch.device("cpu"))
    algorithm.create_impl((features.dim + 3,), 3)
    return algorithm


@pytest.mark.parametrize("learner", ["ensemble", "nfq", "discrete_bcq"])
def test_learners_reach_the_optimum_of_value_iteration(learner, log):
    router = train(learner, log, **JOINT, **LOOP)
    assert policy_value(router) == pytest.approx(optimal_values()[0], abs=0.02)


@pytest.mark.parametrize("learner", LEARNERS)
def test_targets_respect_the_mask_of_the_next_state(learner):
    """State 1 pays 1.0 for the large model, but it is forbidden there after state 2."""
    loop = {"n_iterations": 4, "steps_per_iteration": 60, "batch_size": 64, "learning_rate": 5e-3, "keep_last": 1}
    router = train(learner, masked_log(), **JOINT, **loop)
    value = router.q_values([make_observation(2, mask=(1, 1, 0))])[0, 0]
    assert value == pytest.approx(0.2, abs=0.1)  # 1.0 would be the forbidden model's
    assert router.q_values([make_observation(1)])[0, 2] == pytest.approx(1.0, abs=0.2)


def masked_log():
    """After state 0 the large model may be called in state 1, and is the likeliest there; after state 2 it may not."""
    episodes = []
    for index in range(60):
        model, gain = ((0, 0.2), (2, 1.0), (2, 1.0))[index % 3]
        first = make_turn(1, state=0, next_state=1, gain=0, cost=0, mask=(True, True, False))
        second = make_turn(model, state=1, next_state=2, gain=gain, cost=0, mask=(True, False, True), terminated=True)
        episodes.append(make_episode([first, second], index=index))
        first = make_turn(0, state=2, next_state=1, gain=0, cost=0, mask=(True, True, False))
        second = make_turn(0, state=1, next_state=2, gain=0.2, cost=0, mask=(True, False, False), terminated=True)
        episodes.append(make_episode([first, second], index=100 + index, start=2))
    return make_dataset(episodes)


@pytest.mark.parametrize("learner", ["double_dqn", "discrete_bcq"])
@pytest.mark.parametrize(("bootstraps", "value"), [(False, 0.3), (True, 0.3 + 0.9 * 0.8)])
def test_last_reward_of_a_truncated_episode_is_learned(learner, bootstraps, value):
    """What comes after it counts only if it is asked for: state 1, in which every model gains 0.8 and ends the task."""
    truncated = [make_turn(0, state=0, next_state=1, gain=0.3, cost=0, truncated=True)]
    episodes = [make_episode(truncated, index=index) for index in range(30)]
    for index in range(30):
        ending = [make_turn(index % 3, state=1, next_state=2, gain=0.8, cost=0, terminated=True)]
        episodes.append(make_episode(ending, index=100 + index, start=1))
    loop = {"n_iterations": 4, "steps_per_iteration": 60, "batch_size": 64, "learning_rate": 5e-3, "keep_last": 1}
    changes = loop | {"gamma": 0.9, "n_warm_start": 1, "bootstrap_after_truncation": bootstraps}
    router = train(learner, make_dataset(episodes), **JOINT, **changes)
    assert router.q_values([make_observation(0)])[0, 0] == pytest.approx(value, abs=0.1)


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_saved_router_decides_alike_and_keeps_to_the_mask(learner, small_log, tmp_path):
    router = train(learner, small_log, **TINY["fitted_q"])
    save_router(router, tmp_path)
    loaded = load_router(tmp_path, pool=POOL, make_features=lambda _: StateFeatures())
    assert type(loaded) is type(router)
    chosen = router.action_probabilities(OBSERVATIONS)
    np.testing.assert_array_equal(loaded.action_probabilities(OBSERVATIONS), chosen)
    np.testing.assert_array_equal(loaded.q_values(OBSERVATIONS), router.q_values(OBSERVATIONS))
    masks = np.array([observation["action_mask"] for observation in OBSERVATIONS])
    assert (chosen[masks == 0] == 0).all()
    assert chosen.sum() == len(OBSERVATIONS)


class KilledError(Exception):
    """Stands for the end of the process."""


class KillingSink:
    def scalar(self, name, value, step):
        if step > 2 * TINY["fitted_q"]["steps_per_iteration"]:
            raise KilledError


@pytest.mark.parametrize("learner", ["nfq", "discrete_bcq", "ensemble"])
def test_a_killed_training_resumes_to_the_same_weights(learner, small_log, tmp_path):
    changes = TINY["fitted_q"] | {"dropout": 0.2, "n_critics": 2}
    with pytest.raises(KilledError):
        train(learner, small_log, folder=tmp_path, sink=KillingSink(), **changes)
    resumed = train(learner, small_log, folder=tmp_path, **changes).weights
    whole = train(learner, small_log, **changes).weights
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_router_averages_all_critics_of_the_kept_iterates(small_log):
    router = train("discrete_bcq", small_log, **TINY["fitted_q"], n_critics=2)
    assert router.settings.n_members == 2 * 2  # two iterates of two critics
    assert router.settings.imitator.n_members == 2
    assert {len(tensor) for tensor in router.q_weights.values()} == {4}


def step_batches(log, n=7):
    transitions = make_transitions(log, StateFeatures(), reward=make_context(log).reward, gamma=1.0)
    generator = np.random.default_rng(0)
    return [to_d3rlpy(transitions.sample(32, generator)) for _ in range(n)]


def test_nfq_is_dqn_whose_target_is_renewed_at_every_step(small_log):
    """What its documentation says; with a target that stands still the weights are others."""
    from d3rlpy.algos import DQNConfig

    ours = build(QLearning(learner="nfq", gamma=0.9))
    standing = build(QLearning(learner="dqn", gamma=0.9))
    torch.manual_seed(0)
    config = ours.config
    shared = {
        name: getattr(config, name) for name in ("batch_size", "learning_rate", "optim_factory", "q_func_factory")
    }
    renewed = DQNConfig(gamma=0.9, target_update_interval=1, **shared).create(device=False)
    renewed.create_impl((StateFeatures.dim + 3,), 3)
    for batch in step_batches(small_log):
        losses = [algorithm.update(batch)["loss"] for algorithm in (ours, renewed, standing)]
        assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_imitator_has_an_encoder_of_its_own_that_sees_the_mask():
    algorithm = build(QLearning(learner="discrete_bcq", action_flexibility=0.3))
    modules = Networks(algorithm).modules
    own = {id(parameter) for parameter in modules[IMITATOR].parameters()}
    assert not own & {id(parameter) for parameter in modules[Q_FUNCTIONS].parameters()}
    rows = torch.zeros(2, StateFeatures.dim + 3)
    rows[0, -3:], rows[1, -3:] = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 1.0])
    one, other = modules[IMITATOR](rows).logits
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("mask", "logits", "values", "choosable", "best"),
    [
        ((1, 1, 1), (0.0, 0.0, 0.0), (0.1, 0.3, 0.2), (1, 1, 1), 1),
        ((1, 1, 1), (2.0, 0.0, 1.9), (0.1, 0.3, 0.2), (1, 0, 1), 2),
        # The likeliest model is forbidden: among the rest the likeliest counts, though it is far less likely.
        ((1, 1, 0), (1.0, -2.0, 9.0), (0.1, 0.3, 0.9), (1, 0, 0), 0),
        ((0, 1, 0), (9.0, -9.0, 9.0), (0.1, -50.0, 0.9), (0, 1, 0), 1),
        # After the end no bit is set, and nothing is masked.
        ((0, 0, 0), (2.0, 0.0, 1.9), (0.1, 0.3, 0.2), (1, 0, 1), 2),
    ],
)
def test_bcq_chooses_the_best_of_the_likely_among_the_allowed(mask, logits, values, choosable, best):
    impl = build(QLearning(learner="discrete_bcq", action_flexibility=0.3)).impl
    object.__setattr__(impl.modules, "imitator", lambda x: SimpleNamespace(logits=torch.tensor([logits])))
    impl._q_func_forwarder = SimpleNamespace(compute_expected_q=lambda x: torch.tensor([values]))
    row = torch.cat([torch.zeros(1, StateFeatures.dim), torch.tensor([mask], dtype=torch.float32)], dim=1)
    assert impl.choosable(row).int().tolist() == [list(choosable)]
    assert impl.inner_predict_best_action(row).tolist() == [best]


def test_a_bcq_router_acts_as_d3rlpy_would(small_log):
    """With one iterate kept, the saved networks choose what the trained algorithm chooses."""
    algorithm = build(QLearning(learner="discrete_bcq", gamma=0.9, action_flexibility=0.8))
    for batch in step_batches(small_log, 60):
        algorithm.update(batch)
    networks = Networks(algorithm)
    trained = train("double_dqn", small_log, **(TINY["fitted_q"] | {"keep_last": 1}))
    weights = networks.weights(Q_FUNCTIONS, IMITATOR)
    trained.weights = {n.removeprefix("0.network."): t[None] for n, t in networks.weights(Q_FUNCTIONS).items()}
    router = ConstrainedQRouter.of(trained, [weights], action_flexibility=0.8)
    masks = np.array([observation["action_mask"] for observation in OBSERVATIONS])
    rows = np.concatenate([router.features.of_observations(OBSERVATIONS), masks], axis=1, dtype=np.float32)
    chosen = router.action_probabilities(OBSERVATIONS)
    np.testing.assert_array_equal(chosen.argmax(axis=1), algorithm.predict(rows))
    greedy = np.where(masks, router.q_values(OBSERVATIONS), -np.inf).argmax(axis=1)
    assert (greedy != chosen.argmax(axis=1)).any()  # the imitator made a difference


def test_bcq_leaves_out_what_the_log_hardly_ever_did():
    """The dear model is the better first one; where the log called it once in twenty turns, BCQ does not rely on it."""
    log = skewed_log((0.6, 0.35, 0.05), n_episodes=1000)
    free = train("double_dqn", log, **JOINT, **LOOP)
    bound = train("discrete_bcq", log, **JOINT, **LOOP)
    start = [make_observation(0)]
    assert free.action_probabilities(start)[0, 2] == 1
    assert bound.action_probabilities(start)[0, 2] == 0
    assert bound.imitator.action_probabilities(start)[0] == pytest.approx([0.6, 0.35, 0.05], abs=0.06)
    # Where the mask leaves nothing else, it is called all the same.
    assert bound.action_probabilities([make_observation(0, mask=(0, 0, 1))])[0, 2] == 1


def test_losses_of_both_networks_are_written_apart(small_log):
    sink = ListSink()
    train("discrete_bcq", small_log, sink=sink, **TINY["fitted_q"])
    found = {name: value for name, value, step in sink.points if step == 20}
    assert {trainer.TD_LOSS, trainer.IMITATION_LOSS, trainer.BELLMAN_RESIDUAL, trainer.Q_MEAN} <= set(found)
    assert found[trainer.TD_LOSS] < 0.3 < 0.9 < found[trainer.IMITATION_LOSS] < 1.3  # about log 3 nats


def test_value_curve_of_bcq_is_of_the_model_that_it_would_choose(small_log):
    sink = ListSink()
    router = train("discrete_bcq", small_log, sink=sink, **(TINY["fitted_q"] | {"keep_last": 1}), n_critics=2)
    rows = [make_observation(0)]
    chosen = (router.action_probabilities(rows) * router.q_values(rows)).sum()
    assert {name: value for name, value, _ in sink.points}[trainer.Q_MEAN] == pytest.approx(chosen, abs=1e-5)


def test_weights_that_do_not_fit_the_record_are_refused(small_log, tmp_path):
    from safetensors.torch import load_file, save_file

    save_router(train("discrete_bcq", small_log, **TINY["fitted_q"]), tmp_path)
    path = tmp_path / "weights.safetensors"
    tensors = load_file(path)
    save_file({name: tensor for name, tensor in tensors.items() if name != "imitator.output.bias"}, path)
    with pytest.raises(RouterError, match=r"do not fit router\.json at output\.bias"):
        load_router(tmp_path, pool=POOL, make_features=lambda _: StateFeatures())


@pytest.mark.parametrize(
    ("algorithm", "parameters", "message"),
    [
        (
            "fitted_q",
            {"learner": "discrete_bcq"},
            r"action_flexibility is 0\.0 with learner 'discrete_bcq', must be above 0",
        ),
        ("fitted_q", {"action_flexibility": 0.3}, r"action_flexibility is 0\.3 with learner 'double_dqn'"),
        ("fitted_q", {"logit_penalty": 0.1}, r"logit_penalty is 0\.1 with learner 'double_dqn', must be 0"),
        ("fitted_q", {"learner": "nfq", "conservatism": 0.1}, r"conservatism is 0\.1 with learner 'nfq'"),
        (
            "fitted_q",
            LEARNERS["discrete_bcq"] | {"action_flexibility": 1.0},
            r"'action_flexibility' got 1\.0: .*less than 1",
        ),
        ("fitted_q_frontier", LEARNERS["discrete_bcq"], r"learner is 'discrete_bcq', must be another one here"),
    ],
)
def test_parameters_of_another_learner_are_refused(algorithm, parameters, message):
    with pytest.raises(CardError, match=message):
        ALGORITHMS.load(algorithm).from_card(make_card(algorithm, **parameters))
