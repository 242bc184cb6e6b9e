"""Estimators against hand-worked numbers, and against the exact values of tabular routing MDPs with unequal episodes."""

import numpy as np
import pytest

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.evaluation.ope import ESTIMATORS, TurnLog, Values, diagnose, estimate

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


class TabularMDP:
    """S states, M models; every turn ends the episode with a chance that depends on both, so lengths differ."""

    def __init__(self, seed, *, n_states=3, n_models=3, max_turns=6):
        rng = np.random.default_rng(seed)
        self.n_states, self.n_models, self.max_turns = n_states, n_models, max_turns
        self.next = rng.dirichlet(np.ones(n_states), size=(n_states, n_models))
        self.stop = rng.uniform(0.1, 0.5, size=(n_states, n_models))
        self.mean = rng.uniform(-1, 1, size=(n_states, n_models))
        self.behavior = rng.dirichlet(5 * np.ones(n_models), size=n_states)
        self.policy = rng.dirichlet(3 * np.ones(n_models), size=n_states)

    def values(self):
        """Action values by turns that are left, exactly: shape (max_turns + 1, S, M)."""
        q = np.zeros((self.max_turns + 1, self.n_states, self.n_models))
        for left in range(1, self.max_turns + 1):
            following = (self.policy * q[left - 1]).sum(axis=1)
            q[left] = self.mean + (1 - self.stop) * (self.next @ following)
        return q

    def truth(self):
        return float((self.policy * self.values()[self.max_turns]).sum(axis=1)[0])

    def log(self, n_episodes, rng):
        """A log, the policy's probabilities, and exact action values at the logged states."""
        q = self.values()
        lengths, actions, propensities, rewards, pi, values = [], [], [], [], [], []
        for _ in range(n_episodes):
            state = 0
            for turn in range(self.max_turns):
                action = rng.choice(self.n_models, p=self.behavior[state])
                actions.append(action)
                propensities.append(self.behavior[state, action])
                rewards.append([self.mean[state, action] + rng.normal(0, 0.3)])
                pi.append(self.policy[state])
                values.append(q[self.max_turns - turn, state][:, None])
                if rng.random() < self.stop[state, action]:
                    break
                state = rng.choice(self.n_states, p=self.next[state, action])
            lengths.append(turn + 1)
        log = TurnLog(
            lengths=np.array(lengths),
            actions=np.array(actions),
            propensities=np.array(propensities),
            rewards=np.array(rewards),
            clusters=np.arange(n_episodes),
            n_models=self.n_models,
        )
        return log, np.array(pi), np.array(values)


@pytest.mark.parametrize("seed", range(2))
def test_unbiased_estimators_are_within_three_standard_errors_over_many_logs(seed):
    mdp, rng = TabularMDP(seed), np.random.default_rng(seed)
    found = {"is": [], "pdis": [], "dr": []}
    for _ in range(250):
        log, pi, q_values = mdp.log(40, rng)
        values = Values.of(q_values + 0.5, pi, log.actions)  # a wrong model: DR must not mind
        for name, one in estimate(log, pi, values=values, seed=0, estimators=tuple(found), n_resamples=100).items():
            found[name].append(one.value[0])
    for name, values in found.items():
        error = np.std(values) / np.sqrt(len(values))
        assert abs(np.mean(values) - mdp.truth()) < 3 * error, name


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_comes_near_the_truth_with_many_episodes(name):
    mdp = TabularMDP(3)
    log, pi, q_values = mdp.log(5000, np.random.default_rng(0))
    assert len(set(log.lengths.tolist())) > 3
    values = Values.of(q_values, pi, log.actions)
    one = estimate(log, pi, values=values, seed=0, estimators=(name,), n_resamples=200)[name]
    low, high = one.interval(0)
    assert high - low < (0.2 if name in ("dm", "dr", "wdr") else 0.6)  # so that being near says something
    assert abs(one.value[0] - mdp.truth()) < max(high - low, 1e-9)


def test_intervals_cover_the_truth_as_often_as_they_say():
    mdp, rng = TabularMDP(5), np.random.default_rng(0)
    names = ("pdis", "wpdis", "dr", "wdr")
    covered = dict.fromkeys(names, 0)
    n_logs = 200
    for index in range(n_logs):
        log, pi, q_values = mdp.log(150, rng)
        values = Values.of(0.7 * q_values, pi, log.actions)
        for name, one in estimate(log, pi, values=values, seed=index, estimators=names, n_resamples=400).items():
            low, high = one.interval(0)
            covered[name] += low <= mdp.truth() <= high
    for name, n in covered.items():
        assert 0.90 <= n / n_logs <= 0.99, name


def test_the_logging_policy_itself_is_worth_the_logged_mean():
    log, _, _ = TabularMDP(1).log(50, np.random.default_rng(0))
    mdp_pi = np.zeros((len(log.actions), 3))
    mdp_pi[np.arange(len(log.actions)), log.actions] = log.propensities
    mdp_pi[np.arange(len(log.actions)), (log.actions + 1) % 3] = 1 - log.propensities
    logged_mean = log.rewards.sum() / 50
    for name, one in estimate(log, mdp_pi, seed=0, n_resamples=100).items():
        assert one.value[0] == pytest.approx(logged_mean), name
    diagnosis = diagnose(log, mdp_pi)
    assert diagnosis.effective_sample_size == pytest.approx(50)


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
    pi = np.tile(np.eye(6)[0], (len(actions), 1))
    diagnosis = diagnose(log, pi)
    assert diagnosis.effective_sample_size == 0
    assert diagnosis.largest_weight_share == 1
    assert diagnosis.never_logged_share == pytest.approx(5 / 6, abs=0.05)
    assert diagnosis.effective_by_turn[0] > 2


def test_shared_resamples_make_differences_paired():
    log, pi, _ = TabularMDP(1).log(30, np.random.default_rng(0))
    one = estimate(log, pi, seed=4, n_resamples=300)["pdis"]
    again = estimate(log, pi, seed=4, n_resamples=300)["pdis"]
    assert (one.draws == again.draws).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"propensities": np.array([0.5, 0.0, 0.25])}, r"turn 1: propensity is 0\.0, must be in \(0, 1\]"),
        ({"propensities": np.array([0.5, 1.5, 0.25])}, r"turn 1: propensity is 1\.5"),
        ({"rewards": np.array([[1.0], [np.nan], [0.0]])}, r"turn 1: rewards are \[nan\], must be finite"),
        ({"lengths": np.array([2, 2])}, r"lengths give 4 turns"),
        ({"lengths": np.array([3, 0])}, r"an episode has no turn"),
    ],
)
def test_bad_logs(change, message):
    with pytest.raises(InvalidConfigError, match=message):
        TurnLog(**(HAND | change))


@pytest.mark.parametrize(
    ("pi", "message"),
    [
        (np.full((3, 2), 0.6), r"turn 0: probabilities .* sum to 1\.2"),
        (np.full((3, 3), 1 / 3), r"shape \(3, 3\), must be \(3, 2\)"),
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
