import numpy as np
import pytest
from matplotlib.colors import to_hex

from mtrouter_rl.errors import UnknownNameError
from mtrouter_rl.evaluation.frontier_comparison import Frontier
from mtrouter_rl.reporting.plot_style import LEARNED_COLOR, SINGLE_COLOR
from mtrouter_rl.studies.full.equal_cost_plot import FrontierPlot, frontiers_figure
from tests.cases.frontier_cases import resamples_of, spread

POINTS = {
    "router@0": (60, 0.4),
    "router@3": (40, 0.1),
    "mc-w0.1": (45, 0.4),
    "mc-w3": (20, 0.1),
    "small": (10, 0.05),
    "big": (50, 1.0),
    "seer": (80, 0.4),
    "random": (30, 0.5),
}
PLOT = FrontierPlot(
    env="kitchen",
    split="test",
    is_simulated=True,
    families=(
        Frontier(name="router", policies=("router@0", "router@3"), anchor="small"),
        Frontier(name="monte-carlo-q", policies=("mc-w0.1", "mc-w3")),
    ),
    single_models=("small", "big"),
    references=("seer",),
    baselines=("random", "small"),
)


@pytest.fixture(scope="module")
def figure():
    return frontiers_figure(resamples_of({name: spread(*point) for name, point in POINTS.items()}), PLOT)


def lines(figure, *, color, style):
    return [
        line
        for line in figure.axes[0].lines
        if to_hex(line.get_color(), keep_alpha=False).upper() == color
        and line.get_linestyle() == style
        and len(line.get_xdata()) > 100
    ]


def test_hulls_go_from_the_cheapest_to_the_best_point(figure):
    (router,) = lines(figure, color=LEARNED_COLOR, style="-")
    assert (router.get_xdata()[[0, -1]].tolist()) == pytest.approx([0.05, 0.4])
    assert (router.get_ydata()[[0, -1]].tolist()) == pytest.approx([10, 60])
    assert np.interp(0.075, router.get_xdata(), router.get_ydata()) == pytest.approx(25, abs=0.1)
    (single,) = lines(figure, color=SINGLE_COLOR, style="--")
    assert (single.get_xdata()[[0, -1]].tolist()) == pytest.approx([0.05, 1.0])


def test_points_are_named_but_for_baselines_and_the_reference_is_a_star(figure):
    axes = figure.axes[0]
    assert {text.get_text() for text in axes.texts} == set(POINTS) - {"random", "small"}
    stars = [line for line in axes.lines if line.get_marker() == "*" and len(line.get_xdata())]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in stars] == [(pytest.approx(0.4), pytest.approx(80))]
    assert axes.get_xscale() == "log"


def test_every_point_has_the_bar_of_its_interval(figure):
    resamples = resamples_of({name: spread(*point) for name, point in POINTS.items()})
    (column,) = resamples.columns(["random"])
    expected = resamples.mean_estimate(resamples.means.scores[:, column], ["random"])
    bars = [line for line in figure.axes[0].lines if line.get_alpha() == 0.3 and np.allclose(line.get_xdata(), 0.5)]
    assert any(np.allclose(line.get_ydata()[[0, -1]], [expected.low, expected.high]) for line in bars)


def test_title_and_legend_say_what_it_is(figure):
    assert figure.get_suptitle() == "kitchen: frontiers of score against cost, test split (simulated models)"
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[:2] == ["router", "monte-carlo-q"]
    assert "sees the hidden state (no router)" in names


def test_policies_without_episodes_are_refused():
    with pytest.raises(UnknownNameError, match="unknown policy"):
        frontiers_figure(resamples_of({"small": spread(10, 0.05), "big": spread(50, 1.0)}), PLOT)
