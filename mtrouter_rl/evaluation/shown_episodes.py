"""A few episodes turn by turn, with what the router valued: what the report's episode viewer shows (`transcripts.json`)."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from mtrouter_rl.files import SavedRecord
from mtrouter_rl.records import SCORE_PER_UTILITY, FloatArray, Frozen, TracedEpisode

TRANSCRIPTS_FILE = "transcripts.json"
"""Beside `results.json` or `ope.json`."""
MAX_TEXT = 3000
"""Characters of a message that are kept; longer ones are cut, and say so."""
N_EPISODES = 6
"""Episodes of a policy on a split that are kept: the same ones of every policy."""


class ShownTurn(Frozen):
    """One turn.

    Attributes:
        model: Who was called; `served_model` is who answered.
        action: What it wrote.
        observation: What came back.
        error: Kind of error that the action was; empty if none.
        cost_usd: Cost of the call, USD.
        gain: Points of score that it earned.
        q_values: The router's value of every model, in pool order; None where it has none, or was not asked.
        probabilities: Its probability of every model; None if it was not asked.
    """

    model: str
    served_model: str
    action: str
    observation: str
    error: str
    cost_usd: float
    gain: float
    q_values: tuple[float | None, ...] | None
    probabilities: tuple[float, ...] | None


class ShownEpisode(Frozen):
    """One episode.

    Attributes:
        split: Its split.
        policy: Who chose the models, or whose opinion is shown of what others chose.
        name: Task, variation and seed.
        task_text: What was to be done.
        first_observation: What was shown first.
        score: Score at the end.
        cost_usd: What it cost, USD.
        ending: How it ended, in words.
        turns: The turns.
    """

    split: str
    policy: str
    name: str
    task_text: str
    first_observation: str
    score: float
    cost_usd: float
    ending: str
    turns: tuple[ShownTurn, ...]


class Transcripts(SavedRecord):
    """Contents of `transcripts.json`.

    Attributes:
        model_names: The pool's models, in pool order.
        is_simulated: Whether the models were simulated.
        is_logged: Whether others than the policy chose the models, so that the policy's opinion is of a log.
        episodes: The episodes.
    """

    SOURCE: ClassVar[str] = "`mtrouter-rl evaluate`, `study` and `ope --out` write it"
    FIX: ClassVar[str] = "run the command that wrote it again"

    model_names: tuple[str, ...]
    is_simulated: bool
    is_logged: bool = False
    episodes: tuple[ShownEpisode, ...]


def transcripts_of(
    traced: Mapping[str, Mapping[str, Sequence[TracedEpisode]]],
    model_names: Sequence[str],
    *,
    is_simulated: bool,
    is_logged: bool = False,
) -> Transcripts:
    """Keep the first episodes of every policy that have a turn.

    Args:
        traced: Split -> policy -> episodes, with the policy's opinion where it was asked.
        model_names: The pool's models, in pool order.
        is_simulated: Whether the models were simulated.
        is_logged: See `Transcripts`.
    """
    shown = [
        _episode(split, policy, one)
        for split, policies in traced.items()
        for policy, episodes in policies.items()
        for one in _chosen(episodes)
    ]
    return Transcripts(
        model_names=tuple(model_names), is_simulated=is_simulated, is_logged=is_logged, episodes=tuple(shown)
    )


def _chosen(episodes: Sequence[TracedEpisode]) -> list[TracedEpisode]:
    """Those that the router was asked about, first; then the others, up to `N_EPISODES`."""
    with_turns = [one for one in episodes if one.episode.turns]
    return sorted(with_turns, key=lambda one: not one.action_probabilities.size)[:N_EPISODES]


def _episode(split: str, policy: str, one: TracedEpisode) -> ShownEpisode:
    episode = one.episode
    last = episode.turns[-1]
    ending = "the task ended" if last.terminated else "stopped by a limit (turns or budget)"
    return ShownEpisode(
        split=split,
        policy=policy,
        name=f"{episode.task}, variation {episode.variation}, seed {episode.seed}",
        task_text=_cut(episode.task_text),
        first_observation=_cut(episode.first_observation),
        score=SCORE_PER_UTILITY * episode.utility,
        cost_usd=episode.cost_usd,
        ending=ending if episode.status == "completed" else f"failed: {_cut(episode.status_detail)}",
        turns=tuple(
            ShownTurn(
                model=turn.model,
                served_model=turn.served_model,
                action=_cut(turn.action_text),
                observation=_cut(turn.observation_text),
                error=turn.error,
                cost_usd=turn.cost_usd,
                gain=SCORE_PER_UTILITY * turn.utility_gain,
                q_values=_values(one.q_values, index, turn.action_mask),
                probabilities=_row(one.action_probabilities, index),
            )
            for index, turn in enumerate(episode.turns)
        ),
    )


def _row(array: FloatArray | None, index: int) -> tuple[float, ...] | None:
    return None if array is None or not array.size else tuple(round(float(value), 5) for value in array[index])


def _values(array: FloatArray | None, index: int, mask: Sequence[bool]) -> tuple[float | None, ...] | None:
    """Values of the models that could be called; what a masked one is worth is no number of the router's."""
    row = _row(array, index)
    return None if row is None else tuple(value if allowed else None for value, allowed in zip(row, mask, strict=True))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} [... {len(text) - MAX_TEXT} more characters]"
