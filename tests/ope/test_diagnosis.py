import numpy as np
import pytest
from scipy.stats import genpareto

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.ope.diagnosis import MAX_PARETO_K, diagnose, pareto_k
from mtrouter_rl.ope.trajectory_arrays import TurnLog

HAND = {  # three episodes of 2, 1 and 2 turns, three models
    "lengths": np.array([2, 1, 2]),
    "actions": np.array([0, 1, 1, 0, 2]),
    "propensities": np.array([0.5, 0.3, 0.49, 0.5, 0.2]),
    "rewards": np.zeros((5, 1)),
    "clusters": np.array([0, 0, 1]),
    "n_models": 3,
}
BEHAVIOR = np.array([[0.5, 0.49, 0.01], [0.5, 0.3, 0.2], [0.5, 0.49, 0.01], [0.5, 0.49, 0.01], [0.5, 0.3, 0.2]])
PI = np.array([[0.25, 0.25, 0.5], [0.6, 0.3, 0.1], [0.0, 0.49, 0.51], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def test_diagnosis_by_hand():
    found = diagnose(TurnLog(**HAND), PI, behavior=BEHAVIOR)
    first, last = np.array([0.5, 1.0, 2.0]), np.array([0.5, 1.0, 10.0])
    np.testing.assert_allclose(found.effective_by_turn, [w.sum() ** 2 / (w**2).sum() for w in (first, last)])
    assert found.effective_sample_size == pytest.approx(11.5**2 / 101.25)
    assert found.episodes_by_turn.tolist() == [3, 2]
    np.testing.assert_allclose(found.support_by_turn, [(0.5 + 0.49 + 1.0) / 3, 1.0])
    np.testing.assert_allclose(found.overlap_by_turn, [(0.25 + 0.25 + 0.01 + 0.49 + 0.01 + 0.5) / 3, (0.9 + 0.2) / 2])
    assert found.largest_weight_share == pytest.approx(10 / 11.5)
    np.testing.assert_allclose(found.weight_quantiles, np.quantile(last, [0.5, 0.9, 0.99, 1.0]) * 3 / 11.5)
    assert found.pareto_k is None


def test_choices_that_were_never_logged_by_hand():
    """Cells are (cluster, turns 0 / 1-2): models 0 and 1 were called in (0, 0), 1 in (0, 1), 0 in (1, 0), 2 in (1, 1)."""
    assert diagnose(TurnLog(**HAND), PI).never_logged_share == pytest.approx((0.5 + 0.7 + 0.51 + 0 + 0) / 5)
    everywhere = diagnose(TurnLog(**HAND), PI, kinds=np.zeros(5, dtype=np.int64))
    assert everywhere.never_logged_share == 0


def test_without_the_behaviour_policy_support_and_overlap_are_unknown():
    found = diagnose(TurnLog(**HAND), PI)
    assert (found.support_by_turn, found.overlap_by_turn) == (None, None)


def test_the_behaviour_policy_itself_is_wholly_supported():
    log = TurnLog(**HAND)
    found = diagnose(log, BEHAVIOR, behavior=BEHAVIOR, min_support=0.01)
    assert found.effective_sample_size == pytest.approx(3)
    np.testing.assert_allclose(found.support_by_turn, 1)
    np.testing.assert_allclose(found.overlap_by_turn, 1)
    np.testing.assert_allclose(found.weight_quantiles, 1)
    assert found.pareto_k is None  # equal weights have no tail


def test_long_episodes_of_a_greedy_policy_leave_no_effective_sample():
    n_turns = 40
    rng = np.random.default_rng(0)
    actions = rng.integers(6, size=30 * n_turns)
    log = TurnLog(
        lengths=np.full(30, n_turns),
        actions=actions,
        propensities=np.full(len(actions), 1 / 6),
        rewards=rng.random((len(actions), 1)),
        clusters=np.arange(30),
        n_models=6,
    )
    found = diagnose(log, np.tile(np.eye(6)[0], (len(actions), 1)))
    assert found.effective_sample_size == 0
    assert found.largest_weight_share == 1
    assert (found.weight_quantiles, found.pareto_k) == (None, None)
    assert found.effective_by_turn[0] > 2
    assert 0.1 < found.never_logged_share < 0.5  # one episode a cluster: whole cells without the model


@pytest.mark.parametrize("k", [0.3, 0.5, 0.7, 1.0])
def test_pareto_tails_of_a_known_shape(k):
    rng = np.random.default_rng(0)
    found = [pareto_k(genpareto.rvs(k, size=20_000, random_state=rng) + 1) for _ in range(20)]
    assert np.mean(found) == pytest.approx(k, abs=0.05)
    assert np.std(found) < 0.15


def test_the_pareto_shape_does_not_depend_on_the_scale_and_light_tails_are_below_the_threshold():
    weights = np.random.default_rng(1).lognormal(0, 0.3, size=5000)
    k = pareto_k(weights)
    assert k < 0.3
    assert pareto_k(weights * 1e120) == pytest.approx(k, abs=1e-6)
    heavy = np.random.default_rng(1).lognormal(0, 4, size=5000)
    assert pareto_k(heavy) > MAX_PARETO_K


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"behavior": BEHAVIOR * 0.9}, r"turn 0: behaviour probabilities .* sum to 0\.9"),
        ({"behavior": BEHAVIOR[:, :2]}, r"behaviour probabilities have shape \(5, 2\), must be \(5, 3\)"),
        ({"behavior": np.where(BEHAVIOR > 0.45, np.nan, BEHAVIOR)}, r"turn 0: behaviour probabilities .* sum to nan"),
        ({"kinds": np.zeros(4, dtype=np.int64)}, r"kinds have shape \(4,\), must be \(5,\)"),
    ],
)
def test_bad_inputs(arguments, message):
    with pytest.raises(InvalidConfigError, match=message):
        diagnose(TurnLog(**HAND), PI, **arguments)


def test_a_policy_of_another_pool_or_a_log_without_propensities_cannot_be_diagnosed():
    with pytest.raises(
        InvalidConfigError, match=r"probabilities have shape \(5, 2\), must be \(5, 3\): .* the log's pool"
    ):
        diagnose(TurnLog(**HAND), np.full((5, 2), 0.5))
    with pytest.raises(InvalidConfigError, match=r"the log has no propensities"):
        diagnose(TurnLog(**(HAND | {"propensities": None})), PI)
