"""A made-up evaluation with clusters of unequal size, and the point estimates that are worked out from it."""

import numpy as np

from mtrouter_rl.evaluation.frontier_comparison import (
    Frontier,
    area_under_frontier,
    cost_at_equal_score,
    score_at_equal_cost,
    share_of_headroom,
)
from mtrouter_rl.ope.bandit import EpisodeLog, estimate_policies
from mtrouter_rl.ope.sequential import Values, estimate
from mtrouter_rl.studies.ope_coverage.tabular import TabularTask
from tests.cases.evaluation_cases import MODELS, REWARD, make_traced

ROW_NUMBERS = (
    "score_mean",
    "utility_mean",
    "cost_usd_mean",
    "cost_usd_total",
    "return_mean",
    "hull_gain",
    "cost_saved_share",
)


def made_up_traced(**rest):
    """Policy -> its traced episodes; tasks have 3, 4 and 5 variations of 1 to 3 seeds."""
    traced = make_traced(n_variations=5, n_seeds=3, **rest)
    sizes = {"boil": 3, "melt": 4, "find": 5}
    return {
        policy: [
            one
            for one in many
            if one.episode.variation < sizes[one.episode.task] and one.episode.seed <= one.episode.variation % 3
        ]
        for policy, many in traced.items()
    }


def made_up_episodes():
    """Policy -> its episodes."""
    return {policy: [one.episode for one in many] for policy, many in made_up_traced().items()}


def numbers_of_rows(rows) -> dict[str, float | None]:
    found = {}
    for row in rows:
        found |= {f"{row.policy}.{name}": getattr(row, name) for name in ROW_NUMBERS}
        for name, paired in row.paired.items():
            for quantity in ("score", "cost_usd", "return_"):
                one = getattr(paired, quantity)
                found[f"{row.policy}-{name}.{quantity}"] = one.value
    return found


def numbers_of_frontiers(resamples) -> dict[str, float]:
    frontier = Frontier(name="learned", policies=("fitted-q", "behavior-cloning", "random"), anchor="tiny")
    found = {
        f"{name} at equal cost": one.value
        for name, one in score_at_equal_cost(resamples, frontier, ("middle", "big", "tiny")).items()
    }
    for name, one in cost_at_equal_score(resamples, frontier, ("middle", "tiny")).items():
        found |= {f"{name}.saved_usd": one.saved_usd.value, f"{name}.cost_ratio": one.cost_ratio.value}
    found["area"] = area_under_frontier(resamples, frontier, cheapest="tiny", dearest="big").value
    headroom = share_of_headroom(
        resamples, "fitted-q", single_models=MODELS, reference="random", reward=REWARD, asked_share=0.5
    )
    return found | {"headroom.gap": headroom.gap.value, "headroom.gain": headroom.gain.value}


def numbers_of_ope() -> dict[str, float]:
    task = TabularTask.random(np.random.default_rng(1))
    logs = task.simulate(1, 40, rng=np.random.default_rng(0), cluster_size=2)
    log, policy = logs.log(0), task.random_policy(np.random.default_rng(2))[logs.states]
    rng = np.random.default_rng(5)
    values = Values(logged=rng.normal(size=log.rewards.shape), states=rng.normal(size=log.rewards.shape))
    found = {
        f"{name}.{column}": float(value)
        for name, one in estimate(log, policy, values=values, seed=0, n_resamples=100).items()
        for column, value in enumerate(one.value)
    }
    bandit = EpisodeLog(
        strata=tuple(f"task{i % 3}" for i in range(60)),
        actions=rng.integers(3, size=60),
        outcomes=rng.normal(size=(60, 3)),
        n_models=3,
    )
    policies = {"first": rng.dirichlet([1, 1, 1], 60), "second": rng.dirichlet([3, 1, 1], 60)}
    q_values = rng.normal(size=(60, 3, 3))
    for name, one in estimate_policies(bandit, policies, q_values=q_values, seed=0, n_resamples=100).items():
        for kind in ("ips", "snips", "dr"):
            found |= {f"{name}.{kind}.{i}": float(value) for i, value in enumerate(getattr(one, kind))}
    return found
