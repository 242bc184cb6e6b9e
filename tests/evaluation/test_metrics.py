import numpy as np
import pytest

from mtrouter_rl.errors import ResultsError, UnknownNameError
from mtrouter_rl.evaluation.behavior_errors import error_behavior
from mtrouter_rl.evaluation.metrics import (
    cumulative_by_turn,
    episode_metrics,
    model_share_by_turn,
    policy_metrics,
    running_share_by_turn,
)
from tests.cases.evaluation_cases import MODELS, REWARD, make_episode, make_turn


def long_episode():
    """Four turns: tiny, tiny (error, stays), big (error, leaves), tiny (error on the last turn, which does not count)."""
    return make_episode(
        [
            make_turn("tiny", cost_usd=0.1, gain=0.25, error="unknown_action"),
            make_turn("tiny", cost_usd=0.1, gain=-0.05),
            make_turn("big", cost_usd=0.6, gain=0.5, error="ambiguous"),
            make_turn("tiny", cost_usd=0.1, gain=0.0, error="idle", end="both"),
        ]
    )


def short_episode():
    return make_episode([make_turn("big", cost_usd=1.1, gain=-1.0, end="terminated")], task="melt")


def empty_episode():
    """Truncated before its first call: nothing was spent and nothing earned."""
    return make_episode([], task="melt", variation=1)


def failed_episode():
    return make_episode([make_turn("big", cost_usd=5.0, gain=1.0)], task="melt", variation=2, status="failed")


def metrics_of(*episodes):
    return policy_metrics(episodes, REWARD, model_names=MODELS, policy="hand")


def test_one_episode_worked_by_hand():
    metrics = episode_metrics(long_episode(), REWARD)
    assert metrics.key == ("boil", 0, 0)
    assert metrics.utility == pytest.approx(0.7)
    assert metrics.score == pytest.approx(70.0)
    assert metrics.cost_usd == pytest.approx(0.9)
    assert metrics.return_ == pytest.approx(0.7 - 0.5 * 0.9 / 2.0)
    assert (metrics.n_turns, metrics.n_switches) == (4, 2)
    assert (metrics.n_errors_before_last, metrics.n_stays_after_error) == (2, 1)
    assert (metrics.n_transient_errors, metrics.n_stays_after_transient) == (2, 1)
    assert metrics.model_turns == {"tiny": 3, "big": 1}


def test_transient_errors_are_those_of_the_behaviour_file():
    errors = ["", "a", "b", "", "c", "d", "e", "", "f"]
    models = ["tiny", "tiny", "tiny", "big", "big", "tiny", "tiny", "tiny", "big"]
    episode = make_episode([make_turn(model, error=error) for model, error in zip(models, errors, strict=True)])
    metrics, found = episode_metrics(episode, REWARD), error_behavior([episode])
    assert metrics.n_transient_errors == found.n_transient == 2
    assert metrics.n_stays_after_transient == found.stay_after_transient * found.n_transient == 1


def test_an_episode_without_turns_counts_as_zero():
    metrics = episode_metrics(empty_episode(), REWARD)
    assert (metrics.utility, metrics.cost_usd, metrics.return_, metrics.n_turns, metrics.n_switches) == (0, 0, 0, 0, 0)


def test_policy_over_episodes_of_unequal_length():
    metrics = metrics_of(long_episode(), short_episode(), empty_episode(), failed_episode())
    assert len(metrics.episodes) == 3
    assert metrics.n_failed == 1
    assert metrics.mean("score") == pytest.approx((70 - 100 + 0) / 3)
    assert metrics.mean("n_turns") == pytest.approx(5 / 3)
    assert metrics.stay_after_error == pytest.approx(1 / 2)
    assert metrics.model_share == pytest.approx({"tiny": 3 / 5, "middle": 0.0, "big": 2 / 5})
    assert list(metrics.model_share) == list(MODELS)
    assert metrics.model_share_by_task["boil"] == pytest.approx({"tiny": 0.75, "middle": 0.0, "big": 0.25})
    assert metrics.model_share_by_task["melt"] == pytest.approx({"tiny": 0.0, "middle": 0.0, "big": 1.0})
    assert metrics.score_by_task == pytest.approx({"boil": 70.0, "melt": -50.0})


def test_budget_violations_count_failed_episodes_but_not_rounding():
    exact = make_episode([make_turn(cost_usd=0.1) for _ in range(10)], task="find")
    assert sum(0.1 for _ in range(10)) != 1.0
    assert metrics_of(exact).budget_violations == 0
    assert metrics_of(exact, short_episode(), failed_episode()).budget_violations == 2


def test_stay_after_error_is_none_without_errors_and_without_a_next_turn():
    only_last = make_episode([make_turn(), make_turn(error="idle", end="truncated")])
    assert metrics_of(only_last).stay_after_error is None
    assert metrics_of(empty_episode()).model_share == {}


def test_shares_by_turn_are_among_running_episodes():
    episodes = [long_episode(), short_episode(), empty_episode(), failed_episode()]
    shares = model_share_by_turn(episodes, MODELS)
    np.testing.assert_allclose(shares, [[0.5, 0, 0.5], [1, 0, 0], [0, 0, 1], [1, 0, 0]])
    np.testing.assert_allclose(running_share_by_turn(episodes), [2 / 3, 1 / 3, 1 / 3, 1 / 3])


def test_course_over_turns_ends_at_the_means():
    scores, costs_usd = cumulative_by_turn([long_episode(), short_episode(), empty_episode(), failed_episode()])
    np.testing.assert_allclose(scores, [-25.0, -80 / 3, -10.0, -10.0])
    np.testing.assert_allclose(costs_usd, [0.4, 1.3 / 3, 1.9 / 3, 2.0 / 3])


def test_by_turn_of_nothing_is_empty():
    assert model_share_by_turn([empty_episode()], MODELS).shape == (0, 3)
    assert running_share_by_turn([]).shape == (0,)
    assert cumulative_by_turn([empty_episode()])[0].shape == (0,)


def test_a_failed_episode_is_never_scored():
    with pytest.raises(ResultsError, match="status is 'failed', must be 'completed'"):
        episode_metrics(failed_episode(), REWARD)
    with pytest.raises(ResultsError, match="none of its 1 episodes was completed"):
        metrics_of(failed_episode())


def test_repeated_keys_and_unknown_models_are_refused():
    with pytest.raises(ResultsError, match=r"policy 'hand'.*appear more than once, such as \('boil', 0, 0\)"):
        metrics_of(long_episode(), long_episode())
    with pytest.raises(UnknownNameError, match="unknown model 'tinny'; did you mean 'tiny'"):
        metrics_of(make_episode([make_turn("tinny")]))
    with pytest.raises(UnknownNameError, match="unknown model 'tinny'"):
        model_share_by_turn([make_episode([make_turn("tinny")])], MODELS)
