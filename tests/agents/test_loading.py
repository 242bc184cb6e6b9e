import json

import pytest

from mtrouter_rl.agents.base import check_router
from mtrouter_rl.agents.loading import load_router, save_router
from mtrouter_rl.agents.q.fitted_q import FittedQ
from mtrouter_rl.agents.q.q_router import QRouter
from mtrouter_rl.agents.rules.behavior_policies import EpsilonGreedy, Sticky
from mtrouter_rl.agents.rules.heuristics import UniformRouter
from mtrouter_rl.embeddings.encoders import make_hashing
from mtrouter_rl.embeddings.history import HistoryFeatures
from mtrouter_rl.errors import InvalidConfigError, RouterError
from tests.cases.routing_toy import POOL, TINY, StateFeatures, make_card, make_context, make_observation


@pytest.fixture(scope="module")
def trained(small_log):
    return FittedQ.from_card(make_card("fitted_q", **TINY["fitted_q"])).train(make_context(small_log))


@pytest.fixture
def folder(trained, tmp_path):
    save_router(trained, tmp_path)
    return tmp_path


def load(folder, features=None):
    return load_router(folder, pool=POOL, make_features=lambda _: features or StateFeatures())


def change(folder, **fields):
    path = folder / "router.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_the_record_tells_how_the_router_was_made(folder):
    record = json.loads((folder / "router.json").read_text())
    assert record["kind"] == "q"
    assert record["model_names"] == ["small", "middle", "large"]
    assert record["features"] == {"scripted": 1}
    assert record["provenance"]["dataset_id"] == "toy-v1"
    assert len(record["provenance"]["dataset_fingerprint"]) == 16
    assert record["provenance"]["reward"] == {"cost_weight": 1.0, "cost_unit_usd": 1.0}
    assert record["provenance"]["card"]["parameters"]["gamma"] == 1.0
    assert record["package_version"]
    assert sorted(path.name for path in folder.iterdir()) == ["router.json", "weights.safetensors"]


def test_q_router_loads_by_its_own_method(folder, trained):
    loaded = QRouter.load(folder, features=StateFeatures(), pool=POOL)
    observations = [make_observation(state) for state in range(3)]
    assert (loaded.q_values(observations) == trained.q_values(observations)).all()


def test_missing_corrupt_and_foreign_files_are_named(folder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(RouterError, match=r"no saved router in .*: router\.json is missing"):
        load(empty)
    with pytest.raises(RouterError, match=r"trained on other history features: scripted was 1, is 2"):
        load(folder, StateFeatures(2))
    change(folder, features=None)
    with pytest.raises(RouterError, match=r"features is null, but kind 'q' needs them"):
        load(folder)
    change(folder, kind="w")
    with pytest.raises(
        RouterError,
        match=r"unknown kind of saved router 'w'; .*Valid: cascade, clone, constrained_q, escalate_on_error, factored, fixed_",
    ):
        load(folder)
    change(folder, schema_version=2)
    with pytest.raises(RouterError, match=r"was not written by this version of mtrouter_rl"):
        load(folder)
    (folder / "router.json").write_text("{")
    with pytest.raises(RouterError, match=r"router\.json cannot be read"):
        load(folder)


def test_broken_weights_are_named(folder):
    change(folder, settings=json.loads((folder / "router.json").read_text())["settings"] | {"n_members": 3})
    with pytest.raises(RouterError, match=r"the weights do not fit router\.json at "):
        load(folder)
    (folder / "weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(RouterError, match=r"weights\.safetensors cannot be read"):
        load(folder)
    (folder / "weights.safetensors").unlink()
    with pytest.raises(RouterError, match=r"weights\.safetensors cannot be read"):
        load(folder)


def test_another_kind_and_broken_settings_are_refused(tmp_path):
    save_router(Sticky(0.3, model_names=POOL.model_names), tmp_path)
    assert load(tmp_path).p_switch == 0.3
    with pytest.raises(RouterError, match=r"is of kind 'sticky', must be 'q'; use load_router"):
        QRouter.load(tmp_path, features=StateFeatures(), pool=POOL)
    change(tmp_path, settings={"p_switch": 2})
    with pytest.raises(RouterError, match=r"settings break their rules"):
        load(tmp_path)
    change(tmp_path, kind="fixed_order", settings={"order": ["small"]})
    with pytest.raises(RouterError, match=r"order is small, must hold every model of its pool once"):
        load(tmp_path)


def test_a_router_that_cannot_be_saved_says_so(tmp_path):
    router = EpsilonGreedy(UniformRouter(name="uniform", model_names=POOL.model_names), 0.1)
    with pytest.raises(RouterError, match=r"\(EpsilonGreedy\) has no method save\(folder\)"):
        save_router(router, tmp_path)


def test_a_router_on_real_history_features_trains_loads_and_acts(small_log, tmp_path):
    features = HistoryFeatures(encoder=make_hashing(), pool=POOL)
    context = make_context(small_log, features=features)
    router = FittedQ.from_card(make_card("fitted_q", **TINY["fitted_q"])).train(context)
    save_router(router, tmp_path)
    loaded = load_router(
        tmp_path, pool=POOL, make_features=lambda _: HistoryFeatures(encoder=make_hashing(), pool=POOL)
    )
    observations = [make_observation(0), make_observation(1, mask=(1, 0, 1), models=(0, 2))]
    assert (loaded.q_values(observations) == router.q_values(observations)).all()
    assert loaded.action_probabilities(observations).sum(axis=1).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("fingerprint", "dataset_id", "is_same"),
    [
        ("ours", "toy-v1", True),
        ("ours", "other-v1", True),
        ("another", "toy-v1", False),  # two logs of one name
        (None, "toy-v1", True),  # saved before there were fingerprints
        (None, "other-v1", False),
    ],
)
def test_whether_a_router_learned_from_a_log(trained, small_log, fingerprint, dataset_id, is_same):
    info = make_context(small_log).dataset.info
    known = info.fingerprint if fingerprint == "ours" else fingerprint
    provenance = trained.provenance.model_copy(update={"dataset_fingerprint": known, "dataset_id": dataset_id})
    assert provenance.is_of(info) == is_same


def test_logs_of_one_name_have_fingerprints_of_their_own(small_log):
    info = make_context(small_log).dataset.info
    other = info.model_copy(update={"created_by": {"seed": 1000}})
    assert info.fingerprint != other.fingerprint
    assert info.fingerprint == info.model_copy().fingerprint


def test_a_router_of_a_plug_in_with_the_old_method_is_told_the_new_name():
    class Old:
        name = "mine"
        model_names = ("a", "b")

        def propensities(self, observations):
            raise AssertionError

    with pytest.raises(
        InvalidConfigError, match=r"router 'mine': its method 'propensities' is now 'action_probabilities'"
    ):
        check_router(Old())
