"""Estimators against hand-worked numbers and plain loops; test_exact_values.py holds them against exact values."""

import numpy as np
import pytest

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.ope.sequential import ESTIMATORS, TurnLog, Values, estimate
from mtrouter_rl.studies.ope_coverage.tabular import TabularTask

HAND = {  # two episodes of 2 and 1 turns, two models
    "lengths": np.array([2, 1]),
    "actions": np.array([0, 1, 1]),
    "propensities": np.array([0.5, 0.5, 0.25]),
    "rewards": np.array([[1.0], [2.0], [4.0]]),
    "clusters": np.array([0, 1]),
    "n_models": 2,
}
PI = np.array([[0.8, 0.2], [0.4, 0.6], [0.9, 0.1]])
# ratios 1.6, 1.2, 0.4: W of episode 0 is 1.6, 1.92; of episode 1 it is 0.4, and stays 0.4 after its end


def test_weighting_by_hand():
    found = {name: one.value[0] for name, one in estimate(TurnLog(**HAND), PI, seed=0, n_resamples=100).items()}
    assert found["is"] == pytest.approx((1.92 * 3 + 0.4 * 4) / 2)
    assert found["wis"] == pytest.approx((1.92 * 3 + 0.4 * 4) / (1.92 + 0.4))
    assert found["pdis"] == pytest.approx((1.6 * 1 + 1.92 * 2 + 0.4 * 4) / 2)
    assert found["wpdis"] == pytest.approx((1.6 * 1 + 0.4 * 4) / (1.6 + 0.4) + 1.92 * 2 / (1.92 + 0.4))


def test_doubly_robust_by_hand():
    q_values = np.array([[[1.0], [0.0]], [[0.0], [3.0]], [[2.0], [5.0]]])
    values = Values.of(q_values, PI, HAND["actions"])
    np.testing.assert_allclose(values.states[:, 0], [0.8, 1.8, 2.3])
    np.testing.assert_allclose(values.logged[:, 0], [1.0, 3.0, 5.0])
    found = {
        n: one.value[0] for n, one in estimate(TurnLog(**HAND), PI, values=values, seed=0, n_resamples=100).items()
    }
    assert found["dm"] == pytest.approx((0.8 + 2.3) / 2)
    first = 1.6 * (1 - 1) + 0.8 + 1.92 * (2 - 3) + 1.6 * 1.8
    second = 0.4 * (4 - 5) + 2.3
    assert found["dr"] == pytest.approx((first + second) / 2)
    by_hand = (1.6 * 0 + 0.4 * -1) / 2.0 + (0.8 + 2.3) / 2 + 1.92 * -1 / 2.32 + 1.6 * 1.8 / 2.0
    assert found["wdr"] == pytest.approx(by_hand)


def by_loops(log, pi, q_values):
    """All estimators, written out from the formulas over one episode and one turn after the other."""
    episodes, start = [], 0
    for length in log.lengths.tolist():
        weight, turns = 1.0, []
        for row in range(start, start + length):
            action = log.actions[row]
            before, weight = weight, weight * pi[row, action] / log.propensities[row]
            state_value = sum(pi[row, model] * q_values[row, model] for model in range(log.n_models))
            turns.append((weight, before, log.rewards[row], q_values[row, action], state_value))
        episodes.append(turns)
        start += length
    n, n_turns = len(episodes), max(map(len, episodes))
    last = [turns[-1][0] for turns in episodes]
    returns = [sum(turn[2] for turn in turns) for turns in episodes]
    found = {
        "is": sum(w * g for w, g in zip(last, returns, strict=True)) / n,
        "wis": sum(w * g for w, g in zip(last, returns, strict=True)) / sum(last),
        "pdis": sum(turn[0] * turn[2] for turns in episodes for turn in turns) / n,
        "dm": sum(turns[0][4] for turns in episodes) / n,
        "dr": sum(w * (r - q) + b * v for turns in episodes for w, b, r, q, v in turns) / n,
        "wpdis": 0.0,
        "wdr": 0.0,
    }
    for t in range(n_turns):
        going = [turns[t] for turns in episodes if t < len(turns)]
        total = sum(turns[min(t, len(turns) - 1)][0] for turns in episodes)
        total_before = sum(turns[min(t, len(turns)) - 1][0] if t else 1.0 for turns in episodes)
        found["wpdis"] += sum(w * r for w, _, r, _, _ in going) / total
        found["wdr"] += sum(w * (r - q) for w, _, r, q, _ in going) / total
        found["wdr"] += sum(b * v for _, b, _, _, v in going) / total_before
    return found


@pytest.mark.parametrize("seed", range(5))
def test_all_estimators_agree_with_plain_loops_over_episodes(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 8, size=30)
    n, n_models = int(lengths.sum()), 4
    log = TurnLog(
        lengths=lengths,
        actions=rng.integers(n_models, size=n),
        propensities=rng.uniform(0.1, 1, size=n),
        rewards=rng.normal(size=(n, 2)),
        clusters=rng.integers(9, size=30),
        n_models=n_models,
    )
    pi, q_values = rng.dirichlet(np.ones(n_models), size=n), rng.normal(size=(n, n_models, 2))
    found = estimate(log, pi, values=Values.of(q_values, pi, log.actions), seed=0, n_resamples=10)
    expected = by_loops(log, pi, q_values)
    assert set(expected) == set(ESTIMATORS)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].value, value, rtol=1e-9, atol=1e-9, err_msg=name)


def test_the_logging_policy_itself_is_worth_the_logged_mean():
    log = TabularTask.random(np.random.default_rng(1)).simulate(1, 50, rng=np.random.default_rng(0)).log(0)
    mdp_pi = np.zeros((len(log.actions), 3))
    mdp_pi[np.arange(len(log.actions)), log.actions] = log.propensities
    mdp_pi[np.arange(len(log.actions)), (log.actions + 1) % 3] = 1 - log.propensities
    logged_mean = log.rewards[:, 0].sum() / 50
    for name, one in estimate(log, mdp_pi, seed=0, n_resamples=100).items():
        assert one.value[0] == pytest.approx(logged_mean), name


def test_shared_resamples_make_differences_paired():
    task = TabularTask.random(np.random.default_rng(1))
    logs = task.simulate(1, 30, rng=np.random.default_rng(0))
    log, pi = logs.log(0), task.random_policy(np.random.default_rng(2))[logs.states]
    one, again = (estimate(log, pi, seed=4, n_resamples=300)["pdis"] for _ in range(2))
    assert (one.draws == again.draws).all()
    shifted = TurnLog(**(vars(log) | {"rewards": log.rewards + 1.0 * (log.turns == 0)[:, None]}))
    # the same choices a little better paid: the difference is far surer than either value
    better = estimate(shifted, pi, seed=4, n_resamples=300)["wpdis"]
    plain = estimate(log, pi, seed=4, n_resamples=300)["wpdis"]
    spread = np.ptp(np.quantile(better.draws[:, 0] - plain.draws[:, 0], [0.025, 0.975]))
    assert better.value[0] - plain.value[0] == pytest.approx(1.0)
    assert spread < 0.5 * np.ptp(plain.interval(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"propensities": np.array([0.5, 0.0, 0.25])}, r"turn 1: propensity is 0\.0, must be in \(0, 1\]"),
        ({"propensities": np.array([0.5, 1.5, 0.25])}, r"turn 1: propensity is 1\.5"),
        ({"rewards": np.array([[1.0], [np.nan], [0.0]])}, r"turn 1: rewards are \[nan\], must be finite"),
        ({"lengths": np.array([2, 2])}, r"lengths give 4 turns"),
        ({"lengths": np.array([3, 0])}, r"an episode has no turn"),
        ({"lengths": np.zeros(0, dtype=np.int64)}, r"the log has no episode; give at least one"),
        ({"actions": np.array([0, 1, 2])}, r"turn 2: action is 2, must be in 0\.\.1: the log is of another pool"),
        ({"actions": np.array([0, -1, 1])}, r"turn 1: action is -1"),
    ],
)
def test_bad_logs(change, message):
    with pytest.raises(InvalidConfigError, match=message):
        TurnLog(**(HAND | change))


@pytest.mark.parametrize(
    ("pi", "message"),
    [
        (np.full((3, 2), 0.6), r"turn 0: probabilities .* sum to 1\.2"),
        (np.full((3, 3), 1 / 3), r"shape \(3, 3\), must be \(3, 2\): .* one column per model of the log's pool"),
        (np.array([[0.5, 0.5], [1.5, -0.5], [0.5, 0.5]]), r"turn 1"),
        (np.array([[0.5, 0.5], [np.nan, 0.5], [0.5, 0.5]]), r"turn 1"),
    ],
)
def test_bad_policies(pi, message):
    with pytest.raises(InvalidConfigError, match=message):
        estimate(TurnLog(**HAND), pi, seed=0)


def test_model_based_estimators_need_a_model():
    with pytest.raises(InvalidConfigError, match=r"\['dr'\] need a model of the values"):
        estimate(TurnLog(**HAND), PI, seed=0, estimators=("pdis", "dr"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            Values(logged=np.array([[0.0], [np.nan], [0.0]]), states=np.zeros((3, 1))),
            r"turn 1: values of logged actions",
        ),
        (Values(logged=np.zeros((3, 1)), states=np.array([[0.0], [0.0], [np.inf]])), r"turn 2: values of states"),
        (Values(logged=np.zeros((3, 2)), states=np.zeros((3, 1))), r"shape \(3, 2\), must be \(3, 1\) as the rewards"),
    ],
)
def test_bad_models_of_the_values(values, message):
    with pytest.raises(InvalidConfigError, match=message):
        estimate(TurnLog(**HAND), PI, values=values, seed=0)


def test_no_interval_from_one_cluster_and_no_weights_without_propensities():
    with pytest.raises(InvalidConfigError, match=r"the log has 1 cluster \(task, variation\), must have at least 2"):
        estimate(TurnLog(**(HAND | {"clusters": np.array([3, 3])})), PI, seed=0)
    with pytest.raises(InvalidConfigError, match=r"the log has no propensities, .* ask for dm alone"):
        estimate(TurnLog(**(HAND | {"propensities": None})), PI, seed=0)


def test_numbers_of_clusters_need_not_be_gapless():
    one, other = (
        estimate(TurnLog(**(HAND | {"clusters": np.array(clusters)})), PI, seed=0, n_resamples=50)["pdis"]
        for clusters in ([0, 1], [4, 9])
    )
    np.testing.assert_array_equal(one.draws, other.draws)
