"""A tabular routing MDP small enough for value iteration, its log, and scripted history features."""

import datetime
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.cards import AgentCard, RewardCard
from mtrouter_rl.cards.pool import BackendCard, ModelCard, PoolCard, Prices, TokenCounter
from mtrouter_rl.datasets.info import DatasetInfo
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.embeddings.history import budget_features
from mtrouter_rl.records import Episode, TokenUsage, Turn

REWARD = RewardCard(cost_weight=1.0, cost_unit_usd=1.0)
END = 3
N_STATES = 3
COSTS = (0.02, 0.05, 0.3)

# state -> model -> [(probability, next state, utility gained)]. The dear model pays only if it is followed well.
OUTCOMES = {
    0: [[(1.0, END, 0.4)], [(0.5, 0, 0.0), (0.5, END, 0.1)], [(1.0, 1, 0.0)]],
    1: [[(0.5, END, 0.0), (0.5, 1, 0.0)], [(1.0, 2, 0.3)], [(1.0, END, 0.2)]],
    2: [[(0.8, END, 0.6), (0.2, 2, 0.0)], [(1.0, END, 0.0)], [(1.0, END, 0.0)]],
}


def make_pool(names=("small", "middle", "large"), prices=(1.0, 2.0, 15.0)):
    models = tuple(
        ModelCard(
            name=name,
            prices=Prices(input=price, cached_input=price, output=price),
            context_tokens=100_000,
            max_output_tokens=1000,
            knowledge_cutoff=datetime.date(2025, 1, 1),
        )
        for name, price in zip(names, prices, strict=True)
    )
    return PoolCard(
        name="toy",
        description="toy",
        models=models,
        token_counter=TokenCounter(kind="characters"),
        backend=BackendCard(kind="simulated"),
    )


POOL = make_pool()


def make_turn(
    model, *, state, next_state, gain, cost, mask=(True, True, True), terminated=False, truncated=False, propensity=None
):
    del state
    return Turn(
        model=POOL.model_names[model],
        served_model=POOL.model_names[model],
        action_text="act",
        observation_text=f"state {next_state}",
        usage=TokenUsage(n_fresh=1, n_output=1),
        cost_usd=cost,
        utility_gain=gain,
        propensity=propensity or 1 / sum(mask),
        action_mask=mask,
        warm=(False, False, False),
        error="",
        latency_s=0.0,
        terminated=terminated,
        truncated=truncated,
    )


def make_episode(turns, *, index=0, start=0, task="toy"):
    return Episode(
        episode_id=f"{task}-{index}",
        task=task,
        variation=index,
        seed=index,
        split="train",
        task_text=task,
        first_observation=f"state {start}",
        behavior_policy="uniform",
        budget_usd=100.0,
        max_turns=50,
        turns=tuple(turns),
    )


def make_dataset(episodes, pool=POOL):
    info = DatasetInfo(
        dataset_id="toy-v1",
        env="toy",
        pool_name=pool.name,
        models=pool.models,
        prompt_cache=None,
        behavior_policy="uniform",
        split="train",
        seed=0,
        n_episodes_planned=len(episodes),
        max_turns=50,
        budget_usd=100.0,
        is_simulated=True,
        package_version="0",
        created_by={},
    )
    return Dataset(info=info, episodes=tuple(episodes))


def _roll(rng, index, choose):
    state, turns = 0, []
    while state != END:
        model, propensity = choose(rng)
        branches = OUTCOMES[state][model]
        _, following, gain = branches[rng.choice(len(branches), p=[branch[0] for branch in branches])]
        turns.append(
            make_turn(
                model,
                state=state,
                next_state=following,
                gain=gain,
                cost=COSTS[model],
                terminated=following == END,
                propensity=propensity,
            )
        )
        state = following
    return make_episode(turns, index=index)


def uniform_log(n_episodes=1500, seed=0):
    rng = np.random.default_rng(seed)
    return make_dataset([_roll(rng, index, lambda rng: (int(rng.integers(3)), 1 / 3)) for index in range(n_episodes)])


def skewed_log(probabilities, n_episodes=1500, seed=0):
    """Episodes of a policy that calls each model with a fixed probability."""

    def choose(rng):
        model = int(rng.choice(3, p=probabilities))
        return model, probabilities[model]

    rng = np.random.default_rng(seed)
    return make_dataset([_roll(rng, index, choose) for index in range(n_episodes)])


def backup(state, model, values, cost_weight=REWARD.cost_weight):
    """Reward of the turn plus expected value after it."""
    gained = sum(p * (gain + values[following]) for p, following, gain in OUTCOMES[state][model])
    return gained - cost_weight * COSTS[model]


def optimal_values(cost_weight=REWARD.cost_weight):
    values = np.zeros(N_STATES + 1)
    for _ in range(500):
        for state in range(N_STATES):
            values[state] = max(backup(state, model, values, cost_weight) for model in range(3))
    return values


def policy_value(router, cost_weight=REWARD.cost_weight):
    """Exact value at the start of a router that looks at the state only."""
    policy = router.action_probabilities([make_observation(state) for state in range(N_STATES)])
    values = np.zeros(N_STATES + 1)
    for _ in range(500):
        for state in range(N_STATES):
            values[state] = sum(policy[state, model] * backup(state, model, values, cost_weight) for model in range(3))
    return values[0]


def make_observation(state=0, *, mask=(1, 1, 1), models=(), budget_usd=1.0):
    history = tuple({"model": model, "action": "act", "observation": f"state {state}", "error": ""} for model in models)
    return {
        "task": "toy",
        "first_observation": f"state {state}",
        "history": history,
        "turn": np.int64(len(history)),
        "max_turns": np.int64(50),
        "budget_left_usd": np.array([budget_usd], dtype=np.float32),
        "budget_usd": np.array([budget_usd], dtype=np.float32),
        "warm": np.zeros(3, dtype=np.int8),
        "action_mask": np.array(mask, dtype=np.int8),
    }


class StateFeatures:
    """Scripted stand-in for `HistoryFeatures`: the state one-hot, once as a text block and once as scalars."""

    dim = 2 * (N_STATES + 1)
    blocks: ClassVar = {"last_observation": slice(0, N_STATES + 1), "scalars": slice(N_STATES + 1, 2 * (N_STATES + 1))}

    def __init__(self, version=1):
        self.version = version
        self.model_features = np.array([[0.0, 0.0], [0.3, 0.5], [1.2, 1.0]], dtype=np.float32)

    def _rows(self, texts):
        states = [int(text.removeprefix("state ")) for text in texts]
        return np.tile(np.eye(N_STATES + 1, dtype=np.float32)[states], 2)

    def of_episode(self, episode):
        return self._rows([episode.first_observation, *(turn.observation_text for turn in episode.turns)])

    def of_observations(self, observations):
        return self._rows(
            [
                observation["history"][-1]["observation"]
                if observation["history"]
                else observation["first_observation"]
                for observation in observations
            ]
        )

    def encode_log(self, episodes, *, show_progress):
        pass

    def to_config(self):
        return {"scripted": self.version}


class TaskFeatures(StateFeatures):
    """The same for routers that read the task alone: the first state stands for the task's text."""

    blocks: ClassVar = {"task": slice(0, N_STATES + 1)}


class BudgetFeatures(StateFeatures):
    """The same, and what is left of the budget: two more columns."""

    dim = StateFeatures.dim + 2
    blocks: ClassVar = StateFeatures.blocks | {"scalars": slice(N_STATES + 1, dim)}
    budget_columns = (StateFeatures.dim, StateFeatures.dim + 1)

    def of_episode(self, episode):
        spent = np.cumsum([0.0, *(turn.cost_usd for turn in episode.turns)])
        columns = budget_features(episode.budget_usd - spent, np.full(len(spent), episode.budget_usd))
        return np.column_stack([super().of_episode(episode), *columns]).astype(np.float32)

    def of_observations(self, observations):
        left, whole = (np.array([o[name][0] for o in observations]) for name in ("budget_left_usd", "budget_usd"))
        columns = budget_features(left, whole)
        return np.column_stack([super().of_observations(observations), *columns]).astype(np.float32)


def features_of(algorithm):
    """Class of the features that an algorithm reads."""
    if algorithm == "fitted_q_budget":
        return BudgetFeatures
    return TaskFeatures if algorithm.startswith("task_") else StateFeatures


def single_model_log(n_episodes=60, seed=0):
    """Every episode played by one model; model 2 is best at tasks that start in state 0, model 0 at those in state 1."""
    rng = np.random.default_rng(seed)
    episodes = []
    for index in range(n_episodes):
        start, model = index % 2, int(rng.integers(3)) if index >= 6 else index // 2
        gain = float(rng.random() < (0.9 if model == (2, 0)[start] else 0.2))
        turn = make_turn(model, state=start, next_state=END, gain=gain, cost=COSTS[model], terminated=True)
        episodes.append(make_episode([turn], index=index, start=start, task=f"toy\ntask: start {start}"))
    return make_dataset(episodes)


@dataclass
class ListSink:
    """Keeps every point of every curve."""

    points: list = field(default_factory=list)

    def scalar(self, name, value, step):
        self.points.append((name, value, step))


NETWORK = {"text_projection": 8, "history_hidden": (32,), "dropout": 0.0}
JOINT = NETWORK | {"model_hidden": 16, "residual_dim": 4, "joint_hidden": (32, 16)}
TINY_LOOP = {"n_iterations": 4, "steps_per_iteration": 5, "batch_size": 32, "keep_last": 2}
TINY = {
    "fitted_q": JOINT | TINY_LOOP,
    "fitted_q_frontier": JOINT | TINY_LOOP,
    "fitted_q_budget": JOINT | TINY_LOOP,
    "monte_carlo_q": JOINT | TINY_LOOP,
    "myopic": JOINT | TINY_LOOP,
    "behavior_cloning": NETWORK | TINY_LOOP,
    "factored_q": NETWORK | TINY_LOOP,
    "single": {"model": "middle"},
    "llm_router": {"pool": "local-llm", "model": "weak"},
    "task_boosting": {"n_trees": 3},
    "turn_boosting": {"n_trees": 3},
    "cascade": {"alpha": 0.3, "success_utility": 0.5, "learns_from": "turns"},
}


def make_card(algorithm, **parameters):
    return AgentCard(name=f"test-{algorithm}", description="test", algorithm=algorithm, parameters=parameters)


def make_context(dataset, *, seed=0, folder=None, sink=None, features=None):
    extra = {} if sink is None else {"metrics": sink}
    return TrainingContext(
        pool=POOL,
        reward=REWARD,
        seed=seed,
        dataset=dataset,
        features=features or StateFeatures(),
        validate=lambda routers: [
            router.action_probabilities([make_observation()])[0].argmax() / 2 for router in routers
        ],
        checkpoint_folder=folder,
        **extra,
    )
