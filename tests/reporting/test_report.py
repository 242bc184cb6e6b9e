import re

import pytest

from mtrouter_rl.errors import ResultsError
from mtrouter_rl.reporting.document import (
    Bullets,
    Code,
    Contents,
    Heading,
    Paragraph,
    render_html,
    render_markdown,
)
from mtrouter_rl.reporting.plots import save_plots
from mtrouter_rl.reporting.report import write_report
from mtrouter_rl.reporting.tables import Table
from mtrouter_rl.reporting.verdict import short_verdict, verdict
from mtrouter_rl.statistics.estimate import Estimate
from tests.cases.evaluation_cases import make_results
from tests.cases.pages import loads_nothing


@pytest.fixture(scope="module")
def run_folder(results, traced, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    results.save(folder / "results.json")
    save_plots(results, traced, folder / "plots")
    assert write_report(folder) == folder / "report.html"
    return folder


def test_the_page_needs_nothing_else(run_folder):
    page = (run_folder / "report.html").read_text()
    assert loads_nothing(page)
    assert "Plotly.newPlot" in page
    pictures = re.findall(r'<img alt="[^"]+" src="([^"]{22})', page)
    assert len(pictures) == 10
    assert set(pictures) == {"data:image/png;base64,"}
    assert 'name="viewport"' in page
    assert "@media print" in page


def test_both_forms_hold_verdict_tables_figures_and_provenance(run_folder, results):
    page, text = (run_folder / "report.html").read_text(), (run_folder / "report.md").read_text()
    for found in (page, text):
        for part in ("Results: test", "Results: ood", "fitted-q - random", "The models are simulated", "hull gain"):
            assert part in found
        for part in ("tensorboard --logdir .", "kitchen-uniform-v1", "layers", "Where the numbers come from"):
            assert part in found
    links = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert len(links) == 10
    assert all((run_folder / link).is_file() for link in links)
    assert "mean score of the task (fitted-q, test split)" in text
    assert verdict(results, "test") in text
    assert str(run_folder) not in page + text


def test_no_note_on_simulation_for_real_models(results, tmp_path):
    make_results([results.row("tiny", "test")], is_simulated=False).save(tmp_path / "results.json")
    write_report(tmp_path)
    assert "simulated" not in (tmp_path / "report.md").read_text()


def difference(low, high, like, *, p_value_holm=None):
    interval = Estimate(value=(low + high) / 2, low=low, high=high, n_episodes=8, n_clusters=8)
    return like.model_copy(update={"return_": interval, "p_value": p_value_holm, "p_value_holm": p_value_holm})


def test_verdict_in_words(results):
    router = results.row("fitted-q", "test")
    like = router.paired["random"]
    paired = {
        "random": difference(0.1, 0.3, like),
        "cheapest": difference(0.2, 0.3, like),
        "cloned": difference(-0.1, 0.3, like),
        "best": difference(-0.3, -0.1, like),
    }
    changes = {
        "paired": paired,
        "score_mean": 53.8,
        "utility_mean": 0.538,
        "cost_usd_mean": 0.02,
        "cost_saved_share": 0.587,
    }
    changed = make_results([router.model_copy(update=changes), results.row("big", "test")])
    strongest = results.row("big", "test").score_mean
    assert verdict(changed, "test") == (
        "On test, `fitted-q` scores **53.8** at 0.0200 simulated USD per episode, against "
        f"{strongest:.1f} of the strongest single model (`big`), and saves **58.7%** of its cost. "
        "By paired 95% intervals, its return (utility minus weighted cost) "
        "is higher than that of `random` and `cheapest`; not distinguishable from that of `cloned`; lower than that of "
        "`best`."
    )


def test_verdict_after_the_correction(results):
    router = results.row("fitted-q", "test")
    like = router.paired["random"]

    def changed(random, cheapest, best):
        paired = {
            "random": difference(0.1, 0.3, like, p_value_holm=random),
            "cheapest": difference(0.1, 0.3, like, p_value_holm=cheapest),
            "best": difference(-0.3, -0.1, like, p_value_holm=best),
        }
        return make_results([router.model_copy(update={"paired": paired}), results.row("big", "test")])

    family = "After Holm's correction for the 3 differences of return of this split, at 5%, it is"
    some = verdict(changed(0.01, 0.08, 0.049), "test")
    assert some.endswith(f"{family} higher than that of `random`; lower than that of `best`.")
    assert "is higher than that of `random` and `cheapest`; lower than that of `best`. After" in some
    assert verdict(changed(0.05, 0.08, 1.0), "test").endswith(f"{family} not distinguishable from that of any of them.")
    assert short_verdict(changed(0.01, 0.08, 0.049), "test").endswith(
        "of its cost; after Holm's correction its return is higher than that of `random`; not distinguishable from that of "
        "`cheapest`; lower than that of `best`."
    )
    unknown = short_verdict(changed(None, None, None), "test")
    assert "by paired 95% intervals its return is higher than that of `random` and `cheapest`; lower" in unknown


def test_verdict_without_references(results):
    alone = results.row("fitted-q", "test").model_copy(update={"paired": {}, "cost_saved_share": None})
    assert verdict(make_results([alone]), "test").endswith("(the strongest single model was not run).")
    dearer = results.row("fitted-q", "test").model_copy(update={"cost_saved_share": -0.25})
    assert "costs **25.0%** more" in verdict(make_results([dearer, results.row("big", "test")]), "test")
    assert "no learned router was run; `tiny`" in verdict(make_results([results.row("tiny", "test")]), "test")


def test_warnings(results, tmp_path):
    row = results.row("tiny", "test").model_copy(update={"n_failed": 2, "budget_violations": 1})
    make_results([row]).save(tmp_path / "results.json")
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "2 episode(s) broke for outside reasons" in text
    assert "1 episode(s) spent more than their budget" in text


def test_missing_results(tmp_path):
    with pytest.raises(ResultsError, match="no such file"):
        write_report(tmp_path)


def test_text_is_escaped(tmp_path):
    blocks = [Heading(text="<b>"), Paragraph(text="`a<b` is **so** & so"), Code(text="</code>")]
    page = render_html(blocks, title="<t>")
    assert '<h2 id="b">&lt;b&gt;</h2>' in page
    assert "<p><code>a&lt;b</code> is <strong>so</strong> &amp; so</p>" in page
    assert "<pre><code>&lt;/code&gt;</code></pre>" in page
    assert render_markdown(blocks, folder=tmp_path) == "## <b>\n\n`a<b` is **so** & so\n\n```\n</code>\n```\n"


def test_contents_link_to_every_heading_once(tmp_path):
    blocks = [
        Heading(text="Title", level=1),
        Contents(),
        Heading(text="Results: test"),
        Heading(text="a/b, test", level=3),
        Heading(text="Results: test"),
        Bullets(items=("one `code`", "two")),
    ]
    page, text = render_html(blocks, title="t"), render_markdown(blocks, folder=tmp_path)
    anchors = ["results-test", "ab-test", "results-test-1"]
    assert re.findall(r'<h[123] id="([^"]+)"', page) == ["title", *anchors]
    assert re.findall(r'href="#([^"]+)"', page) == anchors
    assert re.findall(r"\]\(#([^)]+)\)", text) == anchors
    assert "<li>one <code>code</code></li>" in page
    assert "- one `code`\n- two" in text


def test_tables_name_their_columns_and_groups():
    table = Table(caption="c", header=("a", "b"), rows=(("x", "1"), ("y", "2")), groups=frozenset({1}), is_prose=True)
    page = render_html([table], title="t")
    assert '<th scope="col">b</th>' in page
    assert '<tr class="group"><th scope="row">y</th><td data-label="b">2</td></tr>' in page
    assert 'class="scroll" role="region" tabindex="0" aria-label="c"><table class="prose">' in page


def test_few_pairs_are_warned_of(results, tmp_path):
    results.save(tmp_path / "results.json")
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "On ood, intervals rest on 4 (task, variation) pairs" in text
    assert "No p-value of this split is below 0.12." in text
