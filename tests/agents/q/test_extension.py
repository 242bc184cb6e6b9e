"""A trained router on a pool that models have joined or left."""

import datetime

import numpy as np
import pytest
import yaml

from mtrouter_rl.agents.loading import load_router, save_router
from mtrouter_rl.agents.q.extension import extend_router
from mtrouter_rl.agents.resolve import make_features, resolve_router
from mtrouter_rl.agents.saving import read_record
from mtrouter_rl.cli.program import main
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.embeddings.history_sources import observations_of
from mtrouter_rl.errors import InvalidConfigError, PoolMismatchError, RouterError
from mtrouter_rl.pools.subset import pool_without
from mtrouter_rl.workflows import TrainRequest, load_agent, train_router


@pytest.fixture(scope="module")
def routers(tmp_path_factory, corridor_config, corridor_log):
    """Folders of trained routers by agent."""
    folders = {}
    for agent in ("fitted-q", "fitted-q-frontier", "behavior-cloning"):
        card = load_agent(agent)
        small = {"n_iterations": 3, "steps_per_iteration": 8, "batch_size": 32}
        request = TrainRequest(
            agent=card.model_copy(update={"parameters": card.parameters | small}),
            config=corridor_config,
            seed=0,
            out=tmp_path_factory.mktemp("routers") / agent,
            dataset=corridor_log,
            encoder="hashing",
        )
        folders[agent] = train_router(request, show_progress=False)
    return folders


@pytest.fixture(scope="module")
def pool(corridor_config):
    return corridor_config.pool


@pytest.fixture(scope="module")
def joined(pool):
    """The pool with a fourth model, in another order."""
    small = pool.model("small")
    prices = small.prices.model_copy(update={"input": 40.0, "cached_input": 20.0, "output": 200.0})
    huge = small.model_copy(
        update={"name": "huge", "prices": prices, "knowledge_cutoff": datetime.date(2024, 9, 1), "context_tokens": 9000}
    )
    return pool.model_copy(update={"name": "four", "models": (pool.model("large"), huge, small, pool.model("middle"))})


def load(folder, pool):
    return load_router(folder, pool=pool, make_features=lambda config: make_features(config, pool, None))


def q_values(folder, pool, observation):
    """Model -> Q-value at an observation in which every model is allowed, whatever the pool."""
    ours = pool.model_names
    seen = {
        **observation,
        "history": (),
        "turn": np.int64(0),
        "warm": np.zeros(len(ours), dtype=np.int8),
        "action_mask": np.ones(len(ours), dtype=np.int8),
    }
    return dict(zip(ours, load(folder, pool).q_values([seen])[0], strict=True))


@pytest.fixture(scope="module")
def observation(corridor_log, pool):
    return observations_of(Dataset.load(corridor_log).completed[0], pool)[0]


@pytest.mark.parametrize("agent", ["fitted-q", "fitted-q-frontier"])
def test_models_that_stay_keep_their_values_and_a_new_one_is_told_by_its_card(
    routers, agent, pool, joined, observation, tmp_path
):
    made = extend_router(routers[agent], joined, out=tmp_path / "four")
    assert (made.added, made.removed, [one.model for one in made.extrapolated]) == (("huge",), (), ["huge"])
    before, after = q_values(routers[agent], pool, observation), q_values(made.folder, joined, observation)
    assert {name: after[name] for name in before} == pytest.approx(before, abs=1e-5)
    assert np.isfinite(after["huge"])
    assert after["huge"] not in before.values()
    router = load(made.folder, joined)
    assert router.weights["residual"][:, 1].abs().max() == 0
    assert router.weights["residual"][:, 0].abs().max() > 0
    assert {one.feature for one in made.extrapolated[0].outside} >= {"log_input_price", "log_context"}
    assert "knowledge_cutoff" not in {one.feature for one in made.extrapolated[0].outside}
    record = read_record(made.folder)
    assert (record.model_names, record.name) == (joined.model_names, agent)
    assert record.provenance.dataset_id == read_record(routers[agent]).provenance.dataset_id
    # The folder of the old router is as it was.
    assert read_record(routers[agent]).model_names == pool.model_names


def test_a_model_that_comes_back_is_not_the_one_that_left(routers, pool, joined, observation, tmp_path):
    folder = routers["fitted-q"]
    left = extend_router(folder, pool_without(pool, "large"), out=tmp_path / "left", name="two")
    assert (left.added, left.removed, left.extrapolated) == ((), ("large",), ())
    record = read_record(left.folder)
    assert (record.name, record.provenance.removed_models) == ("two", ("large",))
    back = extend_router(left.folder, joined, out=tmp_path / "back")
    assert {one.model for one in back.extrapolated} == {"large", "huge"}
    outside = {one.model: one.outside for one in back.extrapolated}
    assert all(one.high == pytest.approx(-0.30103) for one in outside["large"] if one.feature == "log_input_price")
    before, after = q_values(folder, pool, observation), q_values(back.folder, joined, observation)
    assert after["small"] == pytest.approx(before["small"], abs=1e-5)
    assert after["large"] != pytest.approx(before["large"], abs=1e-7)  # its learned residual is gone
    gone = extend_router(back.folder, pool_without(pool, "middle"), out=tmp_path / "gone")
    assert [one.model for one in gone.extrapolated] == ["large"]  # it stays flagged
    assert read_record(gone.folder).provenance.removed_models == ("large", "middle")


def test_routers_that_know_models_by_name_are_refused(routers, joined, pool, tmp_path):
    save_router(resolve_router("sticky:0.3", pool), tmp_path / "sticky")
    for folder, kind in ((routers["behavior-cloning"], "clone"), (tmp_path / "sticky", "sticky")):
        with pytest.raises(
            RouterError, match=f"is of kind '{kind}', which knows models by their names or by an output"
        ):
            extend_router(folder, joined, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model_embedding": "residual"}, "has model_embedding residual"),
        ({"model_embedding": "none"}, "has model_embedding none"),
        ({"learner": "discrete_bcq", "action_flexibility": 0.3}, "has an imitator with an output for every model"),
    ],
)
def test_variants_that_tell_models_apart_by_name_are_refused(
    changes, why, corridor_config, corridor_log, joined, tmp_path
):
    card = load_agent("fitted-q")
    small = {"n_iterations": 3, "steps_per_iteration": 2, "batch_size": 8}
    request = TrainRequest(
        agent=card.model_copy(update={"parameters": card.parameters | small | changes}),
        config=corridor_config,
        seed=0,
        out=tmp_path / "router",
        dataset=corridor_log,
        encoder="hashing",
    )
    with pytest.raises(RouterError, match=f"{why}, so it knows models by their names"):
        extend_router(train_router(request, show_progress=False), joined, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_refused(routers, pool, joined, tmp_path):
    folder = routers["fitted-q"]
    with pytest.raises(InvalidConfigError, match=r"pool 'corridor-three' has the models of router .* already"):
        extend_router(folder, pool, out=tmp_path / "out")
    with pytest.raises(InvalidConfigError, match="is the folder of the router itself, must be another one"):
        extend_router(folder, joined, out=folder)
    stranger = joined.model_copy(update={"models": (joined.model("huge"),)})
    with pytest.raises(
        PoolMismatchError, match=r"has none of the models that router .* learned from \(small, middle, "
    ):
        extend_router(folder, stranger, out=tmp_path / "out")
    large = pool.model("large")
    dearer = large.model_copy(update={"prices": large.prices.model_copy(update={"output": 20.0})})
    changed = pool.model_copy(update={"models": (pool.model("small"), dearer)})
    with pytest.raises(PoolMismatchError, match=r"model 'large' .*: log_output_price was 0\.301, is 0\.6021"):
        extend_router(folder, changed, out=tmp_path / "out")
    with pytest.raises(RouterError, match=r"router\.json is missing"):
        extend_router(tmp_path, joined, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    extend_router(folder, joined, out=tmp_path / "four")
    with pytest.raises(RouterError, match="four holds a router already; choose another --out, or give --overwrite"):
        extend_router(folder, joined, out=tmp_path / "four")


def test_the_command_flags_what_is_extrapolated_and_so_does_every_evaluation(
    routers, corridor_config, joined, tmp_path, capsys
):
    settings = corridor_config.pool.backend.settings
    entries = {**settings["models"], "huge": settings["models"]["large"]}
    simulated = joined.backend.model_copy(update={"settings": settings | {"models": entries}})
    card = tmp_path / "four.yaml"
    card.write_text(yaml.safe_dump(joined.model_copy(update={"backend": simulated}).model_dump(mode="json")))
    out = tmp_path / "router"
    words = ["extend", str(routers["fitted-q"]), "--pool", str(card), "--out", str(out)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "joined: huge; left: (none)\nnote: every value of model 'huge' is an extrapolation" in printed
    assert main(words) == 1
    assert "holds a router already" in capsys.readouterr().err
    evaluation = [
        "evaluate",
        "--env",
        "corridor",
        "--pool",
        str(card),
        "--router",
        str(out),
        "random",
        "--workers",
        "1",
    ]
    assert main([*evaluation, "--per-task", "1", "--out", str(tmp_path / "run")]) == 0
    note = "fitted-q: every value of model 'huge' is an extrapolation from the features of its card"
    assert f"note: {note}" in capsys.readouterr().out
    assert note in (tmp_path / "run" / "results.json").read_text(encoding="utf-8")
