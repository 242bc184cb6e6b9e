"""How policies routed, for the report: tables of `behavior.json`."""

from collections.abc import Sequence

from mtrouter_rl.evaluation.behavior_file import Behavior, BehaviorRow, MutualInformation
from mtrouter_rl.evaluation.results import Results
from mtrouter_rl.evaluation.tables import ABSENT, Table, format_number, format_p_value, format_percent, format_with_ends

_LABELS = ("task", "phase", "skill")


def behavior_mismatch(behavior: Behavior, results: Results) -> str | None:
    """Why the behaviour file does not belong to the results, in words; None if it does."""
    apart = [name for name in ("env", "pool", "model_names") if getattr(behavior, name) != getattr(results, name)]
    if not apart:
        return None
    return "; ".join(f"`{name}` is {_shown(behavior, name)} there and {_shown(results, name)} here" for name in apart)


def behavior_tables(behavior: Behavior, results: Results, split: str) -> tuple[Table, ...]:
    """Tables of a split: switching, dependence on task, phase and skill, errors, first errors; those that hold anything.

    Policies come in the order of the results, best return first.
    """
    order = [row.policy for row in results.split_rows(split)]
    rows = sorted(
        (row for row in behavior.rows if row.split == split),
        key=lambda row: order.index(row.policy) if row.policy in order else len(order),
    )
    if not rows:
        return ()
    mixing = [row for row in rows if is_mixing(row)]
    tables = [_switching(rows, split), _dependence(mixing, split), _errors(rows, split), _first_errors(mixing, split)]
    return tuple(table for table in tables if table is not None)


def is_mixing(row: BehaviorRow) -> bool:
    """Whether a policy called more than one model."""
    return sum(share > 0 for share in row.turn_share.values()) > 1


def _switching(rows: Sequence[BehaviorRow], split: str) -> Table:
    return Table(
        caption=f"When the model changes, {split} split. Run: turns until the model changes or the episode ends. "
        "Entropy: of the models' shares of turns, over all episodes and within an episode (0: one model, 1 bit: two "
        "used equally). Budget used: by the end of an episode.",
        header=(
            *("policy", "episodes", "turns", "switches/episode (95% CI)", "mean run, turns", "entropy, bits"),
            *("within episode, bits", "budget used"),
        ),
        rows=tuple(
            (
                row.policy,
                str(row.n_episodes),
                str(row.n_turns),
                format_with_ends(row.switches_mean.mean, row.switches_mean.ends, decimals=1),
                format_number(row.run_length_mean, decimals=1),
                format_number(row.usage_entropy_bits, decimals=2),
                format_number(row.usage_entropy_within_episode_bits, decimals=2),
                format_percent(row.budget_used_mean),
            )
            for row in rows
        ),
    )


def _dependence(rows: Sequence[BehaviorRow], split: str) -> Table | None:
    """Mutual information of model and task, phase and skill, of policies that mix models."""
    found = [
        (row.policy, label, one)
        for row in rows
        for label in _LABELS
        if (one := getattr(row.mutual_information, label)) is not None
    ]
    if not found:
        return None
    cells = tuple((policy, label, *_information(one)) for policy, label, one in found)
    return Table(
        caption=f"What the choice of model depends on, {split} split: mutual information of the model called and the "
        "task, the quarter of the turn limit (phase), and the kind of action due (skill, which simulated runs alone "
        "know and no router sees), in bits, corrected for its bias, with 95% intervals. By chance: what shuffled "
        "choices give. p: of no dependence, not corrected for the number of tests.",
        header=("policy", "label", "bits (95% CI)", "uncorrected", "by chance", "p", "turns"),
        rows=cells,
        groups=frozenset(index for index in range(1, len(cells)) if cells[index][0] != cells[index - 1][0]),
    )


def _information(one: MutualInformation) -> tuple[str, ...]:
    ends = None if one.low is None or one.high is None else (one.low, one.high)
    return (
        format_with_ends(one.bits_corrected, ends, decimals=3),
        format_number(one.bits, decimals=3),
        format_number(one.bits_shuffled, decimals=3),
        format_p_value(one.p_value),
        str(one.n_turns),
    )


def _errors(rows: Sequence[BehaviorRow], split: str) -> Table | None:
    if not any(row.errors.n_errors for row in rows):
        return None
    return Table(
        caption=f"What happens after errors, {split} split. Transient: no error on the turn before; persistent: an "
        "error there as well. Stay: the same model is called again; recover: the next turn has no error. Behind each "
        "share its number of errors and its 95% Wilson interval, which is too narrow where errors of one episode are "
        "alike.",
        header=(
            *("policy", "errors, share of turns", "stay after transient", "stay after persistent"),
            *("recover after transient", "recover after persistent", "error runs that end", "turns to recovery"),
        ),
        rows=tuple(
            (
                row.policy,
                format_percent(row.errors.share_of_turns),
                _share(row.errors.stay_after_transient, row.errors.stay_after_transient_ci95, n=row.errors.n_transient),
                _share(
                    row.errors.stay_after_persistent, row.errors.stay_after_persistent_ci95, n=row.errors.n_persistent
                ),
                _share(
                    row.errors.recovery_after_transient,
                    row.errors.recovery_after_transient_ci95,
                    n=row.errors.n_transient,
                ),
                _share(
                    row.errors.recovery_after_persistent,
                    row.errors.recovery_after_persistent_ci95,
                    n=row.errors.n_persistent,
                ),
                _share(row.errors.recovered_share, row.errors.recovered_share_ci95, n=row.errors.n_runs),
                format_number(row.errors.turns_to_recovery_mean, decimals=1),
            )
            for row in rows
        ),
    )


def _first_errors(rows: Sequence[BehaviorRow], split: str) -> Table | None:
    """Whose turn the first error of an episode was, by policy and model, of policies that mix models."""
    cells = tuple(
        (
            row.policy,
            model,
            f"{one.n_first_errors} ({format_percent(one.share_of_first_errors)})",
            format_number(one.lift, decimals=2),
            format_percent(one.failed_after_share),
            format_percent(row.turn_share.get(model)),
            format_percent(row.cost_share.get(model)),
        )
        for row in rows
        for model, one in row.first_error.items()
        if one.n_turns_at_risk
    )
    if not cells:
        return None
    return Table(
        caption=f"Whose turn the first error of an episode was, {split} split. Lift: share of first errors over "
        "share of the turns up to them; above 1, the model errs first more often than its use explains. Failed "
        "after: of those episodes, how many end with a utility below 1.",
        header=("policy", "model", "first errors", "lift", "failed after", "share of turns", "share of cost"),
        rows=cells,
        groups=frozenset(index for index in range(1, len(cells)) if cells[index][0] != cells[index - 1][0]),
    )


def _share(value: float | None, ends: tuple[float, float] | None, *, n: int) -> str:
    """A share with its interval, in percent, and how many it is of."""
    if value is None:
        return ABSENT
    low, high = (format_number(100 * end, decimals=0) for end in ends or (0.0, 0.0))
    return f"{value:.0%} [{low}, {high}] of {n}" if ends else f"{value:.0%} of {n}"


def _shown(record: Behavior | Results, name: str) -> str:
    value = getattr(record, name)
    return ", ".join(value) if isinstance(value, tuple) else str(value)
