import d3rlpy
import numpy as np
import pytest
import torch
from d3rlpy.dataset import TransitionMiniBatch

from mtrouter_rl.agents.parameters import JointParameters
from mtrouter_rl.agents.q.joint_q import FusedAdamWFactory, JointQFunctionFactory
from mtrouter_rl.agents.q.networks import (
    Ensemble,
    HistoryEncoder,
    HistoryLayout,
    JointQNetwork,
    make_q_network,
    stack_weights,
)
from mtrouter_rl.agents.q.one_row import OneRow
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.transitions.arrays import FORBIDDEN_Q

LAYOUT = HistoryLayout(n_columns=10, text_blocks=((0, 4), (4, 8)))
SIZES = JointParameters(text_projection=4, history_hidden=(16,), model_hidden=8, residual_dim=2, joint_hidden=(16, 8))
FEATURES = [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
FACTORY = JointQFunctionFactory.of(LAYOUT, SIZES, model_features=FEATURES)


def network(seed=0):
    torch.manual_seed(seed)
    made = JointQNetwork(LAYOUT, SIZES, model_features=FEATURES)
    for parameter in made.head.parameters():
        torch.nn.init.normal_(parameter)
    return made.eval()


def rows(n, masks=None):
    history = np.random.default_rng(0).normal(size=(n, 10))
    masks = np.ones((n, 3)) if masks is None else masks
    return torch.from_numpy(np.concatenate([history, masks], axis=1).astype(np.float32))


def batch(n=16):
    x = rows(n).numpy()
    x[::2, -1] = 0
    column = np.zeros((n, 1), dtype=np.float32)
    return TransitionMiniBatch(
        observations=x,
        actions=column,
        rewards=column + 1,
        next_observations=np.zeros_like(x),
        next_actions=column,
        terminals=column + 1,
        intervals=column + 1,
        transitions=[],
    )


def test_columns_between_and_after_texts_are_read_as_they_are():
    scattered = HistoryLayout(n_columns=12, text_blocks=((6, 8), (2, 4)))
    encoder = HistoryEncoder(scattered, SIZES).eval()
    assert encoder.rest_slices == [slice(0, 2), slice(4, 6), slice(8, 12)]
    x = torch.arange(12.0)[None]
    expected = torch.cat([encoder.text(x).flatten(1), x[:, [0, 1, 4, 5, 8, 9, 10, 11]]], dim=1)
    assert torch.equal(encoder(x), encoder.layers(expected))


@pytest.mark.parametrize("name", ["DQN", "DoubleDQN", "DiscreteCQL", "DiscreteBCQ", "NFQ"])
def test_every_discrete_algorithm_of_d3rlpy_trains_on_it(name):
    config = getattr(d3rlpy.algos, f"{name}Config")(
        learning_rate=1e-2, q_func_factory=FACTORY, optim_factory=FusedAdamWFactory(), gamma=0.9
    )
    algorithm = config.create(device=False)
    algorithm.create_impl((13,), 3)
    losses = [algorithm.update(batch())["loss"] for _ in range(20)]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


def test_factory_survives_its_json():
    assert JointQFunctionFactory.deserialize(FACTORY.serialize()) == FACTORY


def test_another_number_of_models_is_refused():
    with pytest.raises(InvalidConfigError, match=r"model_features has 3 rows, must have one for each of the 4 models"):
        FACTORY.create_discrete(None, 0, 4)


def test_forbidden_models_get_the_forbidden_value_and_an_all_zero_mask_is_none():
    masks = np.array([[1, 0, 1], [0, 0, 0]])
    values = network()(rows(2, masks))
    assert (values == FORBIDDEN_Q).tolist() == [[False, True, False], [False, False, False]]


def test_value_of_one_model_is_its_column():
    made, x = network(), rows(5)
    actions = torch.tensor([0, 1, 2, 1, 0])
    torch.testing.assert_close(made.value_of(x, actions), made(x).gather(1, actions[:, None]))


def test_q_is_zero_before_training():
    torch.manual_seed(0)
    assert (JointQNetwork(LAYOUT, SIZES, model_features=FEATURES)(rows(4)) == 0).all()


def test_split_joint_layer_is_a_layer_on_the_concatenation():
    made, x = network(), rows(4)
    phi = made.history(x[:, :10])
    z = made.model(torch.cat([made.model_features, made.residual], dim=1))
    joined = torch.cat([phi[:, None].expand(4, 3, -1), z[None].expand(4, 3, -1)], dim=2)
    weight = torch.cat([made.joint_history.weight, made.joint_model.weight], dim=1)
    expected = made.head(joined @ weight.T + made.joint_history.bias).squeeze(-1)
    torch.testing.assert_close(made(x), expected)


def test_models_with_equal_features_have_equal_values_until_their_residuals_differ():
    made = JointQNetwork(LAYOUT, SIZES, model_features=[[0.1, 0.2], [0.1, 0.2]]).eval()
    torch.nn.init.normal_(made.head[-1].weight)
    values = made(rows(3)[:, :12])
    torch.testing.assert_close(values[:, 0], values[:, 1])


def test_dropout_acts_only_where_a_gradient_is_taken():
    made = JointQNetwork(LAYOUT, SIZES.model_copy(update={"dropout": 0.5}), model_features=FEATURES).train()
    torch.nn.init.normal_(made.head[-1].weight)
    x = rows(4)
    with torch.no_grad():
        assert torch.equal(made(x), made(x))
    assert not torch.equal(made(x), made(x))


def test_ensemble_is_its_members_one_by_one():
    members, x = [network(seed) for seed in range(3)], rows(5)
    stacked = Ensemble(network(9), stack_weights([member.state_dict() for member in members]))(x)
    torch.testing.assert_close(stacked, torch.stack([member(x) for member in members]).detach())


@pytest.mark.parametrize("hidden", [(), ((2, 5), (9, 10))])
@pytest.mark.parametrize("model_embedding", ["metadata+residual", "metadata", "residual", "none"])
def test_one_row_gets_the_values_that_the_networks_give(model_embedding, hidden):
    layout = LAYOUT.model_copy(update={"hidden": hidden})
    members = []
    for seed in range(3):
        torch.manual_seed(seed)
        made = make_q_network(layout, SIZES, model_features=FEATURES, model_embedding=model_embedding).eval()
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        members.append(made)
    weights = stack_weights([member.state_dict() for member in members])
    ask = OneRow(members[0], weights)
    for mask in ([1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]):
        row = rows(1, np.array([mask]))
        expected = torch.stack([member(row) for member in members]).detach()
        torch.testing.assert_close(
            torch.from_numpy(np.ascontiguousarray(ask(row.numpy()))), expected, rtol=1e-4, atol=1e-4
        )
