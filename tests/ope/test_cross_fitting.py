"""A cross-fitted policy against the best single model, on a task whose policies have exact values."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from mtrouter_rl.agents.rules.heuristics import single_router
from mtrouter_rl.cards.policy import single_policy
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.ope import cross_fitting
from mtrouter_rl.ope.cross_fitting import (
    BEST_SINGLE,
    choose_singles,
    compare,
    fit_by_fold,
    fitted_difference,
    return_of,
    with_best_single,
)
from mtrouter_rl.ope.fqe import FqeParameters, FqeResult, Prediction, _residuals
from mtrouter_rl.ope.inputs import OpeRequest, find_behavior, prepare_log
from mtrouter_rl.ope.verdict import verdict_of_folds
from tests.cases.routing_toy import COSTS, N_STATES, OUTCOMES, POOL, REWARD, make_dataset, policy_value, uniform_log

SMALL = FqeParameters(
    n_iterations=4, steps_per_iteration=5, keep_last=1, n_repeats=1, text_projection=4, history_hidden=(16,)
)
SINGLES = {name: single_policy(name) for name in POOL.model_names}


class StateRouter:
    """Calls a model by the state that is shown."""

    model_names = POOL.model_names

    def __init__(self, actions, name="mine"):
        self.actions, self.name = actions, name

    def action_probabilities(self, observations):
        texts = [
            one["history"][-1]["observation"] if one["history"] else one["first_observation"] for one in observations
        ]
        return np.eye(3)[[self.actions[int(text.removeprefix("state ")) % N_STATES] for text in texts]]


def best_actions():
    """Actions of the best policy, by trying all of them."""
    found = [(policy_value(StateRouter((a, b, c))), (a, b, c)) for a in range(3) for b in range(3) for c in range(3)]
    return max(found)[1]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Lays out a toy log with single models and some routers; the first fold of the log is its even episodes."""

    def make(log, **routers):
        asked = {policy: single_router(model, POOL) for model, policy in SINGLES.items()} | routers
        request = OpeRequest(
            routers=tuple(asked),
            dataset=tmp_path_factory.mktemp("none"),
            pool=POOL,
            reward=REWARD,
            fqe=SMALL,
            n_resamples=400,
        )
        run = prepare_log(request, log, asked, texts=dict.fromkeys(asked, ""), say=print, show_progress=False)
        return run, np.arange(len(run.episodes)) % 2

    return make


def states_of(run):
    texts = [
        text for one in run.episodes for text in (one.first_observation, *(t.observation_text for t in one.turns[:-1]))
    ]
    return np.array([int(text.removeprefix("state ")) for text in texts])


def exact_values(policy):
    """Utility and cost to come by state and action, shape (4, 3, 2), of a policy by state, shape (3, 3)."""
    q_values = np.zeros((N_STATES + 1, 3, 2))
    for _ in range(200):
        values = np.zeros((N_STATES + 1, 2))
        values[:N_STATES] = (policy[:, :, None] * q_values[:N_STATES]).sum(axis=1)
        for state, of_state in OUTCOMES.items():
            for model, branches in enumerate(of_state):
                gained = sum(p * (gain + values[following, 0]) for p, following, gain in branches)
                paid = COSTS[model] + sum(p * values[following, 1] for p, following, _ in branches)
                q_values[state, model] = gained, paid
    return q_values


def exact_fit(run, **_):
    """What a perfect fit would give, in place of trained networks."""
    states, actions = states_of(run), run.transitions.actions
    logged, of_states = [], []
    for name in run.names:
        probabilities = run.probabilities[name]
        policy = np.stack([probabilities[states == state][0] for state in range(N_STATES)])
        q_values = exact_values(policy)
        logged.append(q_values[states, actions])
        of_states.append((policy[states][:, :, None] * q_values[states]).sum(axis=1))
    values = Prediction(logged=np.stack(logged, axis=1), states=np.stack(of_states, axis=1))
    gaps = np.zeros((1, len(run.names), 2))
    residuals = _residuals(run.transitions, values)
    return FqeResult(names=run.names, values=values, gaps=gaps, residuals=residuals)


def judged(prepared, actions, n_episodes=400):
    run, folds = prepared(uniform_log(n_episodes=n_episodes), mine=StateRouter(actions))
    found = compare(run, folds, policy="mine", singles=SINGLES, say=print, show_progress=False)
    return found, verdict_of_folds(found, policy="mine", n_episodes=n_episodes, n_clusters=n_episodes)


@pytest.fixture
def exact(monkeypatch):
    monkeypatch.setattr(cross_fitting, "fit_values", exact_fit)


def alone():
    """Exact value of every single model."""
    return [policy_value(StateRouter((model,) * 3)) for model in range(3)]


def test_a_router_that_is_better_is_called_so(prepared, exact):
    actions = best_actions()
    found, verdict = judged(prepared, actions)
    truth = policy_value(StateRouter(actions)) - max(alone())
    assert verdict.word == "better", verdict.text
    assert verdict.difference.low - 1e-9 <= truth <= verdict.difference.high + 1e-9
    assert verdict.difference.value == pytest.approx(truth, abs=0.05)
    assert verdict.n_folds == 2
    assert set(verdict.chosen) == {POOL.model_names[int(np.argmax(alone()))]}
    assert verdict.baseline == single_policy(found.best)


def test_a_router_that_is_worse_is_called_so(prepared, exact):
    worst = int(np.argmin(alone()))
    _, verdict = judged(prepared, (worst,) * 3)
    assert verdict.word == "worse", verdict.text
    assert verdict.difference.value == pytest.approx(min(alone()) - max(alone()))
    assert verdict.text.endswith(f"call {verdict.baseline}")


def test_a_router_that_does_what_the_best_single_model_does_is_not_distinguishable(prepared, exact):
    _, verdict = judged(prepared, (int(np.argmax(alone())),) * 3)
    assert verdict.word == "not distinguishable"
    assert verdict.difference.value == pytest.approx(0.0)


def test_values_that_the_log_contradicts_cannot_tell_and_say_what_would_help(prepared, monkeypatch):
    def wrong(run, **_):
        found = exact_fit(run)
        logged = found.values.logged - 5.0
        values = Prediction(logged=logged, states=found.values.states)
        return FqeResult(
            names=found.names, values=values, gaps=found.gaps, residuals=_residuals(run.transitions, values)
        )

    monkeypatch.setattr(cross_fitting, "fit_values", wrong)
    _, verdict = judged(prepared, best_actions(), n_episodes=60)
    assert verdict.word == "cannot tell"
    assert verdict.text.startswith("this log cannot tell: mine cannot be estimated: fitted values contradict")
    assert "a larger log" in verdict.needs
    assert verdict.difference is None


def test_values_of_a_turn_are_fitted_to_its_own_fold_alone(prepared):
    """Whatever is logged in the other fold, the values of a fold stay."""
    run, folds = prepared(uniform_log(n_episodes=40))
    first = fit_by_fold(run, folds, say=print, show_progress=False)
    is_other = folds[run.transitions.episodes] == 1
    run.transitions.utility_gains[is_other] += 1.0
    second = fit_by_fold(run, folds, say=print, show_progress=False)
    np.testing.assert_array_equal(first.values.states[~is_other], second.values.states[~is_other])
    assert (first.values.states[is_other] != second.values.states[is_other]).any()
    assert first.gaps.shape == (2, 3, 2), "one repeat for each of two folds, three policies, two quantities"
    assert first.residuals.shape == first.values.states.shape


def test_the_single_model_of_a_fold_is_chosen_on_the_others(prepared, monkeypatch):
    """In each fold another model is made to look best; each is chosen for the other fold."""
    monkeypatch.setattr(cross_fitting, "fit_values", exact_fit)
    run, folds = prepared(uniform_log(n_episodes=200))
    find_behavior(run, say=print)
    of_turn = folds[run.transitions.episodes]
    for fold, model in ((0, 1), (1, 2)):
        run.log.rewards[(of_turn == fold) & (run.log.actions == model)] += 5.0
    fitted = fit_by_fold(run, folds, say=print, show_progress=False)
    chosen, best = choose_singles(run, fitted, folds, by="wpdis", singles=SINGLES)
    assert chosen == ("large", "middle")
    assert best in chosen
    joined, values = with_best_single(run, fitted, folds, [SINGLES[name] for name in chosen])
    assert values.names[-1] == BEST_SINGLE
    is_first = of_turn == 0
    np.testing.assert_array_equal(
        joined.probabilities[BEST_SINGLE][is_first], run.probabilities["single:large"][is_first]
    )
    np.testing.assert_array_equal(values.values.states[is_first, -1], fitted.values.states[is_first, 2])
    np.testing.assert_array_equal(values.values.states[~is_first, -1], fitted.values.states[~is_first, 1])
    told = dataclasses.replace(fitted, gaps=np.arange(12.0).reshape(2, 3, 2))
    _, values = with_best_single(run, told, folds, [SINGLES[name] for name in chosen])
    np.testing.assert_array_equal(values.gaps[:, -1], [[4.0, 5.0], [8.0, 9.0]])
    assert return_of(run, fitted, "single:middle", folds == 0, by="wpdis") > return_of(
        run, fitted, "single:middle", folds == 1, by="wpdis"
    )


def test_the_fitted_difference_holds_episodes_training_and_what_the_history_hides(prepared, exact):
    """Each of the three by itself, against the other two left out."""
    actions = best_actions()
    run, folds = prepared(uniform_log(n_episodes=400), mine=StateRouter(actions))
    find_behavior(run, say=print)
    fitted = fit_by_fold(run, folds, say=print, show_progress=False)
    pair = ("mine", "single:small")
    truth = policy_value(StateRouter(actions)) - policy_value(StateRouter((0, 0, 0)))

    def half(found):
        return (found.high - found.low) / 2

    plain = fitted_difference(run, fitted, pair, memory=0.0)
    assert plain.value == pytest.approx(truth, abs=1e-3), "all episodes begin in one state, and the values are exact"
    assert half(plain) < 1e-6
    gaps = np.zeros((8, 4, 2))
    gaps[:, fitted.names.index("mine"), 0] = 0.4
    trained = fitted_difference(run, dataclasses.replace(fitted, gaps=gaps), pair, memory=0.0)
    assert half(trained) == pytest.approx(2.306 * 0.2, rel=0.15), "gap / 2, and Student's t of 8 degrees of freedom"
    gaps[:, fitted.names.index("single:small"), 0] = 0.4
    assert half(fitted_difference(run, dataclasses.replace(fitted, gaps=gaps), pair, memory=0.0)) < 1e-6, "both alike"
    agreement = (run.probabilities["mine"] * run.probabilities["single:small"]).sum(axis=1).mean()
    hidden = fitted_difference(run, fitted, pair, memory=0.1)
    assert 0 < agreement < 1
    assert half(hidden) == pytest.approx(1.96 * 0.1 * np.sqrt(2 * (1 - agreement)), rel=0.15)
    same = fitted_difference(run, fitted, ("single:small", "single:small"), memory=0.1)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_the_spread_of_the_training_is_that_of_a_mean_over_folds(prepared, monkeypatch):
    """By hand: gaps 2 and 1 of folds of 30 and 10 episodes: variance of the mean is (0.75^2 2^2 + 0.25^2 1^2) / 4."""
    run, _ = prepared(uniform_log(n_episodes=40))
    folds = (np.arange(40) >= 30).astype(np.int64)

    def fit(part, **_):
        shape = (len(part.transitions), 3, 2)
        gap = 2.0 if len(part.episodes) == 30 else 1.0
        zeros = np.zeros(shape)
        return SimpleNamespace(
            values=SimpleNamespace(logged=zeros, states=zeros), residuals=zeros, gaps=np.full((1, 3, 2), gap)
        )

    monkeypatch.setattr(cross_fitting, "fit_values", fit)
    gaps = fit_by_fold(run, folds, say=print, show_progress=False).gaps[:, 0, 0]
    assert np.square(gaps).mean() / 4 == pytest.approx((0.75**2 * 4 + 0.25**2) / 4)


def test_a_router_that_switches_is_not_judged_by_a_log_that_never_does(prepared):
    episodes = [one for one in uniform_log(n_episodes=200).episodes if len(set(one.models)) == 1]
    run, folds = prepared(make_dataset(episodes), mine=StateRouter((0, 1, 2)))
    run.probabilities["mine"] = np.where(run.transitions.turns[:, None] == 0, [[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]])
    with pytest.raises(InvalidConfigError, match="no episode of the log ever changes the model, and this router does"):
        compare(run, folds, policy="mine", singles=SINGLES, say=print, show_progress=False)
