"""A few episodes as Markdown: the model of every turn, its action, the answer, and the router's values."""

from collections.abc import Sequence

from mtrouter_rl.errors import ResultsError
from mtrouter_rl.records import SCORE_PER_UTILITY, TracedEpisode, Turn
from mtrouter_rl.reporting.tables import format_number, format_usd

MAX_CHARACTERS = 160
"""Longest action or observation shown; longer ones end in an ellipsis."""

_MODELS_PER_LINE = 3


def transcript_markdown(traced: TracedEpisode, model_names: Sequence[str]) -> str:
    """One episode as Markdown.

    The outcome of a turn is the score that it gained, what it cost, and its error if there was one. The last column
    lists, per model, its action value (if the router has any) and the probability it was given; the chosen model is
    bold. Columns are few and lines short, because TensorBoard breaks the words of a column that gets no room.

    Args:
        traced: The episode.
        model_names: Names of the pool, in pool order, length M.

    Raises:
        ResultsError: If propensities or action values do not have shape (T, M).
    """
    episode = traced.episode
    shape = (len(episode.turns), len(model_names))
    for name, array in (("action_probabilities", traced.action_probabilities), ("q_values", traced.q_values)):
        if array is not None and array.size and array.shape != shape:
            raise ResultsError(
                f"episode '{episode.episode_id}': {name} have shape {array.shape}, must be {shape} (turns, models); "
                "give the pool that the episode was run with"
            )
    score = format_number(SCORE_PER_UTILITY * episode.utility, decimals=1)
    lines = [
        f"### {episode.task}, variation {episode.variation}, seed {episode.seed}",
        "",
        f"Policy **{_cell(episode.behavior_policy)}**: score **{score}** for **{format_usd(episode.cost_usd)} USD** in "
        f"{len(episode.turns)} turns; {_ending(episode.turns)}.",
        "",
        f"Task: {shorten(episode.task_text, limit=3 * MAX_CHARACTERS)}",
        "",
        f"First observation: {shorten(episode.first_observation, limit=2 * MAX_CHARACTERS)}",
        "",
        "| turn and model | action | observation | outcome | Q-value (probability) per model |",
        "|---|---|---|---|---|",
    ]
    lines += [_turn_line(index, traced, model_names) for index in range(len(episode.turns))]
    return "\n".join(lines) + "\n"


def shorten(text: str, *, limit: int = MAX_CHARACTERS) -> str:
    """Text on one line, safe inside a Markdown table, at most `limit` characters.

    Example:
        >>> shorten("open the door to the kitchen", limit=12)
        'open the do…'
    """
    line = " ".join(text.split())
    return _cell(line if len(line) <= limit else line[: limit - 1] + "…")


def _cell(text: str) -> str:
    """Escape what Markdown or HTML would take for markup; models write anything."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for character in "\\|*_`[]":
        escaped = escaped.replace(character, f"&#{ord(character)};")
    return escaped


def _ending(turns: Sequence[Turn]) -> str:
    if not turns:
        return "stopped before its first call"
    return "the task ended" if turns[-1].terminated else "stopped by a limit (turns or budget)"


def _turn_line(index: int, traced: TracedEpisode, model_names: Sequence[str]) -> str:
    turn = traced.episode.turns[index]
    served = "" if turn.served_model == turn.model else f" (served by {_cell(turn.served_model)})"
    gain = format_number(SCORE_PER_UTILITY * turn.utility_gain, decimals=1, sign=True)
    error = f"; {_cell(turn.error)}" if turn.error else ""
    cells = (
        f"{index + 1} {_cell(turn.model)}{served}",
        shorten(turn.action_text),
        shorten(turn.observation_text),
        f"{gain} for {format_usd(turn.cost_usd)} USD{error}",
        _in_lines([_opinion(index, number, traced, model_names) for number in range(len(model_names))]),
    )
    return "| " + " | ".join(cells) + " |"


def _in_lines(texts: Sequence[str]) -> str:
    """Texts listed in the lines of a table cell."""
    starts = range(0, len(texts), _MODELS_PER_LINE)
    return "<br>".join(", ".join(texts[start : start + _MODELS_PER_LINE]) for start in starts)


def _opinion(turn: int, model: int, traced: TracedEpisode, model_names: Sequence[str]) -> str:
    name = _cell(model_names[model])
    if traced.q_values is not None and traced.q_values.size:
        name += f" {traced.q_values[turn, model]:.3f}"
    if traced.action_probabilities.size:
        name += f" ({traced.action_probabilities[turn, model]:.0%})"
    return f"**{name}**" if traced.episode.turns[turn].model == model_names[model] else name
