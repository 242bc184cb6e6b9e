import numpy as np
import pytest

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.ope.behavior_model import FLOOR, estimate_propensities

N = 1200

NAMES = ("small", "middle", "large")


def made_up(seed=0, model_names=NAMES):
    """A behaviour policy that depends on the first feature; 40 clusters."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(N, 5))
    logits = np.stack([features[:, 0], -features[:, 0], np.zeros(N)], axis=1)
    truth = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    actions = np.array([rng.choice(3, p=row) for row in truth])
    return features, actions, np.ones((N, 3), dtype=bool), np.arange(N) % 40, truth


def test_propensities_come_near_the_truth_and_are_calibrated():
    features, actions, masks, clusters, truth = made_up()
    model = estimate_propensities(features, actions, masks, clusters, seed=0, model_names=NAMES)
    exact = truth[np.arange(N), actions]
    assert np.abs(model.propensities - exact).mean() < 0.05
    assert model.calibration_error < 0.03
    assert model.log_loss < model.log_loss_of_shares - 0.1
    assert model.n_raised == 0
    np.testing.assert_allclose(model.probabilities.sum(axis=1), 1)


def test_masked_models_have_no_probability_and_the_floor_is_counted():
    features, actions, masks, clusters, _ = made_up()
    masks[:, 2] = actions == 2
    masks[0] = [True, actions[0] == 1, actions[0] == 2]
    model = estimate_propensities(features, actions, masks, clusters, seed=0, model_names=NAMES)
    assert (model.probabilities[~masks] == 0).all()
    assert model.propensities.min() >= FLOOR


@pytest.mark.parametrize(
    ("clusters", "actions", "message"),
    [
        (np.arange(N) % 5, None, r"the log has 5 \(task, variation\) clusters, must have at least 8"),
        (
            None,
            np.where(np.arange(N) % 40 == 3, 2, np.arange(N) % 2),
            r"models were called in too few \(task, variation\) clusters \('large' in 1\)",
        ),
    ],
)
def test_too_little_to_learn_from(clusters, actions, message):
    features, drawn, masks, groups, _ = made_up()
    with pytest.raises(InvalidConfigError, match=message):
        estimate_propensities(
            features,
            drawn if actions is None else actions,
            masks,
            groups if clusters is None else clusters,
            seed=0,
            model_names=NAMES,
        )


def test_logs_that_no_behaviour_policy_can_be_learned_from():
    features, actions, masks, clusters, _ = made_up()
    nan = np.where(np.arange(N)[:, None] == 5, np.nan, features)
    forbidden = masks & (np.arange(N)[:, None] != 7)
    for arguments, message in (
        (
            (features, np.zeros(N, dtype=np.int64), masks, clusters),
            r"all 1200 turns were played by one model \('small'\)",
        ),
        ((features[:0], actions[:0], masks[:0], clusters[:0]), r"the log has no turn"),
        ((nan, actions, masks, clusters), r"turn 5: a history feature is not finite"),
        ((features, actions, forbidden, clusters), r"turn 7: logged model '\w+' is masked there"),
    ):
        with pytest.raises(InvalidConfigError, match=message):
            estimate_propensities(*arguments, seed=0, model_names=NAMES)
