"""Episodes and results made by hand or drawn from a seed, for the tests of evaluation."""

import datetime
from collections.abc import Sequence

import numpy as np

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.cards.pool import BackendCard, ModelCard, PoolCard, Prices, TokenCounter
from mtrouter_rl.evaluation.behavior import BehaviorSetting, behavior_row
from mtrouter_rl.evaluation.behavior_file import Behavior
from mtrouter_rl.evaluation.result_rows import Comparison, build_rows
from mtrouter_rl.evaluation.results import PolicyRoles, ResultRow, Results
from mtrouter_rl.ope.record import Estimated, OpeReport, PolicyReport
from mtrouter_rl.records import Episode, TokenUsage, TracedEpisode, Turn

MODELS = ("tiny", "middle", "big")
REWARD = RewardCard(cost_weight=0.5, cost_unit_usd=2.0)
SKILL = {"tiny": 0.15, "middle": 0.3, "big": 0.6}
PRICE = {"tiny": 0.001, "middle": 0.004, "big": 0.02}


def make_turn(model="tiny", *, cost_usd=0.1, gain=0.0, error="", end=""):
    return Turn(
        model=model,
        served_model=model,
        action_text=f"{model} opens | the *door*",
        observation_text="The door is <open>. " * 12,
        usage=TokenUsage(n_fresh=10, n_output=5),
        cost_usd=cost_usd,
        utility_gain=gain,
        propensity=1.0,
        action_mask=(True,) * 3,
        warm=(False,) * 3,
        error=error,
        latency_s=0.1,
        terminated=end in ("terminated", "both"),
        truncated=end in ("truncated", "both"),
    )


def make_episode(turns: Sequence[Turn], *, task="boil", variation=0, seed=0, status="completed", **rest):
    return Episode(
        episode_id=f"{task}-{variation}-{seed}",
        task=task,
        variation=variation,
        seed=seed,
        split=rest.get("split", "test"),
        task_text=f"Your task is to {task} water.",
        first_observation="You are in a kitchen.",
        behavior_policy=rest.get("policy", "hand"),
        budget_usd=rest.get("budget_usd", 1.0),
        max_turns=50,
        turns=tuple(turns),
        status=status,
    )


def make_pool(models=MODELS, name="tiny-pool"):
    card = {"context_tokens": 1000, "max_output_tokens": 100, "knowledge_cutoff": datetime.date(2025, 1, 1)}
    prices = Prices(input=1.0, cached_input=1.0, output=2.0)
    return PoolCard(
        name=name,
        description="made for tests",
        models=tuple(ModelCard(name=model, prices=prices, **card) for model in models),
        token_counter=TokenCounter(kind="characters"),
        backend=BackendCard(kind="simulated"),
    )


def drawn_episode(weights, *, key, split, policy, has_q_values=False, skill=SKILL, price=PRICE):
    """An episode of drawn length in which better models gain more, as a traced one."""
    names = tuple(skill)
    task, variation, seed = key
    rng = np.random.default_rng([sum(map(ord, task + policy)), variation, seed])
    probabilities = np.asarray(weights, dtype=float)
    probabilities = probabilities / probabilities.sum()
    turns = []
    for index in range(int(rng.integers(2, 14))):
        # Later turns lean to the last model, so that shares change over the turns.
        tilted = probabilities * (1 + 0.2 * index * np.linspace(0, 1, len(names)))
        model = str(rng.choice(names, p=tilted / tilted.sum()))
        has_gain = rng.random() < skill[model]
        error = "" if has_gain or rng.random() < 0.6 else "unknown_action"
        cost_usd = price[model] * float(rng.lognormal(0, 0.3))
        turns.append(make_turn(model, cost_usd=cost_usd, gain=0.12 * has_gain - 0.01, error=error))
    turns[-1] = make_turn(turns[-1].model, cost_usd=0.001, gain=0.0, end="both")
    episode = make_episode(turns, task=task, variation=variation, seed=seed, split=split, policy=policy, budget_usd=5.0)
    shape = (len(turns), len(names))
    return TracedEpisode(
        episode=episode,
        action_probabilities=np.broadcast_to(probabilities, shape).copy(),
        q_values=rng.normal(size=shape) if has_q_values else None,
    )


POLICIES = {
    "tiny": (1, 0, 0),
    "middle": (0, 1, 0),
    "big": (0, 0, 1),
    "random": (1, 1, 1),
    "behavior-cloning": (1, 2, 1),
    "fitted-q": (0.1, 1, 3),
}
ROLES = PolicyRoles(
    single_models=MODELS, strongest="big", learned=("fitted-q",), baselines=("random", "behavior-cloning", "big")
)


def make_traced(policies=POLICIES, *, split="test", tasks=("boil", "melt", "find"), n_variations=3, n_seeds=2, **rest):
    keys = [(task, variation, seed) for task in tasks for variation in range(n_variations) for seed in range(n_seeds)]
    return {
        policy: [
            drawn_episode(weights, key=key, split=split, policy=policy, has_q_values=policy == "fitted-q", **rest)
            for key in keys
        ]
        for policy, weights in policies.items()
    }


def rows_of(traced, *, split="test", roles=ROLES, models=MODELS, **rest):
    comparison = Comparison(split=split, reward=REWARD, model_names=models, roles=roles, n_resamples=300, **rest)
    episodes = {policy: [one.episode for one in many] for policy, many in traced.items()}
    return build_rows(episodes, comparison, seed=1)


def make_results(rows, *, roles=ROLES, models=MODELS, **changes):
    fields = {
        "env": "kitchen",
        "pool": "tiny-pool",
        "model_names": models,
        "is_simulated": True,
        "cost_weight": REWARD.cost_weight,
        "cost_unit_usd": REWARD.cost_unit_usd,
        "dataset_id": "kitchen-uniform-v1",
        "seed": 7,
        "n_seeds": 2,
        "package_version": "0.1.0",
        "config": {"agent": "fitted-q", "layers": [64, 64]},
        "roles": roles,
        "rows": tuple(rows),
    }
    return Results(**(fields | changes))


def make_ope_policy(policy, *, value=0.2, headline="dm", is_trained_on_log=False):
    number = Estimated(value=value, low=value - 0.1, high=value + 0.1)
    return PolicyReport(
        policy=policy,
        router=policy,
        headline=headline,
        refusals={} if headline else {"weighting": ("effective sample size 1.0, must be at least 30",)},
        estimates={"dm": {"utility": number, "cost_usd": number, "return": number}} if headline else {},
        effective_sample_size=1.0,
        unsupported_share=0.01,
        is_trained_on_log=is_trained_on_log,
    )


def make_ope_report(policies, *, refused=(), trained=(), **changes):
    """A report in which the estimates rise by 0.1 from policy to policy, from 0.2 on."""
    fields = {
        "dataset_id": "kitchen-uniform-v1",
        "split": "train",
        "n_episodes": 40,
        "n_left_out": 0,
        "n_turns": 300,
        "n_clusters": 20,
        "behavior_policy": "uniform",
        "propensities": "exact",
        "logged": {"utility": 0.2, "cost_usd": 0.1, "return": 0.1},
        "cost_weight": REWARD.cost_weight,
        "cost_unit_usd": REWARD.cost_unit_usd,
        "seed": 0,
        "encoder": None,
        "fqe": None,
        "thresholds": {},
        "policies": tuple(
            make_ope_policy(policy, value=0.2 + 0.1 * index, is_trained_on_log=policy in trained)
            for index, policy in enumerate([*policies, *trained])
        )
        + tuple(make_ope_policy(policy, headline=None) for policy in refused),
        "differences": (),
        "selection": None,
        "notes": (),
        "package_version": "0.1.0",
    }
    return OpeReport(**(fields | changes))


def make_behavior(traced, *, models=MODELS, **changes):
    """Behaviour of every policy of traced episodes by split."""
    rows = [
        behavior_row(
            policy,
            [one.episode for one in episodes],
            BehaviorSetting(split=split, model_names=models, n_resamples=100),
        )
        for split, policies in traced.items()
        for policy, episodes in policies.items()
    ]
    fields = {"env": "kitchen", "pool": "tiny-pool", "model_names": models, "rows": tuple(rows)}
    return Behavior(**(fields | changes))


def make_validation_row(policy, score, cost_usd, cost_weight=None):
    """A row of the validation split of which only score and cost matter."""
    return ResultRow(
        policy=policy,
        split="validation",
        cost_weight=cost_weight,
        n_episodes=4,
        score_mean=score,
        score_ci95=(score - 5, score + 5),
        utility_mean=score / 100,
        cost_usd_mean=cost_usd,
        cost_usd_ci95=None,
        cost_usd_total=4 * cost_usd,
        return_mean=0.0,
        return_ci95=None,
        turns_mean=3.0,
        switches_mean=0.0,
        stay_after_error=None,
        model_share={},
        model_share_by_task={},
        score_by_task={},
        budget_violations=0,
        n_failed=0,
        hull_gain=None,
        cost_saved_share=None,
    )
