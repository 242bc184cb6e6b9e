"""What a log can tell, which way of learning it supports, and what was found at the end, in words: for `mtrouter-rl start`."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.evaluation.results import Results
from mtrouter_rl.ope.record import Estimated
from mtrouter_rl.ope.verdict import Verdict, cannot_tell, judge
from mtrouter_rl.records import SCORE_PER_UTILITY, Episode

MIN_EPISODES = 100
"""With fewer scored episodes no method here tells two routers apart that anybody would want to tell apart."""
MIN_OF_MODEL = 30
"""A model with fewer calls (where routers choose by the turn) or episodes (where they choose by the task) tells too little."""
MIN_SWITCHING_SHARE = 0.1
"""From this share of episodes with more than one model on, the log is one of choices by the turn."""
JUDGING_SHARE = 0.4
"""Share of a log's episodes that judge the router which the others trained, where routers choose by the turn. Where they choose
by the task, every episode judges what was trained without it."""
_POINTS = 5.0
"""A difference of score that people would act on: what "enough" is measured by."""

Level = Literal["turn", "episode", "none"]


@dataclass(frozen=True, kw_only=True)
class LogAdvice:
    """What a log supports.

    Attributes:
        level: Routers that choose before every call ("turn"), once for each task ("episode"), or neither ("none").
        tells: What the log holds, a sentence each.
        lacks: What it cannot tell, a sentence each.
        collect: What to collect so that it can; empty if nothing is missing.
        cost_unit_usd: Mean cost of a scored episode, USD: a unit of money that fits the log.
        models: Models that were called often enough.
    """

    level: Level
    tells: tuple[str, ...]
    lacks: tuple[str, ...]
    collect: tuple[str, ...]
    cost_unit_usd: float
    models: tuple[str, ...]


def advise(dataset: Dataset) -> LogAdvice:
    """Look at a log before anything is trained on it."""
    episodes = [episode for episode in dataset.completed if episode.turns]
    calls = Counter(turn.model for episode in episodes for turn in episode.turns)
    alone = Counter(episode.turns[0].model for episode in episodes if len(set(episode.models)) == 1)
    n_switching = sum(len(set(episode.models)) > 1 for episode in episodes)
    n_turns = sum(calls.values())
    switches = n_switching >= MIN_SWITCHING_SHARE * max(len(episodes), 1) and n_switching > 0
    counted = calls if switches else alone
    names = [model.name for model in dataset.info.models]
    often = tuple(name for name in names if counted[name] >= MIN_OF_MODEL)
    costs = [episode.cost_usd for episode in episodes]
    return LogAdvice(
        level="none" if len(episodes) < MIN_EPISODES or len(often) < 2 else "turn" if switches else "episode",
        tells=_tells(episodes, calls, n_switching, n_turns),
        lacks=tuple(_lacks(episodes, counted, names, switches=switches)),
        collect=tuple(_collect(episodes, counted, names, switches=switches)),
        cost_unit_usd=_rounded(float(np.mean(costs))) if costs else 0.0,
        models=often,
    )


def _tells(episodes: Sequence[Episode], calls: Mapping[str, int], n_switching: int, n_turns: int) -> tuple[str, ...]:
    n_known = sum(turn.propensity is not None for episode in episodes for turn in episode.turns)
    shares = ", ".join(f"{name} {n}" for name, n in sorted(calls.items(), key=lambda item: -item[1]))
    return (
        f"{len(episodes)} scored episodes with {n_turns} calls; {n_switching} of them change the model on the way",
        f"calls by model: {shares or 'none'}",
        f"propensities (with what probability the model was chosen): known at {n_known} of {n_turns} calls",
    )


def _lacks(
    episodes: Sequence[Episode], counted: Mapping[str, int], names: Sequence[str], *, switches: bool
) -> list[str]:
    told = []
    unit = "calls" if switches else "whole episodes"
    rare = [f"{name} ({counted.get(name, 0)})" for name in names if counted.get(name, 0) < MIN_OF_MODEL]
    if rare:
        told.append(
            f"models with fewer than {MIN_OF_MODEL} {unit}, of which it says next to nothing: {', '.join(rare)}"
        )
    met: dict[str, set[str]] = defaultdict(set)
    for episode in episodes:
        met[episode.task].update(episode.models)
    never = [
        f"{task}: {', '.join(missing)}"
        for task, seen in sorted(met.items())
        if (missing := [n for n in names if n not in seen])
    ]
    if never and len(met) <= 50:
        told.append("models that never met a kind of task: " + "; ".join(never))
    elif never:
        told.append(f"{len(never)} of {len(met)} kinds of task were not met by every model")
    n_unknown = sum(turn.propensity is None for episode in episodes for turn in episode.turns)
    if n_unknown:
        told.append(
            "why a model was chosen: without propensities the choices are taken to depend on nothing but what the log shows, "
            "which it cannot prove"
        )
    if len({episode.utility for episode in episodes}) == 1:
        told.append(
            f"anything about the score: every episode has the score {SCORE_PER_UTILITY * episodes[0].utility:.1f}"
        )
    elif episodes:
        share = JUDGING_SHARE if switches else 1.0
        points = smallest_difference(episodes, share)
        told.append(
            f"differences of score below about {points:.0f} points: so much do {len(episodes)} episodes differ by chance when "
            + (f"{share:.0%} of them judge" if switches else "all of them judge, each what was trained without it")
        )
    return told


def _collect(
    episodes: Sequence[Episode], counted: Mapping[str, int], names: Sequence[str], *, switches: bool
) -> list[str]:
    told = []
    if len(episodes) < MIN_EPISODES:
        told.append(f"at least {MIN_EPISODES - len(episodes)} more scored episodes ({len(episodes)} of {MIN_EPISODES})")
    often = [name for name in names if counted.get(name, 0) >= MIN_OF_MODEL]
    if len(often) < 2:
        told.append(
            f"at least {MIN_OF_MODEL} {'calls' if switches else 'whole episodes'} of two models or more "
            f"({', '.join(often) or 'none'} has them)"
        )
    if told and len({episode.utility for episode in episodes}) > 1:
        n = episodes_for(_POINTS, episodes, JUDGING_SHARE if switches else 1.0)
        told.append(f"to tell {_POINTS:.0f} points of score apart: about {n} episodes")
    if told:
        told.append("draw the model by chance at some calls, and log the probability as 'propensity'")
    return told


def _spread(episodes: Sequence[Episode]) -> float:
    """Standard deviation of the score, points; 50 for one episode, the largest that scores from 0 to 100 can have."""
    scores = [SCORE_PER_UTILITY * episode.utility for episode in episodes]
    return float(np.std(scores, ddof=1)) if len(scores) > 1 else 50.0


def smallest_difference(episodes: Sequence[Episode], share: float) -> float:
    """Points of score that a share of n episodes shows, power 80% at 5%: (1.96 + 0.84) s sqrt(2 / (share n))."""
    return 2.8 * _spread(episodes) * math.sqrt(2 / (share * len(episodes)))


def episodes_for(points: float, episodes: Sequence[Episode], share: float) -> int:
    """Episodes of which a share shows so many points of score; the formula of `smallest_difference` solved for n."""
    return math.ceil(2 / share * (2.8 * _spread(episodes) / points) ** 2)


def _rounded(value: float) -> float:
    """Two significant digits."""
    return float(f"{value:.2g}")


def verdict_of_results(results: Results, policy: str) -> Verdict:
    """A router against the strongest single model, from paired differences of a study."""
    row = results.row(policy, results.splits[0])
    singles = [one for one in results.split_rows(results.splits[0]) if one.policy in results.roles.single_models]
    best = max(singles, key=lambda one: one.return_mean).policy if singles else ""
    pair = None if row is None else row.paired.get(best)
    if row is None or pair is None or pair.return_.ends is None:
        why = "the study has no paired difference with the best single model"
        return cannot_tell(why, policy=policy, design="study", baseline=best)
    low, high = pair.return_.ends
    difference = Estimated(value=pair.return_.value, low=low, high=high)
    found = judge(policy, best, difference, n_episodes=row.n_episodes, design="study")
    n_learned = len(
        {one.policy for one in results.split_rows(results.splits[0]) if one.policy in results.roles.learned}
    )
    if n_learned < 2:
        return found
    text = f"{found.text} (the best of {n_learned} by these very numbers, which flatters it)"
    return found.model_copy(update={"text": text})


def needs_of(dataset: Dataset) -> tuple[str, ...]:
    """What a log lacks that a comparison of models rests on, a phrase each."""
    calls = Counter(model for episode in dataset.completed for model in episode.models)
    rare = [f"{name} ({calls[name]})" for name in dataset.info.model_names if calls[name] < MIN_OF_MODEL]
    is_unknown = any(turn.propensity is None for episode in dataset.completed for turn in episode.turns)
    return (
        *([f"at least {MIN_OF_MODEL} calls of every model; there are few of {', '.join(rare)}"] if rare else []),
        *(["the probability of every choice, logged as 'propensity'"] if is_unknown else []),
    )
