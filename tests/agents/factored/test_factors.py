"""The factors one by one, on numbers whose answer is known."""

import itertools

import numpy as np
import pytest

from mtrouter_rl.agents.factored.factors import LoggedTurns, fit_factors
from mtrouter_rl.agents.factored.kinds import RARE, ActionKinds, agreement
from mtrouter_rl.agents.factored.log_columns import LogColumns
from mtrouter_rl.agents.factored.prices import CallTokens
from mtrouter_rl.agents.factored.shrinkage import effect_table, success_table
from mtrouter_rl.agents.factored.stuck import StuckBelief, Stuckness, chances_of_log, likeliest, sharpened
from mtrouter_rl.embeddings.action_word import action_word
from mtrouter_rl.errors import InvalidConfigError
from tests.cases.routing_toy import POOL, make_episode, make_turn


def test_kinds_are_the_frequent_first_words_and_everything_else_is_rare():
    texts = [*["go north"] * 25, *["wait"] * 30, *["sing a song"] * 19, "", "  "]
    kinds = ActionKinds.of_words(action_word(text) for text in texts)
    assert kinds.words == (RARE, "wait", "go")
    assert kinds.of_log(["go", "wait", "sing", ""]).tolist() == [2, 1, 0, 0]
    assert [kinds.index(text) for text in ("go", "wait long", "sing", "")] == [2, 1, 0, 0]


def test_agreement_is_measured_against_the_likeliest_kind_and_an_error_agrees_with_nothing():
    due = np.array([[0.1, 0.6, 0.3]] * 4)
    found = agreement(due, np.array([1, 2, 0, 1]), np.array([False, False, False, True]))
    np.testing.assert_allclose(found, [1.0, 0.5, 1 / 6, 0.0])


def test_the_belief_of_being_stuck_follows_bayes_rule():
    belief = StuckBelief.start(Stuckness.of(0.1, 0.0), n_models=2, n_kinds=1)
    once = np.ones(1)
    success = 0.72  # of a model that may be stuck: 0.8 of one that is not
    for n_failed in (1, 2, 3):
        belief = belief.after(0, weights=once, use=0.0, success=success)
        by_hand = 0.1 / (0.1 + 0.9 * 0.2**n_failed)
        np.testing.assert_allclose(belief.chances(once), [by_hand, 0.1])
    np.testing.assert_allclose(belief.after(1, weights=once, use=1.0, success=success).chances(once), [0.1, 0.1])


def test_a_detour_of_another_kind_does_not_make_a_failure_forgotten():
    lift, walk = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    belief = StuckBelief.start(Stuckness.of(0.05, 0.0), n_models=2, n_kinds=2).after(
        0, weights=lift, use=0.0, success=0.8
    )
    after_walk = belief.after(1, weights=walk, use=1.0, success=0.8)
    np.testing.assert_allclose(after_walk.chances(lift), belief.chances(lift))
    assert after_walk.chances(lift)[0] > 0.15
    np.testing.assert_allclose(after_walk.chances(walk), [0.05, 0.05])


def logged_stuckness(prior, *, together=0.0, n_episodes=1500, seed=0):
    """Turns of two models at one kind of action, in which a model is stuck for a whole episode with probability `prior`.

    In a share `together` of the episodes both are, or neither.
    """
    rng = np.random.default_rng(seed)
    actions, use, starts = [], [], []
    for _ in range(n_episodes):
        is_stuck = rng.random(2) < prior
        is_stuck[1] = is_stuck[int(rng.random() >= together)]
        for turn in range(6):
            model = int(rng.integers(2))
            is_done = rng.random() < 0.8 and not is_stuck[model]
            actions.append(model)
            use.append(float(is_done))
            starts.append(turn == 0 or use[-2] == 1.0)  # what was done is over: the next thing begins afresh
    n_turns = len(actions)
    return (
        np.ones((n_turns, 1)),
        np.array(actions),
        np.array(use),
        np.full((n_turns, 2), np.mean(use)),
        np.array(starts),
    )


@pytest.mark.parametrize(("prior", "at_least", "at_most"), [(0.0, 0.01, 0.02), (0.2, 0.12, 0.3)])
def test_the_log_tells_how_often_models_are_stuck(prior, at_least, at_most):
    assert at_least <= likeliest(*logged_stuckness(prior)).prior <= at_most


@pytest.mark.parametrize(("together", "at_least", "at_most"), [(0.0, 0.0, 0.25), (1.0, 0.75, 1.0)])
def test_the_log_tells_whether_models_are_stuck_together(together, at_least, at_most):
    assert at_least <= likeliest(*logged_stuckness(0.2, together=together)).together <= at_most


def test_where_models_are_stuck_together_a_failure_of_one_speaks_of_the_others():
    once = np.ones(1)
    belief = StuckBelief.start(Stuckness.of(0.1, 0.5), n_models=3, n_kinds=1)
    belief = belief.after(0, weights=once, use=0.0, success=0.72).after(1, weights=once, use=0.0, success=0.45)
    alone = [0.1 / (0.1 + 0.9 * 0.2), 0.1 / (0.1 + 0.9 * 0.5), 0.1]
    common = 0.1 / (0.1 + 0.9 * 0.2 * 0.5)
    np.testing.assert_allclose(belief.chances(once), [(common + one) / 2 for one in alone])


def test_several_cases_at_once_are_what_each_is_alone():
    due, actions, use, success, starts = logged_stuckness(0.2, n_episodes=20)
    cases = [(0.05, 0.0), (0.2, 0.75)]
    at_once = chances_of_log(due, actions, use, success, starts, Stuckness.of(*zip(*cases, strict=True)))
    for number, (prior, together) in enumerate(cases):
        alone = chances_of_log(due, actions, use, success, starts, Stuckness.of(prior, together))
        np.testing.assert_allclose(at_once[:, number], alone)


def test_the_likeliest_case_is_that_of_every_case_by_itself():
    due, actions, use, success, starts = logged_stuckness(0.2, together=0.5, n_episodes=60)
    priors, together = (0.05, 0.2), (0.0, 0.5, 1.0)
    rows, found = np.arange(len(actions)), {}
    for case in itertools.product(priors, together):
        stuckness = Stuckness.of(*case)
        chances = chances_of_log(due, actions, use, success, starts, stuckness)[rows, actions]
        expected = (1 - chances) * stuckness.unstuck(success[rows, actions])
        gained = (use * np.log(expected) + (1 - use) * np.log(1 - expected)).sum()
        found[case] = gained - (np.log(len(actions)) / 2 if case[1] > 0 else 0.0)
    best = likeliest(due, actions, use, success, starts, priors=priors, together=together)
    assert (float(best.prior), float(best.together)) == max(found, key=found.get)


def test_beliefs_of_a_log_begin_anew_with_every_episode():
    due, actions, use = np.ones((4, 1)), np.zeros(4, dtype=np.int64), np.zeros(4)
    success, starts = np.full((4, 2), 0.5), np.array([True, False, True, False])
    chances = chances_of_log(due, actions, use, success, starts, Stuckness.of(0.1, 0.0))
    np.testing.assert_allclose(chances[:2], chances[2:])
    assert chances[1, 0] > chances[0, 0] == pytest.approx(0.1)


def test_weights_are_sharpened_and_a_model_that_is_not_stuck_succeeds_more_often():
    np.testing.assert_allclose(sharpened(np.array([0.8, 0.2])), [0.64 / 0.68, 0.04 / 0.68])
    np.testing.assert_allclose(Stuckness.of(0.1, 0.0).unstuck(np.array([0.72, 1.0])), [0.8, 0.97])


def test_effects_are_kept_where_models_differ_and_shrunk_where_they_do_not():
    rng = np.random.default_rng(0)
    kinds, actions = rng.integers(3, size=6000), rng.integers(2, size=6000)
    due, centred = np.eye(3)[kinds], np.eye(2)[actions] - 0.5
    outcomes = np.where(kinds == 1, centred @ [0.4, -0.4], 0.0) + rng.normal(scale=0.5, size=6000)
    outcomes -= outcomes.mean()
    table = effect_table(due, centred, outcomes)
    effects = table(np.eye(3))
    assert effects[1, 0] - effects[1, 1] == pytest.approx(0.8, abs=0.08)
    plain = [outcomes[(kinds == 0) & (actions == model)].mean() for model in range(2)]
    assert np.abs(effects[[0, 2]]).max() < 0.5 * max(0.02, np.abs(plain).max())


def test_success_is_learned_by_kind_and_model():
    rng = np.random.default_rng(1)
    truth = np.array([[0.9, 0.5], [0.4, 0.8]])
    kinds, actions = rng.integers(2, size=8000), rng.integers(2, size=8000)
    use = (rng.random(8000) < truth[kinds, actions]).astype(float)
    np.testing.assert_allclose(success_table(np.eye(2)[kinds], actions, use, n_models=2)(np.eye(2)), truth, atol=0.04)


def test_a_log_without_tokens_is_refused():
    turn = make_turn(0, state=0, next_state=3, gain=0.0, cost=0.1, terminated=True)
    bare = type(turn)(**{**vars(turn), "usage": type(turn.usage)(n_fresh=0, n_output=0)})
    with pytest.raises(InvalidConfigError, match="no token counts"):
        CallTokens.of_log(LogColumns.of_episodes([make_episode([bare])]), np.zeros(1, dtype=np.int64), n_models=3)


def test_expected_costs_are_tokens_times_the_pools_prices():
    tokens = CallTokens(
        prompt=np.array([0.25, 0.0, 100.0]), output=np.array([10.0, 20.0, 30.0]), cached_share=np.array([0.5])
    )
    costs = tokens.costs_usd(np.array([[400.0, 3.0, 1.0]]), np.zeros((1, 3)), POOL)
    np.testing.assert_allclose(costs[0] * 1e6, [(200 + 10) * 1.0, (200 + 20) * 2.0, (200 + 30) * 15.0])


def logged_worth(worth, *, n_episodes, noise=0.0, length=8, seed=0):
    """Turns of two models, one of which is of use more often; at its end an episode earns `worth` for every useful turn.

    What is left to a mean of 0.4 is earned whatever happens.
    """
    rng = np.random.default_rng(seed)
    n_turns = n_episodes * length
    actions = rng.integers(2, size=n_turns)
    is_useful = rng.random(n_turns) < np.where(actions == 0, 0.9, 0.3)
    episodes = np.arange(n_turns) // length
    gains = np.zeros(n_turns)
    useful = np.bincount(episodes, weights=is_useful)
    gains[length - 1 :: length] = 0.4 + worth * (useful - 0.6 * length) + noise * rng.standard_normal(n_episodes)
    return LoggedTurns(
        due=np.tile([0.99, 0.01], (n_turns, 1)),
        kinds=np.where(is_useful, 0, 1),
        is_error=np.zeros(n_turns, dtype=bool),
        actions=actions,
        masks=np.ones((n_turns, 2), dtype=bool),
        gains=gains,
        costs=np.zeros(n_turns),
        episodes=episodes,
        folds=episodes % 3,
        tasks=np.zeros(n_turns, dtype=np.int64),
    )


def fitted_worth(log):
    return fit_factors(log, np.zeros((len(log.actions), 2)), seed=0).use_value


@pytest.mark.parametrize(("worth", "at_least", "at_most"), [(0.03, 0.022, 0.042), (0.0, 0.0, 0.015)])
def test_a_large_log_tells_what_a_useful_turn_is_worth(worth, at_least, at_most):
    assert at_least <= fitted_worth(logged_worth(worth, n_episodes=1500, noise=0.2)) <= at_most


def test_where_returns_tell_nothing_a_useful_turn_is_worth_the_rate_at_which_the_log_earned():
    log = logged_worth(0.0, n_episodes=20, noise=5.0)
    rate = np.maximum(log.gains, 0.0).sum() / (log.kinds == 0).sum()
    assert fitted_worth(log) == pytest.approx(rate, rel=0.15)


def test_a_part_that_is_left_out_is_not_in_the_factors():
    log = logged_worth(0.03, n_episodes=200, noise=0.2)
    costs = np.zeros((len(log.actions), 2))
    plain = fit_factors(log, costs, seed=0, parts=("due",))
    assert np.abs(plain.effects(log.due)).max() == 0.0
    assert (plain.stuckness.prior < 1e-6, float(plain.stuckness.together)) == (True, 0.0)
    assert fit_factors(log, costs, seed=0, parts=("due", "stuck")).stuckness.prior >= 0.01
