"""What an importer is, what those of conversations share, names of models in logs, and the report of all that was left out."""

import difflib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar, Generic, Literal, Protocol, Self, TypedDict, TypeVar, cast

from pydantic import PrivateAttr

from mtrouter_rl.cards.pool import ModelCard, PoolCard, Prices
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.records import Episode, Frozen, TokenUsage, Turn

MAX_EXAMPLES = 20

FIXES = {
    "model that the pool does not have": "add the model, or its name in the log as an alias, to the pool card",
    "session without the line that ends it": "give the scores: a line with session_id and score, or --scores FILE",
    "score that is missing or out of range": "give a score from -1 to 1 for every session, or --scores FILE",
    "token count that is missing or invalid": "log the usage of every call as the vendor returns it",
    "propensity that is missing or out of range": "log the probability of the chosen model, or "
    "--option propensities=unknown",
    "session with a call that no line logs": "give all files of the log, or --option earlier_answers=keep where the "
    "answers in a prompt are examples",
}
"""What would bring back what is left out for a reason, where that is always the same."""


class UnusableEpisodeError(DatasetError):
    """Something in a log cannot become an episode; the importer counts it and goes on.

    Attributes:
        reason: Why, in general words; a row of the report.
        detail: What exactly was found.
        source: Where, as "file:line"; empty where whoever catches it knows.
    """

    def __init__(self, reason: str, detail: str = "", *, source: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.source = source


class Example(TypedDict):
    """One case of a rejection or a note: where it was found, and what exactly."""

    source: str
    detail: str


class Finding(TypedDict):
    """A reason, how many episodes (or places) it concerns, the money of their calls, and the first few of them."""

    n: int
    usd: float
    examples: list[Example]


class AmountJson(TypedDict):
    """Tokens and money of calls; see `Amount`."""

    n_calls: int
    n_unknown: int
    n_prompt: int
    n_output: int
    usd: float


class Remedy(TypedDict):
    """What would bring episodes back, and how many of them, with how much money."""

    reason: str
    fix: str
    n: int
    usd: float


@dataclass(frozen=True, kw_only=True)
class Amount:
    """Tokens and money of calls, so that what was read and what was left out can be compared with what was there.

    Attributes:
        n_calls: Calls.
        n_unknown: Those of them whose tokens or price are not known, and are in no sum.
        n_prompt: Prompt tokens.
        n_output: Generated tokens.
        usd: Price by the pool card, USD; by the log where the card does not know the model or the tokens are not known.
    """

    n_calls: int = 0
    n_unknown: int = 0
    n_prompt: int = 0
    n_output: int = 0
    usd: float = 0.0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(
            n_calls=self.n_calls + other.n_calls,
            n_unknown=self.n_unknown + other.n_unknown,
            n_prompt=self.n_prompt + other.n_prompt,
            n_output=self.n_output + other.n_output,
            usd=self.usd + other.usd,
        )

    @classmethod
    def of_call(cls, tokens: TokenUsage | None, usd: float | None) -> "Amount":
        """One call; None where its tokens or its price are not known."""
        if tokens is None:
            return cls(n_calls=1, n_unknown=1, usd=usd or 0.0)
        return cls(
            n_calls=1, n_unknown=int(usd is None), n_prompt=tokens.n_prompt, n_output=tokens.n_output, usd=usd or 0.0
        )

    @classmethod
    def of_turns(cls, turns: Iterable[Turn]) -> "Amount":
        """All calls of turns."""
        return sum((cls.of_call(turn.usage, turn.cost_usd) for turn in turns), cls())

    def to_json(self) -> AmountJson:
        """As JSON values."""
        return cast("AmountJson", asdict(self))


class ReportJson(TypedDict):
    """What `import-report.json` holds."""

    format: str
    n_files: int
    n_episodes: int
    n_turns: int
    n_rejected: int
    n_rejected_turns: int
    read: AmountJson
    left_out: AmountJson
    rejected: dict[str, Finding]
    passed_over: dict[str, Finding]
    notes: dict[str, Finding]
    remedies: list[Remedy]
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
        read: Calls that are in the dataset.
        left_out: Calls that were found and are not, whether they were lost or passed over on purpose.
        last_broken: Place of the last file that broke off, so that the archive around it is not counted again.
    """

    format: str
    n_files: int = 0
    n_episodes: int = 0
    n_turns: int = 0
    n_rejected: int = 0
    n_rejected_turns: int = 0
    read: Amount = field(default_factory=Amount)
    left_out: Amount = field(default_factory=Amount)
    last_broken: str = ""
    _rejected: Counter[str] = field(default_factory=Counter)
    _passed: Counter[str] = field(default_factory=Counter)
    _notes: Counter[str] = field(default_factory=Counter)
    _usd: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    _fixes: dict[str, str] = field(default_factory=dict)
    _examples: dict[str, list[Example]] = field(default_factory=dict)
    assumptions: tuple[str, ...] = ()

    def reject(
        self,
        reason: str,
        *,
        source: str,
        detail: str = "",
        n_turns: int = 0,
        amount: Amount | None = None,
        fix: str = "",
    ) -> None:
        """Count an episode, or a file that should hold one, that is left out.

        Args:
            reason: Why, in general words; the reasons are the rows of the report.
            source: Where it is: file, or archive and member, or file and line.
            detail: What exactly was found there.
            n_turns: How many turns are lost with it, if that is known.
            amount: Tokens and money that are lost with it; None counts `n_turns` calls of unknown tokens.
            fix: What would bring it back; the last one that is given for a reason is shown.
        """
        lost = Amount(n_calls=n_turns, n_unknown=n_turns) if amount is None else amount
        self.n_rejected += 1
        self.n_rejected_turns += n_turns
        self.left_out += lost
        self._rejected[reason] += 1
        self._usd[reason] += lost.usd
        if fix:
            self._fixes[reason] = fix
        self._remember(reason, source, detail)

    def pass_over(self, what: str, *, source: str, detail: str = "", amount: Amount | None = None) -> None:
        """Count something that is left out on purpose and is no loss: what is there twice, an older run, a demo."""
        lost = amount or Amount()
        self.left_out += lost
        self._passed[what] += 1
        self._usd[what] += lost.usd
        self._remember(what, source, detail)

    def note(self, what: str, *, source: str, detail: str = "", n: int = 1, usd: float = 0.0) -> None:
        """Count something that was mended or assumed in an episode that is kept, such as removed NUL bytes.

        Args:
            what: In general words; a row of the report.
            source: Where it is.
            detail: What exactly was found there.
            n: How many times.
            usd: Money of the calls that it concerns, USD.
        """
        self._notes[what] += n
        self._usd[what] += usd
        self._remember(what, source, detail)

    @property
    def left_out_share(self) -> float:
        """Share of the episodes found that could not be read, in [0, 1]."""
        n_found = self.n_episodes + self.n_rejected
        return self.n_rejected / n_found if n_found else 0.0

    @property
    def remedies(self) -> list[Remedy]:
        """What would bring back what is left out: most money first, then most episodes."""
        found = [
            Remedy(reason=reason, fix=self._fixes.get(reason, FIXES.get(reason, "")), n=n, usd=self._usd[reason])
            for reason, n in self._rejected.items()
        ]
        return sorted(found, key=lambda remedy: (-remedy["usd"], -remedy["n"]))

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
            read=self.read.to_json(),
            left_out=self.left_out.to_json(),
            rejected=self._findings(self._rejected),
            passed_over=self._findings(self._passed),
            notes=self._findings(self._notes),
            remedies=self.remedies,
            assumptions=list(self.assumptions),
        )

    def _findings(self, counts: Counter[str]) -> dict[str, Finding]:
        return {
            reason: Finding(n=n, usd=self._usd[reason], examples=self._examples[reason])
            for reason, n in counts.most_common()
        }

    def __str__(self) -> str:
        """Readable text for a terminal: counts first, then one line a reason with its first example."""
        lines = [
            f"{self.format}: {self.n_episodes} episodes with {self.n_turns} turns from {self.n_files} files; "
            f"{self.n_rejected} left out" + (f" with {self.n_rejected_turns} turns" if self.n_rejected_turns else "")
        ]
        lines += [f"  {word}: {amount}" for word, amount in self._amounts()]
        tables = (("left out", self._rejected), ("passed over", self._passed), ("noted", self._notes))
        for title, counts in tables:
            for reason, n in counts.most_common():
                example = self._examples[reason][0]
                detail = f": {example['detail']}" if example["detail"] else ""
                money = f", {self._usd[reason]:.6g} USD" if self._usd[reason] else ""
                lines.append(f"  {title}: {n} x {reason}{money} (first: {example['source']}{detail})"[:400])
        lines += [f"  assumed: {text}" for text in self.assumptions]
        return "\n".join(lines)

    def _amounts(self) -> Iterator[tuple[str, str]]:
        for word, amount in (("in the dataset", self.read), ("left out or passed over", self.left_out)):
            if amount.n_calls:
                unknown = f", {amount.n_unknown} of unknown tokens or price" if amount.n_unknown else ""
                yield (
                    word,
                    f"{amount.n_calls} calls, {amount.n_prompt} prompt and {amount.n_output} output tokens, "
                    f"{amount.usd:.6g} USD by the pool card{unknown}",
                )


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
        lower = {known.lower(): known for known in sorted(self._names, reverse=True)}
        nearest = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
        tail = name.lower().rpartition("/")[2]
        nearest = nearest or [known for known in lower if known.startswith(tail) or tail.startswith(known)][:1]
        hint = f"did you mean '{lower[nearest[0]]}'? " if nearest else ""
        return (
            f"unknown model of pool '{self._pool}' '{name}'; {hint}Valid: {', '.join(sorted(self._names))}. Add it to the "
            "pool card, or as an alias of a model"
        )


@dataclass(frozen=True, kw_only=True)
class ImportSource:
    """What is imported, and what it is counted in.

    Attributes:
        paths: Files, folders and archives.
        pool: Models and their prices.
        report: Where whatever is left out is counted.
        scores: Files of scores that are kept apart from the log.
    """

    paths: tuple[Path, ...]
    pool: PoolCard
    report: ImportReport
    scores: tuple[Path, ...] = ()


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


class ChatOptions(Frozen):
    """What every such format can be asked.

    Attributes:
        propensities: "exact" leaves an episode out in which the propensity of a turn is not known, "unknown" keeps it.
    """

    propensities: Literal["exact", "unknown"]


ChatOptionsT = TypeVar("ChatOptionsT", bound=ChatOptions)


class ChatImporter(Generic[ChatOptionsT]):
    """Base of the importers of logged conversations; a subclass is an `Importer`, with `episodes` of its own."""

    options_model: ClassVar[type[Frozen]]
    takes_scores: ClassVar[bool] = False
    """Whether the importer reads `ImportSource.scores`; those that use `SessionAssembler` do."""
    env: str
    is_simulated: bool = False
    assumptions: tuple[str, ...]

    def __init__(self, options: Frozen) -> None:
        """Take the checked options."""
        checked: ChatOptionsT = self.options_model.model_validate(options.model_dump())  # type: ignore[assignment]
        self._options = checked
        self.propensities: Literal["exact", "estimated", "unknown"] = checked.propensities
