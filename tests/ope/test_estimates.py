"""When a log cannot tell: every threshold, one at a time."""

import numpy as np
import pytest

from mtrouter_rl.ope.bellman import BellmanCheck
from mtrouter_rl.ope.estimates import COLUMNS, memory_spread, refusals_of
from mtrouter_rl.ope.run_lengths import CallRuns
from mtrouter_rl.ope.sequential import OpeDiagnosis, OpeEstimate, TurnLog

N_EPISODES = 40
RETURNS = np.where(np.arange(N_EPISODES) % 2, 1.0, -1.0)  # standard deviation 1


def make_log():
    return TurnLog(
        lengths=np.ones(N_EPISODES, dtype=np.int64),
        actions=np.arange(N_EPISODES) % 3,
        propensities=np.full(N_EPISODES, 1 / 3),
        rewards=np.stack([RETURNS, np.abs(RETURNS) * 0.1, RETURNS], axis=1),
        clusters=np.arange(N_EPISODES),
        n_models=3,
    )


def make_diagnosis(**changes):
    fields = {
        "effective_sample_size": 35.0,
        "effective_by_turn": np.array([35.0]),
        "episodes_by_turn": np.array([N_EPISODES]),
        "support_by_turn": None,
        "overlap_by_turn": None,
        "never_logged_share": 0.0,
        "largest_weight_share": 0.1,
        "weight_quantiles": None,
        "pareto_k": 0.2,
    }
    return OpeDiagnosis(**(fields | changes))


def make_checks(**changes):
    fields = dict.fromkeys(("bias", "rmse", "calibration", "memory_bias"), 0.0)
    fields |= dict.fromkeys(("bias_error", "memory_bias_error"), 0.05)
    return {column: BellmanCheck(**(fields | (changes if column == "utility" else {}))) for column in COLUMNS}


def make_estimates(half_width=0.5, names=("dm", "wdr")):
    draws = np.repeat(np.linspace(-half_width, half_width, 1001)[:, None] / 0.95, 3, axis=1)
    return {name: OpeEstimate(estimator=name, value=np.zeros(3), draws=draws) for name in names}


def make_runs(beyond_share=0.0):
    return CallRuns(stay_probability=0.9, longest_logged=5, beyond_share=beyond_share)


def refusals(*, estimates=None, diagnosis=None, unsupported=0.0, runs=None, checks=None):
    return refusals_of(
        make_log(),
        estimates or make_estimates(),
        diagnosis or make_diagnosis(),
        unsupported=unsupported,
        runs=runs or make_runs(),
        checks=make_checks() if checks is None else checks,
    )


def test_a_log_that_can_tell_is_not_refused():
    assert refusals() == {}
    assert refusals(diagnosis=make_diagnosis(pareto_k=None), unsupported=None) == {}
    assert refusals(runs=make_runs(0.5)) == {}
    # An interval of the size of a single episode's spread, and a bias within chance of half of it, are just allowed.
    assert refusals(estimates=make_estimates(0.99)) == {}
    assert refusals(checks=make_checks(bias=0.59, memory_bias=-0.59)) == {}


@pytest.mark.parametrize(
    ("arguments", "families", "message"),
    [
        (
            {"runs": make_runs(0.51)},
            ("fitted",),
            "51% of its turns would follow 5 or more calls of one model in a row, must be at most 50%",
        ),
        (
            {"diagnosis": make_diagnosis(effective_sample_size=29.0)},
            ("weighting",),
            "the effective sample size is 29.0 episodes, must be at least 30",
        ),
        (
            {"diagnosis": make_diagnosis(pareto_k=0.75)},
            ("weighting",),
            "its Pareto k is 0.75, must be at most 0.7",
        ),
        (
            {"unsupported": 0.06},
            ("fitted", "weighting"),
            "6.0% of its choices are models that were called with a probability below 0.02 there, must be at most 5%",
        ),
        ({"checks": {}}, ("fitted",), "no fitted values, or no logged turn to check them at"),
        (
            {"checks": make_checks(bias=0.61)},
            ("fitted",),
            "fitted values contradict held-out turns: utility is off by +0.61 an episode",
        ),
        (
            {"checks": make_checks(memory_bias=-0.61)},
            ("fitted",),
            "contradict held-out turns that follow its own choice: utility is off by -0.61 an episode",
        ),
        (
            {"estimates": make_estimates(1.1)},
            ("fitted", "weighting"),
            "the interval of the return is ±1.1, wider than 1 standard deviation(s) of a single logged episode (1)",
        ),
        ({"estimates": make_estimates(1.1, names=("dm",))}, ("fitted",), "it tells next to nothing"),
    ],
)
def test_each_threshold_refuses_its_families_and_says_why(arguments, families, message):
    found = refusals(**arguments)
    assert tuple(sorted(found)) == families
    for family in families:
        assert len(found[family]) == 1
        assert message in found[family][0]


def test_without_propensities_weights_are_refused():
    found = refusals_of(
        make_log(), make_estimates(names=("dm",)), None, unsupported=None, runs=make_runs(), checks=make_checks()
    )
    assert found == {"weighting": ("the log has no propensities",)}


def test_memory_spread_is_what_the_biases_have_beyond_their_errors():
    checks = [make_checks(memory_bias=bias, memory_bias_error=error) for bias, error in ((0.3, 0.1), (-0.1, 0.1))]
    spread = memory_spread(checks)
    assert spread["utility"] == pytest.approx(np.sqrt(((0.09 - 0.01) + (0.01 - 0.01)) / 2))
    assert spread["cost_usd"] == 0  # all 0, within their errors
    assert memory_spread([]) == dict.fromkeys(COLUMNS, 0.0)
    unknown = make_checks(memory_bias=0.0, memory_bias_error=np.inf)
    assert memory_spread([*checks, unknown])["utility"] == spread["utility"]


def test_memory_spread_of_mere_chance_is_small():
    rng = np.random.default_rng(0)
    checks = [make_checks(memory_bias=bias, memory_bias_error=0.1) for bias in rng.normal(0, 0.1, size=400)]
    assert memory_spread(checks)["utility"] < 0.05
    wide = [
        make_checks(memory_bias=bias, memory_bias_error=0.1) for bias in rng.normal(0, np.hypot(0.1, 0.2), size=400)
    ]
    assert memory_spread(wide)["utility"] == pytest.approx(0.2, rel=0.15)
