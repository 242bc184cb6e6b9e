"""The environment of an imported log: enough to train on it and to look at it, and no game behind it that could be run."""

from typing import NoReturn

from mtrouter_rl.cards import EnvCard, LimitsCard, RewardCard, SplitCard
from mtrouter_rl.cards.pool import BackendCard, PoolCard, TokenCounter
from mtrouter_rl.datasets.info import DatasetInfo
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.envs.routing import EpisodeLimits
from mtrouter_rl.errors import InvalidConfigError

LOG_ONLY = "log_only"


def logged_env(info: DatasetInfo, *, cost_weight: float, cost_unit_usd: float) -> EnvConfig:
    """Configuration of the environment that a log came from, as far as the log knows it.

    Args:
        info: The log's info.
        cost_weight: Price of one cost unit in utility, at least 0.
        cost_unit_usd: USD of one cost unit, above 0.

    Raises:
        InvalidConfigError: If a number is out of range.
    """
    if not 0 <= cost_weight < float("inf"):
        raise InvalidConfigError(f"cost_weight is {cost_weight}, must be a finite number of at least 0")
    if not 0 < cost_unit_usd < float("inf"):
        raise InvalidConfigError(f"cost_unit_usd is {cost_unit_usd}, must be a finite number above 0")
    n_output = max(model.max_output_tokens for model in info.models)
    card = EnvCard(
        name=info.env,
        description=f"Log '{info.dataset_id}'; it can be learned from, not run.",
        family=LOG_ONLY,
        pool=info.pool_name,
        system_prompt="",
        train_tasks={"(logged)": 1},
        splits=SplitCard(variations_per_task=1, train=0.6, validation=0.2, seed=0),
        limits=LimitsCard(max_turns=info.max_turns, budget_usd=info.budget_usd, max_output_tokens=n_output),
        reward=RewardCard(cost_weight=cost_weight, cost_unit_usd=cost_unit_usd),
    )
    limits = EpisodeLimits(max_turns=info.max_turns, budget_usd=info.budget_usd, max_output_tokens=n_output)
    return EnvConfig(card=card, pool=logged_pool(info), limits=limits, reward=card.reward)


def logged_pool(info: DatasetInfo) -> PoolCard:
    """Pool that a log was priced with."""
    return PoolCard(
        name=info.pool_name,
        description=f"Models and prices of log '{info.dataset_id}'.",
        models=info.models,
        token_counter=TokenCounter(kind="characters"),
        prompt_cache=info.prompt_cache,
        backend=BackendCard(kind=LOG_ONLY),
    )


def make_task(card: EnvCard) -> NoReturn:
    """Refuse to run a log.

    Raises:
        InvalidConfigError: Always.
    """
    raise InvalidConfigError(
        f"environment '{card.name}' is a log, it cannot be run; estimate routers from the log with "
        "'mtrouter-rl study-log', or give an environment card with a simulator behind it"
    )


def make_backend(pool: PoolCard, env: EnvCard) -> NoReturn:
    """Refuse to call the models of a log.

    Raises:
        InvalidConfigError: Always.
    """
    raise InvalidConfigError(
        f"pool '{pool.name}' (environment '{env.name}') has the prices of a log and nobody who answers; "
        "give a pool card whose backend can be called"
    )
