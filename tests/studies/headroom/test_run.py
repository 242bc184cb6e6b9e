import json

import pytest

from mtrouter_rl.cli.program import main
from mtrouter_rl.envs.factory import resolve_env
from mtrouter_rl.errors import InvalidConfigError, ResultsError
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.studies.headroom.run import Headroom, HeadroomRequest, headroom_table, run_headroom


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder and findings of a small run."""
    folder = tmp_path_factory.mktemp("headroom")
    with RolloutPool(resolve_env("corridor"), n_workers=1) as pool:
        request = HeadroomRequest(split="test", n_seeds=2, out=folder, cost_weights=(0.0, 1.0))
        return folder, run_headroom(pool, request, show_progress=False)


def test_the_reference_is_first_and_every_policy_is_there_at_every_weight(run):
    _, found = run
    assert [row.cost_weight for row in found.rows] == [0.0] * 7 + [1.0] * 7
    for weight in (0.0, 1.0):
        reference = found.part("reference", weight)
        assert reference == next(row for row in found.rows if row.cost_weight == weight)
        assert reference.reference_gain is None
        assert found.part("cheapest", weight).policy == "single:small"
        assert found.part("strongest", weight).policy == "single:large"
        for part in ("believing", "best single", "random", "likeliest success"):
            row = found.part(part, weight)
            assert row.reference_gain.value == pytest.approx(reference.return_.value - row.return_.value)


def test_money_decides_who_is_the_best_single_model(run):
    _, found = run
    assert found.part("best single", 0.0).policy == "single:large"
    assert found.part("best single", 1.0).policy == "single:middle"
    free, dear = found.part("strongest", 0.0), found.part("strongest", 1.0)
    assert free.cost_usd.value == dear.cost_usd.value  # the same episodes, weighed otherwise
    assert dear.return_.value == pytest.approx(free.return_.value - free.cost_usd.value / 0.01)


def test_the_file_says_that_no_router_was_trained_and_is_read_back(run):
    folder, found = run
    assert Headroom.load(folder / "headroom.json") == found
    data = json.loads((folder / "headroom.json").read_text(encoding="utf-8"))
    assert data["note"] == "No router was trained for this table."
    assert "return" in data["rows"][0]
    assert "No router was trained" in (folder / "headroom.md").read_text(encoding="utf-8")
    assert headroom_table(found).rows[0][0] == "hidden-state-reference (reference)"


def test_what_is_there_is_not_run_again(run, capsys, monkeypatch):
    folder, found = run
    monkeypatch.setattr("mtrouter_rl.rollout.run_episode", lambda *_: pytest.fail("an episode was run again"))
    words = ["headroom", "--env", "corridor", "--split", "test", "--seeds", "2", "--cost-weights", "0", "1"]
    assert main([*words, "--workers", "1", "--out", str(folder)]) == 0
    assert "hidden-state-reference (reference)" in capsys.readouterr().out
    assert Headroom.load(folder / "headroom.json").rows == found.rows


@pytest.mark.parametrize("weights", [(), (0.1, 0.1), (-1.0,), (float("nan"),)])
def test_cost_weights_that_make_no_sense(tmp_path, weights):
    with pytest.raises(InvalidConfigError, match="must be at least one finite number of at least 0, and differ"):
        HeadroomRequest(split="test", n_seeds=1, out=tmp_path, cost_weights=weights)


def test_a_part_that_nobody_plays(run):
    with pytest.raises(ResultsError, match=r"no row plays 'random' at cost weight 7; cost weights are \[0.0, 1.0\]"):
        run[1].part("random", 7)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ResultsError, match="no such file; `mtrouter-rl lab headroom` writes it"):
        Headroom.load(tmp_path / "headroom.json")
