"""A log without one of its models: on hand-made episodes, and against the exact optimum of the pool without it."""

import dataclasses

import numpy as np
import pytest

from mtrouter_rl.agents.resolve import load_algorithm
from mtrouter_rl.embeddings.models import model_features
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.transitions.arrays import make_transitions
from mtrouter_rl.transitions.hold_out import HoldOut, hold_out
from tests.cases.routing_toy import (
    END,
    JOINT,
    N_STATES,
    POOL,
    REWARD,
    TINY_LOOP,
    StateFeatures,
    backup,
    make_card,
    make_context,
    make_dataset,
    make_episode,
    make_turn,
)

MIDDLE, LARGE = 1, 2


class CardFeatures(StateFeatures):
    """Scripted history features with the model features of the pool's cards."""

    def __init__(self):
        super().__init__()
        self.model_features = model_features(POOL)


def turn(model, **changes):
    return make_turn(model, **({"state": 0, "next_state": 1, "gain": 0.0, "cost": 0.0} | changes))


def lay_out(episodes, **settings):
    return make_transitions(make_dataset(episodes), StateFeatures(), reward=REWARD, gamma=1.0, **settings)


@pytest.fixture
def transitions():
    """Episodes of models 0 1 0, 1, and 2 0; the third state of the first allows model 1 alone."""
    only_middle = (False, True, False)
    return lay_out(
        [
            make_episode([turn(0), turn(1), turn(0, terminated=True)]),
            make_episode([turn(1, truncated=True)], index=1),
            make_episode([turn(2), turn(1, mask=only_middle), turn(0, terminated=True, truncated=True)], index=2),
        ]
    )


def steps(transitions):
    """(episode, turn) of every transition."""
    return list(zip(transitions.episodes.tolist(), transitions.turns.tolist(), strict=True))


def test_only_turns_of_the_model_go_and_no_state_allows_it(transitions):
    rest = hold_out(transitions, HoldOut(model="middle"), index=MIDDLE)
    assert steps(rest) == [(0, 0), (0, 2), (2, 0), (2, 2)]
    assert not rest.observations[:, -3:][:, MIDDLE].any()
    assert transitions.observations[:, -3:][:, MIDDLE].any()  # the whole log is left as it was
    np.testing.assert_array_equal(rest.observations[rest.rows, -3:], [[1, 0, 1]] * 4)
    # Rows after the last turn, whose bits of 0 mean "everything", name the others.
    np.testing.assert_array_equal(rest.observations[[3, 5, 9], -3:], [[1, 0, 1]] * 3)
    # In the third episode nobody else could go on after turn 0, so the value ends there.
    assert rest.terminals.tolist() == [0, 1, 1, 1]
    np.testing.assert_array_equal(rest.returns, transitions.returns[[0, 2, 4, 6]])


def test_cut_episodes_end_before_the_first_turn_of_the_model(transitions):
    rest = hold_out(transitions, HoldOut(model="middle", history="cut"), index=MIDDLE)
    assert steps(rest) == [(0, 0), (2, 0)]
    assert rest.terminals.tolist() == [0, 1]  # the value goes on in the state before the cut, where somebody may act
    all_but_large = hold_out(transitions, HoldOut(model="large", history="cut"), index=LARGE)
    assert steps(all_but_large) == [(0, 0), (0, 1), (0, 2), (1, 0)]


def test_few_episodes_bring_their_turns_and_their_masks_back(transitions):
    for history, left in (("keep", [2, 0, 2]), ("cut", [1, 0, 1])):
        held_out = HoldOut(model="middle", n_episodes=2, history=history)
        opened = held_out.opened(3)
        assert opened.sum() == 2
        rest = hold_out(transitions, held_out, index=MIDDLE)
        np.testing.assert_array_equal(rest.observations, transitions.observations)
        per_episode = np.bincount(rest.episodes, minlength=3)
        np.testing.assert_array_equal(per_episode, np.where(opened, [3, 1, 3], left))


def test_a_larger_draw_holds_the_smaller_one():
    small, large = (HoldOut(model="middle", n_episodes=n, seed=3).opened(50) for n in (5, 20))
    assert small.sum() == 5
    assert large.sum() == 20
    assert (large | ~small).all()
    assert (HoldOut(model="middle", n_episodes=5, seed=4).opened(50) != small).any()


@pytest.mark.parametrize(
    ("models", "changes", "message"),
    [
        ([0, 2], {}, "the log has no turn of model 'middle', so holding it out changes nothing"),
        ([1, 1], {}, "nothing is left of the log without model 'middle'"),
        ([0, 1], {"n_episodes": 2}, "in 2 episodes, and the log has 1; ask for fewer episodes"),
    ],
)
def test_what_cannot_be_held_out(models, changes, message):
    logged = lay_out([make_episode([*(turn(model) for model in models[:-1]), turn(models[-1], terminated=True)])])
    with pytest.raises(InvalidConfigError, match=message):
        hold_out(logged, HoldOut(model="middle", **changes), index=MIDDLE)


def optimum_without(index):
    """Exact optimal values of the states for the pool without a model."""
    values = np.zeros(N_STATES + 1)
    for _ in range(500):
        for state in range(N_STATES):
            values[state] = max(backup(state, model, values) for model in range(3) if model != index)
    return values


def fitted_values(transitions):
    """Optimal values that tabular fitted-Q iteration finds in transitions of one-hot states."""
    state = transitions.observations[:, : N_STATES + 1].argmax(axis=1)
    now, following = state[transitions.rows], state[transitions.rows + 1]
    allowed = transitions.observations[transitions.rows + 1, -3:] > 0
    q_values = np.zeros((N_STATES + 1, 3))
    for _ in range(100):
        best = np.where(allowed, q_values[following], -np.inf).max(axis=1)
        targets = transitions.rewards + (1 - transitions.terminals) * best
        for key in np.unique(np.column_stack([now, transitions.actions]), axis=0):
            chosen = (now == key[0]) & (transitions.actions == key[1])
            q_values[tuple(key)] = targets[chosen].mean()
    seen = np.array([[((now == s) & (transitions.actions == m)).any() for m in range(3)] for s in range(END)])
    return np.where(seen, q_values[:END], -np.inf).max(axis=1)


@pytest.mark.parametrize("history", ["keep", "cut"])
@pytest.mark.parametrize("index", [0, 1])
def test_what_is_left_has_the_optimum_of_the_pool_without_the_model(log, index, history):
    """Also where the model's own turns led to the states: who led there does not matter."""
    whole = make_transitions(log, StateFeatures(), reward=REWARD, gamma=1.0)
    # After the end nothing is allowed and nothing is worth anything; the terminals say so.
    rest = hold_out(whole, HoldOut(model=POOL.model_names[index], history=history), index=index)
    wanted = optimum_without(index)
    assert abs(optimum_without(None)[0] - wanted[0]) > 0.1  # it does matter that the model is gone
    reached = [0, 1] if history == "cut" and index == 1 else range(END)  # state 2 comes after a turn of model 1
    np.testing.assert_allclose(fitted_values(rest)[reached], wanted[reached], atol=0.05)


@pytest.mark.parametrize("algorithm", ["fitted_q", "myopic"])
def test_the_residual_of_a_model_that_is_held_out_stays_zero(small_log, algorithm):
    context = make_context(small_log, features=CardFeatures())
    parameters = JOINT | TINY_LOOP | ({"n_warm_start": 1} if algorithm == "fitted_q" else {})
    learner = load_algorithm(make_card(algorithm, **parameters))
    whole = learner.train(context)
    without = learner.train(dataclasses.replace(context, held_out=HoldOut(model="large")))
    few = learner.train(dataclasses.replace(context, held_out=HoldOut(model="large", n_episodes=10)))
    for router, is_learned in ((whole, True), (without, False), (few, True)):
        residuals = router.weights["residual"].abs().sum(dim=(0, 2)) > 0
        assert residuals.tolist() == [True, True, is_learned]
    (extrapolation,) = without.provenance.extrapolated
    assert (extrapolation.model, whole.provenance.extrapolated, few.provenance.extrapolated) == ("large", (), ())
    assert few.provenance.held_out == HoldOut(model="large", n_episodes=10)
    assert {one.feature for one in extrapolation.outside} == {
        "log_input_price",
        "log_cached_input_price",
        "log_output_price",
        "log_reference_call_usd",
    }
    assert "outside the range of the models learned from in log_input_price 1.18 (theirs: 0 to 0.301)" in (
        extrapolation.sentence
    )
