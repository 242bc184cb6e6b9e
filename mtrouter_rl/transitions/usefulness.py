"""How useful turns of a log were, where nobody says so: by what usually follows turns of their kind.

Gains are rare, and between two of them the log says nothing of whether a turn helped. So turns are sorted into kinds, by
the word of the action (its tool, command or first word), whether it was an error, and whether observation and action had
been seen in the episode before. The *usefulness* of a kind is what episodes gained within the next few turns after it, above
what they gain on average in that task at that time, in standard deviations over turns. It is a mean over the whole log,
shrunk towards 0 for rare kinds.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from mtrouter_rl.embeddings.action_word import action_word
from mtrouter_rl.records import Episode

_N_WORDS = 30
_HORIZON = 6
"""Turns, the present one included, whose gains tell whether a turn was useful."""
_TURNS_PER_BUCKET = 5
_PRIOR_TURNS = 50.0

Kind = tuple[str, bool, bool, bool]
"""First word of the action ("" for a rare one), is an error, observation was seen before, action was seen before."""


def turn_kinds(episodes: Sequence[Episode]) -> list[list[Kind]]:
    """Kind of every turn of every episode."""
    counts = Counter(action_word(turn.action_text) for episode in episodes for turn in episode.turns)
    common = {word for word, _ in counts.most_common(_N_WORDS)}
    kinds = []
    for episode in episodes:
        seen, acted = {episode.first_observation}, set[str]()
        of_episode: list[Kind] = []
        for turn in episode.turns:
            word = action_word(turn.action_text)
            of_episode.append(
                (
                    word if word in common else "",
                    bool(turn.error),
                    turn.observation_text in seen,
                    turn.action_text in acted,
                )
            )
            seen.add(turn.observation_text)
            acted.add(turn.action_text)
        kinds.append(of_episode)
    return kinds


def usefulness(episodes: Sequence[Episode], kinds: Sequence[Sequence[Kind]]) -> list[list[float]]:
    """Usefulness of every turn of every episode: that of its kind, see the module."""
    following = [_gains_ahead(episode) for episode in episodes]
    usual = _means(
        ((episode.task, number // _TURNS_PER_BUCKET), gain)
        for episode, gains in zip(episodes, following, strict=True)
        for number, gain in enumerate(gains)
    )
    surplus = [
        [gain - usual[(episode.task, number // _TURNS_PER_BUCKET)] for number, gain in enumerate(gains)]
        for episode, gains in zip(episodes, following, strict=True)
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


def _gains_ahead(episode: Episode) -> list[float]:
    """Gains, losses left out, of every turn and those after it within the horizon."""
    gains = np.array([max(turn.utility_gain, 0.0) for turn in episode.turns])
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
