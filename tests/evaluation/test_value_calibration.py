from dataclasses import replace

import numpy as np
import pytest

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.errors import ResultsError, UnknownNameError
from mtrouter_rl.evaluation.value_calibration import N_BINS, ValueMeaning, calibrate
from mtrouter_rl.records import TracedEpisode
from mtrouter_rl.reporting.calibration_plots import calibration_figure
from tests.cases.evaluation_cases import MODELS, make_episode, make_turn

UTILITY_ONLY = RewardCard(cost_weight=0.0, cost_unit_usd=1.0)
PRICED = RewardCard(cost_weight=0.5, cost_unit_usd=2.0)


def hand_made(end="both", gains=(0.0, 0.5, 0.5), models=("big", "tiny", "big"), **rest):
    turns = [make_turn(model, gain=gain, cost_usd=0.4) for model, gain in zip(models, gains, strict=True)]
    turns[-1] = make_turn(models[-1], gain=gains[-1], cost_usd=0.4, end=end)
    return make_episode(turns, **rest)


def asked(episode, called_values):
    """The episode with these Q-values of the called models, and 9 for all others."""
    values = np.full((len(episode.turns), len(MODELS)), 9.0)
    for turn, (name, value) in enumerate(zip(episode.models, called_values, strict=True)):
        values[turn, MODELS.index(name)] = value
    return TracedEpisode(episode=episode, q_values=values)


def calibration_of(traced, *, gamma, reward=UTILITY_ONLY):
    meaning = ValueMeaning(gamma=gamma, reward=reward)
    return calibrate(traced, meaning, model_names=MODELS, seed=0)


@pytest.mark.parametrize("end", ["terminated", "truncated", "both"])
@pytest.mark.parametrize(
    ("gamma", "reward", "achieved"),
    [
        (1.0, UTILITY_ONLY, [1.0, 1.0, 0.5]),
        (0.5, UTILITY_ONLY, [0.375, 0.75, 0.5]),
        (0.0, UTILITY_ONLY, [0.0, 0.5, 0.5]),
        (1.0, PRICED, [0.7, 0.8, 0.4]),  # each turn costs 0.5 * 0.4 / 2 = 0.1
    ],
)
def test_predictions_that_come_true_are_calibrated(end, gamma, reward, achieved):
    found = calibration_of([asked(hand_made(end), achieved)], gamma=gamma, reward=reward)
    assert found.overestimation.value == pytest.approx(0.0, abs=1e-12)
    assert found.error == pytest.approx(0.0, abs=1e-12)
    assert (found.gamma, found.n_turns, found.n_episodes) == (gamma, 3, 1)


def test_over_estimation_is_the_mean_over_turns_of_episodes_of_unequal_length():
    short = make_episode([make_turn("tiny", gain=1.0, end="terminated")], variation=1)
    found = calibration_of([asked(hand_made(), [1.5, 1.0, 0.5]), asked(short, [0.5])], gamma=1.0)
    assert found.overestimation.value == pytest.approx((0.5 + 0 + 0 - 0.5) / 4)
    assert found.overestimation.n_clusters == 2
    # Predictions 1.5, 1, 0.5 and 0.5 against 1, 1, 0.5 and 1: the two turns of 0.5 share a bin.
    assert [one.predicted for one in found.bins] == pytest.approx([0.5, 1.0, 1.5])
    assert [one.achieved.value for one in found.bins] == pytest.approx([0.75, 1.0, 1.0])
    assert found.error == pytest.approx((2 * 0.25 + 0 + 0.5) / 4)


def drawn(bias, n_episodes=60):
    rng = np.random.default_rng(5)
    traced = []
    for index in range(n_episodes):
        gains = rng.normal(size=int(rng.integers(1, 6)))
        models = [MODELS[model] for model in rng.integers(3, size=len(gains))]
        episode = hand_made(gains=tuple(gains), models=tuple(models), variation=index // 2, seed=index)
        to_go = np.cumsum(gains[::-1])[::-1]
        traced.append(asked(episode, to_go + bias))
    return traced


def test_a_constant_bias_is_found_and_its_interval_holds_it():
    found = calibration_of(drawn(0.3), gamma=1.0)
    assert found.overestimation.value == pytest.approx(0.3)
    assert found.overestimation.ends == pytest.approx((0.3, 0.3))
    assert found.error == pytest.approx(0.3)
    assert len(found.bins) == N_BINS
    assert all(one.achieved.low < one.achieved.value < one.achieved.high for one in found.bins)
    predictions = [one.predicted for one in found.bins]
    assert predictions == sorted(predictions)


def test_episodes_without_values_and_failed_ones_are_left_out():
    plain = TracedEpisode(episode=hand_made())
    failed = asked(hand_made(status="failed"), [9.0, 9.0, 9.0])
    assert calibration_of([plain, failed], gamma=1.0) is None
    found = calibration_of([plain, failed, asked(hand_made(), [1.0, 1.0, 0.5])], gamma=1.0)
    assert found.n_episodes == 1


def test_values_of_another_pool_are_refused():
    one = asked(hand_made(), [1.0, 1.0, 0.5])
    with pytest.raises(ResultsError, match=r"q_values have shape \(3, 2\), must be \(3, 3\)"):
        calibration_of([replace(one, q_values=one.q_values[:, :2])], gamma=1.0)
    turns = (*one.episode.turns[:2], replace(one.episode.turns[2], model="huge"))
    with pytest.raises(UnknownNameError, match="unknown model 'huge'"):
        calibration_of([replace(one, episode=replace(one.episode, turns=turns))], gamma=1.0)


def test_the_figure_says_what_is_compared():
    found = calibration_of(drawn(0.3), gamma=0.9)
    figure = calibration_figure(found, title="fitted-q, test split")
    title = figure.get_suptitle()
    assert title.startswith("fitted-q, test split\npredicted minus achieved +")
    assert f"discount 0.9 on both sides; {found.n_turns} turns of 60 episodes" in title
    axes = figure.axes[0]
    assert "discount 0.9" in axes.get_xlabel()
    assert "discount 0.9" in axes.get_ylabel()
    points = next(line for line in axes.lines if len(line.get_xdata()) == len(found.bins))
    assert list(points.get_ydata()) == [one.achieved.value for one in found.bins]
    identity = next(line for line in axes.lines if line.get_label() == "prediction comes true")
    assert list(identity.get_xdata()) == list(identity.get_ydata())
