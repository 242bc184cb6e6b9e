import pytest

from mtrouter_rl.ope.record import Estimated
from mtrouter_rl.reporting.ope_plots import headline, ope_figure, pair_with_results
from tests.cases.evaluation_cases import make_ope_policy, make_ope_report


def test_headline_is_in_the_unit_of_results():
    one = make_ope_policy("tiny", value=0.25)
    assert headline(one, "score") == Estimated(value=25.0, low=15.0, high=35.0)
    assert headline(one, "return") == one.estimates["dm"]["return"]
    assert headline(make_ope_policy("tiny", headline=None), "score") is None


def test_pairs_hold_the_closed_loop_numbers(results):
    pairs = pair_with_results(make_ope_report(["tiny", "fitted-q", "stranger"]), results, "test", "return")
    assert [pair.row.policy for pair in pairs] == ["tiny", "fitted-q"]
    row = results.row("fitted-q", "test")
    assert pairs[1].run == Estimated(value=row.return_mean, low=row.return_ci95[0], high=row.return_ci95[1])


def texts_of(figure):
    axes = figure.axes[0]
    return axes.get_xlabel(), figure.get_suptitle(), [text.get_text() for text in axes.texts]


@pytest.mark.parametrize("quantity", ["score", "cost_usd", "return"])
def test_figure_names_refused_unrun_and_own_log(results, quantity):
    report = make_ope_report(["tiny", "big", "random", "stranger"], refused=["middle"], trained=["fitted-q"])
    label, title, texts = texts_of(ope_figure(report, results, "test", quantity))
    assert "this log cannot tell: middle" in label
    assert "estimated, not run: stranger" in label
    assert "* trained on this very log" in label
    assert "Spearman's rank correlation" in title
    assert "(simulated models)" in title
    assert set(texts) == {"tiny", "big", "random", "fitted-q*"}


def test_points_and_identity_line(results):
    figure = ope_figure(make_ope_report(["tiny", "big"]), results, "test", "score")
    axes = figure.axes[0]
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if len(line.get_xdata()) == 1]
    assert points == [
        (results.row("tiny", "test").score_mean, pytest.approx(20.0)),
        (results.row("big", "test").score_mean, pytest.approx(30.0)),
    ]
    identity = next(line for line in axes.lines if line.get_label() == "estimate = run")
    assert list(identity.get_xdata()) == list(identity.get_ydata())
    assert "Spearman" not in figure.get_suptitle(), "two policies have no rank correlation"


def test_nothing_to_draw(results):
    assert ope_figure(make_ope_report([], refused=["tiny"]), results, "test", "score") is None
