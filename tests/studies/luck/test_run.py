"""Luck of kept episodes, and returns without it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mtrouter_rl.cli.program import main
from mtrouter_rl.datasets.store import Dataset, load_hidden
from mtrouter_rl.envs.factory import resolve_env
from mtrouter_rl.errors import DatasetError, InvalidConfigError, ResultsError, UnknownNameError
from mtrouter_rl.evaluation.luck import LUCK, luck_of_episode
from mtrouter_rl.pools.simulated.backend import SimulationCard
from mtrouter_rl.studies.luck.run import LuckRequest, find_luck


@pytest.fixture(scope="module")
def card(corridor_config):
    return SimulationCard.model_validate(corridor_config.pool.backend.settings)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of two evaluations on the same episodes."""
    folders = []
    for name, routers in (("one", ["random", "single:small", "single:large"]), ("two", ["random"])):
        folders.append(tmp_path_factory.mktemp(name) / "run")
        words = ["evaluate", "--env", "corridor", "--router", *routers, "--split", "test", "--seeds", "8"]
        assert main([*words, "--workers", "1", "--out", str(folders[-1]), "--quiet"]) == 0
    return folders


@pytest.fixture(scope="module")
def request_of(runs, corridor_config):
    def make(**changes):
        return LuckRequest(**({"config": corridor_config, "runs": tuple(runs), "split": "test"} | changes))

    return make


def luck_of_log(card, folder):
    hidden = load_hidden(folder)
    return np.array([luck_of_episode(card, one, hidden[one.episode_id]) for one in Dataset.load(folder).completed])


def test_luck_has_mean_0(card, corridor_log):
    luck = luck_of_log(card, corridor_log)
    varies = luck.std(axis=0) > 0
    assert varies.sum() >= 2
    errors = luck.std(axis=0)[varies] / np.sqrt(len(luck))
    assert np.abs(luck.mean(axis=0)[varies] / errors).max() < 3.5


def test_luck_by_hand(card, corridor_log):
    episode = Dataset.load(corridor_log).completed[0]
    told = {"skill": "walk", "expert_action": "go", "success_probability": 0.9, "stuck": False, "failure": ""}
    one = replace(episode, turns=episode.turns[:1])
    prior = card.models[one.turns[0].model].stuck
    np.testing.assert_allclose(luck_of_episode(card, one, [told]), [0.1, 0.0, -prior, 0.0])
    failed = luck_of_episode(card, one, [told | {"failure": "idle"}])
    np.testing.assert_allclose(failed, [-0.9, 0.0, -prior, 0.0])
    stuck = luck_of_episode(card, one, [told | {"stuck": True, "failure": "idle"}])
    np.testing.assert_allclose(stuck, [0.0, 0.0, 1 - prior, 0.0])
    assert len(LUCK) == 4


def test_a_turn_without_hidden_information_has_no_luck(card, corridor_log):
    episode = Dataset.load(corridor_log).completed[0]
    with pytest.raises(DatasetError, match="turn 0: hidden information has no 'skill'"):
        luck_of_episode(card, episode, [{}] * len(episode.turns))


def test_policies_are_compared_with_and_without_luck(request_of):
    found = find_luck(request_of())
    by_name = {row.policy: row for row in found.rows}
    assert [row.policy for row in found.rows] == sorted(by_name, key=lambda one: -by_name[one].cleaned.value)
    assert by_name["random"].n_runs == 2
    assert by_name["single:large"].n_runs == 1
    assert found.against in ("single:small", "single:large")
    assert by_name[found.against].cleaned_difference is None
    row = by_name["random"]
    gap = row.return_.value - by_name[found.against].return_.value
    assert row.difference.value == pytest.approx(gap)
    assert row.cleaned_difference.value == pytest.approx(row.cleaned.value - by_name[found.against].cleaned.value)
    assert max(row.explained for row in found.rows) > 0.1
    assert found.gap_share(row) is None  # the believing reference was not run


def test_a_policy_has_the_same_numbers_in_any_company(request_of, runs):
    alone = find_luck(request_of(runs=(runs[1],), against="random")).rows[0]
    among = {row.policy: row for row in find_luck(request_of(runs=(runs[0],))).rows}["random"]
    assert (alone.return_, alone.cleaned, alone.explained) == (among.return_, among.cleaned, among.explained)


def test_what_cannot_be_told_is_refused(request_of, runs, tmp_path):
    with pytest.raises(UnknownNameError, match="policy of the runs 'randm'"):
        find_luck(request_of(against="randm"))
    with pytest.raises(ResultsError, match="no single model is among random"):
        find_luck(request_of(runs=(runs[1],)))
    with pytest.raises(ResultsError, match="holds no episodes of the ood split"):
        find_luck(request_of(split="ood"))
    with pytest.raises(InvalidConfigError, match="episodes are of pool 'corridor"):
        find_luck(request_of(config=replace(resolve_env("corridor"), pool=other_pool())))


def other_pool():
    pool = resolve_env("corridor").pool
    return pool.model_copy(update={"name": "another"})


def test_the_command_prints_a_table_and_json(runs, capsys):
    assert main(["lab", "luck", str(runs[0]), "--env", "corridor", "--split", "test"]) == 0
    assert "without luck" in capsys.readouterr().out
    assert main(["lab", "luck", str(runs[0]), "--env", "corridor", "--split", "test", "--json"]) == 0
    assert {row["policy"] for row in json.loads(capsys.readouterr().out)["rows"]} == {
        "random",
        "single:small",
        "single:large",
    }
