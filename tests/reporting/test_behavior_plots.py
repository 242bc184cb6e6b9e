from mtrouter_rl.reporting.behavior_plots import switch_matrix_figure


def test_switch_matrix_shows_shares_of_rows_and_counts():
    figure = switch_matrix_figure([[3, 1, 0], [0, 0, 0], [2, 0, 4]], ("a", "b", "c"), title="random, test split")
    axes = figure.axes[0]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "75%\n3", (1, 0): "25%\n1", (0, 2): "33%\n2", (2, 2): "67%\n4"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a  (4)", "b  (0)", "c  (6)"]
    assert figure.get_suptitle() == "random, test split\nstays (diagonal): 7 of 10, 70%"


def test_no_turn_followed_another():
    figure = switch_matrix_figure([[0, 0], [0, 0]], ("a", "b"), title="x")
    assert not figure.axes[0].texts
    assert "0 of 0, 0%" in figure.get_suptitle()
