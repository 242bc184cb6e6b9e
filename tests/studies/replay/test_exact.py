"""The environment, the exact evaluator and a script that shares no code with either agree on random policies, to the cent."""

import random
from pathlib import Path

import numpy as np
import pytest

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.datasets.importers.suites.build import SuiteRequest, build_suite
from mtrouter_rl.envs.replay.suite import Suite
from mtrouter_rl.envs.replay.task import ReplayBackend, ReplayTask, suite_pool
from mtrouter_rl.envs.routing import EpisodeLimits, RoutingEnv
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import EpisodeSpec
from mtrouter_rl.studies.replay.exact import NO_LIMIT, NOBODY, ExactSuite, Legs, oracle_legs, restart_oracle_legs
from tests.cases import replay_by_hand
from tests.cases.replay_suites import CHEAP, STRONG, by_hand, write_table

REAL = Path(__file__).parents[3].parent / "shared" / "data" / "swebench" / "outcomes.csv.gz"
N_POLICIES = 1000
MAX_TURNS = 150


def make_env(suite: Suite, max_turns: int) -> RoutingEnv:
    return RoutingEnv(
        task=ReplayTask(suite),
        backend=ReplayBackend(suite),
        pool=suite_pool(suite, "p"),
        specs=[EpisodeSpec(task=next(iter(suite.groups)), variation=0, seed=0, split="test")],
        system_prompt="",
        limits=EpisodeLimits(max_turns=max_turns, budget_usd=1e6, max_output_tokens=1),
        reward=RewardCard(cost_weight=1.0, cost_unit_usd=1.0),
    )


def play(env: RoutingEnv, suite: Suite, task: int, models: list[int]) -> tuple[float, float, int]:
    group = suite.tasks[task].group
    variation = suite.groups[group].index(task)
    env.reset(options={"spec": EpisodeSpec(task=group, variation=variation, seed=0, split="test")})
    cost, rewards = 0.0, 0.0
    for turn, model in enumerate(models, start=1):
        _, reward, terminated, truncated, info = env.step(model)
        cost, rewards = cost + info["cost_usd"], rewards + reward
        if terminated or truncated:
            assert rewards == pytest.approx(info["utility"] - cost)
            return info["utility"], cost, turn
    raise AssertionError("the episode did not end")


def schedule(rng: random.Random, n_models: int, n_turns: int) -> list[int]:
    """A random open-loop policy: at every turn it may change the model."""
    stickiness = rng.choice([0.0, 0.5, 0.9, 0.97])
    models = [rng.randrange(n_models)]
    while len(models) < n_turns:
        models.append(models[-1] if rng.random() < stickiness else rng.randrange(n_models))
    return models


def legs_of(models: list[int]) -> Legs:
    runs: list[list[int]] = []
    for model in models:
        if runs and runs[-1][0] == model:
            runs[-1][1] += 1
        else:
            runs.append([model, 1])
    return Legs.alike(1, *[(model, n) for model, n in runs])


def agree(path: Path, n_policies: int, max_turns: int) -> None:
    suite = build_suite(SuiteRequest(outcomes=path, growth=0.013))
    table = replay_by_hand.read(path)
    env, exact, rng = make_env(suite, max_turns), ExactSuite(suite), random.Random(7)
    endings = set()
    for _ in range(n_policies):
        task = rng.randrange(suite.n_tasks)
        models = schedule(rng, len(suite.models), max_turns)
        played = play(env, suite, task, models)
        names = [suite.models[model] for model in models]
        worked_out = replay_by_hand.play(
            table, suite.tasks[task].id, names.__getitem__, rate=0.013, max_turns=max_turns
        )
        outcome = exact.part(np.array([task])).value(legs_of(models), max_turns=max_turns)
        valued = (float(outcome.scores[0]), float(outcome.costs_usd[0]), int(outcome.n_turns[0]))
        for one in (played, valued):
            assert one[0] == worked_out[0]
            assert one[1] == pytest.approx(worked_out[1], abs=1e-9)
            assert one[2] == worked_out[2]
        endings.add((played[0], played[2] == max_turns))
    assert len(endings) >= 3, "some solve, some fail, some are cut off"


def test_a_thousand_random_policies_on_a_small_table(tmp_path):
    agree(write_table(tmp_path / "table.csv", n_tasks=12), N_POLICIES, 40)


@pytest.mark.skipif(not REAL.is_file(), reason="the real table is not here")
def test_a_thousand_random_policies_on_the_real_table():
    agree(REAL, N_POLICIES, MAX_TURNS)


def test_legs_worked_out_by_hand():
    exact = ExactSuite(by_hand())
    outcome = exact.value(Legs.alike(2, (CHEAP, 2), (STRONG, NO_LIMIT)))
    assert outcome.scores.tolist() == [1.0, 0.5]  # task a is restarted, task b ended at its first turn
    assert outcome.costs_usd.tolist() == pytest.approx([0.2 + 2.0, 0.1])
    assert (outcome.n_turns.tolist(), outcome.n_legs.tolist()) == ([4, 1], [2, 1])
    given_up = exact.value(Legs.alike(2, (CHEAP, 2), (NOBODY, 1)))
    assert (given_up.scores.tolist(), given_up.is_ended.tolist()) == ([0.0, 0.5], [False, True])
    cut = exact.value(Legs.alike(2, (STRONG, NO_LIMIT)), max_turns=1)
    assert (cut.scores.tolist(), cut.costs_usd.tolist()) == ([0.0, 0.0], [1.0, 0.5])


def test_oracles_by_hand():
    suite = by_hand()
    exact = ExactSuite(suite)
    best = exact.value(oracle_legs(suite.scores, suite.costs_usd, 1e-9))
    assert (best.scores.tolist(), best.costs_usd.tolist()) == ([1.0, 1.0], [2.0, 2.0])
    cheap = exact.value(oracle_legs(suite.scores, suite.costs_usd, 1.0))
    assert cheap.scores.tolist() == [0.0, 0.5]
    restarted = exact.value(restart_oracle_legs(exact, CHEAP, 1))
    assert restarted.scores.tolist() == [1.0, 0.5]  # task b had ended before anything could be known
    assert restarted.costs_usd.tolist() == pytest.approx([2.1, 0.1])


@pytest.mark.parametrize(
    ("legs", "message"),
    [
        (lambda: Legs.alike(1, (0, 1), (0, 2)), "the model of the leg before it"),
        (lambda: Legs.alike(1, (0, 0)), "has 0 turns"),
        (lambda: Legs(models=np.zeros((2, 1), dtype=int), limits=np.ones((1, 1), dtype=int)), "must be one .N, L."),
    ],
)
def test_legs_that_mean_nothing_are_refused(legs, message):
    with pytest.raises(InvalidConfigError, match=message):
        legs()
