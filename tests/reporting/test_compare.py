import json
import re

import pytest

from mtrouter_rl.cli.program import main
from mtrouter_rl.errors import ResultsError
from mtrouter_rl.reporting.compare import comparable_groups, difference_words, field_table, setting_table, side_by_side
from mtrouter_rl.reporting.report import write_page
from mtrouter_rl.reporting.reported_run import load_runs
from tests.cases.evaluation_cases import make_results, make_traced, rows_of

CONFIG = {"limits": {"max_turns": 20, "budget_usd": 0.5}, "cards": "abc"}


@pytest.fixture(scope="module")
def save_run(results, tmp_path_factory):
    """Saves a run's results, changed, in a folder of that name."""
    root = tmp_path_factory.mktemp("runs")

    def save(name, *, config=CONFIG, **changes):
        folder = root / name
        changed = results.model_copy(update={"config": dict(config), **changes})
        changed.save(folder / "results.json")
        return folder

    return save


@pytest.fixture(scope="module")
def seeds(save_run, results):
    """Two runs that differ in the seed, and in what their learned router reached."""
    rows = tuple(
        row.model_copy(update={"return_mean": row.return_mean + 0.1}) if row.policy == "fitted-q" else row
        for row in results.rows
    )
    return save_run("seed0", seed=0), save_run("seed1", seed=1, rows=rows)


def test_runs_of_one_setting_stand_side_by_side(seeds, results):
    runs = load_runs(seeds)
    assert comparable_groups(runs) == (runs,)
    first, second = difference_words(runs)
    assert first == "The runs differ in `seed` (0 in seed0, 1 in seed1)."
    assert "their numbers stand in one table" in second
    table = side_by_side(runs, "test")
    router = results.row("fitted-q", "test")
    low, high = router.return_ci95
    cells = [row for row in table.rows if row[0] == "fitted-q"]
    assert [row[1] for row in cells] == ["seed0", "seed1"]
    assert cells[0][3] == f"{router.return_mean:.3f} [{low:.3f}, {high:.3f}]"
    assert cells[1][3].startswith(f"{router.return_mean + 0.1:.3f} [")
    assert {row[2] for row in table.rows} == {"18"}
    assert len(table.rows) == 2 * len(results.split_rows("test"))
    assert table.groups == frozenset(range(2, len(table.rows), 2))


def test_policies_of_one_run_only_are_named(seeds, save_run, results):
    fewer = save_run("fewer", rows=tuple(row for row in results.rows if row.policy != "middle"))
    table = side_by_side(load_runs([seeds[0], fewer]), "test")
    assert "left out: middle (seed0)" in table.caption
    assert not any(row[0] == "middle" for row in table.rows)


def test_one_field_that_differs_gets_a_table(seeds, results):
    name, table = field_table(load_runs(seeds[::-1]), "test")
    value = results.row("fitted-q", "test").return_mean
    assert name == "seed"
    assert [row[:2] for row in table.rows] == [("fitted-q", "0"), ("fitted-q", "1"), ("fitted-q", "mean of 2 runs")]
    assert table.rows[-1][3] == f"{value + 0.05:.3f} ({value:.3f} to {value + 0.1:.3f})"


def test_a_reward_of_its_own_hides_the_return_and_refuses_one_table(seeds, save_run):
    runs = load_runs([seeds[0], save_run("dear", seed=0, cost_weight=0.9)])
    assert [len(group) for group in comparable_groups(runs)] == [1, 1]
    words = difference_words(runs)[-1]
    assert "**Not all of them can be compared.** They differ in `cost_weight`" in words
    name, table = field_table(runs, "test")
    assert name == "cost_weight"
    assert not any("return" in title for title in table.header)
    assert "every run has a reward of its own" in table.caption
    assert [row[1] for row in table.rows] == ["0.5", "0.9"], "no mean over runs that may not be compared"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"env": "garden"}, "`env`"),
        ({"pool": "other"}, "`pool`"),
        ({"config": CONFIG | {"cards": "xyz"}}, "the contents of environment and pool card"),
        ({"config": CONFIG | {"limits": {"max_turns": 50, "budget_usd": 0.5}}}, "`limits.max_turns`"),
    ],
)
def test_other_settings_are_refused_in_words(seeds, save_run, changes, field):
    runs = load_runs([seeds[0], save_run("strange", seed=0, **changes)])
    assert len(comparable_groups(runs)) == 2
    assert f"They differ in {field}" in difference_words(runs)[-1]
    assert (field_table(runs, "test") is None) == (field != "`limits.max_turns`")


def test_two_fields_that_differ_make_no_table(seeds, save_run):
    runs = load_runs([seeds[0], save_run("both", seed=3, dataset_id="other-v1")])
    assert field_table(runs, "test") is None
    assert "`dataset_id`" in difference_words(runs)[0]
    assert "`seed`" in difference_words(runs)[0]


def test_what_only_some_record_is_no_difference(seeds, save_run):
    runs = load_runs([seeds[0], save_run("more", seed=0, config=CONFIG | {"encoder": "hashing"})])
    assert difference_words(runs)[:2] == (
        "The runs have the same configuration.",
        "Not every run records `encoder`.",
    )


def test_a_file_that_compares_cost_weights(save_run):
    traced = make_traced(n_variations=2)
    rows = [*rows_of(traced, cost_weight=1.0), *rows_of(traced, cost_weight=0.5)]
    folder = save_run("weights", rows=tuple(make_results(rows).rows))
    (run,) = load_runs([folder])
    table = setting_table(run, "test")
    assert [row[:3] for row in table.rows if row[0] == "fitted-q"] == [("fitted-q", "0.5", "-"), ("fitted-q", "1", "-")]


def test_names_tell_runs_apart(save_run, tmp_path):
    one, other = save_run("a/run"), save_run("b/run")
    assert [run.name for run in load_runs([one, other])] == ["a/run", "b/run"]
    assert load_runs([one])[0].name == "run"


@pytest.fixture(scope="module")
def page(seeds, save_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "page.html"
    write_page([*seeds, save_run("garden", env="garden", seed=0)], out)
    return re.sub(r"base64,[^\"]+", "base64,", out.read_text())


def test_the_page_holds_every_part_and_needs_nothing_else(page, seeds):
    assert not re.findall(r"https?:|//[a-z]|<script|<link|@import|url\(", page)
    for part in (
        "3 runs compared",
        "What differs between the runs",
        "seed0 and seed1, test",
        "garden, test",
        "p, Holm",
    ):
        assert part in page
    figures = re.findall("<figcaption>[^<]*a marker shape per run", page)
    assert len(figures) == 2, "one figure a split for the two runs that may be compared"
    assert str(seeds[0].parent) not in page
    anchors = re.findall(r'href="#([^"]+)"', page)
    assert len(anchors) == len(set(anchors)) > 10
    assert set(anchors) <= set(re.findall(r'id="([^"]+)"', page))
    assert all(re.findall(r'<img alt="([^"]*)"', page))


def test_unlike_numbers_stand_in_no_table_together(page):
    tables = re.findall(r"<table.*?</table>", page, re.DOTALL)
    together = [table for table in tables if "seed0" in table and "garden" in table]
    assert len(together) == 1, "the table of what differs, which holds no result"
    assert "env" in together[0]
    assert "score" not in together[0]


def test_the_folders_of_the_runs_are_left_alone(seeds, page):
    assert [path.name for path in seeds[0].iterdir()] == ["results.json"]


def bad_calls(seeds, tmp_path):
    (tmp_path / "empty").mkdir(exist_ok=True)
    return {
        "missing": ([seeds[0], tmp_path / "empty"], tmp_path / "page.html", r"results\.json: no such file"),
        "folder": ([seeds[0]], tmp_path, "is a folder, must be the file to write"),
        "nowhere": ([seeds[0]], tmp_path / "none" / "page.html", "there is no folder"),
        "twice": ([seeds[0], seeds[1], seeds[0]], tmp_path / "page.html", "are the same folder"),
        "none": ([], tmp_path / "page.html", "no run folder is given"),
    }


@pytest.mark.parametrize("case", ["missing", "folder", "nowhere", "twice", "none"])
def test_bad_calls(seeds, tmp_path, case):
    folders, out, message = bad_calls(seeds, tmp_path)[case]
    with pytest.raises(ResultsError, match=message):
        write_page(folders, out)
    assert not (tmp_path / "page.html").exists()


def test_the_command(seeds, tmp_path, capsys):
    arguments = ["report", *map(str, seeds)]
    assert main(arguments) == 1
    assert "give --out report.html" in capsys.readouterr().err
    assert main([*arguments, "--out", str(tmp_path / "page.html")]) == 0
    assert "seed1: On test, `fitted-q` scores" in capsys.readouterr().out
    assert (tmp_path / "page.html").is_file()


def test_a_broken_configuration_is_named(save_run, tmp_path):
    folder = save_run("broken")
    (folder / "config.json").write_text("{")
    with pytest.raises(ResultsError, match=r"config\.json is not valid JSON"):
        load_runs([folder])
    (folder / "config.json").write_text(json.dumps({"size": {"n_episodes": 5}, "seed": 99}))
    (run,) = load_runs([folder])
    assert run.config["size.n_episodes"] == 5
    assert run.config["seed"] == run.results.seed, "what the results say counts"
