import dataclasses

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import mtrouter_rl  # noqa: F401 - registers the environments
from mtrouter_rl.envs.factory import build_env, resolve_env
from mtrouter_rl.envs.routing import MONEY_TOLERANCE_USD, EpisodeLimits
from mtrouter_rl.errors import (
    BackendError,
    CallOrderError,
    InvalidConfigError,
    MaskedActionError,
    SimulatorError,
    UnknownNameError,
)
from mtrouter_rl.protocols import Reply, TaskStart, TaskStep
from mtrouter_rl.records import EpisodeSpec, TokenUsage
from mtrouter_rl.rollout import run_episode
from mtrouter_rl.testing import ScriptedBackend, ScriptedRouter, ScriptedTask, plain_reply

SPEC = EpisodeSpec(task="script", variation=0, seed=0, split="train")
OK = TaskStep(observation="ok", score=0.0)
CHEAP = {"input": 1.0, "cached_input": 1.0, "output": 2.0}
DEAR = {"input": 10.0, "cached_input": 1.0, "cache_write": 20.0, "output": 100.0}


def any_allowed(name, model_names):
    def decide(observation):
        mask = np.asarray(observation["action_mask"], dtype=float)
        return mask / mask.sum()

    return ScriptedRouter(name=name, model_names=model_names, decide=decide)


def play(env, actions, seed=0):
    steps = [(*env.reset(seed=seed), None, None, None)]
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        steps.append((observation, info, reward, terminated, truncated))
        if terminated or truncated:
            break
    return steps


# --- the Gymnasium contract


@pytest.mark.filterwarnings("error::UserWarning")
def test_check_env_corridor():
    check_env(gymnasium.make("mtrouter_rl/Corridor-v0").unwrapped, skip_render_check=True)


@pytest.mark.java
def test_check_env_scienceworld(java):
    env = gymnasium.make("mtrouter_rl/ScienceWorld-v0")
    try:
        check_env(env.unwrapped, skip_render_check=True)
    finally:
        env.close()


def test_observations_lie_in_their_space():
    env = gymnasium.make("mtrouter_rl/Corridor-v0", budget_usd=0.02)
    rng = np.random.default_rng(0)
    n_observations = 0
    for seed in range(30):
        observation, _ = env.reset(seed=seed)
        is_over = not observation["action_mask"].any()
        while True:
            assert env.observation_space.contains(observation), observation
            n_observations += 1
            if is_over:
                break
            action = int(rng.choice(np.flatnonzero(observation["action_mask"])))
            observation, _, terminated, truncated, _ = env.step(action)
            is_over = terminated or truncated
    assert n_observations > 150


def test_same_seed_same_episode():
    rng = np.random.default_rng(0)
    actions = [int(action) for action in rng.integers(3, size=20)]
    first, second, other = (play(build_env(resolve_env("corridor")), actions, seed=seed) for seed in (5, 5, 6))
    assert repr(first) == repr(second)
    assert repr(first) != repr(other)


def test_an_episode_leaves_no_trace_in_the_next():
    env = build_env(resolve_env("corridor"))
    fresh = play(env, [0, 1, 2, 2, 1, 0], seed=5)
    play(env, [2, 2, 2], seed=8)
    assert repr(play(env, [0, 1, 2, 2, 1, 0], seed=5)) == repr(fresh)


def test_what_the_observation_shows(env_of):
    task = ScriptedTask(
        [TaskStep(observation="seen", score=0.0, error="unknown_action"), OK],
        start=TaskStart(task_text="the task", observation="the start"),
    )
    env = env_of(task=task, budget_usd=0.5)
    observation, info = env.reset(seed=0)
    assert (observation["task"], observation["first_observation"], observation["history"]) == (
        "the task",
        "the start",
        (),
    )
    assert (observation["turn"], observation["max_turns"]) == (0, 5)
    assert (observation["budget_usd"][0], observation["budget_left_usd"][0]) == (0.5, 0.5)
    assert info["utility"] == 0.0
    observation, *_, info = env.step(1)
    assert observation["history"] == (
        {"model": 1, "action": "act 0", "observation": "seen", "error": "unknown_action"},
    )
    assert observation["turn"] == 1
    assert observation["budget_left_usd"][0] == np.float32(info["budget_left_usd"])
    assert task.actions == ["act 0"]


def test_the_model_gets_the_whole_conversation(env_of):
    env = env_of(
        system_prompt="be brief",
        task=ScriptedTask([OK], start=TaskStart(task_text="the task", observation="the start")),
    )
    env.reset(seed=0)
    env.step(0)
    env.step(1)
    first, second = env._backend.calls
    assert [(m.role, m.content) for m in first.messages] == [("system", "be brief"), ("user", "the task\n\nthe start")]
    assert [(m.role, m.content) for m in second.messages[2:]] == [("assistant", "act 0"), ("user", "ok")]
    assert (first.turn, second.turn) == (0, 1)
    assert (first.max_output_tokens, second.max_output_tokens) == (100, 50)  # the model's own limit


def test_the_output_limit_of_the_card_applies_to_every_model(env_of):
    env = env_of(max_output_tokens=60)
    play(env, [0, 1])
    assert [call.max_output_tokens for call in env._backend.calls] == [60, 50]


def test_warm_follows_the_prompt_cache(env_of, pool_of):
    pool = pool_of(("a", CHEAP, 10_000, 10), ("b", CHEAP, 10_000, 10), cache={"ttl_s": 1.5, "min_tokens": 1})
    env = env_of(pool=pool)  # every call takes one second
    steps = play(env, [0, 1, 1, 0])
    assert [step[0]["warm"].tolist() for step in steps] == [[0, 0], [1, 0], [0, 1], [0, 1], [1, 0]]


def test_a_fall_back_warms_the_model_that_served(env_of, pool_of):
    """The vendor's cache holds the prompt of the model that answered; the chosen one never saw it."""

    def answer(call):
        usage = TokenUsage(n_fresh=call.n_prompt, n_output=1)
        return Reply(text="go", usage=usage, latency_s=1.0, served_model="a")

    pool = pool_of(("a", CHEAP, 10_000, 10), ("b", CHEAP, 10_000, 10), cache={"ttl_s": 100.0, "min_tokens": 1})
    steps = play(env_of(pool=pool, answer=answer), [1, 1])
    assert [step[0]["warm"].tolist() for step in steps] == [[0, 0], [1, 0], [1, 0]]


# --- reward


def test_reward_by_hand(env_of):
    task = ScriptedTask(
        [
            TaskStep(observation="", score=20.0),
            TaskStep(observation="", score=5.0),
            TaskStep(observation="", score=40.0, ending="solved"),
        ],
        start=TaskStart(task_text="x" * 100, observation="", score=10.0),
        max_score=50.0,
    )

    def answer(call):
        usage = TokenUsage(n_fresh=100, n_cached=200, n_written=300, n_output=40)
        return Reply(text="go", usage=usage, latency_s=0.0, served_model=call.model)

    env = env_of(task=task, answer=answer, cost_weight=0.5, cost_unit_usd=0.02)
    steps = play(env, [1, 0, 1])
    # dear: 100 x 10 + 200 x 1 + 300 x 20 + 40 x 100 = 11200 millionths; cheap: 100 + 200 + 300 + 80 = 680 (no write price)
    costs = [0.0112, 0.00068, 0.0112]
    gains = [0.2, -0.3, 0.7]
    assert steps[0][1]["utility"] == pytest.approx(0.2)
    assert [step[1]["cost_usd"] for step in steps[1:]] == pytest.approx(costs)
    assert [step[1]["utility_gain"] for step in steps[1:]] == pytest.approx(gains)
    expected = [gain - 0.5 * cost / 0.02 for gain, cost in zip(gains, costs, strict=True)]
    assert [step[2] for step in steps[1:]] == pytest.approx(expected)
    assert steps[-1][1]["utility"] == pytest.approx(0.8)
    assert steps[-1][1]["budget_left_usd"] == pytest.approx(1.0 - sum(costs))


def test_a_fall_back_is_billed_at_its_own_price(env_of):
    def answer(call):
        usage = TokenUsage(n_fresh=call.n_prompt, n_output=10)
        return Reply(text="", usage=usage, latency_s=0.0, served_model="cheap")

    env = env_of(answer=answer, task=ScriptedTask([OK], start=TaskStart(task_text="x" * 98, observation="")))
    *_, info = play(env, [1])[-1][:2]
    assert (info["model"], info["served_model"]) == ("dear", "cheap")
    assert info["cost_usd"] == pytest.approx((100 * 1 + 10 * 2) / 1e6)


# --- how an episode ends


def ended(env, n_turns):
    *_, terminated, truncated = play(env, [0] * n_turns)[-1]
    return terminated, truncated, len(env._history)


@pytest.mark.parametrize("ending", ["solved", "failed", "handed_in"])
def test_terminated_by_the_task(env_of, ending):
    task = ScriptedTask([OK, TaskStep(observation="", score=1.0, ending=ending)])
    assert ended(env_of(task=task), 5) == (True, False, 2)


def test_truncated_at_the_turn_limit(env_of):
    assert ended(env_of(max_turns=3), 9) == (False, True, 3)


def test_terminated_and_truncated_at_the_turn_limit(env_of):
    task = ScriptedTask([OK, OK, TaskStep(observation="", score=1.0, ending="solved")])
    assert ended(env_of(task=task, max_turns=3), 9) == (True, True, 3)


def test_truncated_by_the_budget(env_of, pool_of):
    # 10 tokens of output at 100 USD a million: 0.001 a call and nothing for the prompt.
    prices = {"input": 0.0, "cached_input": 0.0, "output": 100.0}
    pool = pool_of(("only", prices, 10_000, 10))

    def answer(call):
        return Reply(text="", usage=TokenUsage(n_fresh=0, n_output=10), latency_s=0.0, served_model="only")

    env = env_of(pool=pool, answer=answer, budget_usd=0.0025)
    assert ended(env, 5) == (False, True, 2)
    assert env.budget_left_usd == pytest.approx(0.0005)
    task = ScriptedTask([OK, TaskStep(observation="", score=0.0, ending="failed")])
    env = env_of(pool=pool, answer=answer, budget_usd=0.0025, task=task)
    assert ended(env, 5) == (True, False, 2)  # the task ended: that no more money is left stops nothing
    env = env_of(pool=pool, answer=answer, budget_usd=0.0025, max_turns=2)
    assert ended(env, 5) == (False, True, 2)  # turns and budget at once


def test_truncated_by_the_context(env_of, pool_of):
    pool = pool_of(("only", CHEAP, 60, 10))
    env = env_of(
        pool=pool,
        task=ScriptedTask(
            [TaskStep(observation="x" * 30, score=0.0)], start=TaskStart(task_text="x" * 8, observation="")
        ),
    )
    assert ended(env, 5) == (False, True, 2)


# --- refusals


def test_masked_by_price(env_of):
    # Prompt of 1000 tokens: dear may cost (1000 x 20 + 50 x 100) / 1e6 = 0.025, cheap (1000 + 200) / 1e6 = 0.0012.
    task = ScriptedTask([OK], start=TaskStart(task_text="x" * 998, observation=""))
    env = env_of(task=task, budget_usd=0.024999)
    observation, _ = env.reset(seed=0)
    assert observation["action_mask"].tolist() == [1, 0]
    assert env.action_masks().tolist() == [True, False]
    with pytest.raises(
        MaskedActionError,
        match=r"model 'dear' is not allowed at turn 0: .*cost 0\.025000 USD and 0\.024999 USD are left",
    ):
        env.step(1)
    assert env._backend.calls == []  # refused before any money is spent
    env.step(0)  # and the episode goes on
    with pytest.raises(MaskedActionError, match="at turn 1"):
        env.step(1)
    assert env_of(task=task, budget_usd=0.025).reset(seed=0)[0]["action_mask"].tolist() == [1, 1]


def test_masked_by_context(env_of, pool_of):
    task = ScriptedTask([OK], start=TaskStart(task_text="x" * 98, observation=""))
    pool = pool_of(("short", CHEAP, 109, 10), ("exact", CHEAP, 110, 10))
    env = env_of(task=task, pool=pool)
    observation, _ = env.reset(seed=0)
    assert observation["action_mask"].tolist() == [0, 1]
    with pytest.raises(
        MaskedActionError, match=r"'short'.*prompt of 100 tokens and output of up to 10 .*context of 109"
    ):
        env.step(0)


@pytest.mark.parametrize("when", ["before reset", "after the end", "after close", "after a failed reset"])
def test_call_order(env_of, when):
    env = env_of(max_turns=1)
    if when == "after the end":
        play(env, [0])
    if when == "after close":
        env.reset(seed=0)
        env.close()
    if when == "after a failed reset":
        env.reset(seed=0)
        with pytest.raises(InvalidConfigError):
            env.reset(options={"spec": 3})
    with pytest.raises(CallOrderError, match=r"step\(\) was called before reset\(\) or after the episode ended"):
        env.step(0)


@pytest.mark.parametrize("action", [-1, 2, 0.5, "cheap", None])
def test_wrong_action(env_of, action):
    env = env_of()
    env.reset(seed=0)
    with pytest.raises(InvalidConfigError, match=r"action is .*, must be an index in 0\.\.1"):
        env.step(action)


@pytest.mark.parametrize("action", [np.int64(1), np.int32(1), np.array(1)])
def test_actions_of_numpy(env_of, action):
    env = env_of()
    env.reset(seed=0)
    assert env.step(action)[-1]["model"] == "dear"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sepc": SPEC}, r"reset options \['sepc'\] are unknown; the only one is 'spec'"),
        ({"spec": ("boil", 3)}, r"reset option 'spec' is \('boil', 3\), must be an EpisodeSpec"),
    ],
)
def test_wrong_options(env_of, options, message):
    with pytest.raises(InvalidConfigError, match=message):
        env_of().reset(options=options)


def test_wrong_task():
    env = build_env(resolve_env("corridor"))
    spec = EpisodeSpec(task="shrt", variation=0, seed=0, split="train")
    with pytest.raises(UnknownNameError, match="did you mean 'short'"):
        env.reset(options={"spec": spec})


@pytest.mark.parametrize(
    ("options", "message"),
    [({"specs": []}, "specs is empty"), ({"render_mode": "human"}, "render_mode is 'human', must be 'ansi' or None")],
)
def test_wrong_construction(env_of, options, message):
    with pytest.raises(InvalidConfigError, match=message):
        env_of(**options)


def test_wrong_limits():
    with pytest.raises(InvalidConfigError, match="max_output_tokens is 0, must be at least 1"):
        EpisodeLimits(max_turns=1, budget_usd=1.0, max_output_tokens=0)


def test_render(env_of):
    env = env_of(render_mode="ansi")
    env.reset(seed=0)
    assert env.render() == "Do as scripted.\nIt begins."
    env.step(1)
    assert env.render() == "[dear] > act 0\nok"
    quiet = env_of()
    quiet.reset(seed=0)
    assert quiet.render() is None


def test_the_seed_draws_the_episode(env_of):
    specs = [EpisodeSpec(task="script", variation=i, seed=0, split="train") for i in range(50)]
    env = env_of(specs=specs)
    drawn = [env.reset(seed=seed)[1]["spec"] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert env.reset()[1]["spec"] != env.reset()[1]["spec"]
    assert env.reset(options={"spec": specs[7]})[1]["spec"] == specs[7]


# --- overspending


def zero_turns(env):
    router = any_allowed("r", env.pool.model_names)
    return run_episode(env, router, SPEC).episode


def test_nothing_is_affordable_at_reset(env_of):
    env = env_of(budget_usd=1e-7)
    observation, _ = env.reset(seed=0)
    assert not observation["action_mask"].any()
    for action in (0, 1):
        with pytest.raises(MaskedActionError):
            env.step(action)
    episode = zero_turns(env)
    assert (episode.turns, episode.cost_usd, episode.status) == ((), 0.0, "completed")
    assert env._backend.calls == []


def random_pool(rng, pool_of):
    models = []
    for index in range(int(rng.integers(1, 4))):
        prices = {key: float(10 ** rng.uniform(-2, 1.5)) for key in ("input", "cached_input", "output")}
        if rng.random() < 0.7:
            prices["cache_write"] = prices["input"] * float(rng.uniform(1, 3))
        models.append((f"m{index}", prices, int(rng.integers(2_000, 200_000)), int(rng.integers(1, 4_000))))
    cache = {"ttl_s": 3.5, "min_tokens": 1} if rng.random() < 0.5 else None
    return pool_of(*models, cache=cache)


def dearest_reply(rng, pool):
    """Always the whole output limit; the prompt billed in a random allowed way, often the dearest."""

    def answer(call):
        prices = pool.model(call.model).prices
        kinds = {"n_fresh": prices.input, "n_cached": prices.cached_input, "n_written": prices.cache_write or 0.0}
        tokens = dict.fromkeys(kinds, 0)
        if rng.random() < 0.6:
            tokens[max(kinds, key=kinds.get)] = call.n_prompt
        else:
            n_cached, n_written = sorted(rng.integers(0, call.n_prompt + 1, size=2))
            tokens = {
                "n_cached": int(n_cached),
                "n_written": int(n_written - n_cached),
                "n_fresh": int(call.n_prompt - n_written),
            }
        text = "word " * int(rng.integers(0, 500))
        usage = TokenUsage(n_output=call.max_output_tokens, **tokens)
        return Reply(text=text, usage=usage, latency_s=1.0, served_model=call.model)

    return answer


def check_spend(episode):
    assert episode.status == "completed", episode.status_detail
    assert episode.cost_usd <= episode.budget_usd + MONEY_TOLERANCE_USD
    return bool(episode.turns) and episode.turns[-1].truncated and len(episode.turns) < episode.max_turns


def test_no_budget_is_ever_exceeded_by_scripted_models(env_of, pool_of):
    rng = np.random.default_rng(7)
    n_by_budget = n_empty = n_nearly_all = 0
    for _ in range(400):
        pool = random_pool(rng, pool_of)
        steps = [TaskStep(observation="y" * int(10 ** rng.uniform(0, 4)), score=0.0) for _ in range(12)]
        start = TaskStart(task_text="x" * int(10 ** rng.uniform(0, 4)), observation="")
        env = env_of(
            pool=pool,
            task=ScriptedTask(steps, start=start),
            answer=dearest_reply(rng, pool),
            max_turns=12,
            budget_usd=float(10 ** rng.uniform(-4, 0)),
            max_output_tokens=int(rng.integers(1, 5_000)),
        )
        episode = run_episode(env, any_allowed("r", pool.model_names), SPEC).episode
        n_by_budget += check_spend(episode)
        n_empty += not episode.turns
        n_nearly_all += episode.cost_usd > 0.9 * episode.budget_usd
    assert n_by_budget > 100  # the test bites
    assert n_empty > 10
    assert n_nearly_all > 10


def test_a_budget_of_exactly_the_worst_case_is_spent_to_the_last_cent(env_of, pool_of):
    prices = {"input": 0.3, "cached_input": 0.1, "cache_write": 0.7, "output": 1.1}
    pool = pool_of(("only", prices, 10_000, 77))

    def answer(call):
        usage = TokenUsage(n_fresh=0, n_written=call.n_prompt, n_output=call.max_output_tokens)
        return Reply(text="z" * 13, usage=usage, latency_s=0.0, served_model="only")

    task = ScriptedTask(
        [TaskStep(observation="y" * 29, score=0.0)], start=TaskStart(task_text="x" * 98, observation="")
    )
    for n_calls in range(1, 30):
        exact = sum((100 + 42 * turn) * 0.7 + 77 * 1.1 for turn in range(n_calls)) / 1e6
        env = env_of(pool=pool, task=task, answer=answer, max_turns=100, budget_usd=exact * (1 + 1e-12))
        episode = run_episode(env, any_allowed("r", ("only",)), SPEC).episode
        assert len(episode.turns) == n_calls
        assert episode.cost_usd <= episode.budget_usd + MONEY_TOLERANCE_USD


def test_no_budget_is_ever_exceeded_by_simulated_models():
    rng = np.random.default_rng(11)
    worst_usd = (60 * 2.5 + 512 * 10) / 1e6  # about one call of the dearest model
    n_by_budget = n_empty = 0
    config = resolve_env("corridor")
    for index in range(300):
        budget_usd = float(worst_usd * 10 ** rng.uniform(-1.6, -0.6))
        limits = dataclasses.replace(config.limits, budget_usd=budget_usd)
        env = build_env(dataclasses.replace(config, limits=limits))
        spec = EpisodeSpec(task="long", variation=index % 10, seed=index, split="ood")
        episode = run_episode(env, any_allowed("r", env.pool.model_names), spec).episode
        n_by_budget += check_spend(episode)
        n_empty += not episode.turns
    assert n_by_budget > 50
    assert n_empty > 10


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (lambda call: TokenUsage(n_fresh=call.n_prompt, n_output=101), r"101 output tokens.*output limit was 100"),
        (
            lambda call: TokenUsage(n_fresh=10**6, n_output=1),
            r"1000000 prompt.*prompt was counted as \d+.*0\.99\d+ USD",
        ),
    ],
    ids=["output", "prompt"],
)
def test_a_backend_that_uses_more_than_it_was_allowed(env_of, lie, message):
    def answer(call):
        usage = plain_reply(call).usage if call.turn < 2 else lie(call)
        return Reply(text="x", usage=usage, latency_s=0.0, served_model="cheap")

    env = env_of(answer=answer)
    play(env, [0, 0])
    with pytest.raises(BackendError, match=message):
        env.step(0)
    traced = run_episode(env, any_allowed("r", env.pool.model_names), SPEC)
    episode = traced.episode
    assert episode.status == "failed"
    assert episode.status_detail.startswith("BackendError: model '")
    assert len(episode.turns) == len(traced.hidden) == len(traced.action_probabilities) == 2
    assert episode.cost_usd == pytest.approx(sum(turn.cost_usd for turn in episode.turns))
    assert episode.cost_usd > 0
    assert not any(turn.terminated or turn.truncated for turn in episode.turns)


def test_a_backend_that_serves_an_unknown_model(env_of):
    def answer(call):
        return Reply(text="", usage=TokenUsage(n_fresh=1, n_output=1), latency_s=0.0, served_model="chaep")

    env = env_of(answer=answer)
    env.reset(seed=0)
    with pytest.raises(BackendError, match=r"served by unknown model.*'chaep'.*did you mean 'cheap'"):
        env.step(0)


def test_money_of_a_call_whose_action_broke_the_simulator_is_reported(env_of):
    env = env_of(task=ScriptedTask([OK, SimulatorError("engine gone")]))
    episode = run_episode(env, any_allowed("r", env.pool.model_names), SPEC).episode
    assert (episode.status, len(episode.turns)) == ("failed", 1)
    spent_usd = env.limits.budget_usd - env.budget_left_usd
    assert spent_usd > episode.cost_usd > 0
    unlogged = f"{spent_usd - episode.cost_usd:.6f} USD"
    assert (
        f"SimulatorError: engine gone (and {unlogged} were spent on a call that has no turn)" in episode.status_detail
    )
    with pytest.raises(CallOrderError):
        env.step(0)


def test_a_failed_call_may_be_tried_again(env_of, pool_of):
    failures = [BackendError("503")]

    def answer(call):
        if call.turn == 1 and failures:
            raise failures.pop()
        return plain_reply(call)

    env = env_of(answer=answer)
    env.reset(seed=0)
    env.step(0)
    left_usd = env.budget_left_usd
    with pytest.raises(BackendError, match="503"):
        env.step(0)
    assert env.budget_left_usd == left_usd
    assert env.step(0)[0]["turn"] == 2


def test_backend_protocol_is_told_of_every_episode(pool_of, env_of):
    told = []

    class Backend(ScriptedBackend):
        def start_episode(self, **episode):
            told.append((episode["task_name"], episode["variation"], episode["seed"]))

    pool = pool_of(("only", CHEAP, 10_000, 10))
    env = env_of(pool=pool, backend=Backend(pool=pool, answer=plain_reply))
    env.reset(options={"spec": EpisodeSpec(task="t", variation=4, seed=9, split="test")})
    assert told == [("t", 4, 9)]


@pytest.mark.parametrize(
    "changes",
    [
        {"usage": TokenUsage(n_fresh=-1000, n_output=1)},
        {"usage": TokenUsage(n_fresh=1, n_cached=-5, n_output=1)},
        {"usage": TokenUsage(n_fresh=1, n_output=-1)},
        {"latency_s": float("nan")},
        {"latency_s": -1.0},
    ],
    ids=str,
)
def test_a_reply_gives_no_money_and_no_time_back(env_of, changes):
    env = env_of(answer=lambda call: dataclasses.replace(plain_reply(call), **changes))
    env.reset(seed=0)
    with pytest.raises(BackendError, match="must be finite and at least 0, or a call would give money back"):
        env.step(0)


# --- bills instead of tokens


class Billed(ScriptedBackend):
    """A backend that knows what a call cost and how much it costs at most."""

    bill, most = 0.2, 0.25

    def most_usd(self, model):
        return self.most

    def reply(self, model, messages, *, turn, max_output_tokens):
        usage = TokenUsage(n_fresh=0, n_output=0)
        return Reply(text="go", usage=usage, latency_s=0.0, served_model=model, cost_usd=self.bill)


def test_a_bill_is_booked_as_it_is_and_its_bound_masks(env_of, pool_of):
    pool = pool_of(("cheap", CHEAP, 8000, 1000), ("dear", DEAR, 8000, 1000))
    env = env_of(
        task=ScriptedTask([OK, OK, OK]), pool=pool, backend=Billed(pool=pool, answer=plain_reply), budget_usd=0.6
    )
    steps = play(env, [0, 0, 0])
    assert [step[1]["cost_usd"] for step in steps[1:]] == [0.2, 0.2]
    assert steps[-1][4], "0.2 USD are left and the next call may cost 0.25"
    episode = run_episode(env, any_allowed("any", env.pool.model_names), SPEC).episode
    assert (episode.usage_source, episode.cost_usd) == ("cost_only", pytest.approx(0.4))


@pytest.mark.parametrize("bill", [None, -0.1, 0.3, float("nan")])
def test_a_bill_has_to_keep_its_bound(env_of, pool_of, bill):
    pool = pool_of(("cheap", CHEAP, 8000, 1000), ("dear", DEAR, 8000, 1000))
    env = env_of(pool=pool, backend=type("Liar", (Billed,), {"bill": bill})(pool=pool, answer=plain_reply))
    env.reset(seed=0)
    with pytest.raises(BackendError, match=r"was billed at .* USD, must be from 0 to 0\.250000"):
        env.step(0)


def test_a_bill_needs_a_bound(env_of, pool_of):
    class Unbounded(ScriptedBackend):
        reply = Billed.reply
        bill = 0.2

    pool = pool_of(("cheap", CHEAP, 8000, 1000), ("dear", DEAR, 8000, 1000))
    env = env_of(pool=pool, backend=Unbounded(pool=pool, answer=plain_reply))
    env.reset(seed=0)
    with pytest.raises(BackendError, match=r"has a bill of 0\.2 USD, but backend .* has no most_usd"):
        env.step(0)
