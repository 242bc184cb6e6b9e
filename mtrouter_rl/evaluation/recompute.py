"""Numbers of a file, worked out again from the episodes that are kept beside it, and how the two compare.

A kind of file that can be worked out again is a `FileKind`. Studies bring their own, found by name as their commands are.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.errors import ResultsError
from mtrouter_rl.evaluation.kept_episodes import KeptEpisodes
from mtrouter_rl.records import JsonValue

ROUNDING = 1e-9
"""Two numbers whose difference is at most this share of the larger one are equal but for rounding."""

_OF_INTERVALS = frozenset(
    {"low", "high", "score_ci95", "cost_usd_ci95", "return_ci95", "p_value", "p_value_holm"}
    | {"verdict", "notes", "n_resamples"}
)
"""Fields that hang on how intervals are made."""

Verdict = Literal["equal to the last digit", "equal but for rounding", "differs", "cannot be recomputed"]


@dataclass(frozen=True, kw_only=True)
class Change:
    """A value that comes out otherwise.

    Attributes:
        where: Which one, such as "fitted-q on test: paired.random.return.low".
        was: The value in the file.
        found: The value that was worked out.
        difference: Found minus was; None where one of them is no number.
    """

    where: str
    was: JsonValue
    found: JsonValue
    difference: float | None

    @property
    def is_rounding(self) -> bool:
        """Whether it is no more than rounding, which differs between processors."""
        return (
            isinstance(self.was, float | int) and isinstance(self.found, float | int) and is_close(self.was, self.found)
        )

    @property
    def is_of_interval(self) -> bool:
        """Whether the value hangs on how intervals are made."""
        parts = self.where.rpartition(": ")[2].split(".")
        return bool(_OF_INTERVALS & set(parts))


@dataclass(frozen=True, kw_only=True)
class Recomputed:
    """How a file compares with its episodes.

    Attributes:
        file: The file.
        episodes: Where its episodes came from.
        n_episodes: How many there are.
        verdict: The result in a word; it is about what could be recomputed.
        n_numbers: Numbers that were recomputed.
        changes: What comes out otherwise.
        left_out: What cannot be recomputed, and why; a sentence each.
    """

    file: Path
    episodes: Path
    n_episodes: int
    verdict: Verdict
    n_numbers: int
    changes: tuple[Change, ...]
    left_out: tuple[str, ...]

    @property
    def is_equal(self) -> bool:
        """Whether something was recomputed and nothing differs by more than rounding."""
        return self.verdict in ("equal to the last digit", "equal but for rounding")


@dataclass(frozen=True, kw_only=True)
class Renewal:
    """A file and the same file with every number that its episodes tell worked out again.

    Attributes:
        was: Label -> part of the file, such as the row of a policy.
        found: The same, worked out again.
        left_out: What cannot be worked out, and why; a sentence each.
        save: Writes the renewed file.
    """

    was: Mapping[str, JsonValue]
    found: Mapping[str, JsonValue]
    left_out: tuple[str, ...]
    save: Callable[[Path], None]


@dataclass(frozen=True, kw_only=True)
class FileKind:
    """A kind of file whose numbers can be worked out again.

    Attributes:
        name: What it is called where no study gave it another name, such as "results.json".
        fields: Fields that tell it from other files.
        reward: Reads cost weight and unit of the returns of a file.
        renew: Works out its numbers again.
    """

    name: str
    fields: frozenset[str]
    reward: Callable[[Path], RewardCard]
    renew: Callable[[Path, KeptEpisodes], Renewal]


def compare(renewal: Renewal, *, file: Path, episodes: Path, n_episodes: int) -> Recomputed:
    """How a renewed file compares with what it was."""
    found = [
        (f"{label}: {where}" if where else label, was, new)
        for label, part in renewal.was.items()
        for where, was, new in _leaves(part, renewal.found[label])
    ]
    changes = tuple(
        Change(where=where, was=was, found=new, difference=_difference(was, new))
        for where, was, new in found
        if not _is_same(was, new)
    )
    n_numbers = sum(_is_number(was) or _is_number(new) for _, was, new in found)
    return Recomputed(
        file=file,
        episodes=episodes,
        n_episodes=n_episodes,
        verdict=_verdict(changes, n_numbers),
        n_numbers=n_numbers,
        changes=changes,
        left_out=renewal.left_out,
    )


def check_only_intervals(recomputed: Recomputed) -> None:
    """Refuse to renew a file from episodes that are not its own.

    Raises:
        ResultsError: If a value differs that no change of how intervals are made explains.
    """
    wrong = [one for one in recomputed.changes if not (one.is_rounding or one.is_of_interval)]
    if wrong:
        first = wrong[0]
        raise ResultsError(
            f"{recomputed.file}: {len(wrong)} numbers differ that are no intervals, such as {first.where}: {first.was} in the "
            f"file, {first.found} from {recomputed.episodes}; these are not the episodes of the file, so it is left as it is"
        )


def check_reward(kept: KeptEpisodes, reward: RewardCard) -> None:
    """Refuse episodes whose returns are of another reward.

    Raises:
        ResultsError: If one is.
    """
    for (split, policy), records in kept.groups.items():
        for one in records:
            if one.metrics is None:
                continue
            wanted = float(reward.reward(one.metrics.utility, one.cost_usd))
            if not math.isclose(one.metrics.return_, wanted, rel_tol=1e-6, abs_tol=1e-6):
                raise ResultsError(
                    f"policy '{policy}' on {split}, episode {one.key}: return is {one.metrics.return_:g}, at cost weight "
                    f"{reward.cost_weight:g} and unit {reward.cost_unit_usd:g} USD it would be {wanted:g}; give the episodes "
                    "of this file"
                )


def is_close(one: float, other: float) -> bool:
    """Whether two numbers are equal but for rounding."""
    return math.isclose(one, other, rel_tol=ROUNDING, abs_tol=1e-15)


def _verdict(changes: Sequence[Change], n_numbers: int) -> Verdict:
    if not n_numbers:
        return "cannot be recomputed"
    if not changes:
        return "equal to the last digit"
    return "equal but for rounding" if all(one.is_rounding for one in changes) else "differs"


def _leaves(was: JsonValue, found: JsonValue, where: str = "") -> Iterator[tuple[str, JsonValue, JsonValue]]:
    """Every value of two documents, with where it is; None where one document has none."""
    if isinstance(was, dict) and isinstance(found, dict):
        for name in dict.fromkeys((*was, *found)):
            yield from _leaves(was.get(name), found.get(name), f"{where}.{name}" if where else name)
    elif isinstance(was, list) and isinstance(found, list) and len(was) == len(found):
        for number, (one, other) in enumerate(zip(was, found, strict=True)):
            yield from _leaves(one, other, f"{where}.{number}" if where else str(number))
    else:
        yield where, was, found


def _is_number(value: JsonValue) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)


def _is_same(was: JsonValue, found: JsonValue) -> bool:
    return was == found and isinstance(was, bool) == isinstance(found, bool)


def _difference(was: JsonValue, found: JsonValue) -> float | None:
    if isinstance(was, float | int) and isinstance(found, float | int):
        return float(found) - float(was)
    return None
