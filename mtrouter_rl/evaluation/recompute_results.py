"""Rows of a results file, worked out again from the episodes that are kept beside it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.evaluation.kept_episodes import KeptEpisodes
from mtrouter_rl.evaluation.metrics import EpisodeRecord
from mtrouter_rl.evaluation.recompute import FileKind, Renewal, check_reward
from mtrouter_rl.evaluation.result_rows import Comparison, rows_of_records, with_references
from mtrouter_rl.evaluation.results import PairedDifference, PolicyRoles, ResultRow, Results
from mtrouter_rl.records import JsonValue


def renew_results(path: Path, kept: KeptEpisodes) -> Renewal:
    """Every number of `results.json` again; a row without episodes stays as it is.

    Raises:
        ResultsError: If the file is broken, or the episodes are of another reward.
    """
    results = Results.load(path)
    if results.estimator is not None:
        why = f"its numbers are estimated from a log ({results.estimator}), not means of episodes that were played"
        return Renewal(was={}, found={}, left_out=(why,), save=results.save)
    check_reward(kept, reward_of(results))
    again = _Again(results, kept)
    rows = with_references([again.row(row) for row in results.rows], results.roles)
    renewed = results.replaced(roles=results.roles, rows=map(again.without_far, results.rows, rows))
    return Renewal(
        was=dict(_parts(results, kept)),
        found=dict(_parts(renewed, kept)),
        left_out=tuple(again.left_out),
        save=renewed.save,
    )


def reward_of(results: Results) -> RewardCard:
    """Cost weight and unit of the returns."""
    return RewardCard(cost_weight=results.cost_weight, cost_unit_usd=results.cost_unit_usd)


RESULTS = FileKind(
    name="results.json",
    fields=frozenset({"roles", "rows", "model_names"}),
    reward=lambda path: reward_of(Results.load(path)),
    renew=renew_results,
)


def _parts(results: Results, kept: KeptEpisodes) -> Iterator[tuple[str, JsonValue]]:
    """Label and values of every row that can be worked out."""
    for row in results.rows:
        if _records(row, row.policy, kept):
            yield f"{row.label} on {row.split}", row.model_dump(mode="json", by_alias=True)


def _records(row: ResultRow, policy: str, kept: KeptEpisodes) -> tuple[EpisodeRecord, ...]:
    return kept.of(policy, row.split, budget_usd=row.budget_usd)


class _Again:
    """Works out the rows of one file."""

    def __init__(self, results: Results, kept: KeptEpisodes) -> None:
        self._results = results
        self._kept = kept
        self.left_out: list[str] = []

    def row(self, row: ResultRow) -> ResultRow:
        """A row with the differences that it has, without what depends on other rows."""
        label, own = f"{row.label} on {row.split}", _records(row, row.policy, self._kept)
        if not own:
            self.left_out.append(f"{label}: its episodes are not kept")
            return row
        rivals = {name: _records(row, name, self._kept) for name in row.paired}
        absent = [name for name, records in rivals.items() if not records]
        if absent:
            self.left_out.append(f"{label}: its differences from {', '.join(absent)}, whose episodes are not kept")
        made = self._compared(row, own, {name: records for name, records in rivals.items() if records})
        return made.model_copy(update={"paired": _in_order(row, made)})

    def without_far(self, was: ResultRow, found: ResultRow) -> ResultRow:
        """A row without hull gain and savings, where the file leaves them out since the row is of fewer variations."""
        blank = {name: None for name in ("hull_gain", "cost_saved_share") if getattr(was, name) is None}
        return found.model_copy(update=blank) if blank and self._is_of_fewer(was) else found

    def _compared(
        self, row: ResultRow, own: Sequence[EpisodeRecord], rivals: dict[str, tuple[EpisodeRecord, ...]]
    ) -> ResultRow:
        comparison = Comparison(
            split=row.split,
            reward=reward_of(self._results),
            model_names=self._results.model_names,
            roles=PolicyRoles(learned=(row.policy,), baselines=tuple(rivals)),
            cost_weight=row.cost_weight,
            budget_usd=row.budget_usd,
            on_common=True,
        )
        records = {row.policy: tuple(own), **rivals}
        return rows_of_records(records, comparison, seed=self._results.seed, only=(row.policy,))[0]

    def _is_of_fewer(self, row: ResultRow) -> bool:
        of_split = (group for group in self._kept.groups if group[0] == row.split)
        n_all = max((len(_variations(self._kept.groups[group])) for group in of_split), default=0)
        return len(_variations(_records(row, row.policy, self._kept))) < n_all


def _in_order(was: ResultRow, found: ResultRow) -> dict[str, PairedDifference]:
    """Differences in the order of the file; one that could not be worked out stays."""
    return {name: found.paired.get(name, difference) for name, difference in was.paired.items()}


def _variations(records: Sequence[EpisodeRecord]) -> set[tuple[str, int]]:
    return {(one.task, one.variation) for one in records}
