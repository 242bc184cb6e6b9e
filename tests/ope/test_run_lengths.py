import numpy as np
import pytest

from mtrouter_rl.ope.run_lengths import call_runs
from mtrouter_rl.ope.trajectory_arrays import TurnLog

N_TURNS = 20


def make_log(n_episodes, *, propensities=True, n_models=3, seed=0, once=False):
    """Uniform: a model drawn at every turn, or once an episode."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(n_models, size=(n_episodes, 1 if once else N_TURNS))
    actions = np.broadcast_to(drawn, (n_episodes, N_TURNS)).ravel()
    return TurnLog(
        lengths=np.full(n_episodes, N_TURNS),
        actions=actions,
        propensities=np.full(len(actions), 1 / n_models) if propensities else None,
        rewards=np.zeros((len(actions), 1)),
        clusters=np.arange(n_episodes),
        n_models=n_models,
    )


def always(log, model=1):
    return np.eye(log.n_models)[np.full(len(log.actions), model)]


def staying(log, probability):
    """Keeps the logged model of the turn before, or draws one of the others."""
    others = (1 - probability) / (log.n_models - 1)
    before = np.roll(log.actions, 1)
    return np.where(np.arange(log.n_models) == before[:, None], probability, others)


@pytest.mark.parametrize("propensities", [True, False])
def test_one_model_throughout_is_beyond_what_a_uniform_log_holds(propensities):
    log = make_log(100, propensities=propensities)
    found = call_runs(log, always(log))
    assert found.stay_probability == 1
    # 2,000 turns; the k-th or a later one of a run are 3^(1 - k) of them: 74 for k = 4, 25 for k = 5.
    assert found.longest_logged == 4
    assert found.beyond_share == pytest.approx((N_TURNS - 4) / N_TURNS)


def test_the_logging_policy_itself_is_hardly_ever_beyond():
    log = make_log(100)
    found = call_runs(log, np.full((len(log.actions), 3), 1 / 3))
    assert found.stay_probability == pytest.approx(1 / 3)
    assert found.beyond_share == pytest.approx((1 / 3) ** 4 * (N_TURNS - 4) / N_TURNS)


def test_a_log_of_one_model_an_episode_holds_every_run():
    log = make_log(100, once=True)
    found = call_runs(log, always(log))
    assert found.longest_logged == N_TURNS
    assert found.beyond_share == 0


def test_the_stay_probability_is_that_after_the_policys_own_choices():
    log = make_log(500)
    assert call_runs(log, staying(log, 0.8)).stay_probability == pytest.approx(0.8)
    # Stays with model 1 and never chooses model 0. Turns after model 1 have weights 1/9 and 1/9 and stay for sure, those after
    # model 2 have 1/9 and stay half the time.
    mixed = np.where((np.roll(log.actions, 1) == 1)[:, None], [0.0, 1.0, 0.0], [0.0, 0.5, 0.5])
    assert call_runs(log, mixed).stay_probability == pytest.approx(5 / 6, abs=0.02)


def test_a_log_without_any_run_to_speak_of():
    log = make_log(1)
    assert call_runs(log, always(log)).longest_logged == 1
    assert call_runs(log, np.eye(3)[(log.actions + 1) % 3]).stay_probability == 0
