import pytest

from mtrouter_rl.cards import load_pool_card
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.datasets.info import DatasetInfo
from mtrouter_rl.datasets.logged import logged_env
from mtrouter_rl.envs.factory import build_env
from mtrouter_rl.errors import InvalidConfigError


def make_info():
    pool = load_pool_card("corridor-three")
    return DatasetInfo(
        dataset_id="mine-v1",
        env="mine",
        pool_name=pool.name,
        models=pool.models,
        prompt_cache=None,
        behavior_policy="mixed",
        split="train",
        seed=0,
        n_episodes_planned=1,
        max_turns=7,
        budget_usd=3.0,
        is_simulated=False,
        package_version="0",
        created_by={},
        origin="imported",
    )


def test_it_is_what_the_log_says():
    info = make_info()
    config = logged_env(info, cost_weight=0.5, cost_unit_usd=0.1)
    assert (config.card.name, config.limits.max_turns, config.limits.budget_usd) == ("mine", 7, 3.0)
    assert config.reward.reward(1.0, 0.1) == pytest.approx(0.5)
    assert isinstance(config.pool, PoolCard)
    info.check_pool(config.pool)


def test_it_cannot_be_run():
    with pytest.raises(InvalidConfigError, match="environment 'mine' is a log, it cannot be run"):
        build_env(logged_env(make_info(), cost_weight=0.5, cost_unit_usd=0.1))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((-1.0, 1.0), "cost_weight is -1.0"),
        ((1.0, 0.0), r"cost_unit_usd is 0\.0"),
        ((float("nan"), 1.0), "cost_weight"),
    ],
)
def test_bad_numbers(numbers, message):
    with pytest.raises(InvalidConfigError, match=message):
        logged_env(make_info(), cost_weight=numbers[0], cost_unit_usd=numbers[1])
