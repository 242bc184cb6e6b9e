import re

import pytest

from mtrouter_rl.errors import ResultsError
from mtrouter_rl.reporting.tables import (
    format_interval,
    format_p_value,
    format_percent,
    format_table,
    format_usd,
    format_usd_interval,
    markdown_table,
    paired_table,
    results_table,
    verdict_word,
)
from mtrouter_rl.statistics.estimate import Estimate
from tests.cases.evaluation_cases import MODELS, POLICIES, make_results


def interval(mean, low, high):
    return Estimate(value=mean, low=low, high=high, n_episodes=8, n_clusters=8)


def test_terminal_table_shows_every_policy_best_return_first(results):
    text = format_table(results, "test")
    lines = text.splitlines()
    names = [line.split()[0] for line in lines[2 : 2 + len(POLICIES)]]
    assert names == [row.policy for row in results.split_rows("test")]
    assert set(names) == set(POLICIES)
    assert len({len(line) for line in lines[: 2 + len(POLICIES)]}) == 1, "columns are aligned"
    assert lines[0].split("  ")[0] == "policy"
    for title in ("score (95% CI)", "USD/episode", "saved", "return (95% CI)", "turns", "switches", "hull gain"):
        assert title in lines[0]


def test_caption_says_what_was_run(results):
    text = format_table(results, "test")
    assert "simulated models (no LLM was called): 18 episodes per policy. " in text
    assert "return = utility - 0.5 x cost / 2 USD" in text
    assert "real models: 18 episodes" in format_table(results.model_copy(update={"is_simulated": False}), "test")
    failed = results.rows[0].model_copy(update={"n_failed": 3, "n_episodes": 15})
    assert "15 to 18 episodes per policy; 3 failed" in format_table(make_results([failed, *results.rows[1:]]), "test")


def test_numbers_are_those_of_the_row(results):
    row = results.row("fitted-q", "test")
    cells = next(cells for cells in results_table(results, "test").rows if cells[0] == "fitted-q")
    assert cells[1] == f"{row.score_mean:.1f} [{row.score_ci95[0]:.1f}, {row.score_ci95[1]:.1f}]"
    assert cells[3] == f"{100 * row.cost_saved_share:.1f}%"
    assert cells[7] == f"{row.hull_gain:+.1f}"


def test_markdown_has_the_best_of_each_judged_column_in_bold(results):
    rows = results.split_rows("test")
    table = results_table(results, "test")
    bold = {(table.rows[index][0], table.header[number]) for index, number in table.best}
    cheapest = min(rows, key=lambda row: row.cost_usd_mean)
    assert (rows[0].policy, "return (95% CI)") in bold
    assert (cheapest.policy, "USD/episode") in bold
    assert not any(title in {"policy", "turns", "switches"} for _, title in bold)
    text = markdown_table(results, "test")
    assert len(re.findall(r"\*\*[^*|]+\*\*", text)) == len(table.best)
    assert text.splitlines()[1].startswith("|---|---:")


def test_paired_differences_of_the_learned_router(results):
    table = paired_table(results, "test")
    assert [cells[0] for cells in table.rows] == [
        f"fitted-q - {name}" for name in ("random", "behavior-cloning", "big")
    ]
    difference = results.row("fitted-q", "test").paired["random"].return_
    assert table.rows[0][1].startswith(f"{difference.value:+.3f} [")
    assert table.rows[0][4] == verdict_word(difference)
    assert "fitted-q - random" in markdown_table(results, "test")
    paired = results.row("fitted-q", "test").paired["random"]
    assert table.rows[0][5:] == (format_p_value(paired.p_value), format_p_value(paired.p_value_holm))
    assert "adjusted for all 3 differences of return of this split" in table.caption


def test_p_values_that_were_not_computed_are_said_to_be_so(results):
    row = results.row("fitted-q", "test")
    unknown = {"p_value": None, "p_value_holm": None}
    paired = {name: one.model_copy(update=unknown) for name, one in row.paired.items()}
    table = paired_table(make_results([row.model_copy(update={"paired": paired})]), "test")
    assert {cells[5:] for cells in table.rows} == {("not computed", "not computed")}
    assert table.caption.endswith(
        "p-values: not computed (fewer than two (task, variation) pairs, or a file of an older version)."
    )


def test_without_learned_routers_and_intervals(results):
    single = results.row("tiny", "test").model_copy(update={"score_ci95": None, "hull_gain": None})
    text = format_table(make_results([single]), "test")
    assert "[no interval]" in text
    assert "baseline" not in text
    assert paired_table(make_results([single]), "test") is None
    assert not results_table(make_results([single]), "test").best, "a single row is not best of anything"


def test_unknown_split(results):
    with pytest.raises(ResultsError, match="no row of split 'train'"):
        format_table(results, "train")
    assert set(MODELS) <= {cells[0] for cells in results_table(results, "ood").rows}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00"), (1.0, "1.00"), (123.456, "123.46"), (0.5, "0.500"), (0.011, "0.0110"), (0.00042, "0.000420")],
)
def test_usd(value, text):
    assert format_usd(value) == text


def test_intervals_as_text():
    assert format_interval(interval(0.01, -0.02, 0.04), decimals=3) == "+0.010 [-0.020, +0.040]"
    assert format_interval(interval(0.01, None, None), decimals=3) == "+0.010 [no interval]"
    assert format_usd_interval(interval(-0.0882, -0.107, 0.001)) == "-0.088 [-0.107, +0.001]"
    assert format_percent(None) == "-"
    words = [verdict_word(interval(0, low, high)) for low, high in [(1, 2), (-2, -1), (-1, 1), (0, 1), (None, None)]]
    assert words == ["higher", "lower"] + ["not distinguishable"] * 3
    few = [Estimate(value=1.5, low=1, high=2, n_episodes=8, n_clusters=n) for n in (5, 6)]
    assert [verdict_word(one) for one in few] == ["not distinguishable", "higher"]  # 2^(1 - 5) is 6%
