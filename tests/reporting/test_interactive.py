"""What moves in a page holds the numbers of its records, and no text of a log can break out of it."""

import json
import re

import pytest

from mtrouter_rl.evaluation.shown_episodes import MAX_TEXT, N_EPISODES, Transcripts, transcripts_of
from mtrouter_rl.reporting.document import Interactive, Paragraph, render_html, render_markdown
from mtrouter_rl.reporting.interactive import frontier_html, viewer_html
from mtrouter_rl.reporting.report import write_report
from tests.cases.evaluation_cases import MODELS, make_traced
from tests.cases.pages import loads_nothing

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \u2028 ]]>"


def data_of(markup):
    """The record inside a viewer's script."""
    return json.loads(re.search(r"const DATA = (.*);\nconst COLORS", markup)[1])


def test_the_frontier_holds_every_policy_with_its_numbers(results):
    markup = frontier_html(results, "test")
    drawn = json.loads(re.search(r"Plotly\.newPlot\(\s*\"frontier-test\",\s*(\[.*?\]),\s*\{", markup, re.S)[1])
    points = {trace["meta"]: trace for trace in drawn if "meta" in trace}
    rows = {row.label: row for row in results.split_rows("test")}
    assert set(points) == set(rows)
    for name, row in rows.items():
        assert points[name]["x"] == [row.cost_usd_mean]
        assert points[name]["y"] == [row.score_mean]
        assert f"return {row.return_mean:.3f}" in points[name]["hovertemplate"]


def test_episodes_are_kept_with_what_the_router_valued():
    traced = {"test": make_traced()}
    kept = transcripts_of(traced, MODELS, is_simulated=True)
    policies = {one.policy for one in kept.episodes}
    assert policies == set(traced["test"])
    for policy in policies:
        assert sum(one.policy == policy for one in kept.episodes) <= N_EPISODES
    one = kept.episodes[0]
    original = next(t for t in traced["test"][one.policy] if f"seed {t.episode.seed}" in one.name)
    assert [turn.model for turn in one.turns] == [turn.model for turn in original.episode.turns]
    assert one.score == pytest.approx(100 * original.episode.utility)
    assert Transcripts.model_validate_json(kept.model_dump_json()) == kept


def test_long_texts_are_cut_and_say_so():
    traced = make_traced()
    name, episodes = next(iter(traced.items()))
    episode = episodes[0].episode
    long = episode.__class__(**(vars(episode) | {"task_text": "x" * (MAX_TEXT + 7)}))
    kept = transcripts_of({"test": {name: [episodes[0].__class__(episode=long)]}}, MODELS, is_simulated=False)
    assert kept.episodes[0].task_text.endswith("[... 7 more characters]")


def test_no_text_of_a_log_breaks_out_of_the_page():
    traced = make_traced()
    name, episodes = next(iter(traced.items()))
    episode = episodes[0].episode
    hostile = episode.__class__(**(vars(episode) | {"task_text": HOSTILE, "task": HOSTILE}))
    kept = transcripts_of({"test": {name: [episodes[0].__class__(episode=hostile)]}}, MODELS, is_simulated=False)
    markup = viewer_html(kept)
    assert markup.count("</script>") == 1
    assert "<img" not in markup
    assert data_of(markup)["episodes"][0]["task_text"] == HOSTILE


def test_what_moves_is_left_out_of_markdown(tmp_path):
    blocks = [Paragraph(text="before"), Interactive(markup="<b>x</b>", text="moves", needs_plotly=True)]
    assert render_markdown(blocks, folder=tmp_path) == "before\n"
    page = render_html(blocks, title="t")
    assert page.count("plotly.js v") >= 1
    assert "plotly.js v" not in render_html(blocks[:1], title="t"), "a page in which nothing moves has no script"


def test_the_report_of_a_run_has_the_viewer_if_episodes_were_kept(results, traced, tmp_path):
    results.save(tmp_path / "results.json")
    assert "Episodes, turn by turn" not in write_report(tmp_path).read_text()
    transcripts_of(traced, results.model_names, is_simulated=True).write(tmp_path / "transcripts.json")
    page = write_report(tmp_path).read_text()
    assert "Episodes, turn by turn" in page
    assert loads_nothing(page)
