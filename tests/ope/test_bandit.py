import itertools

import numpy as np
import pytest

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.ope.bandit import OUTCOMES, EpisodeLog, confounded_strata, estimate_policies, merge, snips

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


def distribution(logits):
    weights = np.exp(logits)
    return weights / weights.sum(axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def over_many_logs():
    """Deviations and coverage over a thousand logs: three kinds of task, models by chance with unequal shares.

    Outcomes depend on the kind of task, the model and a context that a stochastic policy sees; costs are skewed (lognormal).
    The model of the outcomes does not know the context, and is a fifth too low.
    """
    rng = np.random.default_rng(0)
    n_logs, n_strata, per_stratum, n_models = 1000, 3, 70, 3
    index = np.repeat(np.arange(n_strata), per_stratum)
    strata = [f"{stratum}" for stratum in index]
    base, slope = rng.uniform(0.3, 0.6, size=(2, n_strata, n_models)) * np.array([1.0, 0.5])[:, None, None]
    shares = rng.dirichlet(5 * np.ones(n_models), size=n_strata) * 0.7 + 0.1
    logits, prices = rng.normal(size=(2, n_strata, n_models)), 0.02 * 4.0 ** np.arange(n_models)
    contexts = (np.arange(5000) + 0.5) / 5000
    pi = distribution(logits[0, :, None] + 3 * logits[1, :, None] * (contexts[:, None] - 0.5))
    utility = (pi * (base[:, None] + slope[:, None] * contexts[:, None])).sum(axis=2).mean()
    truth = np.array([utility, (pi * prices).sum(axis=2).mean(), 0.0])
    truth[2] = truth[0] - truth[1]
    found = {name: [] for name in ("ips", "snips", "dr")}
    inside = {name: [] for name in found}
    for number in range(n_logs):
        context = rng.random(len(index))
        actions = (rng.random((len(index), 1)) > shares[index].cumsum(axis=1)[:, :-1]).sum(axis=1)
        utilities = (rng.random(len(index)) < base[index, actions] + slope[index, actions] * context).astype(float)
        costs = prices[actions] * rng.lognormal(-0.125, 0.5, size=len(index))
        log = EpisodeLog(
            strata=tuple(strata),
            actions=actions,
            outcomes=np.stack([utilities, costs, utilities - costs], axis=1),
            n_models=n_models,
        )
        q_values = 0.8 * np.stack([base, np.broadcast_to(prices, base.shape), base - prices], axis=2)[index]
        pi = distribution(logits[0, index] + 3 * logits[1, index] * (context[:, None] - 0.5))
        one = estimate_policies(log, {"pi": pi}, q_values=q_values, seed=number, n_resamples=200)["pi"]
        for name in found:
            found[name].append(getattr(one, name) - truth)
            ends = np.array([one.interval(outcome, name) for outcome in OUTCOMES])
            inside[name].append((ends[:, 0] <= truth) & (truth <= ends[:, 1]))
    return {name: (np.array(found[name]), np.array(inside[name])) for name in found}


@pytest.mark.parametrize("name", ["ips", "snips", "dr"])
def test_over_a_thousand_logs_estimates_are_unbiased_and_intervals_cover(over_many_logs, name):
    deviations, inside = over_many_logs[name]
    error = deviations.std(axis=0, ddof=1) / np.sqrt(len(deviations))
    assert (np.abs(deviations.mean(axis=0)) < 3 * error).all()
    coverage = inside.mean(axis=0)
    assert (coverage >= 0.92).all(), coverage
    assert (coverage <= 0.98).all(), coverage


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
    assert 0.92 <= covered / n_logs <= 0.98


def test_standard_errors_of_cells_by_hand():
    """IPS of a table policy: a mean over cells, whose interval with cells of many units is that of stratified sampling."""
    rng = np.random.default_rng(0)
    strata, actions = ["a"] * 400 + ["b"] * 200, np.tile([0, 1], 300)
    utilities = rng.random(600) + np.array([0.0, 5.0])[actions]
    one = estimate(make_log(strata, actions, utilities), choose({"a": 1, "b": 0}, strata), n_resamples=2000)
    cells = [utilities[:400][actions[:400] == 1], utilities[400:][actions[400:] == 0]]
    by_hand = np.sqrt(
        sum((share**2) * cell.var(ddof=1) / len(cell) for share, cell in zip((2 / 3, 1 / 3), cells, strict=True))
    )
    for name in ("ips", "snips"):
        low, high = one.interval("utility", name)
        assert (high - low) / (2 * 1.96) == pytest.approx(by_hand, rel=0.1)


def test_a_cell_of_one_unit_widens_the_interval_rather_than_counting_as_sure():
    strata, actions = ["a"] * 60 + ["b"] * 30 + ["b"], np.array([0, 1] * 30 + [1] * 30 + [0])
    utilities = np.random.default_rng(0).random(91)
    pi = choose({"a": 0, "b": 0}, strata)
    alone = np.ptp(estimate(make_log(strata, actions, utilities), pi).interval("utility"))
    without = np.ptp(estimate(make_log(strata[:60], actions[:60], utilities[:60]), pi[:60]).interval("utility"))
    # one unit of weight 1/3 beside 30 of weight 2/3 / 30, and 2/3 of the spread of those alone
    widened = np.sqrt(1 + (1 / 3) ** 2 / (30 * (2 / 3 / 30) ** 2))
    assert alone / without == pytest.approx(2 / 3 * widened, rel=0.1)


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
        ({"strata": (), "actions": np.zeros(0, dtype=np.int64), "utilities": np.zeros(0)}, r"0 strata, so no episode"),
        ({"strata": ("a",)}, r"1 strata, actions of shape \(8,\)"),
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


@pytest.mark.parametrize(
    ("q_values", "message"),
    [
        (np.zeros((8, 2, 2)), r"predicted outcomes have shape \(8, 2, 2\), must be \(8, 2, 3\)"),
        (np.where(np.arange(8)[:, None, None] == 4, np.nan, np.zeros((8, 2, 3))), r"episode 4: predicted outcomes are"),
    ],
)
def test_bad_models_of_the_outcomes(q_values, message):
    with pytest.raises(InvalidConfigError, match=message):
        estimate(make_log(), choose({"a": 0, "b": 0}), q_values=q_values)


def test_a_unit_lies_in_one_stratum():
    with pytest.raises(InvalidConfigError, match=r"unit 3 has episodes of the strata 'a' and 'b', must be in one"):
        EpisodeLog(
            strata=("a", "b"), actions=np.array([0, 1]), outcomes=np.zeros((2, 3)), n_models=2, units=np.array([3, 3])
        )


def test_a_log_of_a_single_model_tells_of_no_other():
    log = make_log(strata=["a"] * 60, actions=np.zeros(60, dtype=np.int64), utilities=np.linspace(0, 1, 60))
    assert "never played" in estimate(log, choose({"a": 1}, ["a"] * 60)).diagnosis.refusals[0]
    assert estimate(log, choose({"a": 0}, ["a"] * 60)).diagnosis.refusals == ()
