"""Settings that cards came to have later change nothing where a card leaves them out: replies, hidden states, hashes."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest

from mtrouter_rl.cards import load_env_card, load_pool_card
from mtrouter_rl.cards.splits import evaluation_specs
from mtrouter_rl.envs.factory import build_env, resolve_env
from mtrouter_rl.evaluation.closed_loop import Contestant
from mtrouter_rl.pools.simulated.backend import make_backend
from mtrouter_rl.protocols import TaskStart, TaskStep
from mtrouter_rl.records import Message
from mtrouter_rl.rollout import run_episode
from mtrouter_rl.rollout.collection import fingerprint_cards

DUE = ("go to kitchen", "look around", "pick up pot", "move pot to stove", "focus on water", "activate stove", "wait1")
MISTAKES = {"idle": ("look around", "inventory"), "wander": ("go to hallway",), "drop": ("drop pot",)}


class Script:
    """A task whose due action follows the clock of the test, with every kind of mistake."""

    max_score = 100.0
    at = 0

    def reset(self, task, variation, seed):
        return TaskStart(task_text="", observation="")

    def step(self, action_text):
        return TaskStep(observation="", score=0.0)

    def expert_action(self):
        return DUE[self.at % len(DUE)]

    def mistakes(self):
        return {**MISTAKES, "fatal": ("focus on chair",)} if self.at % 2 else MISTAKES

    def close(self):
        pass


def plain(value):
    """Numbers to twelve digits: the last bits of an exponential are the machine's."""
    if isinstance(value, float | np.floating):
        return f"{value:.12g}"
    if isinstance(value, np.ndarray):
        return [plain(one) for one in value.tolist()]
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def digest(values):
    return hashlib.blake2b(json.dumps(plain(values), sort_keys=True).encode(), digest_size=8).hexdigest()


def played(env_name, pool_name):
    pool = load_pool_card(pool_name)
    env = load_env_card(env_name)
    backend, task, names = make_backend(pool, env), Script(), pool.model_names
    seen = []
    for seed in range(3):
        for name in sorted(env.topics)[:4]:
            backend.start_episode(task=task, task_name=name, variation=seed + 1, seed=seed)
            messages = [Message(role="user", content="x" * 6000)]
            for turn in range(30):
                task.at = turn // 3 + seed
                state = backend.hidden_state(utility=0.1, n_prompt_tokens=500, output_limits=[800] * len(names))
                later = ("failures", "often_stuck")  # written apart, and not known before
                seen.append({key: value for key, value in vars(state).items() if key not in later})
                seen.append(dict(state.failures))
                reply = backend.reply(
                    names[(turn * 5 + seed) % len(names)], messages, turn=turn, max_output_tokens=2000
                )
                seen.append([reply.text, vars(reply.usage), reply.latency_s, dict(reply.hidden)])
                messages += [Message(role="assistant", content=reply.text), Message(role="user", content="y" * 60)]
    return digest(seen)


@pytest.mark.parametrize(
    ("env", "pool", "expected"),
    [
        ("scienceworld", "paper-scienceworld", "aaa275dacfd22362"),
        ("scienceworld", "paper-scienceworld-none", "2cc24e994de744ec"),
        ("scienceworld", "paper-scienceworld-strong", "d8713957dbe1c92b"),
        ("scienceworld", "paper-scienceworld-shifted", "9116f17206e74aa1"),
        ("scienceworld", "paper-scienceworld-cached", "4d4510ab341be81c"),
        ("scienceworld", "paper-scienceworld-handset", "b5a4a5727a6cd615"),
        ("corridor", "corridor-three", "265fd059dd5af391"),
        ("babyai", "babyai-six", "1c4d52b9fccc6555"),
        ("textworld", "textworld-six", "36416ea7f1342601"),
        ("hle", "paper-hle", "6d1eea3799b6418a"),
    ],
)
def test_replies_and_hidden_states_are_those_of_before(env, pool, expected):
    assert played(env, pool) == expected


def without_parents(episode):
    """An episode as it was before a turn could say which turns it comes from; here none does, and none is written."""
    assert {turn.pop("parents") for turn in episode["turns"]} == {None}
    return episode


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("uniform", "5201bb851abd5da6"),
        ("reference:hidden", "80e687d5d509ee27"),
        ("reference:believing", "31ea9d2a6e6aad2e"),
    ],
)
def test_episodes_are_those_of_before(policy, expected):
    config = resolve_env("corridor")
    env, contestant = build_env(config), Contestant.of(policy, config, cache=None).ref(config)
    episodes = [
        run_episode(env, contestant, spec).episode
        for spec in evaluation_specs(config.card, "validation", 1, per_task=4)
    ]
    assert digest([without_parents(dataclasses.asdict(episode)) for episode in episodes]) == expected


@pytest.mark.parametrize(
    ("env", "pool", "expected"),
    [
        ("scienceworld", "paper-scienceworld", "7d6b17ff6e9043e8"),
        ("scienceworld", "paper-scienceworld-shifted", "a943d01ccb84779a"),
        ("scienceworld", "paper-scienceworld-cached", "f996690a63648f15"),
        ("corridor", "corridor-three", "d1505ece88a0b93a"),
    ],
)
def test_logs_of_before_keep_their_hash(env, pool, expected):
    assert fingerprint_cards(resolve_env(env, pool)) == expected
