import math

import numpy as np
import pytest
import yaml

from mtrouter_rl.calibration import (
    CalibrationRequest,
    CalibrationTarget,
    compare,
    find_root,
    fitted_numbers,
    format_rows,
    load_target,
    run_calibration,
)
from mtrouter_rl.calibration_plays import Plays
from mtrouter_rl.cards import card_root, load_pool_card
from mtrouter_rl.datasets.splits import evaluation_specs
from mtrouter_rl.envs.factory import resolve_env
from mtrouter_rl.errors import CardError, InvalidConfigError

TARGET = {
    "source": "a test",
    "reference": "large",
    "models": {
        "small": {"utility": 0.5, "cost_usd": 1.0},
        "middle": {"utility": 0.8, "cost_usd": 4.0},
        "large": {"utility": 0.9, "cost_usd": 20.0},
    },
}


@pytest.fixture
def write(tmp_path):
    def write_target(data):
        path = tmp_path / "target.yaml"
        path.write_text(yaml.safe_dump(data), encoding="utf-8")
        return path

    return write_target


def test_the_root_of_a_logistic_curve():
    calls = []

    def share(ability):
        calls.append(ability)
        return 1 / (1 + math.exp(-(0.7 * ability - 1)))

    root = find_root(share, start=0.0, target=0.2, n=1000)
    assert share(root) == pytest.approx(0.2, abs=0.005)
    assert len(calls) <= 6


def test_the_root_of_a_noisy_curve_on_common_random_numbers():
    draws = np.random.default_rng(0).random(2000)
    root = find_root(lambda x: float((draws < 1 / (1 + math.exp(-x))).mean()), start=3.0, target=0.3, n=2000)
    assert root == pytest.approx(math.log(0.3 / 0.7), abs=0.15)


def test_a_share_of_nothing_still_gives_a_direction():
    assert find_root(lambda x: float(x > 0.5), start=0.0, target=0.5, n=100) is not None


def test_a_toy_pool_is_fitted(write):
    """With one worker: single models of the corridor come near made-up utilities and costs, and the report says so."""
    said = []
    request = CalibrationRequest(
        config=resolve_env("corridor"), target=load_target(write(TARGET)), n_seeds=3, n_report_seeds=3
    )
    pool, rows = run_calibration(request, say=said.append)
    by_key = {(row.split, row.policy): row for row in rows}
    assert {split for split, _ in by_key} == {"train", "validation", "test", "ood"}
    for model, row in TARGET["models"].items():
        both = [by_key[split, f"single:{model}"] for split in ("train", "validation")]
        fitted = sum(one.utility.mean * one.utility.n_episodes for one in both) / sum(
            one.utility.n_episodes for one in both
        )
        assert fitted == pytest.approx(row["utility"], abs=0.04)
        assert both[0].relative_cost == pytest.approx(row["cost_usd"] / 20, rel=0.15)
    assert "fitting on 96 episodes" in said[0]
    assert "single:small" in format_rows(rows)
    assert fitted_numbers(pool).splitlines()[0].startswith("small: { ability:")
    assert pool.backend.settings["models"]["small"]["stuck"] == 0.02  # no random row, so nothing to fit it to


def test_costs_are_compared_with_the_reference():
    config, target = resolve_env("corridor"), CalibrationTarget.model_validate(TARGET)
    with Plays(config, n_workers=1) as plays:
        specs = evaluation_specs(config.card, "validation", 2)
        rows = compare(config.pool, target, plays, split="validation", specs=specs)
    assert [row.policy for row in rows] == ["single:small", "single:middle", "single:large"]
    assert rows[2].relative_cost == 1.0
    assert rows[0].target_relative_cost == 0.05


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"reference": "larg"}, CardError, "reference 'larg' is none of the models"),
        ({"models": {"large": {"utility": 1.5, "cost_usd": 1}}}, CardError, "models.large.utility"),
        ({"routers": {}}, CardError, "routers"),
    ],
)
def test_broken_targets(write, change, error, message):
    with pytest.raises(error, match=message):
        load_target(write(TARGET | change))


def test_a_target_of_another_pool(write):
    models = {name: row for name, row in TARGET["models"].items() if name != "small"}
    with pytest.raises(
        InvalidConfigError, match=r"target has the models \['large', 'middle'\], pool 'corridor-three' has"
    ):
        request = CalibrationRequest(
            config=resolve_env("corridor"),
            target=load_target(write(TARGET | {"models": models})),
            n_seeds=1,
            n_report_seeds=1,
        )
        run_calibration(request, say=lambda _: None)


def test_a_target_that_is_not_there(tmp_path):
    with pytest.raises(InvalidConfigError, match="no such file; give a YAML file with source, reference, models"):
        load_target(tmp_path / "nothing.yaml")


def test_the_shipped_target_is_of_the_shipped_pool_and_holds_no_router():
    target = load_target(card_root() / "envs/calibration/paper-hle.yaml")
    assert set(target.models) == set(load_pool_card("paper-hle").model_names)
    assert target.relative_cost("single:gpt-5") == 1.0
    assert target.row("uniform").utility == 0.2
