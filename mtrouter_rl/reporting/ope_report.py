"""The estimates of an off-policy evaluation as text, for a terminal."""

from mtrouter_rl.ope.record import OPE_FILE, OpeReport, PolicyReport
from mtrouter_rl.reporting.tables import format_usd
from mtrouter_rl.statistics.resamples import N_RESAMPLES


def format_report(report: OpeReport) -> str:
    """Table, refusals, selection and notes, for a terminal."""
    header = ("policy", "by", "score [95%]", "USD/episode [95%]", "return [95%]", "ESS")
    lines = [header] + [_cells(one) for one in report.policies]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    title = (
        f"{report.dataset_id} ({report.split}): {report.n_episodes} episodes, {report.n_turns} turns, "
        f"{report.n_clusters} (task, variation); propensities {report.propensities}; logged by {report.behavior_policy}: score "
        f"{100 * report.logged['utility']:.1f}, {format_usd(report.logged['cost_usd'])} USD/episode, return "
        f"{report.logged['return']:.3f}"
    )
    return "\n".join(
        [title, "", *table, "", *_refusal_lines(report), *_selection_lines(report), *_note_lines(report)]
    ).rstrip()


def _cells(one: PolicyReport) -> tuple[str, ...]:
    size = "" if one.effective_sample_size is None else f"{one.effective_sample_size:.1f}"
    if one.headline is None:
        return (one.policy, "-", "this log cannot tell", "", "", size)
    numbers = one.estimates[one.headline]
    score, cost, gain = numbers["utility"], numbers["cost_usd"], numbers["return"]
    ends = ", ".join(format_usd(end) for end in (cost.low, cost.high))
    return (
        one.policy,
        one.headline.upper(),
        f"{100 * score.value:.1f} [{100 * score.low:.1f}, {100 * score.high:.1f}]",
        f"{format_usd(cost.value)} [{ends}]",
        f"{gain.value:.3f} [{gain.low:.3f}, {gain.high:.3f}]",
        size,
    )


def _refusal_lines(report: OpeReport) -> list[str]:
    lines = []
    for one in report.policies:
        if one.headline is None:
            reasons = dict.fromkeys(reason for family in one.refusals.values() for reason in family)
            lines.append(f"{one.policy}: this log cannot tell: {'; '.join(reasons) or 'no estimator was asked for'}")
    return [*lines, ""] if lines else []


def _selection_lines(report: OpeReport) -> list[str]:
    lines = []
    for quantity, found in (report.selection or {}).items():
        rank, coverage = found["rank_correlation"], found["coverage"]
        lines.append(
            f"against closed-loop {quantity} of {found['n_policies']} policies: rank correlation "
            f"{'-' if rank is None else format(rank, '.3f')}, regret@1 {found['regret_at_1']:.4g} "
            f"({found['regret_share_at_1']:.1%} of the range), regret@3 {found['regret_at_3']:.4g} "
            f"({found['regret_share_at_3']:.1%}), intervals that hold it "
            f"{'-' if coverage is None else format(coverage, '.0%')}, mean error {found['error_mean']:+.4g}"
        )
    return [*lines, ""] if lines else []


def _note_lines(report: OpeReport) -> list[str]:
    found = sum(one.p_value_holm < 0.05 for one in report.differences)
    lines = [f"note: {note}" for note in report.notes]
    if report.differences:
        lines.append(
            f"note: {found} of {len(report.differences)} differences of return between two policies are significant at 5% "
            f"after Holm's correction ({N_RESAMPLES} resamples); they are in {OPE_FILE}"
        )
    return lines
