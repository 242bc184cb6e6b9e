"""What an importer is, the names of models in logs, and the report of everything that was left out or mended."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Protocol, Self, TypedDict

from pydantic import PrivateAttr

from mtrouter_rl.cards.pool import ModelCard, PoolCard, Prices
from mtrouter_rl.errors import DatasetError, unknown_name
from mtrouter_rl.records import Episode, Frozen

MAX_EXAMPLES = 20


class UnusableEpisodeError(DatasetError):
    """Something in a log cannot become an episode; the importer counts it and goes on.

    Attributes:
        reason: Why, in general words; a row of the report.
        detail: What exactly was found.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Example(TypedDict):
    """One case of a rejection or a note: where it was found, and what exactly."""

    source: str
    detail: str


class Finding(TypedDict):
    """A reason, how many episodes (or places) it concerns, and the first few of them."""

    n: int
    examples: list[Example]


class ReportJson(TypedDict):
    """What `import-report.json` holds."""

    format: str
    n_files: int
    n_episodes: int
    n_turns: int
    n_rejected: int
    n_rejected_turns: int
    rejected: dict[str, Finding]
    notes: dict[str, Finding]
    assumptions: list[str]


@dataclass(kw_only=True)
class ImportReport:
    """Counts what was read, what was left out and why, and what was mended on the way.

    Attributes:
        format: Name of the log format.
        n_files: Files that were read.
        n_episodes: Episodes that are in the dataset.
        n_turns: Turns that are in the dataset.
        n_rejected: Episodes (or files that should have held one) that were left out.
        n_rejected_turns: Turns of those, as far as they could be counted.
    """

    format: str
    n_files: int = 0
    n_episodes: int = 0
    n_turns: int = 0
    n_rejected: int = 0
    n_rejected_turns: int = 0
    _rejected: Counter[str] = field(default_factory=Counter)
    _notes: Counter[str] = field(default_factory=Counter)
    _examples: dict[str, list[Example]] = field(default_factory=dict)
    assumptions: tuple[str, ...] = ()

    def reject(self, reason: str, *, source: str, detail: str = "", n_turns: int = 0) -> None:
        """Count an episode, or a file that should hold one, that is left out.

        Args:
            reason: Why, in general words; the reasons are the rows of the report.
            source: Where it is: file, or archive and member, or file and line.
            detail: What exactly was found there.
            n_turns: How many turns are lost with it, if that is known.
        """
        self.n_rejected += 1
        self.n_rejected_turns += n_turns
        self._rejected[reason] += 1
        self._remember(reason, source, detail)

    def note(self, what: str, *, source: str, detail: str = "", n: int = 1) -> None:
        """Count something that was mended or assumed in an episode that is kept, such as removed NUL bytes."""
        self._notes[what] += n
        self._remember(what, source, detail)

    def _remember(self, reason: str, source: str, detail: str) -> None:
        examples = self._examples.setdefault(reason, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(Example(source=_printable(source), detail=_printable(detail)))

    def to_json(self) -> ReportJson:
        """The whole report as JSON values."""
        return ReportJson(
            format=self.format,
            n_files=self.n_files,
            n_episodes=self.n_episodes,
            n_turns=self.n_turns,
            n_rejected=self.n_rejected,
            n_rejected_turns=self.n_rejected_turns,
            rejected=self._findings(self._rejected),
            notes=self._findings(self._notes),
            assumptions=list(self.assumptions),
        )

    def _findings(self, counts: Counter[str]) -> dict[str, Finding]:
        return {reason: Finding(n=n, examples=self._examples[reason]) for reason, n in counts.most_common()}

    def __str__(self) -> str:
        """Readable text for a terminal: counts first, then one line a reason with its first example."""
        lines = [
            f"{self.format}: {self.n_episodes} episodes with {self.n_turns} turns from {self.n_files} files; "
            f"{self.n_rejected} left out" + (f" with {self.n_rejected_turns} turns" if self.n_rejected_turns else "")
        ]
        for title, counts in (("left out", self._rejected), ("noted", self._notes)):
            for reason, n in counts.most_common():
                example = self._examples[reason][0]
                detail = f": {example['detail']}" if example["detail"] else ""
                lines.append(f"  {title}: {n} x {reason} (first: {example['source']}{detail})"[:400])
        lines += [f"  assumed: {text}" for text in self.assumptions]
        return "\n".join(lines)


def _printable(text: str) -> str:
    # Names of files and texts of a log may hold half a surrogate pair, which no file and no terminal takes.
    return text.encode("utf-8", errors="backslashreplace").decode()


class OpenPool(PoolCard):
    """Stands in for the pool of a log while nobody has said which models it holds: it takes every name, at no price."""

    _found: dict[str, ModelCard] = PrivateAttr(default_factory=dict)

    @classmethod
    def empty(cls) -> Self:
        """A pool that has met no model yet."""
        return cls(name="(models of the log)", models=(_UNPRICED,))

    def add(self, name: str) -> str:
        """Take a model in, if it is not known; gives its name."""
        self._found.setdefault(name, _UNPRICED.model_copy(update={"name": name}))
        return name

    @property
    def model_names(self) -> tuple[str, ...]:
        """Names that were met so far."""
        return tuple(self._found)

    def model(self, name: str) -> ModelCard:
        """Card of a model, without prices."""
        return self._found[name]


_UNPRICED = ModelCard(
    name="(none)",
    prices=Prices(input=0.0, cached_input=0.0, output=0.0),
    context_tokens=2**31,
    max_output_tokens=2**31,
)


class ModelNames:
    """Finds a log's models in a pool by name or alias."""

    def __init__(self, pool: PoolCard) -> None:
        self._names = {alias: model.name for model in pool.models for alias in (model.name, *model.aliases)}
        self._pool = pool.name
        self._open = pool if isinstance(pool, OpenPool) else None

    def find(self, *candidates: str) -> str | None:
        """Name in the pool of the first candidate that it knows, or None."""
        if self._open is not None:
            return self._open.add(candidates[0])
        return next((self._names[name] for name in candidates if name in self._names), None)

    def explain(self, name: str) -> str:
        """Why a name was not found, what the nearest one is, and what to do."""
        return str(
            unknown_name(
                f"model of pool '{self._pool}'",
                name,
                self._names,
                fix="Add it to the pool card, or as an alias of a model",
            )
        )


@dataclass(frozen=True, kw_only=True)
class ImportSource:
    """What is imported, and what it is counted in.

    Attributes:
        paths: Files, folders and archives.
        pool: Models and their prices.
        report: Where whatever is left out is counted.
    """

    paths: tuple[Path, ...]
    pool: PoolCard
    report: ImportReport


class Importer(Protocol):
    """Reads one log format.

    Attributes:
        options_model: Model of the options that `--option NAME=VALUE` sets; its docstring explains them.
        description: One sentence for the user who chooses.
        env: Name of the environment of the dataset.
        propensities: What the log knows of propensities; see `DatasetInfo`.
        is_simulated: Whether the models in the log were simulated.
        assumptions: What is assumed where the log says nothing, a sentence each.
    """

    options_model: ClassVar[type[Frozen]]
    description: ClassVar[str]
    env: str
    propensities: Literal["exact", "estimated", "unknown"]
    is_simulated: bool
    assumptions: tuple[str, ...]

    def __init__(self, options: Frozen) -> None:
        """Take the checked options."""

    def episodes(self, source: ImportSource) -> Iterator[Episode]:
        """Episodes one by one, in an order that does not depend on the machine; memory does not grow with their number.

        What cannot be read is counted with `source.report.reject`, never guessed and never raised; the rest goes on.
        Episodes get the split "train", and costs from `source.pool`.

        Raises:
            DatasetError: If the paths hold nothing of this format at all.
        """


def cut(text: str, length: int = 120) -> str:
    """Beginning of a text, for a message."""
    return text if len(text) <= length else text[:length] + "..."
