import itertools

import numpy as np
import pytest

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.evaluation.episode_ope import EpisodeLog, confounded_strata, estimate_policies, merge, snips

STRATA = ("a", "a", "a", "a", "b", "b", "b", "b")
ACTIONS = np.array([0, 0, 0, 1, 0, 1, 1, 1])
UTILITIES = np.array([1.0, 0.0, 1.0, 0.5, 0.2, 0.4, 0.6, 0.8])


def make_log(strata=STRATA, actions=ACTIONS, utilities=UTILITIES, n_models=2):
    costs = 0.1 * (actions + 1)
    return EpisodeLog(
        strata=tuple(strata),
        actions=np.asarray(actions),
        outcomes=np.stack([utilities, costs, utilities - costs], axis=1),
        n_models=n_models,
    )


def choose(by_stratum, strata=STRATA, n_models=2):
    return np.array([np.eye(n_models)[by_stratum[stratum]] for stratum in strata])


def estimate(log, pi, **settings):
    return estimate_policies(log, {"pi": pi}, seed=0, **settings)["pi"]


def test_a_table_policy_is_worth_the_means_of_its_cells_by_hand():
    one = estimate(make_log(), choose({"a": 0, "b": 1}))
    # stratum a: model 0 has (1 + 0 + 1) / 3; stratum b: model 1 has (0.4 + 0.6 + 0.8) / 3; each is half of the log
    by_hand = 0.5 * 2 / 3 + 0.5 * 0.6
    assert one.snips[0] == pytest.approx(by_hand)
    assert one.ips[0] == pytest.approx(by_hand)  # equal here, since the weights of every stratum sum to its size
    assert one.snips[1] == pytest.approx(0.5 * 0.1 + 0.5 * 0.2)
    assert one.snips[2] == pytest.approx(one.snips[0] - one.snips[1])
    assert one.weights.sum() == pytest.approx(1.0)


def test_a_random_choice_is_worth_the_stratified_mean_by_hand():
    one = estimate(make_log(), np.full((8, 2), 0.5))
    a = 0.5 * 2 / 3 + 0.5 * 0.5
    b = 0.5 * 0.2 + 0.5 * 0.6
    assert one.snips[0] == pytest.approx(0.5 * (a + b))


def test_each_single_model_is_worth_its_own_mean_when_all_played_the_same_tasks():
    strata, actions = zip(*itertools.product("abc", range(3)), strict=True)
    utilities = np.random.default_rng(0).random(9)
    log = make_log(strata, np.array(actions), utilities, n_models=3)
    for model in range(3):
        one = estimate(log, np.tile(np.eye(3)[model], (9, 1)))
        assert one.snips[0] == pytest.approx(utilities[np.array(actions) == model].mean())


def test_dr_is_right_if_the_model_of_the_outcomes_is_and_if_the_propensities_are():
    log, pi = make_log(), choose({"a": 1, "b": 1})
    exact = np.zeros((8, 2, 3))
    cells = {("a", 0): 2 / 3, ("a", 1): 0.5, ("b", 0): 0.2, ("b", 1): 0.6}
    for row, stratum in enumerate(STRATA):
        for model in range(2):
            exact[row, model, 0] = cells[stratum, model]
    by_hand = 0.5 * 0.5 + 0.5 * 0.6
    assert estimate(log, pi, q_values=exact).dr[0] == pytest.approx(by_hand)
    wrong = exact + 0.3
    assert estimate(log, pi, q_values=wrong).dr[0] == pytest.approx(by_hand)
    assert np.isnan(estimate(log, pi).dr).all()


def test_unbiased_and_covering_over_many_logs():
    """Truth known: Bernoulli utilities by (stratum, model), models assigned by chance with unequal shares."""
    rng = np.random.default_rng(1)
    chances = np.array([[0.2, 0.7], [0.9, 0.4]])
    truth = 0.5 * 0.7 + 0.5 * 0.9
    estimates, covered = [], 0
    n_logs, n = 300, 160
    strata = ["a"] * (n // 2) + ["b"] * (n // 2)
    index = np.repeat([0, 1], n // 2)
    pi = choose({"a": 1, "b": 0}, strata)
    for _ in range(n_logs):
        actions = (rng.random(n) < 0.4).astype(int)
        utilities = (rng.random(n) < chances[index, actions]).astype(float)
        one = estimate(make_log(strata, actions, utilities), pi, n_resamples=300)
        estimates.append(one.snips[0])
        low, high = one.interval("utility")
        covered += low <= truth <= high
    error = np.std(estimates) / np.sqrt(n_logs)
    assert abs(np.mean(estimates) - truth) < 3 * error
    assert 0.90 <= covered / n_logs <= 0.99


def test_intervals_cover_with_cells_of_three_episodes():
    """Plain resampling within cells of three would show a third too little variance."""
    rng = np.random.default_rng(2)
    n_strata, n_models, n_logs = 40, 3, 150
    strata = [f"{s:02d}" for s in range(n_strata) for _ in range(3 * n_models)]
    actions = np.tile(np.repeat(np.arange(n_models), 3), n_strata)
    chances = rng.uniform(0.2, 0.8, size=(n_strata, n_models))
    chosen = rng.integers(n_models, size=n_strata)
    pi = choose({f"{s:02d}": int(chosen[s]) for s in range(n_strata)}, strata, n_models=n_models)
    truth = chances[np.arange(n_strata), chosen].mean()
    index = np.repeat(np.arange(n_strata), 3 * n_models)
    covered = 0
    for _ in range(n_logs):
        utilities = (rng.random(len(actions)) < chances[index, actions]).astype(float)
        low, high = estimate(make_log(strata, actions, utilities, n_models), pi, n_resamples=300).interval("utility")
        covered += low <= truth <= high
    assert 0.91 <= covered / n_logs <= 0.99


def test_episodes_of_one_instance_are_drawn_together():
    utilities = np.array([1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    log = EpisodeLog(
        strata=("a",) * 8,
        actions=np.array([0, 1] * 4),
        outcomes=np.stack([utilities, utilities * 0, utilities], axis=1),
        n_models=2,
        units=np.repeat(np.arange(4), 2),
    )
    both = estimate_policies(log, {"zero": np.tile([1.0, 0.0], (8, 1)), "one": np.tile([0.0, 1.0], (8, 1))}, seed=0)
    assert np.allclose(both["zero"].draws, both["one"].draws)  # equal on every instance, so equal in every resample
    assert both["zero"].draws[:, 0].std() > 0.1


def test_merging_holds_the_spread_between_divisions():
    log = make_log(["a"] * 80, np.arange(80) % 2, np.linspace(0, 1, 80))
    one = estimate(log, choose({"a": 0}, ["a"] * 80))
    other = estimate(log, choose({"a": 1}, ["a"] * 80))
    merged = merge([one, other])
    assert merged.snips == pytest.approx((one.snips + other.snips) / 2)
    assert len(merged.draws) == len(one.draws) + len(other.draws)
    assert merged.weights.sum() == pytest.approx(1.0)
    assert merged.diagnosis.refusals == ()


def test_a_kind_of_task_without_any_chosen_episode_is_refused_and_never_zero():
    strata = ["a"] * 60 + ["b", "b"]
    actions = np.array([0, 1] * 30 + [0, 1])
    log = make_log(strata, actions, np.full(62, 0.5))
    pi = np.tile([1.0, 0.0], (62, 1))
    pi[-2] = [0.0, 1.0]  # the router of one fold chooses model 1 where 0 played, that of another 0 where 1 played
    one = estimate(log, pi)
    assert "in 1 kind(s) of task no episode was played by the model that it chose" in one.diagnosis.refusals[0]
    assert one.snips[0] == pytest.approx(0.5)
    assert np.isnan(snips(log, pi)).all()


def test_what_the_log_cannot_tell_is_refused_with_the_reason():
    log = make_log(actions=np.array([0, 0, 0, 0, 0, 1, 1, 1]))
    never = estimate(log, choose({"a": 1, "b": 1})).diagnosis
    assert never.unsupported_share == pytest.approx(0.5)
    assert "never played" in never.refusals[0]
    few = estimate(make_log(), choose({"a": 1, "b": 1})).diagnosis
    assert few.unsupported_share == 0
    assert "effective sample size" in few.refusals[0]
    strata, actions = ["a"] * 80, np.arange(80) % 2
    enough = estimate(make_log(strata, actions, np.linspace(0, 1, 80)), choose({"a": 0}, strata)).diagnosis
    assert enough.refusals == ()
    assert enough.effective_sample_size == pytest.approx(40)
    assert enough.largest_weight == pytest.approx(2.0)


def test_the_bootstrap_is_shared_and_seeded():
    log = make_log()
    pi = choose({"a": 0, "b": 1})
    both = estimate_policies(log, {"one": pi, "two": pi}, seed=3, n_resamples=200)
    assert (both["one"].draws == both["two"].draws).all()
    again = estimate_policies(log, {"one": pi}, seed=3, n_resamples=200)
    assert (again["one"].draws == both["one"].draws).all()


def test_confounded_strata_are_those_where_models_played_other_instances():
    log = make_log()
    same = ["x"] * 8
    assert confounded_strata(log, same) == {}
    apart = ["x", "x", "x", "y", "z", "z", "z", "z"]
    assert confounded_strata(log, apart) == {"a": pytest.approx(0.0)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"utilities": np.array([1.0, np.nan, 1, 1, 1, 1, 1, 1])}, r"episode 1: outcomes are .*nan.*must be finite"),
        ({"actions": np.array([0, 0, 0, 2, 0, 1, 1, 1])}, r"actions lie in 0\.\.2, must be 0\.\.1"),
        ({"strata": ()}, r"0 strata"),
    ],
)
def test_bad_logs(change, message):
    with pytest.raises(InvalidConfigError, match=message):
        make_log(**change)


@pytest.mark.parametrize(
    ("pi", "message"),
    [
        (np.full((8, 2), 0.4), r"policy 'pi', episode 0: probabilities .* sum to 0\.8"),
        (np.full((8, 3), 1 / 3), r"shape \(8, 3\), must be \(8, 2\)"),
        (np.tile([1.5, -0.5], (8, 1)), r"must be a distribution"),
    ],
)
def test_bad_policies(pi, message):
    with pytest.raises(InvalidConfigError, match=message):
        estimate(make_log(), pi)
