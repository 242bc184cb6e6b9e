"""Rules of the routing environment around a task: spaces, seeds, limits, money."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium.utils.env_checker import check_env

from mtrouter_rl.envs.routing import MONEY_TOLERANCE_USD, RoutingEnv
from mtrouter_rl.errors import MaskedActionError
from mtrouter_rl.records import EpisodeSpec, Observation
from mtrouter_rl.testing.subject import Subject, broken, show_reset

_BUDGET_SHARES = (0.01, 0.05, 0.2, 1.0)
_MAX_EPISODES = 10
_LIMIT_STREAM, _BUDGET_STREAM = 31, 32


def check_gymnasium(subject: Subject) -> str:
    """Observation and action spaces hold what comes, and Gymnasium's own `check_env` passes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with subject.routing_env() as env:
            check_env(env, skip_render_check=True)
    n_observations = 0
    with subject.routing_env() as env:
        for spec, observation, _ in _random_episodes(subject, env, _LIMIT_STREAM):
            n_observations += 1
            if not env.observation_space.contains(observation):
                raise broken(
                    did=f"{show_reset(spec)} and random routing",
                    saw=f"observation {observation!r:.300} is outside the observation space",
                    rule="every observation lies in its space",
                    fix="let the task return plain texts of at most a million characters",
                )
    return f"check_env, {n_observations} observations in their space"


def check_limits(subject: Subject) -> str:
    """Terminated is the task's own ending; truncated is the turn limit or the budget, and no ending of the task."""
    max_turns = max(1, subject.max_turns // 3)
    n_terminated = n_truncated = 0
    with subject.routing_env(max_turns=max_turns) as env:
        for spec, observation, outcome in _random_episodes(subject, env, _LIMIT_STREAM):
            if outcome is None:
                continue
            terminated, truncated, info = outcome
            is_over = observation["turn"] >= max_turns or (not terminated and not observation["action_mask"].any())
            if terminated != (info["ending"] != "") or truncated != bool(is_over):
                raise broken(
                    did=f"{show_reset(spec)} and {observation['turn']} turns with a limit of {max_turns}",
                    saw=f"terminated {terminated}, truncated {truncated}, ending '{info['ending']}'",
                    rule="terminated is the task's ending, truncated a limit outside of it",
                    fix="leave limits to the card; end the task only where it ends by itself",
                )
            n_terminated += terminated
            n_truncated += truncated
    return f"{n_terminated} terminated, {n_truncated} truncated at a limit of {max_turns} turns"


def check_budget(subject: Subject) -> str:
    """Whatever the budget and the routing, no episode spends more, and a masked model cannot be called."""
    n_refused = n_episodes = 0
    for number, share in enumerate(_BUDGET_SHARES):
        budget_usd = share * subject.config.limits.budget_usd
        with subject.routing_env(budget_usd=budget_usd) as env:
            spent_usd = 0.0
            for spec, observation, outcome in _random_episodes(subject, env, _BUDGET_STREAM, number):
                spent_usd = 0.0 if outcome is None else spent_usd + outcome[2]["cost_usd"]
                n_episodes += outcome is None
                if spent_usd > budget_usd + MONEY_TOLERANCE_USD:
                    raise broken(
                        did=f"{show_reset(spec)} with a budget of {budget_usd:.6f} USD",
                        saw=f"{spent_usd:.6f} USD were spent",
                        rule="no episode spends more than its budget",
                        fix="let the backend keep its output limit and count prompts as the pool's token counter does",
                    )
                is_running = outcome is None or not (outcome[0] or outcome[1])
                n_refused += is_running and _is_refused(env, observation)
    return (
        f"{n_episodes} episodes with {min(_BUDGET_SHARES):.0%} to 100% of the budget, {n_refused} masked calls refused"
    )


def _is_refused(env: RoutingEnv, observation: Observation) -> bool:
    """Call a masked model, if there is one; it has to be refused."""
    masked = np.flatnonzero(observation["action_mask"] == 0)
    if not len(masked):
        return False
    model = env.pool.models[int(masked[0])].name
    try:
        env.step(int(masked[0]))
    except MaskedActionError:
        return True
    raise broken(
        did=f"call the masked model '{model}' at turn {observation['turn']}",
        saw="it was called",
        rule="a masked model cannot be called",
        fix="leave RoutingEnv's masks as they are",
    )


_Outcome = tuple[bool, bool, dict[str, Any]]


def _random_episodes(
    subject: Subject, env: RoutingEnv, *stream: int
) -> Iterator[tuple[EpisodeSpec, Observation, _Outcome | None]]:
    """Route sampled episodes at random: (spec, observation, None) at reset, then (terminated, truncated, info)."""
    for number, spec in enumerate(subject.specs[:_MAX_EPISODES]):
        rng = subject.generator(*stream, number)
        observation, _ = env.reset(seed=spec.seed, options={"spec": spec})
        yield spec, observation, None
        is_over = not observation["action_mask"].any()
        while not is_over:
            action = int(rng.choice(np.flatnonzero(observation["action_mask"])))
            observation, _, terminated, truncated, info = env.step(action)
            yield spec, observation, (terminated, truncated, info)
            is_over = terminated or truncated
