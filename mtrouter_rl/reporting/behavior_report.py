"""`behavior.json` as text for a terminal: five short tables a split."""

from collections.abc import Sequence

from mtrouter_rl.evaluation.behavior_file import Behavior, BehaviorRow
from mtrouter_rl.reporting.tables import ABSENT, Table, format_number, format_percent, to_plain
from mtrouter_rl.statistics.estimate import Estimate
from mtrouter_rl.statistics.mutual_information import MutualInformation

_SKILL_NOTE = "The skill due is hidden information of the simulation; no router sees it."


def format_behavior(behavior: Behavior) -> str:
    """All policies of all splits: switching, errors, how they spread, what the choice depends on, and every model's part."""
    return "\n\n".join(to_plain(table) for split in behavior.splits for table in behavior_tables(behavior, split))


def behavior_tables(behavior: Behavior, split: str) -> tuple[Table, ...]:
    """The same as tables, of one split; that of spread is left out where no row has it."""
    rows = behavior.split_rows(split)
    where = f"{behavior.env}, {split} split, pool {behavior.pool}"
    spread = (_spread(rows),) if any(row.spread is not None for row in rows) else ()
    return _switching(rows, where), _errors(rows), *spread, _dependence(rows), _models(rows)


def _switching(rows: Sequence[BehaviorRow], where: str) -> Table:
    header = (
        "policy",
        "episodes",
        "failed",
        "turns",
        "switches/episode (95% CI)",
        "run length",
        "entropy",
        "within",
        "budget",
    )
    cells = tuple(
        (
            row.policy,
            str(row.n_episodes),
            str(row.n_failed),
            str(row.n_turns),
            _with_ends(row.switches_mean.value, row.switches_mean.ends, decimals=2),
            format_number(row.run_length_mean, decimals=1),
            format_number(row.usage_entropy_bits, decimals=2),
            format_number(row.usage_entropy_within_episode_bits, decimals=2),
            format_percent(row.budget_used_mean),
        )
        for row in rows
    )
    caption = (
        f"Switching: {where}. Run length: turns until the model changes or the episode ends. Entropy of the models' shares of "
        "turns, bits, over all turns and within an episode. Budget: share of it that an episode spends."
    )
    return Table(caption=caption, header=header, rows=cells)


def _errors(rows: Sequence[BehaviorRow]) -> Table:
    shares = {
        "stay, transient": ("stay_after_transient", "n_transient"),
        "stay, persistent": ("stay_after_persistent", "n_persistent"),
        "recovery, staying": ("recovery_by_staying", "n_stays"),
        "recovery, switching": ("recovery_by_switching", "n_switches"),
        "runs recovered": ("recovered_share", "n_runs"),
    }
    cells = tuple(
        (
            row.policy,
            format_percent(row.errors.share_of_turns),
            *(_share(row, name, n_name) for name, n_name in shares.values()),
            format_number(row.errors.turns_to_recovery_mean, decimals=1),
        )
        for row in rows
    )
    caption = (
        "Errors: share of turns with one; then how often the same model is called again after an error that is the first in "
        "a row (transient so far) or not (persistent); how often the next turn is error-free if the same model, or another, "
        "is called; error runs that ended before the episode did, and after how many turns. Brackets: 95% Wilson intervals, "
        "turns taken as independent; n: the cases."
    )
    return Table(caption=caption, header=("policy", "errors", *shares, "turns to recovery"), rows=cells)


def _spread(rows: Sequence[BehaviorRow]) -> Table:
    cells: list[tuple[str, ...]] = []
    for row in (row for row in rows if row.spread is not None):
        assert row.spread is not None
        base = row.spread.after_success
        cells.append((f"{row.policy}: after no error", str(base.n_turns), _percent(base.share), ABSENT))
        after = {"after any error": row.spread.after_error} | {
            f"after {name}'s": one for name, one in row.spread.after_error_of.items() if one.n_turns
        }
        cells += [
            (f"{row.policy}: {name}", str(one.n_turns), _percent(one.share), _percent(one.difference))
            for name, one in after.items()
        ]
    n_linked = sum(row.spread.n_linked for row in rows if row.spread is not None)
    links = f"{n_linked} turns name their parents, the others come from" if n_linked else "Every turn comes from"
    caption = (
        "How errors spread: of the turns that come from no error, from any, and from one of a model, how many are errors, and "
        f"how many percentage points more than after no error. {links} the turn before. Brackets: 95% intervals over (task, "
        "variation)."
    )
    return Table(caption=caption, header=("policy: parents", "turns", "errors", "more, points"), rows=tuple(cells))


def _percent(estimate: Estimate | None) -> str:
    if estimate is None:
        return ABSENT
    ends = None if estimate.ends is None else (100 * estimate.ends[0], 100 * estimate.ends[1])
    return _with_ends(100 * estimate.value, ends, decimals=1)


def _dependence(rows: Sequence[BehaviorRow]) -> Table:
    cells = tuple(
        (row.policy, *(_bits(getattr(row.mutual_information, name)) for name in ("task", "phase", "skill")))
        for row in rows
    )
    caption = (
        "Mutual information of the called model with task, quarter of the turn limit, and skill due: bits after correction, "
        f"95% interval, p-value of no dependence. {_SKILL_NOTE}"
    )
    return Table(caption=caption, header=("policy", "task", "phase", "skill"), rows=cells)


def _models(rows: Sequence[BehaviorRow]) -> Table:
    header = ("policy: model", "of turns", "of cost", "of first errors", "lift", "failed after", "of bad ends")
    cells = tuple(
        (
            f"{row.policy}: {name}",
            format_percent(row.turn_share.get(name)),
            format_percent(row.cost_share.get(name)),
            _with_n(first.share_of_first_errors, first.n_first_errors),
            format_number(first.lift, decimals=2),
            format_percent(first.failed_after_share),
            _with_n(row.last_turn_before_failure[name].share, row.last_turn_before_failure[name].n),
        )
        for row in rows
        for name, first in row.first_error.items()
        if row.turn_share.get(name)
    )
    caption = (
        "Every model's part, models never called left out. Lift: share of the episodes' first errors over share of the turns "
        "up to them. Failed after: of the episodes whose first error was this model's, those without full success. Bad ends: "
        "turns that ended an episode with a loss of utility."
    )
    return Table(caption=caption, header=header, rows=cells)


def _share(row: BehaviorRow, name: str, n_name: str) -> str:
    share, ends, n = (getattr(row.errors, field) for field in (name, f"{name}_ci95", n_name))
    if share is None:
        return ABSENT
    low, high = (format_number(100 * end, decimals=0) for end in ends)
    return f"{format_number(100 * share, decimals=0)}% [{low}, {high}] n={n}"


def _bits(information: MutualInformation | None) -> str:
    if information is None:
        return ABSENT
    ends = None if information.low is None or information.high is None else (information.low, information.high)
    p_value = format_number(information.p_value, decimals=3)
    return f"{_with_ends(information.bits_corrected, ends, decimals=3)} p={p_value}"


def _with_ends(value: float, ends: tuple[float, float] | None, *, decimals: int) -> str:
    text = format_number(value, decimals=decimals)
    if ends is None:
        return f"{text} [no interval]"
    return f"{text} [{', '.join(format_number(end, decimals=decimals) for end in ends)}]"


def _with_n(share: float | None, n: int) -> str:
    return ABSENT if share is None else f"{format_percent(share)} n={n}"
