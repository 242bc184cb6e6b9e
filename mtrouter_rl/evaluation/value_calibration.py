"""Whether a router's Q-values come true: predicted against achieved return-to-go, in its own closed-loop episodes.

At every turn the router predicted a return for the model that it called; what the episode went on to earn is the
achievement. Both are discounted by the router's own discount factor, so that like is compared with like.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.errors import ResultsError, unknown_name
from mtrouter_rl.records import Episode, FloatArray, TracedEpisode
from mtrouter_rl.statistics.cluster_bootstrap import mean_estimate
from mtrouter_rl.statistics.estimate import Estimate
from mtrouter_rl.transitions.arrays import discounted_returns

N_BINS = 10
"""Bins of the prediction, each with about as many turns as the others; fewer where predictions repeat."""
N_RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class ValueMeaning:
    """What the Q-values of a router are values of.

    Attributes:
        gamma: Discount factor.
        reward: Cost weight and unit of the reward.
    """

    gamma: float
    reward: RewardCard


@dataclass(frozen=True, kw_only=True)
class CalibrationBin:
    """Turns of about the same prediction.

    Attributes:
        predicted: Mean prediction.
        achieved: Mean achievement, with its interval over (task, variation); `n_episodes` in it counts turns.
    """

    predicted: float
    achieved: Estimate


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How far predictions come true.

    Attributes:
        gamma: Discount factor of both sides.
        n_turns: Turns behind it.
        n_episodes: Episodes behind it.
        bins: In rising order of prediction.
        overestimation: Predicted minus achieved, mean over turns, with its interval over (task, variation).
        error: Distance between mean prediction and mean achievement of a bin, averaged over the turns. 0 is perfect; few
            turns make it too large.
    """

    gamma: float
    n_turns: int
    n_episodes: int
    bins: tuple[CalibrationBin, ...]
    overestimation: Estimate
    error: float


def calibrate(
    traced: Sequence[TracedEpisode], meaning: ValueMeaning, *, model_names: Sequence[str], seed: int
) -> Calibration | None:
    """Compare predicted with achieved returns-to-go.

    Args:
        traced: Episodes of one policy; those without action values, and failed ones, are left out.
        meaning: What the values are values of.
        model_names: Names of the pool, in pool order, length M.
        seed: Seed of the resamples.

    Returns:
        None if no episode has action values.

    Raises:
        ResultsError: If action values do not have shape (T, M).
        UnknownNameError: If a turn's model is not in the pool.

    Source: the error is the expected calibration error of Guo et al., On Calibration of Modern Neural Networks (2017),
    equation 3, with returns in place of accuracies, and bins of equal mass instead of equal width.
    """
    asked = [one for one in traced if one.q_values is not None and one.episode.turns]
    asked = [one for one in asked if one.episode.status == "completed"]
    if not asked:
        return None
    predicted = np.concatenate([_predictions(one, model_names) for one in asked])
    achieved = np.concatenate([_achievements(one.episode, meaning) for one in asked])
    clusters = [(one.episode.task, one.episode.variation) for one in asked for _ in one.episode.turns]
    bins, members = _bins(predicted, achieved, clusters, seed=seed)
    gaps = [abs(one.predicted - one.achieved.value) for one in bins]
    return Calibration(
        gamma=meaning.gamma,
        n_turns=len(predicted),
        n_episodes=len(asked),
        bins=bins,
        overestimation=mean_estimate(predicted - achieved, clusters, seed=seed, n_resamples=N_RESAMPLES),
        error=float(np.average(gaps, weights=members)),
    )


def _predictions(traced: TracedEpisode, model_names: Sequence[str]) -> FloatArray:
    """Q-value of the called model at every turn, shape (T,)."""
    episode, values = traced.episode, traced.q_values
    shape = (len(episode.turns), len(model_names))
    if values is None or values.shape != shape:
        raise ResultsError(
            f"episode '{episode.episode_id}': q_values have shape {None if values is None else values.shape}, must be "
            f"{shape} (turns, models); give the pool that the episode was run with"
        )
    index = {name: position for position, name in enumerate(model_names)}
    for name in episode.models:
        if name not in index:
            raise unknown_name("model", name, model_names, fix="Give the pool that the episode was run with")
    called: FloatArray = values[np.arange(len(values)), [index[name] for name in episode.models]]
    return called.astype(np.float64)


def _achievements(episode: Episode, meaning: ValueMeaning) -> FloatArray:
    rewards = np.array([meaning.reward.reward(turn.utility_gain, turn.cost_usd) for turn in episode.turns])
    return discounted_returns(rewards, meaning.gamma)


def _bins(
    predicted: FloatArray, achieved: FloatArray, clusters: Sequence[tuple[str, int]], *, seed: int
) -> tuple[tuple[CalibrationBin, ...], tuple[int, ...]]:
    """Bins between the quantiles of the prediction, and how many turns each has."""
    edges = np.unique(np.quantile(predicted, np.linspace(0, 1, N_BINS + 1)[1:-1]))
    numbers = np.digitize(predicted, edges)
    bins, members = [], []
    for number in np.unique(numbers):
        inside = np.flatnonzero(numbers == number)
        interval = mean_estimate(
            achieved[inside], [clusters[index] for index in inside.tolist()], seed=seed, n_resamples=N_RESAMPLES
        )
        bins.append(CalibrationBin(predicted=float(predicted[inside].mean()), achieved=interval))
        members.append(len(inside))
    return tuple(bins), tuple(members)
