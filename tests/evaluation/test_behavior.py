from dataclasses import replace

import numpy as np
import pytest

from mtrouter_rl.errors import ResultsError, UnknownNameError
from mtrouter_rl.evaluation.behavior import BehaviorSetting, behavior_row
from mtrouter_rl.records import UNLIMITED_BUDGET_USD
from tests.cases.behavior_cases import failed_episode, flawless_episode, hand_episodes
from tests.cases.evaluation_cases import MODELS, make_episode, make_traced, make_turn

SETTING = BehaviorSetting(split="test", model_names=MODELS, n_resamples=200)


def row_of(*episodes, setting=SETTING, **rest):
    return behavior_row("hand", episodes, setting, **rest)


@pytest.fixture(scope="module")
def row():
    return row_of(*hand_episodes(), failed_episode())


def test_failed_episodes_are_counted_and_left_out(row):
    assert (row.n_episodes, row.n_failed, row.n_turns) == (5, 1, 11)
    alone = row_of(*hand_episodes())
    assert row == alone.model_copy(update={"n_failed": 1})


def test_switches_and_runs(row):
    assert row.switches_mean.value == pytest.approx(2 / 5)
    assert (row.switches_mean.n_episodes, row.switches_mean.n_clusters) == (5, 5)
    assert row.switches_mean.low < row.switches_mean.value < row.switches_mean.high
    assert row.run_lengths == (2, 3, 1)
    assert row.run_length_mean == pytest.approx(11 / 6)
    assert row.switch_matrix == ((2, 0, 1), (0, 2, 0), (1, 0, 1))


def test_usage_and_cost(row):
    shares = np.array([5, 3, 3]) / 11
    assert row.turn_share == pytest.approx(dict(zip(MODELS, shares, strict=True)))
    assert row.usage_entropy_bits == pytest.approx(-(shares * np.log2(shares)).sum())
    within = -(0.6 * np.log2(0.6) + 0.4 * np.log2(0.4))
    assert row.usage_entropy_within_episode_bits == pytest.approx(within / 4)
    assert row.cost_share == pytest.approx({"tiny": 0.5 / 2.3, "middle": 0.6 / 2.3, "big": 1.2 / 2.3})


def test_budget_use_keeps_the_last_value_of_ended_episodes(row):
    assert row.budget_use_by_turn == pytest.approx((0.15, 0.22, 0.30, 0.34, 0.35))
    assert row.budget_used_mean == pytest.approx(0.35)


def test_without_a_budget_there_is_no_budget_use():
    unlimited = make_episode([make_turn(end="terminated")], budget_usd=UNLIMITED_BUDGET_USD)
    row = row_of(*hand_episodes()[1:], unlimited)
    assert row.budget_use_by_turn is None
    assert row.budget_used_mean is None


def test_without_errors_and_without_turns_numbers_are_none():
    row = row_of(flawless_episode())
    assert row.errors.n_errors == 0
    assert row.errors.share_of_turns == 0
    assert row.errors.recovered_share is None
    empty = row_of(make_episode([]))
    assert (empty.run_length_mean, empty.usage_entropy_bits, empty.usage_entropy_within_episode_bits) == (None,) * 3
    assert (empty.run_lengths, empty.turn_share, empty.cost_share, empty.budget_use_by_turn) == ((), {}, {}, ())
    assert empty.budget_used_mean == 0
    assert empty.errors.share_of_turns is None
    assert empty.mutual_information.task is None


def test_one_turn_episodes():
    row = row_of(*(make_episode([make_turn("big", end="both")], task=task) for task in ("boil", "melt")))
    assert row.switches_mean.value == 0
    assert (row.run_lengths, row.run_length_mean) == ((2,), 1)
    assert sum(map(sum, row.switch_matrix)) == 0
    assert row.mutual_information.phase is None


def phased(variation, models, max_turns=8):
    turns = [make_turn(model) for model in models]
    return replace(make_episode(turns, variation=variation), max_turns=max_turns)


def test_phase_is_a_quarter_of_the_turn_limit_not_of_the_length():
    models = ("tiny",) * 2 + ("big",) * 2 + ("tiny",) * 2
    whole = row_of(*(phased(i, models) for i in range(10))).mutual_information
    assert whole.phase.n_labels == 3  # the fourth quarter of the limit is never reached
    assert whole.phase.bits == pytest.approx(-(2 / 3 * np.log2(2 / 3) + 1 / 3 * np.log2(1 / 3)))
    assert whole.phase.p_value < 0.05
    assert whole.task is None  # one task only
    longer = row_of(*(phased(i, models, max_turns=50) for i in range(10))).mutual_information
    assert longer.phase is None  # all six turns lie in the first quarter


def hidden_of(episodes, skill):
    return {one.episode_id: [{"skill": skill(turn)} for turn in one.turns] for one in episodes}


def test_skill_is_read_from_hidden_information_and_none_without_it():
    episodes = [phased(i, ("tiny", "big", "tiny", "tiny", "big", "big", "tiny")) for i in range(6)]
    hidden = hidden_of(episodes, lambda turn: f"needs {turn.model}")
    information = row_of(*episodes, hidden=hidden).mutual_information.skill
    assert information.bits == pytest.approx(-(4 / 7 * np.log2(4 / 7) + 3 / 7 * np.log2(3 / 7)))
    assert information.p_value < 0.05
    assert row_of(*episodes).mutual_information.skill is None
    del hidden[episodes[0].episode_id]
    assert row_of(*episodes, hidden=hidden).mutual_information.skill is None
    hidden[episodes[0].episode_id] = [{"stuck": False}] * 7
    assert row_of(*episodes, hidden=hidden).mutual_information.skill is None


def test_same_seed_same_row_whatever_else_is_worked_out(traced):
    episodes = [one.episode for one in traced["test"]["random"]]
    first, second = (behavior_row("random", episodes, SETTING) for _ in range(2))
    assert first == second
    other = behavior_row("random", episodes, replace(SETTING, seed=1))
    assert other.switches_mean.value == first.switches_mean.value
    assert other.switches_mean != first.switches_mean


def test_a_policy_that_watches_the_task_is_found_out():
    by_task = {"boil": (1, 0, 0), "melt": (0, 0, 1)}
    episodes = [
        one.episode
        for task, weights in by_task.items()
        for one in make_traced({"hand": weights}, tasks=(task,), n_variations=4)["hand"]
    ]
    information = row_of(*episodes).mutual_information.task
    assert information.bits == pytest.approx(1, abs=0.05)
    assert information.p_value < 0.05


def test_bad_input_is_refused():
    with pytest.raises(ResultsError, match="split is 'ood', must be 'test'; give the episodes of one split"):
        row_of(make_episode([make_turn()], split="ood"))
    with pytest.raises(ResultsError, match="none of its 1 episodes was completed"):
        row_of(failed_episode())
    with pytest.raises(UnknownNameError, match="unknown model 'tinny'; did you mean 'tiny'"):
        row_of(make_episode([make_turn("tinny")]))
