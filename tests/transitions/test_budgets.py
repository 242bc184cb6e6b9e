"""Budgets in hindsight, against episodes that were really run with the smaller budget, and against the optimum under one."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from mtrouter_rl.agents.q.fitted_q_budget import FittedQBudget
from mtrouter_rl.agents.resolve import resolve_router
from mtrouter_rl.cards import RewardCard
from mtrouter_rl.cards.splits import evaluation_specs
from mtrouter_rl.embeddings.encoders import make_hashing
from mtrouter_rl.embeddings.history import HistoryFeatures
from mtrouter_rl.envs.factory import build_env, resolve_env
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.rollout import run_episode
from mtrouter_rl.transitions.arrays import make_transitions
from mtrouter_rl.transitions.budgets import Budgets, BudgetTransitions
from tests.cases.routing_toy import (
    JOINT,
    POOL,
    BudgetFeatures,
    make_card,
    make_context,
    make_dataset,
    make_episode,
    make_observation,
    make_turn,
)

REWARD = RewardCard(cost_weight=1.0, cost_unit_usd=1.0)
LARGE_WORST_USD = (15.0 * 1 + 15.0 * 1000) / 1e6  # one prompt token, 1000 output tokens at 15 USD a million
CORRIDOR_BUDGETS_USD = (0.0007, 0.0011, 0.0016, 0.0055, 0.007)


def lay_out(episodes, features, pool, *, gamma=0.5, budgets=None, max_output_tokens=None):
    budgets = budgets or Budgets()
    dataset = make_dataset(episodes, pool)
    plain = make_transitions(dataset, features, reward=REWARD, gamma=gamma)
    return BudgetTransitions.of(
        plain, episodes, features, pool=pool, budgets=budgets, gamma=gamma, max_output_tokens=max_output_tokens
    )


def played(budget_usd, router):
    """Episodes of the corridor under a budget; randomness does not depend on it."""
    config = resolve_env("corridor", budget_usd=budget_usd)
    env = build_env(config)
    chosen = resolve_router(router, config.pool)
    specs = evaluation_specs(config.card, "train", 1)
    return config, [run_episode(env, chosen, spec).episode for spec in specs]


@pytest.mark.parametrize("budget_usd", CORRIDOR_BUDGETS_USD)
def test_hindsight_is_what_the_environment_does_with_the_smaller_budget(budget_usd):
    """The cheapest model is the last to be masked, so its episodes are those of the large budget, cut short."""
    config, large = played(0.5, "cheapest")
    _, small = played(budget_usd, "cheapest")
    features = HistoryFeatures(encoder=make_hashing(), pool=config.pool)
    limit = config.limits.max_output_tokens
    made = lay_out(large, features, config.pool, max_output_tokens=limit)
    starts = np.flatnonzero(made.turns == 0)
    pairs = [(start, episode) for start, episode in zip(starts, small, strict=True) if episode.turns]
    truth = lay_out([episode for _, episode in pairs], features, config.pool, max_output_tokens=limit)
    indices = np.concatenate([start + np.arange(len(episode.turns)) for start, episode in pairs])
    batch = made.batch_at(indices, np.full(len(indices), budget_usd))
    expected = truth.batch(np.arange(len(truth)))
    np.testing.assert_array_equal(batch.observations, expected.observations)
    np.testing.assert_array_equal(batch.terminals, expected.terminals)
    goes_on = expected.terminals.ravel() == 0
    np.testing.assert_array_equal(batch.next_observations[goes_on], expected.next_observations[goes_on])
    # The least budget of a turn tells exactly which turns the smaller budget reaches.
    reached = np.flatnonzero(made.needed_usd <= budget_usd)
    assert reached.tolist() == indices.tolist()
    regression = made.as_return_regression().batch_at(indices, np.full(len(indices), budget_usd))
    np.testing.assert_allclose(regression.rewards.ravel(), truth.returns, atol=1e-6)


def test_the_budgets_of_the_corridor_cut_some_episodes_and_mask_some_models():
    """Else the test above would compare nothing."""
    large = played(0.5, "cheapest")[1]
    small = {usd: played(usd, "cheapest")[1] for usd in CORRIDOR_BUDGETS_USD}
    assert any(len(a.turns) < len(b.turns) for many in small.values() for a, b in zip(many, large, strict=True))
    masks = [turn.action_mask for many in small.values() for episode in many for turn in episode.turns]
    assert {(True, False, False), (True, True, False), (True, True, True)} <= set(masks)


def three_turns(**changes):
    turns = [
        make_turn(2, state=0, next_state=1, gain=0.1, cost=0.3),
        make_turn(1, state=1, next_state=2, gain=0.2, cost=0.1),
        make_turn(0, state=2, next_state=3, gain=0.4, cost=0.2, terminated=True),
    ]
    return replace(make_episode(turns), budget_usd=2.0, **changes)


def test_hand_worked_budgets():
    made = lay_out([three_turns()], BudgetFeatures(), POOL)
    middle, small = 2 * (1 + 1000) / 1e6, (1 + 1000) / 1e6
    assert made.needed_usd == pytest.approx([LARGE_WORST_USD, 0.3 + middle, 0.4 + small])
    assert made.stops.tolist() == [3, 3, 3]
    # 0.402 USD: after two calls 0.002 are left, enough for the small model and not for the middle one.
    batch = made.batch_at(np.array([0, 1]), np.array([0.402, 0.402]))
    assert batch.next_observations[:, -3:].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.observations[1, 8] == pytest.approx(0.102 / 0.402)
    assert batch.next_observations[1, 9] == pytest.approx(np.log10(0.002) / 2)
    assert batch.terminals.ravel().tolist() == [0, 0]
    # 0.4005 USD: no model fits any more after the second call, which ends the episode.
    batch = made.batch_at(np.array([0, 1]), np.array([0.4005, 0.4005]))
    assert batch.terminals.ravel().tolist() == [0, 1]
    regression = made.as_return_regression().batch_at(np.array([0, 0, 1]), np.array([0.4005, 2.0, 0.31]))
    first, second, third = 0.1 - 0.3, 0.2 - 0.1, 0.4 - 0.2
    assert regression.rewards.ravel() == pytest.approx(
        [first + 0.5 * second, first + 0.5 * second + 0.25 * third, second]
    )
    assert regression.terminals.ravel().tolist() == [1, 1, 1]


def test_draws_let_the_episode_come_as_far_and_equal_generators_draw_equal_batches():
    made = lay_out([three_turns()], BudgetFeatures(), POOL, budgets=Budgets(low_share=0.001, share_full=0.25))
    one, other = (made.sample(400, np.random.default_rng(3)) for _ in range(2))
    assert (one.observations == other.observations).all()
    assert one.actions.ravel().tolist() == other.actions.ravel().tolist()
    actions = one.actions.ravel().astype(int)
    assert one.observations[np.arange(400), 10 + actions].all()  # the logged call is never masked
    lefts = 10 ** (2 * one.observations[:, 9][actions == 2])  # of the first turn: the whole budget
    assert (np.isclose(lefts, 2.0)).mean() == pytest.approx(0.25, abs=0.1)
    assert LARGE_WORST_USD < lefts.min() < 2 * LARGE_WORST_USD


def test_a_part_of_the_episodes_and_the_fingerprint():
    episodes = [three_turns(), make_episode([make_turn(0, state=0, next_state=3, gain=0.5, cost=0.1, terminated=True)])]
    made = lay_out(episodes, BudgetFeatures(), POOL)
    part = made.of_episodes(np.array([False, True]))
    assert part.stops.tolist() == [1]
    assert part.budgets_usd.tolist() == [100.0]
    assert made.fingerprint() == lay_out(episodes, BudgetFeatures(), POOL).fingerprint()
    assert made.fingerprint() != lay_out(episodes, BudgetFeatures(), POOL, max_output_tokens=10).fingerprint()


def test_masks_that_were_logged_stay_and_a_disagreement_is_told(caplog):
    masked = three_turns()
    masked = replace(masked, turns=(replace(masked.turns[0], action_mask=(False, True, True)), *masked.turns[1:]))
    made = lay_out([masked], BudgetFeatures(), POOL)
    assert "differ from the logged ones at 33.3% of the turns" in caplog.text
    assert made.batch_at(np.array([0]), np.array([2.0])).observations[0, -3:].tolist() == [0, 1, 1]


def test_a_log_without_a_budget_and_a_broken_range_are_refused():
    with pytest.raises(InvalidConfigError, match=r"episode 'toy-0' \(and 0 more\) was run without a budget"):
        lay_out([replace(three_turns(), budget_usd=1e6)], BudgetFeatures(), POOL)
    with pytest.raises(InvalidConfigError, match=r"episode 'toy-0' \(and 0 more\) has costs and no tokens"):
        lay_out([replace(three_turns(), usage_source="cost_only")], BudgetFeatures(), POOL)
    with pytest.raises(ValidationError, match=r"low_share\n.*greater than 0"):
        Budgets(low_share=0.0)


def test_one_training_is_optimal_with_and_without_money(log):
    """The dear first call pays only if two more can follow it; from a log in which money was never short."""
    loop = {"n_iterations": 8, "steps_per_iteration": 60, "batch_size": 256, "learning_rate": 4e-3, "keep_last": 3}
    card = make_card("fitted_q_budget", **JOINT, **loop, budgets={"low_share": 0.001, "share_full": 0.2})
    router = FittedQBudget.from_card(card).train(make_context(log, features=BudgetFeatures()))
    poor, rich = (router.q_values([make_observation(0, budget_usd=usd)])[0] for usd in (0.2, 50.0))
    assert (int(poor.argmax()), int(rich.argmax())) == (0, 2)
    assert poor[2] == pytest.approx(-0.3, abs=0.1)  # the call is paid, and no other can be
    assert rich[2] == pytest.approx(0.525, abs=0.1)
    assert poor[0] == pytest.approx(0.38, abs=0.06)
