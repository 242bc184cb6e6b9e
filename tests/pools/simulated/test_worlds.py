"""What each setting of a world does, on the corridor: the draws, what the hidden state says of them, and what a router sees."""

import copy
import dataclasses
import itertools
import math

import numpy as np
import pytest
import yaml

from mtrouter_rl.cards import card_root, load_env_card, load_pool_card
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.cards.splits import evaluation_specs
from mtrouter_rl.envs.factory import build_env, resolve_env
from mtrouter_rl.errors import BackendError, CardError, MaskedActionError
from mtrouter_rl.evaluation.closed_loop import Contestant
from mtrouter_rl.pools.simulated.backend import PastCall, make_backend
from mtrouter_rl.pools.simulated.luck import EpisodeKey, Outages, Spells
from mtrouter_rl.pools.simulated.stuckness import Stuckness
from mtrouter_rl.protocols import SelectiveBackend, TaskStart, TaskStep
from mtrouter_rl.records import EpisodeSpec, Message
from mtrouter_rl.rollout import run_episode

PROMPT = (Message(role="user", content="x" * 400),)
NAMES = ("small", "middle", "large")
POOL = yaml.safe_load((card_root() / "envs/pools/corridor-three.yaml").read_text(encoding="utf-8"))
DEVELOPMENT = ("no-focus", "together-stuck")
FOR_THE_END = ("agreeing", "silent", "tiring", "bursts", "drift")


class Riddle:
    """A task that is always due for one action."""

    max_score = 100.0
    due = "solve riddle"

    def reset(self, task, variation, seed):
        return TaskStart(task_text="", observation="")

    def step(self, action_text):
        return TaskStep(observation="", score=0.0)

    def expert_action(self):
        return self.due

    def mistakes(self):
        return {"idle": ("wait", "look"), "fatal": ("jump into pit",)}

    def close(self):
        pass


def settings_of(data):
    return data["backend"]["settings"]


def start(backend, *, seed=0, name="short", variation=0):
    backend.start_episode(task=Riddle(), task_name=name, variation=variation, seed=seed)


def ask(backend, model, *, turn=0, messages=PROMPT):
    return backend.reply(model, messages, turn=turn, max_output_tokens=512)


def state_of(backend, *, n_prompt_tokens=104):
    return backend.hidden_state(utility=0.0, n_prompt_tokens=n_prompt_tokens, output_limits=[512] * 3)


def corridor_with(**settings):
    """The corridor's environment, in a world with these settings."""
    data = copy.deepcopy(POOL)
    settings_of(data).update(settings)
    return dataclasses.replace(resolve_env("corridor", budget_usd=10.0), pool=PoolCard.model_validate(data))


WORLDS = {
    "agreeing": {"task_spread": 1.5},
    "together-stuck": {"together": 0.7},
    "silent": {"silent": True, "malformed": ["hm", "well"]},
    "tiring": {"tired_by_tokens": 1.0, "tired_by_others": 0.3},
    "bursts": {
        "outages": {"start": 0.15, "turns": 3},
        "error_bursts": {"start": 0.15, "turns": 3, "logit": 3.0},
    },
}


# --- every world


@pytest.mark.parametrize("world", WORLDS)
def test_what_is_seen_is_what_is_simulated(world):
    """Probability and stuckness of the state before a turn are those that the log of hidden information shows after it."""
    config = corridor_with(**WORLDS[world])
    env, rng, n_turns = build_env(config), np.random.default_rng(0), 0
    for seed in range(12):
        observation, _ = env.reset(
            options={"spec": EpisodeSpec(task="middle", variation=seed % 4, seed=seed, split="train")}
        )
        is_over = False
        while not is_over:
            state = env.hidden_state()
            action = int(rng.choice(np.flatnonzero(observation["action_mask"])))
            observation, _, terminated, truncated, info = env.step(action)
            assert info["hidden"]["expert_action"] == state.actions[0]
            assert info["hidden"]["success_probability"] == pytest.approx(state.success[0, action], rel=1e-12)
            assert info["hidden"]["stuck"] == state.stuck[0, action]
            is_over, n_turns = terminated or truncated, n_turns + 1
    assert n_turns > 60


@pytest.mark.parametrize("world", WORLDS)
def test_the_same_choices_meet_the_same_luck(world):
    """Two backends, one of which was used for other episodes in between, play an episode alike."""
    config = corridor_with(**WORLDS[world])
    one, other = build_env(config), build_env(config)
    router = Contestant.of("uniform", config, cache=None).ref(config)
    specs = evaluation_specs(config.card, "validation", 2, per_task=2)
    alone = [run_episode(one, router, spec).episode for spec in specs]
    mixed = {spec.key: run_episode(other, router, spec).episode for spec in reversed(specs)}
    assert [mixed[spec.key] for spec in specs] == alone


@pytest.mark.parametrize("world", WORLDS)
def test_the_world_changes_episodes(world):
    plain, config = corridor_with(), corridor_with(**WORLDS[world])
    specs = evaluation_specs(config.card, "train", 2, per_task=6)

    def turns(config):
        router = Contestant.of("uniform", config, cache=None).ref(config)
        env = build_env(config)
        return [[turn.action_text for turn in run_episode(env, router, spec).episode.turns] for spec in specs]

    assert turns(config) != turns(plain)


@pytest.mark.parametrize("world", WORLDS)
def test_references_stay_above_every_single_model(world):
    """What they are shown of the world is true enough to plan by."""
    config = corridor_with(**WORLDS[world])
    config = dataclasses.replace(config, limits=dataclasses.replace(config.limits, max_turns=12))
    env, returns = build_env(config), {}
    for text in ("reference:hidden", "reference:believing", "uniform", *(f"single:{name}" for name in NAMES)):
        policy = Contestant.of(text, config, cache=None).ref(config)
        episodes = [run_episode(env, policy, spec).episode for spec in evaluation_specs(config.card, "train", 1)]
        returns[text] = float(np.mean([config.reward.reward(one.utility, one.cost_usd) for one in episodes]))
    references = [returns.pop(text) for text in ("reference:hidden", "reference:believing")]
    assert min(references) > max(returns.values()) + 0.02, (references, returns)


@pytest.mark.parametrize("world", [*DEVELOPMENT, *FOR_THE_END, "long"])
def test_cards_are_of_the_same_models_and_can_be_played(world):
    """Same names in the same order, so that a router that learned in one world can be evaluated in another."""
    paper, card = load_pool_card("paper-scienceworld"), load_pool_card(f"paper-scienceworld-{world}")
    assert card.model_names == paper.model_names
    assert "SIMULATED" in card.description
    assert card.backend.settings != paper.backend.settings
    assert isinstance(make_backend(card, load_env_card("scienceworld")), SelectiveBackend)


# --- agreeing


def test_how_hard_a_variation_is_depends_on_it_alone_and_is_shared(backend_of, pool_data):
    settings_of(pool_data)["task_spread"] = 2.0
    backend, flat = backend_of(pool_data), backend_of(POOL)
    shifts = {}
    for variation, seed, name in itertools.product(range(30), (0, 7), ("short", "middle")):
        for one in (backend, flat):
            start(one, seed=seed, name=name, variation=variation)
        both = [
            [one.success_probability(model, skill="walk", topic="corridor") for model in NAMES]
            for one in (backend, flat)
        ]
        logits = np.log(np.array(both) / (1 - np.array(both)))
        assert np.ptp(logits[1] - logits[0]) == pytest.approx(0, abs=1e-9)  # the same for every model
        shift = float((logits[1] - logits[0])[0])
        assert shifts.setdefault((name, variation), shift) == pytest.approx(shift)  # whatever the seed
    drawn = np.array(list(shifts.values()))
    assert drawn.std() == pytest.approx(2.0, rel=0.25)
    assert abs(drawn.mean()) < 0.8


def test_a_harder_variation_makes_stuck_more_often(backend_of, pool_data):
    settings_of(pool_data)["task_spread"] = 2.0
    for model in settings_of(pool_data)["models"].values():
        model["stuck"] = 0.3
    backend, n_stuck, expected = backend_of(pool_data), 0, 0.0
    for variation, seed in itertools.product(range(40), range(10)):
        start(backend, variation=variation, seed=seed)
        ability = backend.success_probability("large", skill="walk", topic="corridor")
        hardness = 4.5 - math.log(ability / (1 - ability))
        probability = 1 / (1 + math.exp(-(math.log(0.3 / 0.7) + hardness)))
        assert state_of(backend).believed_stuck[0] == pytest.approx([probability] * 3)  # nothing has failed yet
        n_stuck, expected = n_stuck + backend.is_stuck("large", Riddle.due), expected + probability
    assert n_stuck / 400 == pytest.approx(expected / 400, abs=0.06)


def test_models_fail_at_the_same_tasks_where_tasks_differ():
    """Solved by one, solved by the other: in an agreeing world much more often than by chance."""

    def agreement(spread):
        config = corridor_with(task_spread=spread)
        env = build_env(dataclasses.replace(config, limits=dataclasses.replace(config.limits, max_turns=9)))
        solved = []
        for name in ("small", "large"):
            router = Contestant.of(f"single:{name}", config, cache=None).ref(config)
            specs = [EpisodeSpec(task="middle", variation=v, seed=1, split="train") for v in range(120)]
            solved.append([run_episode(env, router, spec).episode.utility >= 1 for spec in specs])
        return float(np.corrcoef(np.array(solved, dtype=float))[0, 1])

    assert agreement(4.0) > agreement(0.0) + 0.2


# --- together stuck


@pytest.mark.parametrize("together", [0.0, 0.6, 1.0])
def test_together_changes_who_is_stuck_with_whom_and_not_how_often(together):
    probabilities = {"a": 0.3, "b": 0.3, "c": 0.6}
    drawn = []
    for seed in range(1500):
        stuckness = Stuckness(
            key=EpisodeKey(task_name="t", variation=0, seed=seed),
            probabilities=probabilities,
            together=together,
            is_steady=True,
        )
        drawn.append([stuckness.holds(name, "go north") for name in probabilities])
    rows = np.array(drawn, dtype=float)
    assert rows.mean(axis=0) == pytest.approx([0.3, 0.3, 0.6], abs=0.05)
    # both of two equal models: by the shared draw, or by chance
    assert (rows[:, 0] * rows[:, 1]).mean() == pytest.approx(together * 0.3 + (1 - together) * 0.09, abs=0.04)
    if together == 1.0:
        assert (rows[:, 0] <= rows[:, 2]).all()


def brute_force(probabilities, together, missed, succeeded, *, n=200_000):
    """Posterior of being stuck by drawing worlds and weighing each by what was seen in it."""
    rng = np.random.default_rng(3)
    prior = np.array(list(probabilities.values()))
    own = rng.random((n, len(prior)))
    shared = np.where(rng.random(n) < together, rng.random(n), np.nan)
    draws = np.where(np.isnan(shared)[:, None], own, shared[:, None])
    stuck = draws < prior
    weights = np.prod(np.where(stuck, np.where(succeeded, 0.0, 1.0), missed), axis=1)
    return (weights[:, None] * stuck).sum(axis=0) / weights.sum()


@pytest.mark.parametrize("together", [0.3, 0.8, 1.0])
def test_belief_where_models_are_stuck_together_is_bayes_rule(together):
    probabilities = {"a": 0.3, "b": 0.2, "c": 0.4}
    stuckness = Stuckness(
        key=EpisodeKey(task_name="t", variation=0, seed=0),
        probabilities=probabilities,
        together=together,
        is_steady=True,
    )
    success = np.array([[0.7, 0.5, 0.6]])
    assert stuckness.believed(["go"], success, list(probabilities)) == pytest.approx(np.array([[0.3, 0.2, 0.4]]))
    for model, n_failed in (("a", 2), ("c", 1)):
        for _ in range(n_failed):
            stuckness.learn(model, "go", probability=0.1, is_success=False)
    expected = brute_force(probabilities, together, np.array([0.3**2, 1.0, 0.4]), np.zeros(3, dtype=bool))
    found = stuckness.believed(["go", "stay"], success.repeat(2, axis=0), list(probabilities))
    assert found[0] == pytest.approx(expected, abs=0.01)
    assert found[1] == pytest.approx([0.3, 0.2, 0.4])  # nothing was seen there
    assert found[0, 1] > 0.25  # others' failures speak of a model that was not called
    stuckness.learn("b", "go", probability=0.5, is_success=True)
    expected = brute_force(probabilities, together, np.array([0.3**2, 1.0, 0.4]), np.array([False, True, False]))
    assert stuckness.believed(["go"], success, list(probabilities))[0] == pytest.approx(expected, abs=0.01)


# --- silent


def test_a_silent_failure_is_an_idle_action_and_no_error(backend_of, pool_data):
    settings_of(pool_data).update(silent=True, malformed=["hm"])
    for model in settings_of(pool_data)["models"].values():
        model.update(ability=-100.0, skills={}, failures={"malformed": 1, "drop": 1})
    backend = backend_of(pool_data)
    texts = set()
    for seed in range(40):
        start(backend, seed=seed)
        state = state_of(backend)
        assert state.failures["idle"] == pytest.approx(1.0)
        assert state.failures["malformed"] == pytest.approx(0.0)
        reply = ask(backend, "small")
        assert reply.hidden["failure"] == "idle"
        texts.add(reply.text)
    assert texts == {"wait", "look"}


def test_no_reply_of_a_silent_world_is_an_error_or_tells_what_is_due():
    config = corridor_with(**WORLDS["silent"])
    env, router = build_env(config), Contestant.of("uniform", config, cache=None).ref(config)
    n_failed = 0
    for spec in evaluation_specs(config.card, "train", 2, per_task=10):
        for turn in run_episode(env, router, spec).episode.turns:
            assert turn.error == ""
            assert not turn.action_text.startswith("I think")
            n_failed += turn.action_text in ("wait", "jump into pit")
    assert n_failed > 20


# --- tiring


def test_tokens_and_others_failures_make_a_model_worse_and_its_own_do_not(backend_of, pool_data):
    settings_of(pool_data).update(tired_by_tokens=0.5, tired_by_others=0.25)
    backend, fresh = backend_of(pool_data), backend_of(POOL)
    for one in (backend, fresh):
        start(one)
    backend.take_up([PastCall(model="small", n_prompt=10, latency_s=0.0, is_failure=True)] * 3)
    backend.take_up([PastCall(model="middle", n_prompt=10, latency_s=0.0, is_failure=False)] * 5)
    logits = [
        np.log(success / (1 - success))
        for success in (state_of(one, n_prompt_tokens=2000).success[0] for one in (fresh, backend))
    ]
    # 2,000 tokens cost 2 x 0.5; three failures of `small` cost the others 3 x 0.25
    assert logits[0] - logits[1] == pytest.approx([1.0, 1.75, 1.75])


def test_a_reply_in_a_long_conversation_succeeds_less_often(backend_of, pool_data):
    settings_of(pool_data).update(tired_by_tokens=2.0)
    for model in settings_of(pool_data)["models"].values():
        model.update(ability=1.0, skills={}, stuck=0.0, topics={})
    settings_of(pool_data)["difficulty"] = {}
    backend = backend_of(pool_data)
    shares = []
    for n_characters in (0, 4000):
        n_right = 0
        for seed in range(400):
            start(backend, seed=seed)
            reply = ask(backend, "small", messages=(Message(role="user", content="x" * n_characters),))
            n_right += reply.text == Riddle.due
        shares.append(n_right / 400)
    expected = [1 / (1 + math.exp(-(1.0 - 2.0 * n_tokens / 1000))) for n_tokens in (4, 1004)]
    assert shares == pytest.approx(expected, abs=0.08)


def test_belief_counts_each_failure_with_the_probability_it_had(backend_of, pool_data):
    settings_of(pool_data).update(tired_by_tokens=1.0)
    for model in settings_of(pool_data)["models"].values():
        model.update(stuck=0.5, ability=-3.0, skills={}, failures={"malformed": 1})
    backend = backend_of(pool_data)
    start(backend)
    missed = 1.0
    for turn, n_characters in enumerate((4000, 40000)):
        reply = ask(backend, "small", turn=turn, messages=(Message(role="user", content="x" * n_characters),))
        assert reply.hidden["failure"]
        missed *= 1 - reply.hidden["success_probability"]
    assert state_of(backend).believed_stuck[0, 0] == pytest.approx(0.5 / (0.5 + 0.5 * missed))


# --- bursts


def test_spells_have_the_share_and_the_length_of_the_card():
    n_in, lengths = 0, []
    for seed in range(300):
        spells = Spells(Outages(start=0.05, turns=4), key=EpisodeKey(task_name="t", variation=0, seed=seed), stream=3)
        holds = [spells.holds("a", turn) for turn in range(60)]
        n_in += sum(holds)
        lengths += [len(list(run)) for is_in, run in itertools.groupby(holds[:50]) if is_in]
    # in a spell at a turn unless every earlier start has ended: 1 - prod over k of (1 - start x P(length > k))
    still = [0.75**k for k in range(60)]
    assert n_in / (300 * 60) == pytest.approx(1 - math.prod(1 - 0.05 * p for p in still), abs=0.02)
    assert np.mean(lengths) > 3


def test_spells_depend_on_episode_turn_and_model_alone():
    key = EpisodeKey(task_name="t", variation=0, seed=5)
    one, other = (Spells(Outages(start=0.2, turns=2), key=key, stream=3) for _ in range(2))
    forward = [one.holds("a", turn) for turn in range(30)]
    backward = [other.holds("a", turn) for turn in reversed(range(30))]
    assert forward == backward[::-1]
    assert forward != [one.holds("b", turn) for turn in range(30)]
    assert forward != [Spells(Outages(start=0.2, turns=2), key=key, stream=4).holds("a", turn) for turn in range(30)]


def test_an_outage_of_everybody_ends_no_episode():
    spells = Spells(Outages(start=1.0, turns=1), key=EpisodeKey(task_name="t", variation=0, seed=0), stream=3)
    assert spells.out_of(NAMES, 3) == ()
    assert spells.holds("small", 3)


def test_a_model_in_an_outage_is_masked_and_refused():
    config = corridor_with(**WORLDS["bursts"])
    env = build_env(config)
    rng, n_out, n_back = np.random.default_rng(1), 0, 0
    for seed in range(20):
        observation, _ = env.reset(options={"spec": EpisodeSpec(task="long", variation=0, seed=seed, split="train")})
        is_over, was_out = False, False
        while not is_over:
            mask = observation["action_mask"]
            assert mask.any()
            is_out = not mask[2]
            n_out, n_back, was_out = n_out + is_out, n_back + (was_out and not is_out), is_out
            if is_out:
                with pytest.raises(
                    MaskedActionError, match=r"'large' is not allowed .*out of order .*simulated outage"
                ):
                    env.step(2)
            observation, _, terminated, truncated, _ = env.step(int(rng.choice(np.flatnonzero(mask))))
            is_over = terminated or truncated
    assert n_out > 20
    assert n_back > 5  # it comes back in the same episode


def test_a_backend_refuses_a_model_that_is_out_of_order(backend_of, pool_data):
    settings_of(pool_data)["outages"] = {"start": 0.3, "turns": 2}
    backend = backend_of(pool_data)
    start(backend, seed=2)
    turn, model = next((t, backend.out_of_order(t)[0]) for t in range(50) if backend.out_of_order(t))
    with pytest.raises(BackendError, match=f"'{model}' is out of order at turn {turn}"):
        ask(backend, model, turn=turn)


def test_a_burst_of_errors_takes_the_logit_off_at_the_action_that_is_due(backend_of, pool_data):
    settings_of(pool_data)["error_bursts"] = {"start": 0.3, "turns": 2, "logit": 3.0}
    backend, calm = backend_of(pool_data), backend_of(POOL)
    seen = set()
    for seed in range(10):
        for one in (backend, calm):
            start(one, seed=seed)
        for turn in range(6):
            losses = [
                math.log(success / (1 - success))
                for success in (ask(one, "large", turn=turn).hidden["success_probability"] for one in (calm, backend))
            ]
            seen.add(round(losses[0] - losses[1], 6))
    assert seen == {0.0, 3.0}


# --- cards


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task_spread": -1}, r"backend\.settings\.task_spread: .*greater than or equal to 0"),
        ({"together": 1.5}, r"backend\.settings\.together: .*less than or equal to 1"),
        ({"tired_by_tokens": -0.1}, r"tired_by_tokens: .*greater than or equal to 0"),
        ({"tired_by_others": True}, r"backend\.settings\.tired_by_others': is a truth value, must be a number"),
        ({"outages": {"start": 0.1, "turns": 0.5}}, r"outages\.turns: .*greater than or equal to 1"),
        ({"outages": {"start": 0.1}}, r"outages\.turns: Field required"),
        ({"error_bursts": {"start": 0.1, "turns": 2, "logit": 0}}, r"error_bursts\.logit: .*greater than 0"),
    ],
)
def test_broken_worlds(backend_of, pool_data, change, message):
    settings_of(pool_data).update(change)
    with pytest.raises(CardError, match=message):
        backend_of(pool_data)
