"""Sections that are drawn from the files beside results.json: behavior.json and ope/ope.json."""

import pytest

from mtrouter_rl.errors import InvalidConfigError, ResultsError
from mtrouter_rl.evaluation.behavior import BehaviorSetting, behavior_row
from mtrouter_rl.evaluation.behavior_file import Behavior
from mtrouter_rl.ope.record import Estimated, OpeReport, PolicyReport
from mtrouter_rl.reporting.ope_section import estimates_table, ope_mismatch, refusal_words, selection_table, truth_of
from mtrouter_rl.reporting.report import write_page, write_report
from tests.cases.evaluation_cases import MODELS, REWARD
from tests.cases.pages import loads_nothing


@pytest.fixture(scope="module")
def behavior(traced):
    rows = tuple(
        behavior_row(
            policy,
            [one.episode for one in many],
            BehaviorSetting(split=split, model_names=MODELS, n_resamples=100),
        )
        for split, policies in traced.items()
        for policy, many in policies.items()
    )
    return Behavior(env="kitchen", pool="tiny-pool", model_names=MODELS, rows=rows)


def estimates(value, *, half):
    """The same number for every quantity, so that each is wrong by something else."""
    one = Estimated(value=value, low=value - half, high=value + half)
    return dict.fromkeys(("utility", "cost_usd", "return"), one)


@pytest.fixture(scope="module")
def ope(results):
    def policy(name, headline, *, half=0.05, gap=0.0, refusals=None):
        row = results.row(name, "test")
        numbers = estimates(row.utility_mean + gap, half=half) if row else {}
        return PolicyReport(
            policy=name,
            router=name,
            headline=headline,
            refusals=refusals or {},
            estimates={headline: numbers} if headline else {},
            is_trained_on_log=name == "fitted-q",
        )

    cannot = {"weighting": ("the effective sample size is 2.0 episodes, must be at least 30",)}
    return OpeReport(
        dataset_id="kitchen-uniform-v1",
        env="kitchen",
        pool="tiny-pool",
        model_names=MODELS,
        split="train",
        n_episodes=100,
        n_left_out=0,
        n_turns=700,
        n_clusters=9,
        behavior_policy="uniform",
        propensities="estimated",
        logged={"utility": 0.1, "cost_usd": 0.1, "return": 0.1},
        cost_weight=REWARD.cost_weight,
        cost_unit_usd=REWARD.cost_unit_usd,
        seed=0,
        encoder="hashing",
        fqe=None,
        thresholds={},
        policies=(
            policy("fitted-q", "dm", gap=0.01),
            policy("random", "wdr", gap=0.5, refusals={"fitted": ("no fitted values",)}),
            policy("tiny", None, refusals=cannot),
            policy("big", "dm"),
        ),
        differences=(),
        selection=None,
        notes=("one note",),
        package_version="0.1.0",
    )


@pytest.fixture(scope="module")
def run_folder(results, behavior, ope, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    results.save(folder / "results.json")
    behavior.write(folder / "behavior.json")
    ope.save(folder / "ope")
    write_report(folder)
    return folder


def test_everything_beside_the_results_is_shown(run_folder):
    page, text = (run_folder / "report.html").read_text(), (run_folder / "report.md").read_text()
    assert loads_nothing(page)
    for part in ("Behaviour: test", "Estimates from a log against runs", "the propensities are estimated", "One note."):
        assert part in page
    for part in ("stay, transient", "of first errors", "switches/episode", "regret@3", "other episodes than those"):
        assert part in text
    for stem in (
        "cost_share_test",
        "switch_matrix_ood",
        "budget_use_test",
        "error_spread_test",
        "ope_return_test",
        "ope_score_test",
    ):
        assert f"plots/{stem}.png" in text
        assert (run_folder / "plots" / f"{stem}.png").is_file()


def test_numbers_of_the_behaviour_are_those_of_its_rows(run_folder, behavior):
    row = behavior.row("fitted-q", "test")
    low, high = row.switches_mean.ends
    text = (run_folder / "report.md").read_text()
    assert f"| fitted-q | 18 | 0 | {row.n_turns} | {row.switches_mean.value:.2f} [{low:.2f}, {high:.2f}] |" in text
    stay, (low, high) = row.errors.stay_after_transient, row.errors.stay_after_transient_ci95
    assert f"| {stay:.0%} [{100 * low:.0f}, {100 * high:.0f}] n={row.errors.n_transient} |" in text


def test_estimates_stand_beside_runs(ope, results):
    truth = truth_of(ope, results)
    assert truth.split == "test", "the log's split was not run"
    table = estimates_table(ope, truth, "utility")
    score = {name: results.row(name, "test").score_mean for name in ("fitted-q", "random", "big")}
    cells = {row[0]: row for row in table.rows}
    assert cells["fitted-q (1)"][1:3] == (
        "DM",
        f"{score['fitted-q'] + 1:.1f} [{score['fitted-q'] - 4:.1f}, {score['fitted-q'] + 6:.1f}]",
    )
    assert cells["fitted-q (1)"][4:] == ("+1.0", "yes")
    assert cells["random"][1] == "WDR (2)"
    assert cells["random"][4:] == ("+50.0", "no")
    assert cells["tiny"][1:3] == ("log cannot tell", "-")
    selection = {row[0]: row for row in selection_table(ope, truth).rows}
    assert selection["score"][4] == "67%", "two of three intervals hold the run"
    best = max(score.values())
    assert selection["score"][2].startswith(f"{best - score['random']:.1f} ("), "random is estimated highest"
    assert selection["score"][3] == "0.0 (0.0%)"


def test_refusals_in_words(ope):
    assert refusal_words(ope) == (
        "`random`: fitted values are not believed; no fitted values.",
        "`tiny`: **this log cannot tell**; the effective sample size is 2.0 episodes, must be at least 30.",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cost_weight": 0.9}, "`cost_weight` is 0.9 there and 0.5 here"),
        ({"pool": "other"}, "`pool` is other there and tiny-pool here"),
        ({"env": "garden"}, "`env` is garden there"),
    ],
)
def test_estimates_of_another_setting_are_not_mixed(results, ope, tmp_path, changes, message):
    other = ope.model_copy(update=changes)
    assert message in ope_mismatch(other, results)
    results.save(tmp_path / "results.json")
    other.save(tmp_path / "ope")
    page = write_page([tmp_path], tmp_path / "page.html").read_text()
    assert "it was made in another setting" in page
    assert "regret@1" not in page


def test_a_file_that_does_not_say_its_pool_is_shown_with_a_note(results, ope, tmp_path):
    old = ope.model_copy(update={"env": None, "pool": None, "model_names": None})
    assert ope_mismatch(old, results) is None
    results.save(tmp_path / "results.json")
    old.save(tmp_path / "ope")
    assert "does not say of which pool it is" in write_page([tmp_path], tmp_path / "page.html").read_text()


def test_behaviour_of_another_run_is_not_shown(results, behavior, tmp_path):
    results.save(tmp_path / "results.json")
    behavior.model_copy(update={"pool": "other"}).write(tmp_path / "behavior.json")
    page = write_page([tmp_path], tmp_path / "page.html").read_text()
    assert page.count("is of another run: <code>pool</code> is other there and tiny-pool here") == 1
    assert "stay, transient" not in page


def test_unreadable_files_beside_the_results_are_errors(results, tmp_path):
    results.save(tmp_path / "results.json")
    (tmp_path / "ope").mkdir()
    (tmp_path / "ope" / "ope.json").write_text("{")
    with pytest.raises(InvalidConfigError, match=r"ope\.json cannot be read"):
        write_report(tmp_path)
    (tmp_path / "behavior.json").write_text("{}")
    with pytest.raises(ResultsError, match=r"behavior\.json breaks the schema"):
        write_report(tmp_path)
