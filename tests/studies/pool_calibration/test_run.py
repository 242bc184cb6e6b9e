import copy
import math

import numpy as np
import pytest
import yaml

from mtrouter_rl.cards import card_root, load_pool_card
from mtrouter_rl.cards.splits import evaluation_specs
from mtrouter_rl.envs.factory import resolve_env
from mtrouter_rl.errors import CardError, InvalidConfigError, SimulatorError
from mtrouter_rl.studies.pool_calibration.card import calibrated_card
from mtrouter_rl.studies.pool_calibration.plays import Plays
from mtrouter_rl.studies.pool_calibration.run import (
    CalibrationRequest,
    CalibrationTarget,
    compare,
    find_root,
    fitted_numbers,
    format_rows,
    load_target,
    run_calibration,
)

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
        fitted = sum(one.utility.value * one.utility.n_episodes for one in both) / sum(
            one.utility.n_episodes for one in both
        )
        assert fitted == pytest.approx(row["utility"], abs=0.04)
        assert both[0].relative_cost == pytest.approx(row["cost_usd"] / 20, rel=0.15)
    assert "fitting on 96 episodes" in said[0]
    assert "single:small" in format_rows(rows)
    assert fitted_numbers(pool).splitlines()[0].startswith("small: { ability:")
    assert pool.backend.settings["models"]["small"]["stuck"] == 0.02  # no random row, so nothing to fit it to


def test_a_pool_is_fitted_on_the_splits_that_its_table_is_of(write):
    said = []
    request = CalibrationRequest(
        config=resolve_env("corridor"),
        target=load_target(write(TARGET)),
        n_seeds=6,
        n_report_seeds=6,
        fit_on=("test",),
        report_on=("test",),
    )
    _, rows = run_calibration(request, say=said.append)
    assert "fitting on 48 episodes of test" in said[0]
    assert {row.split for row in rows} == {"test"}
    for row in rows:
        assert row.utility.value == pytest.approx(row.target_utility, abs=0.05)


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
        (
            {"models": {"large": {"utility": -0.1, "cost_usd": 1}}},
            CardError,
            "'large' is -0.1, must be above lowest_utility",
        ),
        ({"lowest_utility": 0.5}, CardError, "lowest_utility"),
    ],
)
def test_broken_targets(write, change, error, message):
    with pytest.raises(error, match=message):
        load_target(write(TARGET | change))


def test_a_target_of_another_pool(write):
    models = {name: row for name, row in TARGET["models"].items() if name != "small"}
    request = CalibrationRequest(
        config=resolve_env("corridor"),
        target=load_target(write(TARGET | {"models": models})),
        n_seeds=1,
        n_report_seeds=1,
    )
    with pytest.raises(
        InvalidConfigError, match=r"target has the models \['large', 'middle'\], pool 'corridor-three' has"
    ):
        run_calibration(request, say=lambda _: None)


def test_a_target_that_is_not_there(tmp_path):
    with pytest.raises(InvalidConfigError, match="no such file; give a YAML file with source, reference, models"):
        load_target(tmp_path / "nothing.yaml")


# --- scores below 0, resuming, and the card that comes out

PUNISHING = {
    "source": "another test",
    "reference": "large",
    "lowest_utility": -1.0,
    "models": {
        "small": {"utility": -0.3, "cost_usd": 1.0},
        "middle": {"utility": 0.6, "cost_usd": 4.0},
        "large": {"utility": 0.9, "cost_usd": 20.0},
    },
    "random": {"utility": 0.28, "cost_usd": 8.0},
}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Folder, request and outcome of a fit to a table with scores below 0."""
    folder = tmp_path_factory.mktemp("calibration")
    request = CalibrationRequest(
        config=resolve_env("corridor"),
        target=CalibrationTarget.model_validate(PUNISHING),
        n_seeds=2,
        n_report_seeds=2,
        tolerance=0.02,
        folder=folder,
    )
    return folder, request, run_calibration(request, say=lambda _: None)


def test_a_score_below_0_can_be_fitted(fitted):
    _, _, (pool, rows) = fitted
    both = {}
    for row in rows:
        if row.split in ("train", "validation"):
            both.setdefault(row.policy, []).append(row.utility)
    for model, wanted in PUNISHING["models"].items():
        total = sum(one.n_episodes for one in both[f"single:{model}"])
        mean = sum(one.value * one.n_episodes for one in both[f"single:{model}"]) / total
        assert mean == pytest.approx(wanted["utility"], abs=0.1)
    assert len({entry["stuck"] for entry in pool.backend.settings["models"].values()}) == 1


def test_a_fit_that_is_run_again_plays_nothing_again(fitted, monkeypatch):
    _, request, (pool, rows) = fitted
    monkeypatch.setattr(
        "mtrouter_rl.studies.pool_calibration.plays.run_episode", lambda *_: pytest.fail("played again")
    )
    assert run_calibration(request, say=lambda _: None) == (pool, rows)


def test_the_card_extends_the_pool_and_holds_the_table(fitted, tmp_path):
    _, request, (pool, rows) = fitted
    text = calibrated_card(
        pool,
        rows,
        name="fitted",
        target=request.target,
        extends="corridor-three",
        fit_on=("train",),
        command="mtrouter-rl calibrate",
    )
    path = tmp_path / "fitted.yaml"
    path.write_text(text, encoding="utf-8")
    loaded = load_pool_card(path)
    assert loaded.backend.settings == pool.backend.settings
    assert loaded.models == pool.models
    assert (loaded.name, loaded.description.startswith("SIMULATED")) == ("fitted", True)
    assert all(f"# {line}" in text for line in format_rows(rows).splitlines())


def test_a_broken_file_of_episodes_is_named(fitted, tmp_path):
    _, request, (pool, _) = fitted
    specs = evaluation_specs(request.config.card, "test", 1)
    with Plays(request.config, n_workers=1, folder=tmp_path) as plays:
        plays.play(pool, "uniform", specs)
    next(tmp_path.glob("*.json")).write_text("[[1]]", encoding="utf-8")
    with Plays(request.config, n_workers=1, folder=tmp_path) as plays, pytest.raises(SimulatorError, match="delete it"):
        plays.play(pool, "uniform", specs)


def test_what_a_single_model_does_is_not_asked_of_the_others(fitted, monkeypatch):
    """Episodes of a single model are kept whatever the other entries say; those of random routing are not."""
    _, request, _ = fitted
    pool, specs = request.config.pool, evaluation_specs(request.config.card, "test", 1)
    settings = copy.deepcopy(pool.backend.settings)
    settings["models"]["small"]["ability"] = -5.0
    changed = pool.model_copy(update={"backend": pool.backend.model_copy(update={"settings": settings})})
    with Plays(request.config, n_workers=1) as plays:
        kept = plays.play(pool, "single:large", specs), plays.play(pool, "uniform", specs)
        assert plays.play(changed, "uniform", specs).utility < kept[1].utility
        monkeypatch.setattr(
            "mtrouter_rl.studies.pool_calibration.plays.run_episode", lambda *_: pytest.fail("played again")
        )
        assert plays.play(changed, "single:large", specs).utility == kept[0].utility


@pytest.mark.parametrize("name", ["paper-hle", "paper-scienceworld"])
def test_shipped_targets_are_of_their_pools_and_hold_no_router(name):
    target = load_target(card_root() / f"envs/calibration/{name}.yaml")
    assert set(target.models) == set(load_pool_card(name).model_names)
    assert target.relative_cost("single:gpt-5") == 1.0
    assert target.row("uniform").utility == {"paper-hle": 0.2, "paper-scienceworld": 0.217}[name]
