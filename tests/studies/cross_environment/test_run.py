"""The study across environments, on three corridors that differ in tasks, limits and what money is worth."""

import json
from dataclasses import replace

import pytest
import yaml

from mtrouter_rl.cards import list_cards
from mtrouter_rl.cli.program import main
from mtrouter_rl.datasets.info import read_info
from mtrouter_rl.envs.factory import resolve_env
from mtrouter_rl.errors import InvalidConfigError, MissingDependencyError, PoolMismatchError, ResultsError
from mtrouter_rl.evaluation.results import Results
from mtrouter_rl.studies.cross_environment import run as cross_study
from mtrouter_rl.studies.cross_environment.report import CrossReport, CrossRouter, compare_in_env
from mtrouter_rl.studies.cross_environment.run import CrossStudyRequest, run_cross_study
from mtrouter_rl.workflows.quick_study import QUICK

SIZE = replace(QUICK, n_episodes=30, n_test_seeds=1, validation_per_task=1)
TINY = """
name: tiny
description: a training of a moment
algorithm: myopic
parameters: { n_iterations: 2, steps_per_iteration: 10, batch_size: 32 }
"""


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    path = tmp_path_factory.mktemp("agent") / "tiny.yaml"
    path.write_text(TINY)
    return str(path)


@pytest.fixture(scope="module")
def configs(corridor_config, corridor_variant):
    lane = {"reward": {"cost_weight": 0.3, "cost_unit_usd": 0.005}}
    return (corridor_config, resolve_env(corridor_variant("hallway")), resolve_env(corridor_variant("lane", **lane)))


def request_of(configs, out, agent, **changes):
    made = CrossStudyRequest.of(configs, [SIZE] * len(configs), out=out)
    return replace(made, **({"agents": (agent,), "n_workers": 1, "encoder": "hashing", "draws": False} | changes))


def run(request, said=None):
    return run_cross_study(request, say=(said if said is not None else []).append, show_progress=False)


@pytest.fixture(scope="module")
def done(tmp_path_factory, configs, agent):
    """The study, killed once in the middle of its trainings and once in the middle of its evaluations."""
    request = request_of(configs, tmp_path_factory.mktemp("cross"), agent)
    with pytest.MonkeyPatch.context() as patch:
        for name, at in (("train_side_by_side", 0), ("evaluate_routers", 1)):
            patch.setattr(cross_study, name, _killed_after(getattr(cross_study, name), at))
            with pytest.raises(KeyboardInterrupt):
                run(request)
            patch.undo()
    return request, run(request)


def _killed_after(step, n_calls):
    calls = []

    def killed(*args, **kwargs):
        if len(calls) == n_calls:
            raise KeyboardInterrupt
        calls.append(args)
        return step(*args, **kwargs)

    return killed


def test_every_router_runs_in_every_environment(done):
    request, report = done
    assert [one.env for one in report.envs] == ["corridor", "hallway", "lane"]
    for one in report.envs:
        parts = {row.policy: row.part for row in one.rows}
        others = [name for name in request.env_names if name != one.env]
        assert parts == {
            f"tiny@{one.env}": "own",
            "tiny@all": "together",
            f"tiny@all-but-{one.env}": "left out",
            **{f"tiny@{name}": "other" for name in others},
            **{f"tiny@all-but-{name}": "other" for name in others},
            **dict.fromkeys(("random", "cheapest", "strongest"), "baseline"),
        }
        assert list(parts)[:3] == [f"tiny@{one.env}", "tiny@all", f"tiny@all-but-{one.env}"]
        assert {row.n_episodes for row in one.rows} == {8}
        trained_on = {row.policy: row.trained_on for row in one.rows}
        assert trained_on[f"tiny@all-but-{one.env}"] == tuple(others)


def test_each_environment_keeps_its_reward(done):
    _, report = done
    assert "utility - 0.5 x cost / 0.01 USD" in report.envs[0].caption
    assert "utility - 0.3 x cost / 0.005 USD" in report.envs[2].caption


def test_numbers_are_those_of_the_results(done):
    request, report = done
    for study, one in zip(request.studies, report.envs, strict=True):
        results = Results.load(study.out / "results.json")
        for row in one.rows:
            assert row.return_mean == results.row(row.policy, "test").return_mean
            assert row.score_ci95 == results.row(row.policy, "test").score_ci95
        by_policy = {row.policy: row for row in one.rows}
        pairs = {(pair.policy, pair.baseline): pair.difference for pair in one.differences}
        own, together, left = f"tiny@{one.env}", "tiny@all", f"tiny@all-but-{one.env}"
        assert list(pairs)[:3] == [(together, own), (left, own), (left, together)]
        assert len(pairs) == 3 + 3 * 3
        for (policy, baseline), difference in pairs.items():
            expected = by_policy[policy].return_mean - by_policy[baseline].return_mean
            assert difference.return_.value == pytest.approx(expected)
            assert difference.p_value_holm >= difference.p_value
        assert min(one.p_value_holm for one in pairs.values()) <= len(pairs) * min(
            one.p_value for one in pairs.values()
        )


def test_the_three_files_say_the_same(done):
    request, report = done
    assert CrossReport.load(request.out / "cross.json") == report
    text, markdown = (request.out / "cross.txt").read_text(), (request.out / "cross.md").read_text()
    assert (text, markdown) == (report.to_text(), report.to_markdown())
    row = report.envs[1].rows[1]
    for page in (text, markdown):
        assert f"together: {', '.join(row.trained_on)}" in page
        assert f"{row.return_mean:.3f} [" in page
    assert json.loads((request.out / "config.json").read_text())["log_shares"] == "equal"


def test_the_results_of_an_environment_tell_who_is_a_stranger_there(done):
    request, _ = done
    notes = Results.load(request.studies[2].out / "results.json").notes
    assert {note.partition(":")[0] for note in notes} == {"tiny@corridor", "tiny@hallway", "tiny@all-but-lane"}


def test_a_killed_study_ends_as_one_that_was_not_and_a_second_run_does_nothing(done, tmp_path, configs, agent):
    request, report = done
    weights = {path: path.stat().st_mtime_ns for path in request.out.rglob("weights.safetensors")}
    shards = {path: path.stat().st_mtime_ns for path in request.out.rglob("*.parquet")}
    assert len(weights) == 7
    said = []
    assert run(request, said) == report
    assert said[-1].startswith("done in")
    assert {path: path.stat().st_mtime_ns for path in request.out.rglob("weights.safetensors")} == weights
    assert {path: path.stat().st_mtime_ns for path in request.out.rglob("*.parquet")} == shards
    undisturbed = run(request_of(configs, tmp_path, agent))
    assert undisturbed.envs == report.envs


def test_of_two_environments_the_router_of_the_other_is_the_one_left_out(tmp_path, configs, agent):
    request = request_of(configs[:2], tmp_path, agent)
    assert [router.name for router in request.routers] == ["tiny@corridor", "tiny@hallway", "tiny@all"]
    assert request.routers[0].part_in("hallway", request.env_names) == "left out"
    without = request_of(configs, tmp_path, agent, leaves_out=False)
    assert [router.name for router in without.routers] == ["tiny@corridor", "tiny@hallway", "tiny@lane", "tiny@all"]


def pool_with(**changes):
    pool = yaml.safe_load(list_cards("pools")["corridor-three"].read_text(encoding="utf-8"))
    return pool | {"models": [pool["models"][0] | changes, *pool["models"][1:]]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"knowledge_cutoff": "2023-01-01"},
            r"'corridor' and 'other-date' cannot share a router: model 'small', knowledge_cutoff: 2024-06-01 in pool "
            r"'corridor-three', 2023-01-01",
        ),
        (
            {"prices": {"input": 0.1, "cached_input": 0.05, "output": 0.5}},
            r"model 'small', prices.output: 0\.4 in pool .*, 0\.5 in pool",
        ),
    ],
)
def test_environments_with_other_models_are_refused(
    tmp_path, corridor_config, corridor_variant, agent, changes, message
):
    other = resolve_env(corridor_variant("other-date", pool=pool_with(**changes)))
    with pytest.raises(PoolMismatchError, match=message):
        run(request_of([corridor_config, other], tmp_path, agent))
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_compared_is_refused_at_once(tmp_path, configs, agent):
    with pytest.raises(InvalidConfigError, match=r"environments are \['corridor'\], must be at least 2"):
        run(request_of(configs[:1], tmp_path, agent))
    with pytest.raises(InvalidConfigError, match=r"environments \['corridor'\] are given more than once"):
        run(request_of([configs[0], configs[0]], tmp_path, agent))
    with pytest.raises(InvalidConfigError, match=r"agent 'task-table' cannot learn from several logs; leave it out of"):
        run(request_of(configs, tmp_path, "task-table"))
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_with_how_to_go_without(tmp_path, configs, agent, monkeypatch):
    real = cross_study.build_env

    def without_lane(config):
        if config.card.name == "lane":
            raise MissingDependencyError("package 'lane' is missing; run: pip install lane")
        return real(config)

    monkeypatch.setattr(cross_study, "build_env", without_lane)
    with pytest.raises(
        MissingDependencyError,
        match=r"environment 'lane': package 'lane' is missing; .*or leave it out: --envs corridor hallway",
    ):
        run(request_of(configs, tmp_path, agent))
    assert not list(tmp_path.iterdir())


def test_results_without_a_router_and_a_broken_file_are_named(done, tmp_path):
    request, _ = done
    results = Results.load(request.studies[0].out / "results.json")
    missing = CrossRouter(name="tiny@moon", agent="tiny", envs=("moon",))
    with pytest.raises(ResultsError, match=r"results of 'corridor' have no row of tiny@moon on test"):
        compare_in_env(results, "test", (*request.routers, missing))
    with pytest.raises(ResultsError, match=r"cross\.json: no such file; .*study-cross"):
        CrossReport.load(tmp_path / "cross.json")
    (tmp_path / "cross.json").write_text("{}")
    with pytest.raises(ResultsError, match=r"cross\.json breaks the schema of CrossReport"):
        CrossReport.load(tmp_path / "cross.json")


def test_the_command_prints_the_tables(tmp_path, configs, agent, corridor_variant, capsys):
    words = ["study-cross", "--envs", "corridor", str(corridor_variant("hallway")), "--agents", agent, "--workers", "1"]
    sizes = ["--episodes", "20", "--test-seeds", "1", "--encoder", "hashing", "--seed", "3", "--no-plots"]
    assert main([*words, *sizes, "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "tiny@hallway - tiny@corridor" in printed
    assert "left out: hallway" in printed
    info = read_info(tmp_path / "run" / "hallway" / "dataset")
    assert (info.n_episodes_planned, info.seed) == (20, 3)
