"""The rollout loop on the corridor: what is logged, what breaks, and what does not depend on the workers."""

import dataclasses
import multiprocessing
import os
import signal

import numpy as np
import pytest

from mtrouter_rl.agents.resolve import RouterRef
from mtrouter_rl.cards.splits import sample_specs
from mtrouter_rl.envs.factory import EnvConfig, build_env, resolve_env
from mtrouter_rl.envs.routing import RoutingEnv
from mtrouter_rl.errors import BackendError, CardError, InvalidConfigError, MaskedActionError, SimulatorError
from mtrouter_rl.protocols import TaskStep
from mtrouter_rl.records import EpisodeSpec
from mtrouter_rl.rollout import RolloutJob, RolloutPool, choose, run_episode
from mtrouter_rl.rollout import collection as collecting
from mtrouter_rl.rollout.collection import CollectionPlan, collect, dataset_info
from mtrouter_rl.testing import ScriptedBackend, ScriptedRouter, ScriptedTask, plain_reply

SPEC = EpisodeSpec(task="middle", variation=2, seed=4, split="train")
NAMES = ("small", "middle", "large")


@pytest.fixture(scope="module")
def config() -> EnvConfig:
    return resolve_env("corridor")


@pytest.fixture
def env(config):
    return build_env(config)


def router_of(decide, name="scripted"):
    return ScriptedRouter(name=name, model_names=NAMES, decide=decide)


def always(action, name="always"):
    return router_of(lambda observation: np.eye(3)[action], name)


# --- choose


@pytest.mark.parametrize(
    "row",
    [
        [0.5, 0.4, 0.0],
        [0.5, 0.6, 0.0],
        [1.5, -0.5, 0.0],
        [float("nan"), 0.5, 0.5],
        [float("inf"), 0.0, 0.0],
        [0.0, 0.0, 0.0],
        [0.5, 0.5 + 1e-5, 0.0],
    ],
)
def test_choose_refuses_what_is_no_distribution(row):
    with pytest.raises(InvalidConfigError, match=r"router gave probabilities .*finite, non-negative and sum to 1; fix"):
        choose(np.array(row), np.random.default_rng(0))


def test_choose_draws_with_the_probabilities():
    row = np.array([0.0, 0.2, 0.0, 0.7, 0.1, 0.0])
    rng = np.random.default_rng(0)
    n = 20_000
    shares = np.bincount([choose(row, rng) for _ in range(n)], minlength=6) / n
    assert (shares[row == 0] == 0).all()
    assert (np.abs(shares - row) <= 4 * np.sqrt(row * (1 - row) / n)).all()


class _Extreme(np.random.Generator):
    """A generator whose `random` is always the same number."""

    def __init__(self, value):
        super().__init__(np.random.PCG64(0))
        self._value = value

    def random(self):
        return self._value


@pytest.mark.parametrize("value", [0.0, 0.5, np.nextafter(1.0, 0.0)])
@pytest.mark.parametrize("row", [[0.0, 1.0, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5 - 1e-12], [1.0, 0.0, 0.0]])
def test_choose_never_takes_what_has_no_probability(row, value):
    assert row[choose(np.array(row), _Extreme(value))] > 0


# --- what is logged


def test_propensities_are_logged_exactly(config):
    tight = dataclasses.replace(config, limits=dataclasses.replace(config.limits, budget_usd=0.008))
    env = build_env(tight)
    given = []

    def decide(observation):
        rng = np.random.default_rng(int(observation["turn"]))
        row = rng.dirichlet((1, 1, 1)) * observation["action_mask"]
        row = row / row.sum()
        given.append((row, observation["action_mask"].copy(), observation["warm"].copy()))
        return row

    n_masked = n_turns = 0
    for seed in range(20):
        given.clear()
        traced = run_episode(env, router_of(decide), dataclasses.replace(SPEC, seed=seed))
        turns = traced.episode.turns
        assert len(turns) == len(given) == len(traced.action_probabilities) == len(traced.hidden)
        for turn, (row, mask, warm), logged in zip(turns, given, traced.action_probabilities, strict=True):
            assert turn.propensity == row[NAMES.index(turn.model)]
            assert logged.tolist() == row.tolist()
            assert turn.action_mask == tuple(mask.astype(bool))
            assert turn.warm == tuple(warm.astype(bool))
            n_masked += not mask.all()
            n_turns += 1
        assert sum(turn.terminated or turn.truncated for turn in turns) == 1
        assert turns[-1].terminated or turns[-1].truncated
    assert n_masked > 5
    assert n_turns > 60


def test_the_log_of_an_episode(env):
    traced = run_episode(env, always(2), SPEC)
    episode = traced.episode
    assert (episode.episode_id, episode.task, episode.variation, episode.seed) == ("middle-v2-s4", "middle", 2, 4)
    assert (episode.split, episode.behavior_policy, episode.budget_usd, episode.max_turns) == (
        "train",
        "always",
        0.5,
        20,
    )
    assert episode.task_text == "Pass the middle corridor."
    assert episode.first_observation
    assert set(episode.models) == {"large"}
    assert episode.utility == pytest.approx(1.0)
    assert episode.status == "completed"
    assert all(hidden["expert_action"] for hidden in traced.hidden)
    assert all(turn.propensity == 1.0 for turn in episode.turns)


def test_an_episode_depends_on_its_specification_alone(env, config):
    uniform = router_of(lambda observation: [1 / 3] * 3, "uniform")
    first = run_episode(env, uniform, SPEC)
    for seed in range(5):
        run_episode(env, uniform, dataclasses.replace(SPEC, seed=seed + 100))
    assert run_episode(env, uniform, SPEC).episode == first.episode
    assert run_episode(build_env(config), uniform, SPEC).episode == first.episode
    assert run_episode(env, uniform, dataclasses.replace(SPEC, seed=5)).episode.models != first.episode.models


def test_routers_share_their_luck_where_they_choose_alike(env):
    n_shared = 0
    for seed in range(20):
        spec = dataclasses.replace(SPEC, task="long", seed=seed)
        switching = router_of(lambda observation: np.eye(3)[0 if observation["turn"] < 3 else 2], "switching")
        one = run_episode(env, always(0), spec).episode.turns
        other = run_episode(env, switching, spec).episode.turns
        n = min(3, len(one), len(other))
        n_shared += n
        for left, right in zip(one[:n], other[:n], strict=True):
            assert (left.action_text, left.usage, left.observation_text) == (
                right.action_text,
                right.usage,
                right.observation_text,
            )
    assert n_shared > 40


# --- what breaks


def scripted_env(config, *, steps=None, answer=plain_reply):
    return RoutingEnv(
        task=ScriptedTask(steps or [TaskStep(observation="ok", score=1.0)]),
        backend=ScriptedBackend(pool=config.pool, answer=answer),
        pool=config.pool,
        specs=[SPEC],
        system_prompt="",
        limits=dataclasses.replace(config.limits, max_turns=4),
        reward=config.reward,
    )


@pytest.mark.parametrize("where", ["backend", "simulator"])
def test_an_episode_that_breaks_keeps_its_turns_and_the_next_one_runs(config, where):
    is_broken = [True]

    def answer(call):
        if where == "backend" and call.turn == 2 and is_broken:
            is_broken.clear()
            raise BackendError("503 overloaded")
        return plain_reply(call)

    ok = TaskStep(observation="ok", score=1.0)
    steps = [ok, ok, SimulatorError("engine died")] if where == "simulator" else [ok]
    env = scripted_env(config, steps=steps, answer=answer)
    traced = run_episode(env, always(0), SPEC)
    assert traced.episode.status == "failed"
    expected = "BackendError: 503 overloaded" if where == "backend" else "SimulatorError: engine died"
    assert traced.episode.status_detail.startswith(expected)
    assert [turn.action_text for turn in traced.episode.turns] == ["act 0", "act 1"]
    assert (len(traced.hidden), traced.action_probabilities.shape) == (2, (2, 3))
    assert traced.episode.cost_usd > 0
    assert env._task.n_closed == 1
    again = run_episode(env, always(0), SPEC).episode
    assert again.status == ("completed" if where == "backend" else "failed")
    assert len(again.turns) == (4 if where == "backend" else 2)


def test_an_episode_that_cannot_start_is_failed_and_owes_nothing(config):
    class Broken(ScriptedTask):
        def reset(self, task, variation, seed):
            if self.n_resets:
                raise SimulatorError("no memory")
            return super().reset(task, variation, seed)

    env = scripted_env(config)
    env._task = Broken([TaskStep(observation="ok", score=1.0)])
    run_episode(env, always(0), SPEC)  # spends money that the next episode must not be charged with
    traced = run_episode(env, always(0), SPEC)
    assert (traced.episode.status, traced.episode.status_detail) == ("failed", "SimulatorError: no memory")
    assert (traced.episode.turns, traced.episode.task_text, traced.action_probabilities.shape) == ((), "", (0, 3))


def test_a_router_that_chooses_what_is_masked_is_no_failed_episode(config):
    tight = dataclasses.replace(config, limits=dataclasses.replace(config.limits, budget_usd=0.001))
    with pytest.raises(MaskedActionError, match="model 'large' is not allowed at turn 0"):
        run_episode(build_env(tight), always(2), SPEC)


def test_a_router_that_is_wrong_is_no_failed_episode(env):
    with pytest.raises(InvalidConfigError, match="fix the router"):
        run_episode(env, router_of(lambda observation: [0.5, 0.0, 0.0]), SPEC)


# --- workers


def jobs_of(config, n_episodes, *, per_job=5, policy="uniform"):
    specs = sample_specs(config.card, "train", n_episodes=n_episodes, seed=1)
    ref = RouterRef.of(policy, None)
    starts = range(0, n_episodes, per_job)
    return [RolloutJob(key=(0, 0, start), factory=ref, specs=specs[start : start + per_job]) for start in starts]


def run_all(config, jobs, *, n_workers):
    with RolloutPool(config, n_workers=n_workers) as pool:
        done = {job.key: episodes for job, episodes in pool.run(jobs)}
    return [traced for key in sorted(done) for traced in done[key]]


def test_the_number_of_workers_changes_nothing(config):
    jobs = jobs_of(config, 20)
    one, two = (run_all(config, jobs, n_workers=n) for n in (1, 2))
    assert [traced.episode for traced in one] == [traced.episode for traced in two]
    assert [traced.hidden for traced in one] == [traced.hidden for traced in two]
    assert all((a.action_probabilities == b.action_probabilities).all() for a, b in zip(one, two, strict=True))
    assert len(one) == 20


def test_a_killed_worker_is_a_clear_error_and_the_pool_can_go_on(config):
    jobs = jobs_of(config, 400, per_job=20)
    with RolloutPool(config, n_workers=2) as pool:
        running = pool.run(jobs)
        next(running)
        children = multiprocessing.active_children()
        assert len(children) == 2
        os.kill(children[0].pid, signal.SIGKILL)
        with pytest.raises(
            SimulatorError, match=r"worker process died \(killed, or out of memory\).*--workers"
        ):
            list(running)
        ((_, episodes),) = pool.run(jobs[:1])  # fresh workers
        assert len(episodes) == 20


def test_a_wrong_card_is_named_from_a_worker_as_well(config):
    wrong = dataclasses.replace(config, card=config.card.model_copy(update={"settings": {"obstacle": {}}}))
    for n_workers in (1, 2):
        with pytest.raises(CardError, match="card 'corridor', settings"):
            run_all(wrong, jobs_of(config, 5), n_workers=n_workers)


def test_workers_must_be_some(config):
    with pytest.raises(InvalidConfigError, match="workers is 0, must be at least 1"):
        RolloutPool(config, n_workers=0)


# --- collection


def plan_of(config, folder, n_episodes=23):
    specs = sample_specs(config.card, "train", n_episodes=n_episodes, seed=1)
    info = dataset_info(
        config,
        dataset_id="corridor-test-v1",
        policy="uniform",
        split="train",
        seed=1,
        n_episodes=n_episodes,
        created_by={"command": "collect"},
    )
    return CollectionPlan(folder=folder, info=info, factory=RouterRef.of("uniform", None), specs=specs)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def _small_shards(monkeypatch):
    monkeypatch.setattr(collecting, "EPISODES_PER_SHARD", 5)
    monkeypatch.setattr(collecting, "EPISODES_PER_JOB", 2)


@pytest.mark.usefixtures("_small_shards")
def test_collection_resumes_and_ends_with_the_same_bytes(config, tmp_path):
    with RolloutPool(config, n_workers=1) as pool:
        (whole,) = collect(pool, [plan_of(config, tmp_path / "whole")], title="t", show_progress=False)
        expected = contents(tmp_path / "whole")
        assert len(whole.episodes) == 23
        assert len(expected) == 5 * 3 + 1  # five shards of three files, and the info
        collect(pool, [plan_of(config, tmp_path / "part")], title="t", show_progress=False)
    lost = [path for path in (tmp_path / "part").rglob("*.parquet") if path.stem.endswith(("1", "4"))]
    assert len(lost) == 2 * 3
    for path in lost:
        path.unlink()
    assert contents(tmp_path / "part") != expected
    n_run = []

    class Counting(RolloutPool):
        def run(self, jobs):
            n_run.extend(len(job.specs) for job in jobs)
            return super().run(jobs)

    with Counting(config, n_workers=1) as pool:
        (resumed,) = collect(pool, [plan_of(config, tmp_path / "part")], title="t", show_progress=False)
        assert contents(tmp_path / "part") == expected
        assert sum(n_run) == 5 + 3  # shard 1 and the shorter shard 4 alone
        n_run.clear()
        collect(pool, [plan_of(config, tmp_path / "part")], title="t", show_progress=False)
        assert n_run == []
    assert resumed.episodes == whole.episodes


@pytest.mark.usefixtures("_small_shards")
def test_collection_that_is_interrupted_goes_on(config, tmp_path):
    class Interrupted(RolloutPool):
        def run(self, jobs):
            for n_done, result in enumerate(super().run(jobs)):
                if n_done == 7:
                    raise SimulatorError("a worker process died")
                yield result

    with Interrupted(config, n_workers=1) as pool, pytest.raises(SimulatorError, match="worker process died"):
        collect(pool, [plan_of(config, tmp_path / "part")], title="t", show_progress=False)
    assert len(list((tmp_path / "part").rglob("episodes-*.parquet"))) == 2  # two whole shards
    with RolloutPool(config, n_workers=1) as pool:
        collect(pool, [plan_of(config, tmp_path / "part")], title="t", show_progress=False)
        collect(pool, [plan_of(config, tmp_path / "whole")], title="t", show_progress=False)
    assert contents(tmp_path / "part") == contents(tmp_path / "whole")
