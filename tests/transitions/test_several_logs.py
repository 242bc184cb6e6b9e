"""Agents that learn from logs of several environments: what they learn, and what they remember of it."""

from dataclasses import replace

import numpy as np
import pytest

from mtrouter_rl.agents.loading import load_router, save_router
from mtrouter_rl.agents.q.behavior_cloning import _best
from mtrouter_rl.agents.saving import Provenance
from mtrouter_rl.cards import RewardCard
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import PoolMismatchError, RouterError
from mtrouter_rl.registry import ALGORITHMS
from mtrouter_rl.transitions.arrays import TrainingLog, join_transitions
from tests.cases.routing_toy import (
    JOINT,
    POOL,
    TINY,
    StateFeatures,
    make_card,
    make_context,
    make_dataset,
    make_episode,
    make_observation,
    make_pool,
    make_turn,
    uniform_log,
)

SEVERAL = [name for name in sorted(ALGORITHMS.builtin) if ALGORITHMS.load(name).takes_several_logs]
OTHER_REWARD = RewardCard(cost_weight=0.1, cost_unit_usd=0.5)


def of_env(dataset, env):
    info = dataset.info.model_copy(update={"env": env, "dataset_id": f"{env}-v1"})
    return Dataset(info=info, episodes=dataset.episodes)


def log_of(dataset, reward=OTHER_REWARD):
    return TrainingLog(dataset=dataset, reward=reward, features=StateFeatures())


def two_logs(**changes):
    other = of_env(uniform_log(n_episodes=20, seed=1), "other")
    return replace(make_context(uniform_log(n_episodes=40)), more_logs=(log_of(other),), **changes)


def test_those_that_learn_from_turns_take_several_logs():
    assert SEVERAL == ["behavior_cloning", "fitted_q", "monte_carlo_q", "myopic"]


@pytest.mark.parametrize("name", SEVERAL)
def test_a_router_remembers_all_its_logs(name, tmp_path):
    context = two_logs()
    save_router(ALGORITHMS.load(name).from_card(make_card(name, **TINY[name])).train(context), tmp_path)
    kept = load_router(tmp_path, pool=POOL, make_features=lambda _: StateFeatures()).provenance
    logs = (context.dataset, context.more_logs[0].dataset)
    assert kept.dataset_ids == ("toy-v1", "other-v1")
    assert kept.envs == (logs[0].info.env, "other")
    assert all(kept.is_of(log.info) for log in logs)
    assert not kept.is_of(logs[1].info.model_copy(update={"seed": 9}))
    assert kept.reward_in(logs[0].info.env) == context.reward
    assert kept.reward_in("other") == OTHER_REWARD
    assert kept.reward_in("elsewhere") is None


def test_a_router_of_one_log_keeps_its_reward_everywhere():
    provenance = Provenance(card=make_card("fitted_q"), seed=0, dataset_id="a-v1", env="a", reward=OTHER_REWARD)
    assert provenance.reward_in("b") == OTHER_REWARD
    assert Provenance(card=make_card("fitted_q"), seed=0).envs == ()


def test_what_money_is_worth_is_learned_for_each_environment():
    """Two states, one an environment each; the dear model gains 0.5 more for 0.3 USD, which is worth it in the second alone."""

    def log(state):
        episodes = [
            make_episode(
                [make_turn(model, state=state, next_state=3, gain=gain, cost=cost, terminated=True)],
                index=index,
                start=state,
            )
            for index, (model, gain, cost) in enumerate([(0, 0.3, 0.0), (2, 0.8, 0.3)] * 10)
        ]
        return make_dataset(episodes)

    dear, cheap = RewardCard(cost_weight=1.0, cost_unit_usd=0.1), RewardCard(cost_weight=1.0, cost_unit_usd=10.0)
    context = replace(make_context(log(0)), reward=dear, more_logs=(log_of(of_env(log(1), "other"), cheap),))
    loop = {"n_iterations": 4, "steps_per_iteration": 60, "batch_size": 64, "learning_rate": 5e-3, "keep_last": 1}
    router = ALGORITHMS.load("myopic").from_card(make_card("myopic", **JOINT, **loop)).train(context)
    values = router.q_values([make_observation(0), make_observation(1)])
    assert values[0, [0, 2]] == pytest.approx([0.3, -2.2], abs=0.15)
    assert values[1, [0, 2]] == pytest.approx([0.3, 0.77], abs=0.15)


def test_the_best_episodes_are_those_of_every_environments_tasks():
    def episodes(gains):
        return make_dataset(
            [
                make_episode([make_turn(0, state=0, next_state=3, gain=gain, cost=0.0, terminated=True)], index=index)
                for index, gain in enumerate(gains)
            ]
        )

    datasets = (episodes([0.1, 0.2]), of_env(episodes([0.9, 0.8]), "other"))  # the same task in both
    laid_out = join_transitions([log_of(one) for one in datasets], gamma=1.0, log_shares="equal")
    assert _best(datasets, laid_out, share=0.5).tolist() == [False, True, True, False]


def test_logs_with_other_models_are_refused():
    other = of_env(make_dataset(uniform_log(n_episodes=5).episodes, make_pool(("small", "large", "middle"))), "other")
    context = replace(make_context(uniform_log(n_episodes=5)), more_logs=(log_of(other),))
    with pytest.raises(
        PoolMismatchError, match=r"'toy-v1' .* and 'other-v1' .* cannot train one router: order of models"
    ):
        ALGORITHMS.load("myopic").from_card(make_card("myopic", **TINY["myopic"])).train(context)


def test_a_checkpoint_of_other_logs_or_shares_is_refused(tmp_path):
    algorithm = ALGORITHMS.load("myopic").from_card(make_card("myopic", **TINY["myopic"]))
    algorithm.train(two_logs(checkpoint_folder=tmp_path))
    with pytest.raises(RouterError, match=r"another training: log_shares is 'equal' there and 'by-turns' here"):
        algorithm.train(two_logs(checkpoint_folder=tmp_path, log_shares="by-turns"))
    with pytest.raises(RouterError, match=r"another training: .*more_logs is \[{.*'env': 'other'"):
        algorithm.train(replace(two_logs(checkpoint_folder=tmp_path), more_logs=()))


def test_equal_seeds_give_equal_weights():
    algorithm = ALGORITHMS.load("fitted_q").from_card(make_card("fitted_q", **TINY["fitted_q"]))
    first, second = algorithm.train(two_logs()), algorithm.train(two_logs())
    observations = [make_observation(state) for state in range(3)]
    np.testing.assert_array_equal(first.q_values(observations), second.q_values(observations))
