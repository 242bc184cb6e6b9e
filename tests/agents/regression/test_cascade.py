"""The cascade: its finite-sample quantile, and that the promised share of failing episodes is escalated."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.regression.cascade import Cascade
from mtrouter_rl.agents.regression.conformal import conformal_rank, conformal_threshold
from mtrouter_rl.embeddings.history_sources import observations_of
from mtrouter_rl.errors import InvalidConfigError
from tests.cases.routing_toy import (
    POOL,
    REWARD,
    StateFeatures,
    make_card,
    make_dataset,
    make_episode,
    make_observation,
    make_turn,
    uniform_log,
)


class LevelFeatures:
    """Scripted features: the number in the last observation, with no ties."""

    dim = 1
    blocks: ClassVar = {"scalars": slice(0, 1)}

    def of_episode(self, episode):
        texts = [episode.first_observation, *(turn.observation_text for turn in episode.turns)]
        return np.array([[float(text)] for text in texts], dtype=np.float32)

    def of_observations(self, observations):
        last = [
            one["history"][-1]["observation"] if one["history"] else one["first_observation"] for one in observations
        ]
        return np.array([[float(text)] for text in last], dtype=np.float32)

    def encode_log(self, episodes, *, show_progress):
        pass

    def to_config(self):
        return {}


def played_by(model, n_episodes, rng, *, first=0):
    """Episodes of 1 to 4 turns of one model. The levels shown tell a little of whether it will succeed."""
    episodes = []
    for index in range(first, first + n_episodes):
        succeeds, n_turns = rng.random() < 0.5, int(rng.integers(1, 5))
        levels = rng.normal(loc=0.7 * succeeds, size=n_turns + 1)
        turns = []
        for turn, level in enumerate(levels[1:]):
            is_last = turn == n_turns - 1
            made = make_turn(
                model, state=0, next_state=0, gain=float(succeeds and is_last), cost=0.1, terminated=is_last
            )
            turns.append(replace(made, observation_text=f"{level:.6f}"))
        episodes.append(replace(make_episode(turns, index=index), first_observation=f"{levels[0]:.6f}"))
    return episodes


def train(episodes, *, seed=0, validate=None, features=None, **parameters):
    card = make_card("cascade", **({"ladder": ["small", "large"]} | parameters))
    context = TrainingContext(
        pool=POOL,
        reward=REWARD,
        seed=seed,
        dataset=make_dataset(episodes),
        features=features or LevelFeatures(),
        validate=validate,
    )
    return Cascade.from_card(card).train(context)


def is_escalated(router, episode):
    return bool(router.rungs(observations_of(episode, POOL)).any())


def test_the_rank_is_that_of_the_finite_sample():
    assert [conformal_rank(n, 0.1) for n in (8, 9, 10, 19, 99, 100)] == [9, 9, 10, 18, 90, 91]
    assert conformal_rank(9, 0.3) == 7
    scores = np.array([0.4, 0.1, 0.3, 0.2])
    assert conformal_threshold(scores, alpha=0.2, what="x") == 0.4
    assert conformal_threshold(scores, alpha=0.5, what="x") == 0.3


def test_too_few_scores_are_an_error():
    with pytest.raises(InvalidConfigError, match=r"held out: 8 scores with alpha 0\.1, must be at least 9; log more"):
        conformal_threshold(np.zeros(8), alpha=0.1, what="held out")


@pytest.mark.parametrize(("n_scores", "alpha"), [(9, 0.1), (24, 0.1), (30, 0.25)])
def test_coverage_of_exchangeable_scores_is_what_the_rank_says(n_scores, alpha):
    """P(further <= threshold) is exactly rank / (n + 1) for continuous scores, which is between 1-a and 1-a+1/(n+1)."""
    rng, n_draws = np.random.default_rng(0), 4000
    draws = rng.standard_cauchy(size=(n_draws, n_scores + 1))
    covered = [row[-1] <= conformal_threshold(row[:-1], alpha=alpha, what="x") for row in draws]
    exact = conformal_rank(n_scores, alpha) / (n_scores + 1)
    assert 1 - alpha <= exact <= 1 - alpha + 1 / (n_scores + 1)
    assert np.mean(covered) == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / n_draws))


def test_the_promised_share_of_failing_episodes_is_escalated():
    """Over many draws of a log and of new episodes; the score is weak, and the guarantee does not need it to be good."""
    rng, alpha, escalated, kept = np.random.default_rng(1), 0.2, [], []
    for repeat in range(60):
        router = train(played_by(0, 80, rng), alpha=alpha, seed=repeat)
        for episode in played_by(0, 40, rng, first=1000):
            (kept if episode.utility == 1 else escalated).append(is_escalated(router, episode))
    share, error = np.mean(escalated), np.sqrt(alpha * (1 - alpha) / 60)
    assert share >= 1 - alpha - 0.02
    assert share <= 1 - alpha + 1 / 15 + error
    assert np.mean(kept) < share - 0.1


def test_an_episode_is_escalated_once_its_score_is_at_the_threshold_and_stays_there():
    router = train(played_by(0, 200, np.random.default_rng(0)))
    threshold, coefficients = router.settings.thresholds[0], router.weights["coefficients"].numpy()[0]
    level = (threshold - coefficients[1]) / coefficients[0]
    assert coefficients[0] > 0

    def rung(shown, models=()):
        history = tuple({"model": m, "action": "a", "observation": f"{shown}", "error": ""} for m in models)
        return int(router.rungs([make_observation() | {"first_observation": f"{shown}", "history": history}])[0])

    assert rung(level + 0.01) == 0
    assert rung(level - 0.01) == 1
    assert rung(level + 9.0, models=(0, 2)) == 1
    assert rung(level + 9.0, models=(0, 1)) == 0
    assert router.settings.calibrated_on == "episodes"
    assert router.settings.n_calibration[0] > 20


def test_a_variation_is_either_learned_from_or_calibrated_on():
    episodes = played_by(0, 40, np.random.default_rng(0))
    units = [("task", index // 4) for index in range(40)]
    held_out = Cascade.from_card(make_card("cascade", calibration_share=0.3))._is_calibration(units, seed=0)
    assert held_out.reshape(10, 4).all(axis=1).sum() == 3
    assert held_out.sum() == 12
    assert len(episodes) == len(units)


def test_rungs_have_scores_of_their_own():
    rng = np.random.default_rng(0)
    episodes = [*played_by(0, 100, rng), *played_by(1, 100, rng, first=100)]
    router = train(episodes, ladder=["small", "middle", "large"])
    assert len(router.settings.thresholds) == 2
    assert router.weights["coefficients"].shape == (2, 2)
    deep = make_observation(models=(0, 1)) | {"first_observation": "0"}
    deep["history"] = tuple(turn | {"observation": "-99"} for turn in deep["history"])
    assert router.rungs([deep]).tolist() == [2]


def test_a_ladder_of_one_model_calls_it_throughout(tmp_path):
    router = train(played_by(0, 10, np.random.default_rng(0)), ladder=[], validate=lambda routers: [1.0] + [0.0] * 2)
    observation = make_observation() | {"first_observation": "-99"}
    assert router.action_probabilities([observation]).tolist() == [[1, 0, 0]]
    router.save(tmp_path)


def test_too_few_episodes_are_named():
    with pytest.raises(
        InvalidConfigError,
        match=r"'test-cascade', dataset 'toy-v1', model 'small': nothing to learn a score from, must .*single:small",
    ):
        train(played_by(1, 20, np.random.default_rng(0)))
    with pytest.raises(InvalidConfigError, match=r"'small', failed episodes held out for calibration: \d scores with"):
        train(played_by(0, 20, np.random.default_rng(0)), alpha=0.05)


def test_logs_of_changing_models_are_taken_if_the_card_says_so():
    log = uniform_log(100).episodes
    router = train(log, features=StateFeatures(), learns_from="auto", success_utility=0.5, alpha=0.2)
    assert router.settings.calibrated_on == "turns"
