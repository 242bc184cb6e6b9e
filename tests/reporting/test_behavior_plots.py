from mtrouter_rl.reporting.behavior_plots import switch_matrix_figure


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
