from types import SimpleNamespace

import pytest

from mtrouter_rl.evaluation.behavior_file import ErrorSpread, FollowedBy, SpreadFrom
from mtrouter_rl.reporting.behavior_plots import error_spread_figure, has_error_edges, switch_matrix_figure
from mtrouter_rl.statistics.estimate import Estimate


def test_switch_matrix_shows_shares_of_rows_and_counts():
    counts = [[30, 10, 0], [0, 0, 0], [20, 0, 40]]
    figure = switch_matrix_figure(counts, ("a", "b", "c"), title="random, test split")
    axes = figure.axes[0]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "75%\n30", (1, 0): "25%\n10", (0, 2): "33%\n20", (2, 2): "67%\n40"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a  (40)", "b  (0)", "c  (60)"]
    assert figure.get_suptitle() == "random, test split\nstays (diagonal): 70 of 100, 70%"


def test_rows_of_few_turns_are_left_blank():
    figure = switch_matrix_figure([[20, 9], [20, 10]], ("a", "b"), title="x")
    cells = {text.get_position() for text in figure.axes[0].texts}
    assert cells == {(0, 1), (1, 1)}
    assert "blank: fewer than 30" in figure.axes[0].get_ylabel()


def test_no_turn_followed_another():
    figure = switch_matrix_figure([[0, 0], [0, 0]], ("a", "b"), title="x")
    assert not figure.axes[0].texts
    assert "0 of 0, 0%" in figure.get_suptitle()


def followed(n_turns, share, *, kind=SpreadFrom):
    found = share if share is None else Estimate(value=share, low=share / 2, high=2 * share, n_episodes=9, n_clusters=3)
    more = {} if kind is FollowedBy else {"difference": None}
    return kind(n_turns=n_turns, n_errors=0, share=found, **more)


def spread(after_error, **by_model):
    return ErrorSpread(
        n_linked=0,
        n_first_errors=1,
        n_inherited_errors=1,
        after_success=followed(200, 0.1, kind=FollowedBy),
        after_error=after_error,
        after_error_of=by_model,
    )


def test_error_spread_shows_shares_with_their_ends_and_leaves_out_rare_models():
    rows = [
        SimpleNamespace(policy="random", spread=spread(followed(90, 0.3), a=followed(60, 0.4), b=followed(29, 0.2))),
        SimpleNamespace(policy="mine", spread=spread(followed(40, 0.2), a=followed(40, 0.2), b=followed(0, None))),
    ]
    figure = error_spread_figure(rows, ("a", "b"), split="test")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["random", "mine"]
    shown = {one.get_label(): one.lines[0].get_xdata().tolist() for one in axes.containers}
    assert shown == {"no error": [0.1, 0.1], "any error": [0.3, 0.2], "a's error": [0.4, 0.2]}
    ends = axes.containers[1].lines[2][0].get_segments()[0][:, 0]
    assert ends.tolist() == pytest.approx([0.15, 0.6])


def test_nothing_is_drawn_of_errors_where_none_came_before_a_turn():
    assert not has_error_edges(None)
    assert not has_error_edges(spread(followed(0, None)))
    assert has_error_edges(spread(followed(5, 0.2)))
