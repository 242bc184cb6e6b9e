"""`leave_one_out.json`: what a router makes of a model that left its pool, or joined it with little or no data."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue

from mtrouter_rl.agents.extrapolation import Extrapolation
from mtrouter_rl.errors import ResultsError
from mtrouter_rl.evaluation.results import PairedDifference, ResultRow
from mtrouter_rl.files import ResultFile, write_atomically
from mtrouter_rl.records import Count, FiniteRecord, NonNegative, Share, Split
from mtrouter_rl.reporting.tables import (
    Table,
    format_interval,
    format_number,
    format_percent,
    format_usd_interval,
    format_usd_mean,
    format_with_ends,
    to_markdown,
    to_plain,
    verdict_word,
)
from mtrouter_rl.transitions.hold_out import HeldOutHistory

LEAVE_ONE_OUT_FILE = "leave_one_out.json"
TABLE_FILE = "leave_one_out.md"

Arm = Literal["without", "metadata alone", "few episodes", "full"]
WITHOUT: Arm = "without"
METADATA: Arm = "metadata alone"
FEW: Arm = "few episodes"
FULL: Arm = "full"
ARMS: tuple[Arm, ...] = (WITHOUT, METADATA, FEW, FULL)

SHOWN_DIFFERENCES: tuple[tuple[Arm, Arm, str], ...] = (
    (WITHOUT, FULL, "the model leaves"),
    (METADATA, WITHOUT, "it joins with its card alone"),
    (FEW, WITHOUT, "it joins with few episodes"),
    (METADATA, FULL, "its card instead of the whole log"),
    (FEW, FULL, "few episodes instead of the whole log"),
)
"""Differences that the table shows: arm, minus arm, and the question that they answer."""


class HeldOutModel(FiniteRecord):
    """What came of holding one model out.

    Attributes:
        model: Its name.
        is_best_single: Whether, called throughout, it has the best return on these very episodes.
        is_strongest: Likewise the best score.
        n_turns_logged: Its turns in the log.
        n_turns_few: Those of them that "few episodes" learned from; "without" and "metadata alone" learned from none.
        extrapolation: What "metadata alone" extrapolates from: its features outside the range of the others'.
        share_of_turns: Arm -> share of turns that the router gave to the model; 0 in "without", whose pool lacks it.
        notes: Flags, a sentence each.
        rows: One row for every arm, named after it. `paired` has its differences to the other arms, to random routing and to
            the best single model; Holm's correction is over those of this model.
    """

    model: str
    is_best_single: bool
    is_strongest: bool
    n_turns_logged: Annotated[int, Field(gt=0)]
    n_turns_few: Count
    extrapolation: Extrapolation
    share_of_turns: dict[Arm, Share]
    notes: tuple[str, ...]
    rows: tuple[ResultRow, ...]

    def row(self, arm: Arm) -> ResultRow:
        """Row of an arm.

        Raises:
            ResultsError: If the file lacks it.
        """
        for row in self.rows:
            if row.policy == arm:
                return row
        raise ResultsError(f"model '{self.model}' has no row '{arm}'; run mtrouter-rl lab leave-one-out again")

    def difference(self, arm: Arm, other: Arm) -> PairedDifference:
        """One arm minus another, over the same episodes."""
        return self.row(arm).paired[other]


class LeaveOneOut(ResultFile):
    """Contents of the file.

    Attributes:
        schema_version: Version of this layout.
        model_names: Names of its models, in pool order.
        is_simulated: Whether the models were simulated, so that no LLM was called.
        agent: Name of the agent card.
        dataset_id: The log.
        split: Split that was run.
        n_seeds: Seeds per variation.
        n_few_episodes: Logged episodes of "few episodes" in which a held-out model's turns were learned from.
        history: What became of turns that follow a held-out model's; see `hold_out.HeldOutHistory`.
        cost_weight: Cost weight of every return.
        cost_unit_usd: Cost unit, USD.
        seed: Seed of trainings, draws and bootstrap.
        config: The resolved environment and agent.
        notes: What a reader must know before believing any number, a sentence each.
        references: Rows of random routing and of every single model, all in the whole pool.
        models: One entry for every model that was held out.
    """

    SOURCE: ClassVar[str] = "`mtrouter-rl lab leave-one-out` writes it"
    FIX: ClassVar[str] = "run it again"

    schema_version: Literal[1] = 1
    model_names: tuple[str, ...]
    is_simulated: bool
    agent: str
    dataset_id: str
    split: Split
    n_seeds: Annotated[int, Field(ge=1)]
    n_few_episodes: Annotated[int, Field(ge=1)]
    history: HeldOutHistory
    cost_weight: NonNegative
    cost_unit_usd: Annotated[float, Field(gt=0)]
    seed: int
    config: dict[str, JsonValue]
    notes: tuple[str, ...]
    references: tuple[ResultRow, ...]
    models: tuple[HeldOutModel, ...]

    def model(self, name: str) -> HeldOutModel:
        """Entry of a model.

        Raises:
            ResultsError: If it was not held out.
        """
        for one in self.models:
            if one.model == name:
                return one
        raise ResultsError(
            f"model '{name}' was not held out, only {[one.model for one in self.models]}; run it as well"
        )

    def save(self, folder: Path) -> None:
        """Write `leave_one_out.json` and the tables in Markdown."""
        self.write(folder / LEAVE_ONE_OUT_FILE)
        tables = "\n\n".join(to_markdown(table) for table in leave_one_out_tables(self))
        notes = "\n".join(f"- {note}" for note in all_notes(self))
        write_atomically(folder / TABLE_FILE, f"{tables}\n\n{notes}\n".encode())


def all_notes(found: LeaveOneOut) -> tuple[str, ...]:
    """Notes of the whole run, then those of every model."""
    return (*found.notes, *(note for one in found.models for note in one.notes))


def leave_one_out_tables(found: LeaveOneOut) -> tuple[Table, Table]:
    """What every arm does, and what lies between the arms."""
    return _arms_table(found), _differences_table(found)


def format_leave_one_out(found: LeaveOneOut) -> str:
    """Tables and flags for a terminal."""
    tables = "\n\n".join(to_plain(table) for table in leave_one_out_tables(found))
    return tables + "\n\n" + "\n".join(f"note: {note}" for note in all_notes(found))


def _arms_table(found: LeaveOneOut) -> Table:
    cells, groups = list[tuple[str, ...]](), set[int]()
    for one in found.models:
        groups.add(len(cells))
        cells += [
            (one.model, row.policy, *_numbers(row), format_percent(one.share_of_turns[arm]), _flag(one, arm))
            for arm in ARMS
            for row in (one.row(arm),)
        ]
    groups.add(len(cells))
    cells += [("(none)", row.policy, *_numbers(row), "", "") for row in found.references]
    words = "simulated models (no LLM was called)" if found.is_simulated else "models that were called"
    caption = (
        f"{found.env}, {found.split} split, pool {found.pool}, {words}, {found.agent}, "
        f"{found.references[0].n_episodes} episodes per policy, the same for all. Return = utility - {found.cost_weight:g} x "
        f"cost / {found.cost_unit_usd:g} USD. 'its turns': share of turns that went to the held-out model. Brackets: 95% "
        "intervals over (task, variation)."
    )
    header = ("held out", "policy", "score (95% CI)", "USD/episode", "return (95% CI)", "its turns", "its values")
    return Table(caption=caption, header=header, rows=tuple(cells), groups=frozenset(groups - {0}))


def _numbers(row: ResultRow) -> tuple[str, str, str]:
    return (
        format_with_ends(row.score_mean, row.score_ci95, decimals=1),
        format_usd_mean(row.cost_usd_mean, row.cost_usd_ci95),
        format_with_ends(row.return_mean, row.return_ci95, decimals=3),
    )


def _flag(one: HeldOutModel, arm: Arm) -> str:
    """Where the arm's values of the model are from."""
    n_features = len(one.extrapolation.outside)
    outside = f", {n_features} feature{'s' if n_features > 1 else ''} out of range" if n_features else ""
    return {
        WITHOUT: "not in the pool",
        METADATA: f"EXTRAPOLATED{outside}",
        FEW: f"{one.n_turns_few} turns",
        FULL: f"{one.n_turns_logged} turns",
    }[arm]


def _differences_table(found: LeaveOneOut) -> Table:
    cells, groups = list[tuple[str, ...]](), set[int]()
    for one in found.models:
        groups.add(len(cells))
        for arm, other, meaning in SHOWN_DIFFERENCES:
            difference = one.difference(arm, other)
            cells.append(
                (
                    one.model,
                    f"{arm} - {other}",
                    meaning,
                    format_interval(difference.return_, decimals=3),
                    format_interval(difference.score, decimals=1),
                    format_usd_interval(difference.cost_usd),
                    verdict_word(difference.return_),
                    format_number(difference.p_value_holm, decimals=3),
                )
            )
    caption = (
        "Paired differences over the same episodes, 95% intervals over (task, variation): they do not hold what another seed "
        "of the trainings would change. p, Holm: of the return, adjusted for all differences in the file of that model."
    )
    header = (
        *(
            "held out",
            "policies",
            "that is",
            "return (95% CI)",
            "score (95% CI)",
            "cost, USD (95% CI)",
            "return is",
            "p, Holm",
        ),
    )
    return Table(caption=caption, header=header, rows=tuple(cells), groups=frozenset(groups - {0}))
