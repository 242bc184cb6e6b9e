import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mtrouter_rl.errors import ResultsError
from mtrouter_rl.records import TracedEpisode
from mtrouter_rl.reporting.labels import Label, place_labels
from mtrouter_rl.reporting.plot_style import thumbnails
from mtrouter_rl.reporting.plots import (
    cost_score_figure,
    model_share_by_task_figure,
    model_share_by_turn_figure,
    model_share_figure,
    paired_difference_figure,
    save_plots,
)
from tests.cases.evaluation_cases import MODELS, POLICIES, make_episode, make_results, make_turn


def texts(figure):
    FigureCanvasAgg(figure).draw()
    return [text.get_text() for text in figure.findobj(mpl.text.Text)]


def test_cost_score_names_every_policy_and_draws_the_hull(results):
    figure = cost_score_figure(results, "test")
    shown = texts(figure)
    assert set(POLICIES) <= set(shown)
    assert "upper hull of single models" in shown
    assert figure.axes[0].get_xscale() == "log"
    assert any("simulated" in text for text in shown)


def test_cost_score_is_linear_where_costs_are_close_and_needs_no_hull(results):
    alike = [
        row.model_copy(update={"cost_usd_mean": 0.1 + 0.01 * i}) for i, row in enumerate(results.split_rows("test"))
    ]
    assert cost_score_figure(make_results(alike), "test").axes[0].get_xscale() == "linear"
    free = make_results([alike[0].model_copy(update={"policy": "free", "cost_usd_mean": 0.0, "cost_usd_ci95": None})])
    shown = texts(cost_score_figure(free, "test"))
    assert "free" in shown
    assert "upper hull of single models" not in shown


def test_labels_do_not_cover_each_other():
    figure = Figure(figsize=(6, 4))
    axes = figure.add_subplot()
    rng = np.random.default_rng(0)
    points = 0.5 + 0.05 * rng.normal(size=(9, 2))
    axes.set(xlim=(0, 1), ylim=(0, 1))
    place_labels(figure, axes, [Label(text=f"policy {i}", x=x, y=y, color="k") for i, (x, y) in enumerate(points)])
    boxes = [text.get_window_extent() for text in axes.texts]
    pairs = [(first, second) for i, first in enumerate(boxes) for second in boxes[:i]]
    assert len(boxes) == 9
    # An annotation's extent holds its line as well, so the texts alone are compared.
    boxes = [mpl.text.Text.get_window_extent(text) for text in axes.texts]
    pairs = [(first, second) for i, first in enumerate(boxes) for second in boxes[:i]]
    assert not any(first.overlaps(second) for first, second in pairs)
    place_labels(figure, axes, [])


def test_shares_add_up_and_single_models_are_left_out(results):
    figure = model_share_figure(results, "test")
    axes = figure.axes[0]
    mixing = [row for row in results.split_rows("test") if row.policy not in MODELS]
    assert [label.get_text() for label in axes.get_yticklabels()] == [row.label for row in mixing]
    ends = [patch.get_x() + patch.get_width() for patch in axes.containers[-1]]
    assert ends == pytest.approx([1.0] * len(mixing))


def test_shares_by_task_show_the_score(results):
    row = results.row("fitted-q", "test")
    labels = [label.get_text() for label in model_share_by_task_figure(row, MODELS).axes[0].get_yticklabels()]
    assert labels == [f"{task}  ({score:.0f})" for task, score in row.score_by_task.items()]


def test_shares_by_turn_cover_the_longest_episode(traced):
    episodes = traced["test"]["fitted-q"]
    figure = model_share_by_turn_figure(episodes, MODELS, title="fitted-q")
    longest = max(len(one.episode.turns) for one in episodes)
    assert figure.axes[0].get_xlim() == (0.5, longest + 0.5)
    assert "episodes still running" in texts(figure)


def test_forest_plot(results):
    figure = paired_difference_figure(results, "test")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["fitted-q - random", "fitted-q - behavior-cloning", "fitted-q - big"]
    with pytest.raises(ResultsError, match="no row of split 'test' has paired differences"):
        paired_difference_figure(make_results([results.row("tiny", "test")]), "test")


def test_saved_files(results, traced, tmp_path):
    paths = save_plots(results, {"test": traced["test"]}, tmp_path / "plots")
    assert {path.name for path in paths} == {
        *(
            f"{stem}_{split}.png"
            for split in ("test", "ood")
            for stem in ("cost_score", "paired_difference", "model_share")
        ),
        *(f"model_share_by_task_{split}_fitted-q.png" for split in ("test", "ood")),
        "model_share_by_turn_test_fitted-q.png",
    }
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_turns_that_few_episodes_reach_are_left_blank():
    long = [make_episode([make_turn("tiny"), make_turn("big", end="terminated")], seed=seed) for seed in range(29)]
    short = [make_episode([make_turn("tiny", end="terminated")], seed=seed) for seed in range(29, 40)]
    traced = [TracedEpisode(episode=episode) for episode in (*long, *short)]
    figure = model_share_by_turn_figure(traced, MODELS, title="x")
    heights = [bar.get_height() for container in figure.axes[0].containers for bar in container]
    assert sum(heights[0::2]) == 1, "forty episodes take the first turn"
    assert sum(heights[1::2]) == 0, "and 29 the second"


def test_thumbnails_have_large_letters(results):
    plain = cost_score_figure(results, "test")
    with thumbnails():
        small = cost_score_figure(results, "test")
    assert small.get_figwidth() == pytest.approx(0.62 * plain.get_figwidth())
    assert small.get_figwidth() * small.dpi == pytest.approx(plain.get_figwidth() * plain.dpi)
    assert cost_score_figure(results, "test").get_figwidth() == plain.get_figwidth()
