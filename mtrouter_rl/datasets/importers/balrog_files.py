"""Files of the BALROG benchmark: where an episode's two files lie, what is in them, and tokens a turn from its totals.

Source: github.com/balrog-ai/BALROG, `balrog/evaluator.py` (who writes the files) and `balrog/prompt_builder/history.py`
(what a prompt holds). An episode is `<submission>/<env>/<task>/<task>_run_NN.json` with its totals, and the same name in
`.csv` with one row a turn. A task with `/` in its name is nested twice.
"""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path, PurePosixPath
from typing import Annotated, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mtrouter_rl.datasets.importers.archives import MAX_FILE_BYTES, LogFile
from mtrouter_rl.datasets.importers.base import UnusableEpisodeError, cut
from mtrouter_rl.records import JsonValue

ESCAPE_CHARACTER = "\u02d8"
DEFAULT_HISTORY = 16
"""Observation/action pairs in a prompt where the log does not say how many."""
MAX_INT64 = 2**63 - 1
_RUN_FILE = re.compile(r"(?P<stem>.+)_run_(?P<run>\d+)\.(?P<kind>json|csv)")
_COLUMNS = ("Step", "Observation", "Action", "Reward", "Done")
_FLAGS = {"True": True, "False": False}


@dataclass(frozen=True, kw_only=True)
class RunKey:
    """Which episode a file belongs to.

    Attributes:
        submission: Folder of the submission: a model and the agent around it.
        env: Name of the environment, such as "babyai".
        task: Name of the task in it; may contain `/`.
        run: Number of the run, as it is written in the file's name.
    """

    submission: str
    env: str
    task: str
    run: str

    @property
    def episode_id(self) -> str:
        """Name of the episode, unique over all submissions."""
        return f"{self.submission}/{self.env}/{self.task}/{self.run}"


def _whole(value: object) -> object:
    """A float such as 3.0 as the integer that it is; JSON does not tell them apart."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=MAX_INT64)]


class EpisodeTotals(BaseModel):
    """What an episode's JSON says and the importer reads; other keys are kept by `other_values`.

    Attributes:
        task: Name of the task.
        num_steps: Turns.
        progression: Final score, in [0, 1].
        input_tokens: Prompt tokens of all turns.
        output_tokens: Completion tokens of all turns.
        done: Whether the environment ended the episode; absent where the step limit did.
        seed: Seed of the environment; None if it was not logged.
        mission: What the player is told to do, in environments that say so.
        failed_candidates: Completions that were no valid action; None if they were not logged.
        agent: Settings of the agent.
        client: Settings of the model client.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    task: str
    num_steps: Annotated[Count, Field(ge=1)]
    progression: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
    input_tokens: Count
    output_tokens: Count
    done: bool = False
    seed: Count | None = None
    mission: str | None = None
    failed_candidates: list[object] | None = None
    agent: dict[str, object] = Field(default_factory=dict)
    client: dict[str, object] = Field(default_factory=dict)

    @property
    def invalid_actions(self) -> frozenset[str]:
        """Texts that were no valid action."""
        return frozenset(text for text in self.failed_candidates or () if isinstance(text, str))

    @property
    def history(self) -> int:
        """Observation/action pairs that a prompt holds; the setting's name changed between versions."""
        length = self.agent.get("max_text_history", self.agent.get("max_history"))
        return length if isinstance(length, int) and length > 0 else DEFAULT_HISTORY

    @property
    def model_id(self) -> str:
        """Name of the model for its client; empty if it was not logged."""
        name = self.client.get("model_id")
        return name if isinstance(name, str) else ""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Columns of an episode's CSV, one entry a turn, length T.

    Attributes:
        actions: Completion of the model (in older files: the action that was executed).
        observations: What the environment returned after the action.
        reasonings: Whole completions of agents that reason before they act; empty for others.
        is_done: Whether the last turn ended the episode.
        n_nul_bytes: NUL bytes that were removed.
    """

    actions: Sequence[str]
    observations: Sequence[str]
    reasonings: Sequence[str]
    is_done: bool
    n_nul_bytes: int

    @cached_property
    def answered(self) -> tuple[bool, ...]:
        """Whether the call of every turn returned any text, length T."""
        return tuple(bool(action or reason) for action, reason in zip(self.actions, self.reasonings, strict=True))


def run_file(file: LogFile) -> re.Match[str] | None:
    """The parts `stem`, `run` and `kind` of the name of an episode's file; None for every other file.

    A name that begins with `._` is what macOS adds to archives, not a file of the log.
    """
    return None if file.path.name.startswith("._") else _RUN_FILE.fullmatch(file.path.name)


def locate(file: LogFile, match: re.Match[str], root: Path) -> RunKey:
    """Which episode a file belongs to, from its path.

    Args:
        file: The file.
        match: What `run_file` says of it.
        root: Path that was given to the importer; it names the submission if the path inside does not.

    Raises:
        UnusableEpisodeError: If the path is not laid out as the benchmark does.
    """
    parts = (*_parents(file, root), *file.path.parent.parts, match["stem"])
    try:
        "/".join(parts).encode()
    except UnicodeEncodeError as error:
        raise UnusableEpisodeError("path that is not Unicode", str(error)) from error
    for n in range(1, (len(parts) - 2) // 2 + 1):
        if parts[-n:] == parts[-2 * n : -n]:
            submission, env = parts[-2 * n - 2 : -2 * n]
            return RunKey(submission=submission, env=env, task="/".join(parts[-n:]), run=match["run"])
    raise UnusableEpisodeError("path that is not <submission>/<env>/<task>/<task>_run_NN", "/".join(parts[-6:]))


def _parents(file: LogFile, root: Path) -> tuple[str, ...]:
    if file.archive:
        return (re.sub(r"\.(zip|tgz|tar(\.\w+)?)$", "", file.archive),)
    folder = root.resolve() if root.is_dir() else root.resolve().parent
    return PurePosixPath(folder.as_posix()).parts


def parse_totals(data: bytes) -> tuple[EpisodeTotals, dict[str, JsonValue]]:
    """Totals of an episode, and every other plain value of its JSON by name.

    Raises:
        UnusableEpisodeError: If it is cut off, no JSON, or a field is missing or breaks its rule.
    """
    try:
        content: object = json.loads(data, parse_constant=_no_number)
        if b"\\ud" in data.lower():
            # Half a surrogate pair, as an escape, is JSON but no text.
            content = json.loads(json.dumps(content, ensure_ascii=False).encode("utf-8", errors="replace"))
    except (ValueError, RecursionError) as error:
        raise UnusableEpisodeError("JSON that is cut off or no JSON", str(error)) from error
    try:
        totals = EpisodeTotals.model_validate(content)
    except ValidationError as error:
        raise UnusableEpisodeError("JSON with a missing or wrong field", explain(error)) from error
    values = cast(dict[str, JsonValue], content)
    known = EpisodeTotals.model_fields
    return totals, {name: value for name, value in values.items() if name not in known and _is_plain(value)}


def _no_number(name: str) -> None:
    """NaN and Infinity are no JSON: no value, so that a field that needs one is reported."""


def _is_plain(value: JsonValue) -> bool:
    # Not every reader takes integers of any size.
    return isinstance(value, str | float | bool) or (isinstance(value, int) and abs(value) <= MAX_INT64)


def explain(error: ValidationError) -> str:
    """First broken field of a log's record, with its value and rule."""
    issue = error.errors()[0]
    where = ".".join(str(part) for part in issue["loc"]) or "content"
    value = "missing" if issue["type"] == "missing" else cut(repr(issue["input"]), 60)
    return f"'{where}' is {value}: {issue['msg']}"


def parse_rows(data: bytes) -> Rows:
    """Turns of an episode. Columns are found by name, because their order differs between versions of the benchmark.

    Raises:
        UnusableEpisodeError: If it is no UTF-8, cut off, or has other columns, a row of another length, a step that is
            missing or repeated, or a turn after the end.
    """
    n_nul_bytes = data.count(b"\0")
    if n_nul_bytes:
        data = data.replace(b"\0", b"")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnusableEpisodeError("CSV that is not UTF-8", str(error)) from error
    limit = csv.field_size_limit(MAX_FILE_BYTES)
    try:
        table = csv.reader(io.StringIO(text, newline=""), escapechar=ESCAPE_CHARACTER, strict=True)
        header, *rows = [row for row in table if row] or [[]]
    except csv.Error as error:
        raise UnusableEpisodeError("CSV that is cut off or broken", str(error)) from error
    finally:
        csv.field_size_limit(limit)
    return _columns(header, rows, n_nul_bytes)


def _columns(header: list[str], rows: list[list[str]], n_nul_bytes: int) -> Rows:
    missing = [name for name in _COLUMNS if name not in header]
    if missing:
        raise UnusableEpisodeError(f"CSV without column {', '.join(missing)}", cut(f"has {', '.join(header)}"))
    for index, row in enumerate(rows):
        if len(row) != len(header):
            raise UnusableEpisodeError(
                "CSV row of another length", f"row {index} has {len(row)} fields, the header {len(header)}"
            )
    if not rows:
        raise UnusableEpisodeError("CSV without turns")
    column = dict(zip(header, zip(*rows, strict=True), strict=True))
    _check_steps(column["Step"], column["Done"])
    return Rows(
        actions=column["Action"],
        observations=column["Observation"],
        reasonings=column.get("Reasoning", ("",) * len(rows)),
        is_done=_FLAGS[column["Done"][-1]],
        n_nul_bytes=n_nul_bytes,
    )


def _check_steps(steps: Sequence[str], done: Sequence[str]) -> None:
    for index, step in enumerate(steps):
        if step != str(index):
            raise UnusableEpisodeError("CSV step that is missing or repeated", f"row {index} is step '{cut(step, 20)}'")
    if done[-1] not in _FLAGS or set(done[:-1]) - {"False"}:
        first = next((i for i, flag in enumerate(done) if flag != "False"), 0)
        raise UnusableEpisodeError(
            "CSV column Done that is not False before the last turn",
            f"row {first} of {len(done)} is '{cut(done[first], 20)}'",
        )


def apportion(total: int, weights: Sequence[int]) -> list[int]:
    """Share a number of tokens out in proportion, as integers whose sum is the total, each less than 1 off its share.

    Args:
        total: What is shared out, >= 0.
        weights: Weight of every share, >= 0, at least one; if all are 0 the shares are equal.

    Example:
        >>> apportion(10, [1, 1, 1]), apportion(5, [0, 2, 0]), apportion(3, [0, 0])
        ([3, 3, 4], [0, 5, 0], [1, 2])
    """
    whole = sum(weights)
    if not whole:
        weights, whole = [1] * len(weights), len(weights)
    edges = [total * part // whole for part in accumulate(weights)]
    return [end - start for start, end in pairwise([0, *edges])]


def window_lengths(actions: Sequence[str], observations: Sequence[str], history: int) -> list[int]:
    """Characters of the observations and actions that the prompt of every turn held, length T.

    The prompt of turn t holds the last `history` observations up to the present one and the last `history` actions. The
    present one is what the row before returned. The observation at reset is not in the log; that after the first action
    stands in for it.

    Example:
        >>> window_lengths(["a", "bb", "c"], ["1234", "12", "1"], history=2)
        [4, 9, 9]
    """
    seen = list(accumulate((len(observations[0]), *map(len, observations[:-1])), initial=0))
    acted = list(accumulate(map(len, actions), initial=0))
    return [
        seen[t + 1] - seen[max(0, t + 1 - history)] + acted[t] - acted[max(0, t - history)] for t in range(len(actions))
    ]
