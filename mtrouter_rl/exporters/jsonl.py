"""JSON Lines: what the dataset is in the first line, then one line an episode. Nothing is lost.

Every field is documented in docs/export-datasets.md. The lines are UTF-8 and strict JSON (RFC 8259: no NaN).
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import pydantic
from pydantic import AfterValidator, ConfigDict, ValidationError

from mtrouter_rl.datasets.info import DatasetInfo, parse_info
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.exporters.base import Exporter, Loaded, NoOptions, explain
from mtrouter_rl.records import Episode, EpisodeStatus, Frozen, Split, TokenUsage, TracedEpisode, Turn, UsageSource

FORMAT = "mtrouter-rl-dataset"
_FIX = "export the dataset anew, or restore the file from a copy"
_LineT = TypeVar("_LineT", bound="Line")


def _all_finite(value: dict[str, pydantic.JsonValue]) -> dict[str, pydantic.JsonValue]:
    json.dumps(value, allow_nan=False)  # pydantic lets NaN, and what overflows to infinity, pass
    return value


_JsonObject = Annotated[dict[str, pydantic.JsonValue], AfterValidator(_all_finite)]


class Line(Frozen):
    """Base of what a line holds: an unknown, missing or wrongly typed field and a NaN are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class UsageFields(Line):
    """Tokens of a call; see `TokenUsage`."""

    n_fresh: int
    n_cached: int
    n_written: int
    n_output: int


class TurnFields(Line):
    """A turn; see `Turn`."""

    model: str
    served_model: str
    action_text: str
    observation_text: str
    usage: UsageFields
    cost_usd: float
    utility_gain: float
    propensity: float | None
    action_mask: tuple[bool, ...]
    warm: tuple[bool, ...]
    error: str
    latency_s: float | None
    terminated: bool
    truncated: bool
    router_cost_usd: float = 0.0
    parents: tuple[int, ...] | None = None

    def to_record(self) -> Turn:
        """The turn as a record."""
        fields = {name: getattr(self, name) for name in type(self).model_fields if name != "usage"}
        usage = {name: getattr(self.usage, name) for name in UsageFields.model_fields}
        return Turn(usage=TokenUsage(**usage), **fields)


class EpisodeFields(Line):
    """An episode without its turns; see `Episode`."""

    episode_id: str
    task: str
    variation: int
    seed: int
    split: Split
    task_text: str
    first_observation: str
    behavior_policy: str
    budget_usd: float
    max_turns: int
    status: EpisodeStatus
    status_detail: str
    usage_source: UsageSource
    extra: _JsonObject

    def to_record(self, turns: tuple[Turn, ...]) -> Episode:
        """The episode as a record."""
        return Episode(turns=turns, **{name: getattr(self, name) for name in EpisodeFields.model_fields})


class EpisodeLine(EpisodeFields):
    """A line of the file.

    Attributes:
        turns: The T turns, in order.
        hidden: What only a simulator knows, one object a turn; left out if there is none.
    """

    turns: tuple[TurnFields, ...]
    hidden: tuple[_JsonObject, ...] = ()

    def to_traced(self) -> TracedEpisode:
        """The episode with its hidden information."""
        episode = self.to_record(tuple(turn.to_record() for turn in self.turns))
        return TracedEpisode(episode=episode, hidden=self.hidden)


class HeaderLine(Line):
    """The first line.

    Attributes:
        format: Says what the file is.
        n_episodes: How many episodes follow, so that a file that was cut off between two lines is noticed.
        info: As in `info.json`; see `DatasetInfo`.
    """

    format: Literal["mtrouter-rl-dataset"]
    n_episodes: int
    info: _JsonObject


def dump_line(value: Mapping[str, object], *, what: str) -> str:
    """A line of strict JSON.

    Args:
        value: What it holds.
        what: Its name, for error messages.

    Raises:
        DatasetError: If a value is no JSON value, such as a NaN in `extra`.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"
    except (ValueError, TypeError) as error:
        raise DatasetError(f"{what} holds a value that JSON cannot carry: {error}; remove it from `extra`") from error


def header_line(info: DatasetInfo, n_episodes: int) -> str:
    """First line of an export."""
    header = {"format": FORMAT, "n_episodes": n_episodes, "info": info.model_dump(mode="json")}
    return dump_line(header, what=f"info of dataset '{info.dataset_id}'")


def episode_fields(episode: Episode) -> dict[str, object]:
    """An episode without its turns, as JSON values. Inverse: `EpisodeFields.to_record`."""
    return {name: getattr(episode, name) for name in EpisodeFields.model_fields} | {"extra": dict(episode.extra)}


def episode_value(traced: TracedEpisode) -> dict[str, object]:
    """An episode as JSON values. Inverse: `EpisodeLine.to_traced`."""
    hidden = {"hidden": [dict(row) for row in traced.hidden]} if traced.hidden else {}
    turns = [_turn_value(turn) for turn in traced.episode.turns]
    return episode_fields(traced.episode) | {"turns": turns} | hidden


def _turn_value(turn: Turn) -> dict[str, object]:
    usage = {name: getattr(turn.usage, name) for name in UsageFields.model_fields}
    names = set(TurnFields.model_fields) - ({"parents"} if turn.parents is None else set())
    return {name: getattr(turn, name) for name in TurnFields.model_fields if name in names} | {"usage": usage}


def parse_line(kind: type[_LineT], text: str | bytes, where: str) -> _LineT:
    """A line as its checked model.

    Args:
        kind: What the line has to be.
        text: Its text.
        where: File and line, for error messages.

    Raises:
        DatasetError: If it is no JSON, or a field is unknown, missing or of another type.
    """
    try:
        line = kind.model_validate_json(text)
    except ValidationError as error:
        problem = explain(error)
        raise DatasetError(f"{where} is not what has to be there:\n{problem}\n  {_FIX}") from error
    return line


def parse_header(text: str | bytes, where: str) -> tuple[DatasetInfo, int]:
    """What the dataset is, and how many episodes follow.

    Raises:
        DatasetError: If the line is something else, or the info breaks a rule.
    """
    header = parse_line(HeaderLine, text, where)
    return parse_info(json.dumps(header.info), Path(where)), header.n_episodes


def restore_jsonl(path: Path) -> tuple[DatasetInfo, Iterator[TracedEpisode]]:
    """Read what `export_jsonl` wrote.

    Args:
        path: The file.

    Returns:
        What the dataset is, and its episodes; a line is read when its episode is asked for.

    Raises:
        DatasetError: If the file is missing, cut off, or a line breaks its rules; names file and line. Of a line after
            the first it is raised when that line is reached.
    """
    try:
        with path.open("rb") as file:
            first = file.readline()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}; give the file that an export wrote") from error
    info, n_episodes = parse_header(first, f"{path}, line 1")
    return info, _episodes(path, n_episodes)


def _episodes(path: Path, n_episodes: int) -> Iterator[TracedEpisode]:
    n_read = 0
    with path.open("rb") as file:
        file.readline()
        for n_read, line in enumerate(file, start=1):
            where = f"{path}, line {n_read + 1}"
            if not line.endswith(b"\n"):
                raise DatasetError(f"{where} is cut off, it has no line end; {_FIX}")
            yield parse_line(EpisodeLine, line, where).to_traced()
    if n_read != n_episodes:
        raise DatasetError(f"{path} has {n_read} episodes, must have {n_episodes}, as line 1 says; {_FIX}")


def _write(loaded: Loaded, out: Path, _: NoOptions) -> None:
    with out.open("w", encoding="utf-8", newline="\n") as file:
        file.write(header_line(loaded.info, len(loaded.traced)))
        for traced in loaded.traced:
            file.write(dump_line(episode_value(traced), what=f"episode '{traced.episode.episode_id}'"))


export_jsonl = Exporter(
    format="jsonl",
    description="One JSON Lines file: the info, then one line an episode. Loses nothing; can be imported again.",
    options_model=NoOptions,
    write=_write,
    is_file=True,
)
