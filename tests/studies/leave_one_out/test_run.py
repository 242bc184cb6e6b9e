"""A model leaves the pool or joins it, end to end in the toy corridor."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from mtrouter_rl.agents.q.extension import extend_router
from mtrouter_rl.agents.saving import read_record
from mtrouter_rl.cli.program import main
from mtrouter_rl.errors import InvalidConfigError, ResultsError, RouterError, UnknownNameError
from mtrouter_rl.pools.subset import pool_without
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.studies.leave_one_out.record import LeaveOneOut, format_leave_one_out, leave_one_out_tables
from mtrouter_rl.studies.leave_one_out.run import LeaveOneOutRequest, run_leave_one_out
from mtrouter_rl.workflows import TrainRequest, load_agent, train_router

ARMS = ["without", "metadata alone", "few episodes", "full"]


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    """Path of a card whose training takes a second; two iterations, so that one of them plans."""
    path = tmp_path_factory.mktemp("cards") / "tiny.yaml"
    small = {"n_iterations": 2, "steps_per_iteration": 15, "batch_size": 64, "keep_last": 2, "n_warm_start": 1}
    small |= {"text_projection": 8, "history_hidden": [32], "joint_hidden": [32, 16]}
    path.write_text(
        json.dumps({"name": "tiny", "description": "test", "algorithm": "fitted_q", "parameters": small}), "utf-8"
    )
    return path


@pytest.fixture(scope="module")
def pool(corridor_config):
    with RolloutPool(corridor_config, n_workers=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def make_request(agent, corridor_log):
    def make(out, **changes):
        fields = {"agent": load_agent(str(agent)), "dataset": corridor_log, "out": out, "encoder": "hashing"}
        return LeaveOneOutRequest(
            **fields | {"models": ("small", "large"), "n_few_episodes": 15, "n_seeds": 1} | changes
        )

    return make


@pytest.fixture(scope="module")
def run(tmp_path_factory, pool, make_request):
    """Folder and findings."""
    folder = tmp_path_factory.mktemp("leave-one-out")
    return folder, run_leave_one_out(pool, make_request(folder), n_workers=1, show_progress=False)


def test_every_arm_runs_the_same_episodes_and_only_the_smaller_pool_lacks_the_model(run):
    _, found = run
    assert [one.model for one in found.models] == ["small", "large"]
    assert {row.policy for row in found.references} == {"random", "single:small", "single:middle", "single:large"}
    for one in found.models:
        assert [row.policy for row in one.rows] == ARMS
        assert {row.n_episodes for row in (*one.rows, *found.references)} == {8}
        assert one.share_of_turns["without"] == 0 == one.row("without").model_share[one.model]
        difference = one.difference("without", "full")
        assert difference.return_.value == pytest.approx(one.row("without").return_mean - one.row("full").return_mean)
        assert difference.score.n_episodes == 8
        assert difference.return_.n_clusters == 8
        assert "random" in one.row("few episodes").paired
    assert found.model("small").row("full").return_mean == found.model("large").row("full").return_mean
    assert [one.is_strongest for one in found.models] == [False, True]


def test_metadata_alone_is_the_router_without_the_model_on_the_whole_pool(run, pool, tmp_path):
    folder, _ = run
    routers = folder / "routers"
    for model in ("small", "large"):
        assert (
            read_record(routers / f"without_{model}").model_names == pool_without(pool.config.pool, model).model_names
        )
        back = extend_router(routers / f"without_{model}", pool.config.pool, out=tmp_path / model)
        ours, theirs = (
            load_file(at / "weights.safetensors") for at in (back.folder, routers / f"metadata_alone_{model}")
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert back.extrapolated == read_record(routers / f"metadata_alone_{model}").provenance.extrapolated


def test_extrapolation_is_flagged_in_file_and_table(run, corridor_log):
    folder, found = run
    assert LeaveOneOut.load(folder / "leave_one_out.json") == found
    large = found.model("large")
    outside = {one.feature: one for one in large.extrapolation.outside}
    assert outside["log_output_price"].value > outside["log_output_price"].high
    share = f"{100 * large.share_of_turns['metadata alone']:.1f}%"
    assert large.notes[0].startswith(
        f"metadata alone, {share} of its turns to 'large': every value of model 'large' is an"
    )
    text = format_leave_one_out(found)
    markdown = (folder / "leave_one_out.md").read_text(encoding="utf-8")
    for words in (large.notes[0], "EXTRAPOLATED, 7 features out of range", "simulated", "every arm was trained once"):
        assert words in text
        assert words in markdown
    assert 0 < large.n_turns_few < large.n_turns_logged
    arms, differences = leave_one_out_tables(found)
    assert [row[1] for row in arms.rows[:4]] == ARMS
    assert differences.rows[0][1:3] == ("without - full", "the model leaves")


def test_what_is_there_is_neither_trained_nor_run_again(run, agent, corridor_log, capsys, monkeypatch):
    folder, found = run
    monkeypatch.setattr("mtrouter_rl.rollout.run_episode", lambda *_: pytest.fail("an episode was run again"))
    monkeypatch.setattr(
        "mtrouter_rl.agents.q.fitted_q.train", lambda *_, **__: pytest.fail("a router was trained again")
    )
    words = [
        "leave-one-out",
        "--env",
        "corridor",
        "--dataset",
        str(corridor_log),
        "--agent",
        str(agent),
        "--workers",
        "1",
    ]
    words += ["--models", "small", "large", "--few-episodes", "15", "--encoder", "hashing"]
    assert main([*words, "--out", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "EXTRAPOLATED" in printed
    assert "leave_one_out.json" in printed
    assert LeaveOneOut.load(folder / "leave_one_out.json") == found


def test_another_setting_in_the_same_folder_is_refused(run, pool, make_request):
    folder, _ = run
    for changes in ({"n_few_episodes": 16}, {"history": "cut"}):
        with pytest.raises(RouterError, match=r"holds a router of another training \(differs in: held_out\)"):
            run_leave_one_out(pool, make_request(folder, **changes), n_workers=1, show_progress=False)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"models": ("larg",)}, UnknownNameError, "did you mean 'large'"),
        ({"models": ("large", "large")}, InvalidConfigError, "name each once"),
        ({"n_few_episodes": 0}, InvalidConfigError, "few_episodes is 0, must be at least 1"),
        ({"n_seeds": 0}, InvalidConfigError, "seeds is 0, must be at least 1"),
        ({"agent": load_agent("monte-carlo-q")}, InvalidConfigError, "'monte-carlo-q' cannot learn without a model"),
        (
            {"agent": load_agent("fitted-q-budget")},
            InvalidConfigError,
            "'fitted-q-budget' cannot learn without a model",
        ),
    ],
)
def test_what_cannot_be_run(pool, make_request, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        run_leave_one_out(pool, make_request(tmp_path, **changes), n_workers=1, show_progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_pool_of_two_leaves_nothing_to_route(corridor_config, make_request, tmp_path):
    two = replace(corridor_config, pool=pool_without(corridor_config.pool, "small"))
    with pytest.raises(InvalidConfigError, match="has 2 models, must have at least 3: with one model left there is"):
        run_leave_one_out(RolloutPool(two, n_workers=1), make_request(tmp_path), n_workers=1)


def test_agents_that_cannot_learn_without_a_model_are_refused_by_the_training_too(make_request, pool, tmp_path):
    request = make_request(tmp_path)
    training = TrainRequest(
        agent=load_agent("behavior-cloning"),
        config=pool.config,
        seed=0,
        out=tmp_path / "router",
        dataset=request.dataset,
        held_out=request.held_out("large", "few episodes"),
    )
    with pytest.raises(
        InvalidConfigError, match=r"'behavior-cloning'.* cannot learn without model 'large'; hold models"
    ):
        train_router(training, show_progress=False)


def test_a_file_that_lacks_what_is_asked_for(run, tmp_path):
    _, found = run
    with pytest.raises(ResultsError, match=r"model 'middle' was not held out, only \['small', 'large'\]"):
        found.model("middle")
    with pytest.raises(ResultsError, match="no such file; `mtrouter-rl lab leave-one-out` writes it"):
        LeaveOneOut.load(tmp_path / "leave_one_out.json")
