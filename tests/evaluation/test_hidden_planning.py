import dataclasses

import numpy as np
import pytest

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.evaluation.hidden_planning import PlanningProblem, action_values, problem_of
from mtrouter_rl.protocols import HiddenState

KINDS = ("malformed", "idle", "wander", "drop", "fatal")


def problem(success, *, gains, prices, n_turns, kind="malformed", repairs=(1.0, 1.0), fatal_gain=-1.0):
    """Two models, whose failures are all of one kind; prices stay the same."""
    success = np.array(success, dtype=float)
    ones, zeros = np.ones_like(success), np.zeros_like(success)
    return PlanningProblem(
        success=success,
        gains=np.array(gains, dtype=float),
        failures={name: ones if name == kind else zeros for name in KINDS},
        repairs={"wander": np.array(repairs), "drop": np.array(repairs)},
        fatal_gain=np.full(len(gains), fatal_gain),
        prices=np.tile(np.array(prices, dtype=float), (n_turns, 1, 1)),
    )


def test_the_last_turn_takes_the_dear_model_and_the_one_before_the_cheap_one():
    """By hand: with one turn left -0.1 + 0.5 = 0.4 and -0.4 + 1 = 0.6; with two, -0.1 + 0.5 + 0.5 x 0.6 = 0.7 and 0.6."""
    one = problem([[0.5, 1.0]], gains=[1.0], prices=[0.1, 0.4], n_turns=1)
    two = problem([[0.5, 1.0]], gains=[1.0], prices=[0.1, 0.4], n_turns=2)
    assert action_values(one) == pytest.approx([0.4, 0.6])
    assert action_values(two) == pytest.approx([0.7, 0.6])


def test_a_second_action_is_worth_what_is_left_after_the_first():
    """By hand: two actions, two turns, the sure model free: 0.25 + 0.75; the other one reaches the second half the time."""
    values = action_values(problem([[0.5, 1.0], [0.5, 1.0]], gains=[0.25, 0.75], prices=[0.0, 0.0], n_turns=2))
    assert values == pytest.approx([0.5 * (0.25 + 0.75) + 0.5 * 0.25, 1.0])


def test_a_wandering_failure_needs_a_turn_more_than_an_idle_one():
    """By hand: with three turns and p = 0.5, idle fails three times with 1/8; wandering has one try, a way back, one try."""
    idle = action_values(problem([[0.5, 0.0]], gains=[1.0], prices=[0.0, 0.0], n_turns=3, kind="idle"))
    wander = action_values(problem([[0.5, 0.0]], gains=[1.0], prices=[0.0, 0.0], n_turns=3, kind="wander"))
    lame = action_values(
        problem([[0.5, 0.0]], gains=[1.0], prices=[0.0, 0.0], n_turns=3, kind="wander", repairs=(0.5, 0.2))
    )
    assert idle[0] == pytest.approx(7 / 8)
    assert wander[0] == pytest.approx(0.5 + 0.5 * 0.5)
    assert lame[0] == pytest.approx(0.5 + 0.5 * 0.5 * 0.5)


def test_a_fatal_failure_ends_it():
    values = action_values(
        problem([[0.8, 0.0]], gains=[1.0], prices=[0.0, 0.0], n_turns=5, kind="fatal", fatal_gain=-1)
    )
    assert values[0] == pytest.approx(0.8 - 0.2)


def test_values_are_those_of_a_simulation():
    """Monte-Carlo under the best decisions of the tables themselves: the mean return is the value that was planned."""
    rng = np.random.default_rng(0)
    made = problem(rng.random((4, 2)), gains=[0.1, 0.2, 0.3, 0.4], prices=[0.01, 0.05], n_turns=6)

    def ahead(position, n_turns):
        return dataclasses.replace(
            made,
            success=made.success[position:],
            gains=made.gains[position:],
            failures={kind: shares[position:] for kind, shares in made.failures.items()},
            fatal_gain=made.fatal_gain[position:],
            prices=made.prices[:n_turns],
        )

    tables = {(i, t): action_values(ahead(i, t)) for i in range(4) for t in range(1, 7)}
    returns = []
    for _ in range(4000):
        position, earned = 0, 0.0
        for n_turns in range(6, 0, -1):
            if position == 4:
                break
            model = int(np.argmax(tables[position, n_turns]))
            earned -= made.prices[0, 0, model]
            if rng.random() < made.success[position, model]:
                earned += made.gains[position]
                position += 1
        returns.append(earned)
    assert np.mean(returns) == pytest.approx(tables[0, 6].max(), abs=4 * np.std(returns) / np.sqrt(len(returns)))


# --- from a hidden state to a problem


def pool_of(*, prompt_cache=None):
    model = {"context_tokens": 8000, "max_output_tokens": 1000, "knowledge_cutoff": "2025-01-01"}
    return PoolCard.model_validate(
        {
            "name": "two",
            "description": "two made-up models",
            "models": [
                {"name": "cheap", "prices": {"input": 1, "cached_input": 0.1, "output": 2}, **model},
                {"name": "dear", "prices": {"input": 10, "cached_input": 1, "output": 20}, **model},
            ],
            "token_counter": {"kind": "characters"},
            "prompt_cache": prompt_cache,
            "backend": {"kind": "simulated"},
        }
    )


def hidden(**changes):
    state = HiddenState(
        actions=("go", "take", "end"),
        skills=("walk", "operate", "think"),
        topic="",
        is_whole_plan=True,
        gains=np.array([0.2, 0.3, 0.5]),
        utility=0.0,
        fatal_utility=-1.0,
        success=np.array([[0.5, 0.9], [0.6, 0.9], [0.7, 0.9]]),
        stuck=np.array([[True, False], [False, False], [False, True]]),
        often_stuck=np.full(2, 0.1),
        believed_stuck=np.full((3, 2), 0.1),
        failures={kind: np.full((3, 2), 0.2) for kind in KINDS},
        repairs={"wander": np.array([0.5, 0.9]), "drop": np.array([0.5, 0.9])},
        n_output_tokens=np.array([100.0, 200.0]),
        n_prompt_tokens=1000,
        n_cached_tokens=np.array([0.0, 0.0]),
    )
    return dataclasses.replace(state, **changes)


REWARD = RewardCard(cost_weight=2.0, cost_unit_usd=0.01)


def made(state, *, turns_left=3, growth=0.0, pool=None):
    return problem_of(state, turns_left=turns_left, growth=growth, pool=pool or pool_of(), reward=REWARD)


def test_who_is_stuck_never_succeeds():
    assert made(hidden()).success.tolist() == [[0.0, 0.9], [0.6, 0.9], [0.7, 0.0]]


def test_a_fatal_failure_costs_more_the_further_the_task_is():
    assert made(hidden()).fatal_gain == pytest.approx([-1.0, -1.2, -1.5])
    assert made(hidden(utility=0.4)).fatal_gain == pytest.approx([-1.4, -1.6, -1.9])
    assert made(hidden(fatal_utility=None)).fatal_gain.tolist() == [0.0, 0.0, 0.0]


def test_what_no_turn_is_left_for_is_left_out():
    assert made(hidden(), turns_left=2).gains.tolist() == [0.2, 0.3]
    assert made(hidden(gains=None, utility=0.4), turns_left=2).gains == pytest.approx([0.2, 0.2])


def test_an_unknown_plan_is_half_the_turns_left_and_stuck_for_certain_only_now():
    state = hidden(
        actions=("go",),
        skills=("walk",),
        is_whole_plan=False,
        gains=None,
        success=np.array([[0.5, 0.9]]),
        stuck=np.array([[True, False]]),
        failures={kind: np.full((1, 2), 0.2) for kind in KINDS},
    )
    found = made(state, turns_left=5)
    assert found.success.tolist() == [[0.0, 0.9], [0.5, 0.9], [0.5, 0.9]]
    assert found.gains == pytest.approx([1 / 3] * 3)
    assert made(state, turns_left=1).gains == pytest.approx([1.0])


def test_prices_grow_with_the_prompt():
    """By hand: (1000 x 1 + 100 x 2) / 1e6 USD x 2 / 0.01 = 0.24 now, and 50 tokens more a turn later."""
    prices = made(hidden(), growth=50.0).prices
    assert prices.shape == (3, 1, 2)
    assert prices[2, 0] == pytest.approx([0.24, 2.8])
    assert prices[0, 0, 0] == pytest.approx((1100 + 200) / 1e6 * 200)


def test_a_warm_cache_makes_it_cheap_to_stay():
    """Now the cache is what it is; later, who was called before reads all but the newest turn."""
    pool = pool_of(prompt_cache={"ttl_s": 60, "min_tokens": 100})
    prices = made(hidden(n_cached_tokens=np.array([900.0, 0.0])), growth=50.0, pool=pool).prices
    assert prices.shape == (3, 2, 2)
    assert prices[2, :, 0] == pytest.approx([(100 + 90 + 200) / 1e6 * 200] * 2)
    assert prices[1, 0, 0] == pytest.approx((50 + 100 + 200) / 1e6 * 200)
    assert prices[1, 1, 0] == pytest.approx((1050 + 200) / 1e6 * 200)
    short = made(hidden(n_prompt_tokens=80), growth=0.0, pool=pool).prices
    assert short[0, 0, 0] == short[0, 1, 0]  # too short to be cached


def test_a_cache_can_decide_who_is_called_now():
    """Two equal models; one of them is warm now, and stays warm."""
    pool = pool_of(prompt_cache={"ttl_s": 60, "min_tokens": 100})
    same = pool.model_copy(update={"models": (pool.models[0], pool.models[0].model_copy(update={"name": "twin"}))})
    free = np.zeros((3, 2), dtype=bool)
    state = hidden(
        success=np.full((3, 2), 0.5), stuck=free, n_output_tokens=np.ones(2), n_cached_tokens=np.array([0.0, 1000.0])
    )
    values = action_values(made(state, pool=same))
    assert values[1] > values[0] + 0.1
