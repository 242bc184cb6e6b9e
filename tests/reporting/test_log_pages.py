"""A page about what is no run: estimates from a log, a log, a saved router."""

from pathlib import Path

import pytest

from mtrouter_rl.cli.program import main
from mtrouter_rl.errors import ResultsError
from mtrouter_rl.reporting.report import write_log_page
from tests.cases.pages import loads_nothing
from tests.reporting.test_report_sections import ope  # noqa: F401


def test_the_page_of_estimates(ope, tmp_path):  # noqa: F811
    ope.save(tmp_path)
    page = write_log_page(tmp_path).read_text()
    assert loads_nothing(page)
    for part in ("Nothing was run", "One note.", "What the log cannot tell", "frontier-log", "estimated from the log"):
        assert part in page


def test_the_page_of_a_log_labels_simulated_money(tmp_path):
    log = tmp_path / "log"
    words = [
        "collect",
        "--env",
        "corridor",
        "--policy",
        "uniform",
        "--split",
        "train",
        "--episodes",
        "4",
        "--workers",
        "1",
    ]
    assert main([*words, "--out", str(log), "--quiet"]) == 0
    page = write_log_page(log, tmp_path / "page.html").read_text()
    assert "simulated cost USD" in page
    assert "The models are simulated" in page
    assert not (log / "report.html").exists()


def test_the_page_of_a_router(tmp_path, capsys):
    router = tmp_path / "router"
    assert main(["train", "--env", "corridor", "--agent", "cheapest", "--out", str(router), "--quiet"]) == 0
    capsys.readouterr()
    assert main(["report", str(router)]) == 0
    page = (router / "report.html").read_text()
    for part in ("cheapest: a saved router", "from mtrouter_rl.serving import load_router", "corridor-three"):
        assert part in page


def test_a_folder_that_is_nothing(tmp_path, capsys):
    assert write_log_page(tmp_path) is None
    assert main(["report", str(tmp_path)]) == 1
    assert "holds no results.json, ope.json, router.json or info.json" in capsys.readouterr().err


def test_a_page_that_cannot_be_written(ope, tmp_path):  # noqa: F811
    ope.save(tmp_path)
    with pytest.raises(ResultsError, match="there is no folder"):
        write_log_page(tmp_path, Path(tmp_path / "no" / "page.html"))
