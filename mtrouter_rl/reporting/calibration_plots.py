"""Figure of how far a router's Q-values come true."""

from matplotlib.figure import Figure

from mtrouter_rl.evaluation.value_calibration import Calibration
from mtrouter_rl.reporting.plot_style import LEARNED_COLOR, OTHER_COLOR, left_title, legend_below, new_figure


def calibration_figure(calibration: Calibration, *, title: str) -> Figure:
    """Achieved against predicted return-to-go by bin of the prediction, with 95% intervals and the identity line.

    Args:
        calibration: What was found.
        title: Whose it is; discount factor, over-estimation and calibration error are added.
    """
    figure, axes = new_figure(width=6.6, height=6.0)
    predicted = [one.predicted for one in calibration.bins]
    for one in calibration.bins:
        ends = one.achieved.ends or (one.achieved.value, one.achieved.value)
        axes.plot([one.predicted] * 2, ends, color=LEARNED_COLOR, lw=1.6, alpha=0.6, solid_capstyle="butt")
    axes.plot(
        predicted,
        [one.achieved.value for one in calibration.bins],
        color=LEARNED_COLOR,
        marker="o",
        ms=7,
        ls="",
        markeredgecolor="white",
        label=f"mean of about {calibration.n_turns // len(calibration.bins)} turns, 95% interval",
    )
    limits = (*axes.get_xlim(), *axes.get_ylim())
    low, high = min(limits), max(limits)
    axes.plot([low, high], [low, high], color=OTHER_COLOR, lw=1.2, ls="--", zorder=1, label="prediction comes true")
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    axes.grid(visible=True, color="0.92")
    axes.set_axisbelow(True)
    discount = f"discount {calibration.gamma:g}"
    axes.set_xlabel(f"predicted: Q-value of the called model, {discount}")
    axes.set_ylabel(f"achieved: return-to-go of the episode, {discount}")
    left_title(figure, f"{title}\n{_summary(calibration)}")
    legend_below(axes, n_columns=2)
    return figure


def _summary(calibration: Calibration) -> str:
    gap = calibration.overestimation
    interval = "" if gap.ends is None else f" [{gap.ends[0]:+.3f}, {gap.ends[1]:+.3f}]"
    return (
        f"predicted minus achieved {gap.value:+.3f}{interval}, calibration error {calibration.error:.3f}\n"
        f"discount {calibration.gamma:g} on both sides; {calibration.n_turns} turns of {calibration.n_episodes} episodes"
    )
