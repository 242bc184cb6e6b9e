import copy
import math

import numpy as np
import pytest

from mtrouter_rl.cards import EnvCard
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.envs.factory import build_env, resolve_env
from mtrouter_rl.envs.routing import EpisodeLimits, RoutingEnv
from mtrouter_rl.errors import CallOrderError, CardError, InvalidConfigError, UnknownNameError
from mtrouter_rl.pools.simulated.backend import OTHER_SKILL, make_backend
from mtrouter_rl.protocols import TaskStart, TaskStep
from mtrouter_rl.records import EpisodeSpec, Message, TokenUsage
from mtrouter_rl.testing import ScriptedTask

PROMPT = (Message(role="user", content="x" * 400),)
LIMIT = 512


class SolverTask:
    """A task that is always due for one action, so that the same decision can be drawn many times."""

    max_score = 100.0

    def __init__(self, due="solve riddle", mistakes=None):
        self._due = due
        self._mistakes = {"idle": ("wait",), "fatal": ("jump into pit",)} if mistakes is None else mistakes

    def reset(self, task, variation, seed):
        return TaskStart(task_text="", observation="")

    def step(self, action_text):
        return TaskStep(observation="", score=0.0)

    def expert_action(self):
        return self._due

    def mistakes(self):
        return self._mistakes

    def close(self):
        pass


def start(backend, *, task=None, seed=0, name="short", variation=0):
    backend.start_episode(task=task or SolverTask(), task_name=name, variation=variation, seed=seed)


def ask(backend, model, *, turn=0, messages=PROMPT, limit=LIMIT):
    return backend.reply(model, messages, turn=turn, max_output_tokens=limit)


# --- who may play


def test_reply_before_start_is_an_order_error(backend_of, pool_data):
    backend = backend_of(pool_data)
    with pytest.raises(CallOrderError, match=r"before start_episode\(\); reset the environment first"):
        ask(backend, "small")
    with pytest.raises(CallOrderError, match="no episode has been started"):
        backend.is_stuck("small", "wait")


def test_a_task_without_an_expert_is_refused(backend_of, pool_data):
    with pytest.raises(InvalidConfigError, match=r"ScriptedTask has no expert_action\(\) and mistakes\(\)"):
        start(backend_of(pool_data), task=ScriptedTask([TaskStep(observation="", score=0.0)]))


def test_unknown_model_is_refused(backend_of, pool_data):
    backend = backend_of(pool_data)
    start(backend)
    with pytest.raises(UnknownNameError, match="did you mean 'small'"):
        ask(backend, "smal")


# --- common random numbers


def test_a_reply_depends_on_seed_turn_and_model_alone(backend_of, pool_data):
    rng = np.random.default_rng(0)
    names = ("small", "middle", "large")
    seen = {}
    for _ in range(200):
        seed, turn = int(rng.integers(5)), int(rng.integers(4))
        backend = backend_of(pool_data)
        start(backend, seed=seed)
        for earlier in range(turn):  # whatever other models did before
            ask(backend, names[int(rng.integers(3))], turn=earlier)
        for model in rng.permutation(names):
            reply = ask(backend, str(model), turn=turn)
            drawn = (reply.text, reply.usage.n_output, dict(reply.hidden))
            assert seen.setdefault((seed, turn, str(model)), drawn) == drawn
    assert len({str(drawn) for drawn in seen.values()}) > 20


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"name": "middle"}, {"variation": 1}],
    ids=lambda other: next(iter(other)),
)
def test_another_episode_has_other_luck(backend_of, pool_data, other):
    lengths = []
    for changes in ({}, other):
        backend = backend_of(pool_data)
        start(backend, **changes)
        lengths.append([ask(backend, "large", turn=turn).usage.n_output for turn in range(8)])
    assert lengths[0] != lengths[1]


def test_models_and_turns_have_independent_luck(backend_of, pool_data):
    for model in pool_data["backend"]["settings"]["models"].values():
        model["output_tokens"] = {"median": 100, "sigma": 1.0, "per_second": 100}
        model.update(ability=100.0, skills={}, stuck=0.0)  # always right: the same number of draws before the length
    backend = backend_of(pool_data)
    lengths = {name: [] for name in ("small", "large")}
    for seed in range(300):
        start(backend, seed=seed)
        for name, drawn in lengths.items():
            drawn.append([math.log(ask(backend, name, turn=turn, limit=10**6).usage.n_output) for turn in range(2)])
    small, large = np.array(lengths["small"]), np.array(lengths["large"])
    assert abs(np.corrcoef(small[:, 0], large[:, 0])[0, 1]) < 0.25
    assert abs(np.corrcoef(small[:, 0], small[:, 1])[0, 1]) < 0.25


# --- competence


def _never_stuck(data):
    for model in data["backend"]["settings"]["models"].values():
        model["stuck"] = 0.0


@pytest.mark.parametrize("model", ["small", "middle", "large"])
@pytest.mark.parametrize("due", ["solve riddle", "open door", "walk north"])
def test_success_frequency_is_the_probability(backend_of, pool_data, model, due):
    _never_stuck(pool_data)
    backend = backend_of(pool_data)
    task = SolverTask(due)
    expected = backend.success_probability(model, skill=backend.skill_of(due), topic="corridor")
    n_seeds = 1500
    n_right = 0
    for seed in range(n_seeds):
        start(backend, task=task, seed=seed)
        reply = ask(backend, model)
        n_right += reply.text == due
        assert (reply.text == due) == (reply.hidden["failure"] == "")
        assert reply.hidden["success_probability"] == expected
    standard_error = math.sqrt(expected * (1 - expected) / n_seeds)
    assert abs(n_right / n_seeds - expected) <= 4 * standard_error


def test_success_probability_by_hand(backend_of, pool_data):
    settings = pool_data["backend"]["settings"]
    settings["models"]["small"]["topics"] = {"corridor": 0.25}
    settings["complementarity"] = 2.0
    backend = backend_of(pool_data)
    # ability 2, difficulty 2, complementarity 2 x (skill -3 + topic 0.25)
    expected = 1 / (1 + math.exp(-(2.0 - 2.0 + 2.0 * (-3.0 + 0.25))))
    assert backend.success_probability("small", skill="think", topic="corridor") == pytest.approx(expected)


def test_without_complementarity_skills_and_topics_do_not_matter(backend_of, pool_data):
    settings = pool_data["backend"]["settings"]
    settings["models"]["small"]["topics"] = {"corridor": 2.0}
    plain = copy.deepcopy(pool_data)
    for model in plain["backend"]["settings"]["models"].values():
        model.pop("skills", None)
        model.pop("topics", None)
    settings["complementarity"] = 0.0
    flat, bare = backend_of(pool_data), backend_of(plain)
    for model in ("small", "middle", "large"):
        for skill in ("walk", "operate", "think"):
            probability = flat.success_probability(model, skill=skill, topic="corridor")
            assert probability == bare.success_probability(model, skill=skill, topic="corridor")
    ranks = [flat.success_probability(m, skill="think", topic="corridor") for m in ("small", "middle", "large")]
    assert ranks == sorted(ranks)  # ability alone is left


# --- stuck


def test_a_stuck_model_fails_at_that_sub_goal_every_time(backend_of, pool_data):
    for model in pool_data["backend"]["settings"]["models"].values():
        model.update(ability=100.0, stuck=0.5, skills={})
    backend = backend_of(pool_data)
    n_stuck = 0
    for seed in range(60):
        for due in ("solve riddle", "open door"):
            start(backend, task=SolverTask(due), seed=seed)
            stuck = backend.is_stuck("large", due)
            n_stuck += stuck
            replies = [ask(backend, "large", turn=turn) for turn in range(6)]
            assert all((reply.text != due) == stuck for reply in replies)
            assert all(reply.hidden["stuck"] == stuck for reply in replies)
    assert 30 < n_stuck < 90


def test_models_and_sub_goals_are_stuck_apart(backend_of, pool_data):
    for model in pool_data["backend"]["settings"]["models"].values():
        model["stuck"] = 0.5
    backend = backend_of(pool_data)
    rows = []
    for seed in range(200):
        start(backend, seed=seed)
        rows.append([backend.is_stuck(m, due) for m in ("small", "large") for due in ("solve riddle", "open door")])
    correlations = np.corrcoef(np.array(rows, dtype=float).T)[np.triu_indices(4, k=1)]
    assert np.abs(correlations).max() < 0.3


# --- failures


def _always_fails(data, **failures):
    for model in data["backend"]["settings"]["models"].values():
        model.update(ability=-100.0, skills={}, failures=failures, fatal_skills=["think"])


def _texts(backend, task, n=60):
    seen = set()
    for seed in range(n):
        start(backend, task=task, seed=seed)
        seen.add(ask(backend, "small").text)
    return seen


def test_failures_are_those_of_the_card(backend_of, pool_data):
    _always_fails(pool_data, malformed=1, idle=1, fatal=1)
    assert _texts(backend_of(pool_data), SolverTask()) == {"I think: solve riddle?", "wait", "jump into pit"}


def test_fatal_only_at_fatal_skills(backend_of, pool_data):
    _always_fails(pool_data, malformed=1, fatal=1000)
    assert _texts(backend_of(pool_data), SolverTask("open door")) == {"I think: open door?"}


def test_a_failure_that_the_state_does_not_offer_is_malformed(backend_of, pool_data):
    _always_fails(pool_data, malformed=1e-9, drop=1)
    backend = backend_of(pool_data)
    assert _texts(backend, SolverTask()) == {"I think: solve riddle?"}
    assert ask(backend, "small").hidden["failure"] == "malformed"


def test_a_mistake_is_never_the_right_action(backend_of, pool_data):
    _always_fails(pool_data, malformed=1e-9, idle=1)
    assert _texts(backend_of(pool_data), SolverTask("wait")) == {"I think: wait?"}


def test_braces_in_an_action_are_plain_text(backend_of, pool_data):
    _always_fails(pool_data, malformed=1)
    assert _texts(backend_of(pool_data), SolverTask("solve {x}")) == {"I think: solve {x}?"}


# --- tokens and money


def test_output_never_exceeds_the_limit(backend_of, pool_data):
    pool_data["backend"]["settings"]["models"]["large"]["output_tokens"] = {
        "median": 400,
        "sigma": 2.0,
        "per_second": 50,
    }
    backend = backend_of(pool_data)
    lengths = []
    for seed in range(300):
        start(backend, seed=seed)
        lengths.append(ask(backend, "large", limit=100 + seed).usage.n_output - (100 + seed))
    assert max(lengths) == 0  # some are cut
    assert min(lengths) < -100
    assert all(n + 100 + seed >= 1 for seed, n in enumerate(lengths))


def test_latency_is_length_over_speed(backend_of, pool_data):
    backend = backend_of(pool_data)
    start(backend)
    reply = ask(backend, "large")
    assert reply.latency_s == pytest.approx(reply.usage.n_output / 50)


def test_output_length_has_the_median_of_the_card(backend_of, pool_data):
    backend = backend_of(pool_data)
    lengths = []
    for seed in range(400):
        start(backend, seed=seed)
        lengths.append(ask(backend, "middle").usage.n_output)
    assert np.median(lengths) == pytest.approx(60, rel=0.08)
    assert np.std(np.log(lengths)) == pytest.approx(0.3, rel=0.15)


def test_usage_follows_the_prompt_cache(backend_of, pool_data):
    backend = backend_of(pool_data)
    start(backend)
    n_first = 100 + 4  # 400 characters, 4 tokens of frame
    assert ask(backend, "middle").usage.n_fresh == n_first
    longer = (*PROMPT, Message(role="assistant", content="y" * 40))
    usage = ask(backend, "middle", turn=1, messages=longer).usage
    assert (usage.n_fresh, usage.n_cached, usage.n_written) == (10 + 4, n_first, 0)
    usage = ask(backend, "large", turn=2, messages=longer).usage  # its own cache is cold, and writing is billed
    assert (usage.n_fresh, usage.n_cached, usage.n_written) == (0, 0, n_first + 14)


def test_a_prompt_too_short_to_be_cached_is_not_billed_as_written(backend_of, pool_data):
    pool_data["prompt_cache"]["min_tokens"] = 200
    backend = backend_of(pool_data)
    start(backend)
    usage = ask(backend, "large").usage
    assert (usage.n_fresh, usage.n_cached, usage.n_written) == (104, 0, 0)


def test_a_switch_that_outlives_the_time_to_live_loses_the_cache(backend_of, pool_data):
    pool_data["backend"]["settings"]["models"]["small"]["output_tokens"] = {
        "median": 500,
        "sigma": 0.0,
        "per_second": 5,  # 100 s a call, more than the 60 s of the cache
    }
    backend = backend_of(pool_data)
    start(backend)
    ask(backend, "middle")
    assert ask(backend, "middle", turn=1).usage.n_cached == 104
    ask(backend, "small", turn=2)
    assert ask(backend, "middle", turn=3).usage.n_cached == 0


def test_a_new_episode_begins_cold(backend_of, pool_data):
    backend = backend_of(pool_data)
    start(backend)
    ask(backend, "middle")
    start(backend, seed=1)
    assert ask(backend, "middle").usage == TokenUsage(n_fresh=104, n_output=ask(backend, "middle").usage.n_output)


def test_tokens_times_price_is_what_the_environment_books():
    config = resolve_env("corridor", budget_usd=10.0)
    env = build_env(config)
    rng = np.random.default_rng(3)
    n_kinds = np.zeros(3, dtype=int)
    for seed in range(30):
        observation, info = env.reset(seed=seed)
        left_usd = info["budget_left_usd"]
        is_over = False
        while not is_over:
            warm = observation["warm"]
            action = int(rng.integers(3))
            observation, _, terminated, truncated, info = env.step(action)
            is_over = terminated or truncated
            usage, prices = info["usage"], config.pool.model(info["served_model"]).prices
            by_hand = (
                usage.n_fresh * prices.input
                + usage.n_cached * prices.cached_input
                + usage.n_written * (prices.cache_write or 0)
                + usage.n_output * prices.output
            ) / 1e6
            assert info["cost_usd"] == pytest.approx(by_hand, rel=1e-12)
            assert left_usd - info["budget_left_usd"] == pytest.approx(by_hand, rel=1e-9)
            assert (usage.n_cached > 0) == bool(warm[action])  # what the router was shown is what was billed
            left_usd = info["budget_left_usd"]
            n_kinds += np.array([usage.n_fresh, usage.n_cached, usage.n_written]) > 0
    assert (n_kinds > 20).all()


# --- what is hidden stays hidden


def _leaves(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _leaves(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value


def test_nothing_hidden_reaches_the_observation(pool_data, env_card):
    # Markers that can come from the hidden record alone.
    env_data = env_card.model_dump(mode="json")
    marker = "MARKER"
    env_data["topics"] = dict.fromkeys(env_data["topics"], f"topic-{marker}")
    env_data["skills"] = [{"skill": f"skill-{marker}", "pattern": ".*"}]
    pool_data["backend"]["settings"]["difficulty"] = {}
    for model in pool_data["backend"]["settings"]["models"].values():
        model.update(skills={}, topics={}, fatal_skills=[], ability=0.0, failures={"malformed": 1, "idle": 1})
    card = EnvCard.model_validate(env_data)
    pool = PoolCard.model_validate(pool_data)
    env = RoutingEnv(
        task=SolverTask(),
        backend=make_backend(pool, card),
        pool=pool,
        specs=[EpisodeSpec(task="short", variation=0, seed=0, split="train")],
        system_prompt="",
        limits=EpisodeLimits(max_turns=10, budget_usd=10.0, max_output_tokens=100),
        reward=card.reward,
    )
    observation, info = env.reset(seed=0)
    names = {"task", "first_observation", "history", "turn", "max_turns", "budget_left_usd", "budget_usd"}
    names |= {"warm", "action_mask"}
    failures = set()
    for turn in range(10):
        observation, _, _, _, info = env.step(turn % 3)
        assert info["hidden"]["skill"] == f"skill-{marker}"
        assert info["hidden"]["topic"] == f"topic-{marker}"
        failures.add(info["hidden"]["failure"])
        assert set(observation) == names
        assert all(set(view) == {"model", "action", "observation", "error"} for view in observation["history"])
        for leaf in _leaves(observation):
            assert not (isinstance(leaf, str) and marker in leaf)
            assert leaf not in info["hidden"] if isinstance(leaf, str) else True
            assert not isinstance(leaf, dict | float)
    assert failures == {"", "malformed", "idle"}


# --- cards


def _settings(data):
    return data["backend"]["settings"]


def _model(data, name="small"):
    return _settings(data)["models"][name]


@pytest.mark.parametrize(
    ("mutate", "message"),
    [
        (lambda d: _settings(d)["models"].pop("large"), r"has no entry for \['large'\]; add one for each model"),
        (
            lambda d: _settings(d)["models"].update(largo=_model(d)),
            r"unknown model 'largo'; did you mean 'large'\? Valid: large, middle, small",
        ),
        (
            lambda d: _model(d).update(skills={"thnk": 1.0}),
            r"environment 'corridor': unknown skill 'thnk'; did you mean 'think'\?",
        ),
        (lambda d: _model(d).update(fatal_skills=["wlk"]), r"unknown skill 'wlk'; did you mean 'walk'\?"),
        (lambda d: _settings(d).update(difficulty={"operat": 1}), r"unknown skill 'operat'; did you mean 'operate'\?"),
        (
            lambda d: _model(d).update(topics={"coridor": 1.0}),
            r"environment 'corridor': unknown topic 'coridor'; did you mean 'corridor'\?",
        ),
        (lambda d: _settings(d).pop("complementarity"), r"backend\.settings\.complementarity: Field required"),
        (lambda d: _settings(d).update(complementarity=-1), r"backend\.settings\.complementarity: .*greater than or"),
        (lambda d: _settings(d).update(malformed=[]), r"backend\.settings\.malformed: .*at least 1"),
        (
            lambda d: _settings(d).update(malformed=["{action}", "{act}"]),
            r"backend\.settings\.malformed: .*'\{act\}'.*only.*\{action\}",
        ),
        (lambda d: _settings(d).update(malformed=["{action"]), r"backend\.settings\.malformed: .*'\{action'"),
        (lambda d: _settings(d).update(luck=1), r"backend\.settings\.luck: Extra inputs"),
        (lambda d: _model(d).update(stuck=1.5), r"models\.small\.stuck: .*less than or equal to 1"),
        (lambda d: _model(d).update(failures={"idle": 1}), r"models\.small: .*failures\.malformed must be above 0"),
        (lambda d: _model(d).update(failures={"malformed": 1, "nap": 1}), r"models\.small\.failures\.nap"),
        (lambda d: _model(d)["output_tokens"].pop("median"), r"small\.output_tokens\.median: Field required"),
        (lambda d: _model(d)["output_tokens"].update(per_second=0), r"per_second: .*greater than 0"),
    ],
)
def test_broken_simulation(backend_of, pool_data, mutate, message):
    mutate(pool_data)
    with pytest.raises(CardError, match=message) as caught:
        backend_of(pool_data)
    assert "corridor" in str(caught.value)


def test_the_skill_is_the_first_pattern_that_matches_from_the_start(backend_of, pool_data):
    backend = backend_of(pool_data)
    assert backend.skill_of("open door") == "operate"
    assert backend.skill_of("walk north") == "walk"
    assert backend.skill_of("please walk north") == OTHER_SKILL
