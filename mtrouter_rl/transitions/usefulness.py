"""How useful turns of a log were, where nobody says so: by what usually follows turns of their kind.

Gains are rare, and between two of them the log says nothing of whether a turn helped. So turns are sorted into kinds, by
the word of the action (its tool, command or first word), whether it was an error, and whether observation and action had
been seen in the episode before. The *usefulness* of a kind is what episodes gained within the next few turns after it, above
what they gain on average in that task at that time, in standard deviations over turns. It is a mean over the whole log,
shrunk towards 0 for rare kinds.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from mtrouter_rl.embeddings.action_word import action_word
from mtrouter_rl.records import Episode, FloatArray

_N_WORDS = 30
_HORIZON = 6
"""Turns, the present one included, whose gains tell whether a turn was useful."""
_TURNS_PER_BUCKET = 5
_PRIOR_TURNS = 50.0

Kind = tuple[str, bool, bool, bool]
"""First word of the action ("" for a rare one), is an error, observation was seen before, action was seen before."""


class TurnFacts(NamedTuple):
    """What an episode of T turns says of its turns, without its texts, so that a long log is gone through once.

    Attributes:
        task: Its task.
        max_turns: Its turn limit.
        words: Word of every action, length T.
        flags: Of every turn, as in `Kind` after the word, length T.
        models: Name of the model of every turn, length T.
        gains: Utility gained in every turn, shape (T,).
    """

    task: str
    max_turns: int
    words: list[str]
    flags: list[tuple[bool, bool, bool]]
    models: list[str]
    gains: FloatArray


def turn_facts(episodes: Iterable[Episode]) -> list[TurnFacts]:
    """Facts of every episode."""
    words, names = dict[str, str](), dict[str, str]()  # one object for equal words
    return [_facts_of(episode, words, names) for episode in episodes]


def _facts_of(episode: Episode, words: dict[str, str], names: dict[str, str]) -> TurnFacts:
    seen, acted = {episode.first_observation}, set[str]()
    of_turns, flags, models = list[str](), list[tuple[bool, bool, bool]](), list[str]()
    for turn in episode.turns:
        word = action_word(turn.action_text)
        of_turns.append(words.setdefault(word, word))
        models.append(names.setdefault(turn.model, turn.model))
        flags.append((bool(turn.error), turn.observation_text in seen, turn.action_text in acted))
        seen.add(turn.observation_text)
        acted.add(turn.action_text)
    gains = np.array([turn.utility_gain for turn in episode.turns])
    return TurnFacts(episode.task, episode.max_turns, of_turns, flags, models, gains)


def turn_kinds(facts: Sequence[TurnFacts]) -> list[list[Kind]]:
    """Kind of every turn of every episode."""
    counts = Counter(word for one in facts for word in one.words)
    common = {word for word, _ in counts.most_common(_N_WORDS)}
    known = dict[Kind, Kind]()  # one object for equal kinds
    kinds = []
    for one in facts:
        found: list[Kind] = [
            (word if word in common else "", *flags) for word, flags in zip(one.words, one.flags, strict=True)
        ]
        kinds.append([known.setdefault(kind, kind) for kind in found])
    return kinds


def usefulness(facts: Sequence[TurnFacts], kinds: Sequence[Sequence[Kind]]) -> list[list[float]]:
    """Usefulness of every turn of every episode: that of its kind, see the module."""
    following = [_gains_ahead(one.gains) for one in facts]
    usual = _means(
        ((one.task, number // _TURNS_PER_BUCKET), gain)
        for one, gains in zip(facts, following, strict=True)
        for number, gain in enumerate(gains)
    )
    surplus = [
        [gain - usual[(one.task, number // _TURNS_PER_BUCKET)] for number, gain in enumerate(gains)]
        for one, gains in zip(facts, following, strict=True)
    ]
    of_kind = _means(
        (
            (kind, gain)
            for one, gains in zip(kinds, surplus, strict=True)
            for kind, gain in zip(one, gains, strict=True)
        ),
        n_prior=_PRIOR_TURNS,
    )
    spread = float(np.std([of_kind[kind] for one in kinds for kind in one])) or 1.0
    return [[of_kind[kind] / spread for kind in one] for one in kinds]


def _gains_ahead(utility_gains: FloatArray) -> list[float]:
    """Gains, losses left out, of every turn and those after it within the horizon."""
    gains = np.maximum(utility_gains, 0.0)
    sums = np.concatenate([[0.0], gains.cumsum()])
    ends = np.minimum(np.arange(len(gains)) + _HORIZON, len(gains))
    return list((sums[ends] - sums[:-1]).tolist())


def _means(pairs: Iterable[tuple[Hashable, float]], *, n_prior: float = 0.0) -> dict[Hashable, float]:
    """Mean by label, shrunk to 0 as if `n_prior` zeros had been seen as well."""
    totals: defaultdict[Hashable, float] = defaultdict(float)
    counts: Counter[Hashable] = Counter()
    for label, value in pairs:
        totals[label] += value
        counts[label] += 1
    return {label: total / (counts[label] + n_prior) for label, total in totals.items()}
