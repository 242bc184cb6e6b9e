"""Ablations, end to end in the toy corridor, and the card parameters that they change."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import yaml

from mtrouter_rl.agents.resolve import load_algorithm, resolve_router
from mtrouter_rl.cards import AgentCard
from mtrouter_rl.cli.program import main
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.embeddings.history_sources import observations_of
from mtrouter_rl.errors import CardError, InvalidConfigError, ResultsError, UnknownNameError
from mtrouter_rl.evaluation.results import Results
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.studies.ablations.groups import GROUPS_OF_JOINT, groups_of
from mtrouter_rl.studies.ablations.record import Ablations
from mtrouter_rl.studies.ablations.run import AblationRequest, run_ablations
from mtrouter_rl.transitions.arrays import FORBIDDEN_Q
from mtrouter_rl.workflows import CollectRequest, TrainRequest, collect_dataset, load_agent, train_router

N_LOGGED = 40
LOOP = {"n_iterations": 3, "steps_per_iteration": 20, "batch_size": 64, "learning_rate": 3e-3, "keep_last": 1}


@pytest.fixture(scope="module")
def log(tmp_path_factory, corridor_config):
    """A uniform log."""
    folder = tmp_path_factory.mktemp("log") / "uniform"
    request = CollectRequest(policy="uniform", n_episodes=N_LOGGED, seed=0, out=folder)
    with RolloutPool(corridor_config, n_workers=1) as pool:
        collect_dataset(pool, request, show_progress=False)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory, corridor_config, log):
    """Trains fitted-q with parameters changed, once each; gives the folder."""
    out, made = tmp_path_factory.mktemp("routers"), {}

    def train(agent="fitted-q", **changes):
        key = json.dumps([agent, changes])
        if key not in made:
            card = load_agent(agent)
            loop = {name: value for name, value in LOOP.items() if name in card.parameters}
            request = TrainRequest(
                agent=card.model_copy(update={"parameters": card.parameters | loop | changes}),
                config=corridor_config,
                seed=0,
                out=out / str(len(made)),
                dataset=log,
            )
            made[key] = train_router(request, show_progress=False)
        return made[key]

    return train


@pytest.fixture(scope="module")
def states(corridor_config, log):
    """States before every turn of two long episodes, all models allowed in each."""
    episodes = sorted(Dataset.load(log).completed, key=lambda one: -len(one.turns))
    tasks = {one.task_text: one for one in reversed(episodes)}
    assert len(tasks) > 1
    found = [observations_of(one, corridor_config.pool) for one in list(tasks.values())[:2]]
    return [
        [observation | {"action_mask": np.ones_like(observation["action_mask"])} for observation in one]
        for one in found
    ]


def values_of(folder, corridor_config, observations):
    router = resolve_router(str(folder), corridor_config.pool)
    return router.q_values(observations)


def test_a_full_router_tells_turns_and_tasks_apart(trained, states, corridor_config):
    first, second = (values_of(trained(), corridor_config, one) for one in states)
    assert np.ptp(first, axis=0).min() > 1e-4
    assert not np.allclose(first[0], second[0], atol=1e-5)


def test_a_model_only_router_has_one_value_per_model_and_obeys_the_mask(trained, states, corridor_config):
    folder = trained(history_inputs=[])
    values = values_of(folder, corridor_config, [*states[0], *states[1]])
    np.testing.assert_allclose(values, np.tile(values[0], (len(values), 1)), atol=1e-6)
    assert np.ptp(values[0]) > 1e-4
    masked = states[0][0] | {"action_mask": np.array([1, 0, 1], dtype=np.int8)}
    assert (values_of(folder, corridor_config, [masked]) == FORBIDDEN_Q).tolist() == [[False, True, False]]


def test_a_task_only_router_changes_with_the_task_and_not_with_the_turn(trained, states, corridor_config):
    first, second = (values_of(trained(history_inputs=["task"]), corridor_config, one) for one in states)
    for values in (first, second):
        np.testing.assert_allclose(values, np.tile(values[0], (len(values), 1)), atol=1e-6)
    assert not np.allclose(first[0], second[0], atol=1e-5)


def test_a_last_turn_router_does_not_see_what_came_before(trained, states, corridor_config):
    shown = ["task", "last_observation", "last_action", "progress", "last_turn"]
    state = states[0][-1]
    other = {"model": 2, "action": "sing", "observation": "nothing happens", "error": "unknown"}
    changed = state | {"history": (*[other] * (len(state["history"]) - 1), state["history"][-1])}
    folders = trained(history_inputs=shown), trained()
    blind, full = (values_of(folder, corridor_config, [state, changed]) for folder in folders)
    np.testing.assert_allclose(blind[0], blind[1], atol=1e-6)
    assert not np.allclose(full[0], full[1], atol=1e-5)


@pytest.mark.parametrize(
    ("embedding", "has_metadata", "has_residual"), [("metadata", True, False), ("residual", False, True)]
)
def test_models_are_told_apart_by_what_is_asked_for(trained, embedding, has_metadata, has_residual, corridor_config):
    weights = resolve_router(str(trained(model_embedding=embedding)), corridor_config.pool).weights
    assert bool(weights["model_features"].any()) == has_metadata
    assert bool(weights["residual"].any()) == has_residual


def test_without_model_embedding_every_model_has_an_output_of_its_own(trained, states, corridor_config):
    router = resolve_router(str(trained(model_embedding="none")), corridor_config.pool)
    assert not {"model_features", "residual", "joint_model.weight"} & set(router.weights)
    assert router.weights["head.4.weight"].shape[1:] == (3, 64)  # one row per model
    assert router.model_embeddings().shape == (3, 64)
    assert np.ptp(router.q_values(states[0])[:, 0]) > 1e-4


def test_behavior_cloning_can_be_shown_less_too(trained, states, corridor_config):
    router = resolve_router(str(trained("behavior-cloning", history_inputs=["task"])), corridor_config.pool)
    shares = router.action_probabilities(states[0])
    np.testing.assert_allclose(shares, np.tile(shares[0], (len(shares), 1)), atol=1e-6)


def test_a_router_that_was_saved_before_there_were_these_parameters_is_the_same(trained, states, corridor_config):
    folder = trained()
    before = values_of(folder, corridor_config, states[0])
    path = folder / "router.json"
    text = path.read_text(encoding="utf-8")
    record = json.loads(text)
    del record["settings"]["layout"]["hidden"], record["settings"]["model_embedding"]
    path.write_text(json.dumps(record), encoding="utf-8")
    try:
        assert np.array_equal(values_of(folder, corridor_config, states[0]), before)
    finally:
        path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("agent", "changes", "message"),
    [
        ("fitted-q", {"history_inputs": ["task", "task"]}, r"'history_inputs' got .*must name each part once"),
        ("fitted-q", {"history_inputs": ["tasks"]}, r"'history_inputs\.0' got 'tasks'"),
        ("fitted-q", {"model_embedding": "both"}, r"'model_embedding' got 'both'"),
        ("fitted-q-budget", {"history_inputs": ["task"]}, r"must hold 'progress'"),
        ("behavior-cloning", {"model_embedding": "none"}, r"is no parameter of algorithm 'behavior_cloning'"),
    ],
)
def test_wrong_parameters_are_refused(agent, changes, message):
    card = load_agent(agent)
    with pytest.raises(CardError, match=message):
        load_algorithm(card.model_copy(update={"parameters": card.parameters | changes}))


def write_card(folder, name, algorithm, **changes):
    small = {"n_iterations": 3, "steps_per_iteration": 8, "batch_size": 32, "keep_last": 1} | changes
    card = AgentCard(name=name, description="small", algorithm=algorithm, parameters=small)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(card.model_dump(mode="json")))
    return str(path)


@pytest.fixture(scope="module")
def request_of(tmp_path_factory, corridor_config, log):
    """Makes requests of small trainings; the encoder is left out, since its weights take seconds to load."""
    cards = tmp_path_factory.mktemp("cards")
    agents = {
        "agent": write_card(cards, "tiny", "fitted_q"),
        "compared": write_card(cards, "tiny-mc", "monte_carlo_q"),
    }

    def make(out, **changes):
        which = tuple(group for group in GROUPS_OF_JOINT if group != "encoder")
        fields = {"config": corridor_config, "dataset": log, "out": out, "which": which, "n_workers": 1}
        return AblationRequest(**(fields | agents | {"per_task": 3, "percents": (10, 50)} | changes))

    return make


@pytest.fixture(scope="module")
def finished(tmp_path_factory, request_of):
    request = request_of(tmp_path_factory.mktemp("run") / "out")
    return request, run_ablations(request, say=lambda _: None, show_progress=False)


def test_every_variant_is_compared_with_the_full_router(finished):
    request, ablations = finished
    names = [(row.trained.agent, row.trained.variant) for row in ablations.rows]
    components = ["full", "history-only", "model-only", "task-only", "last-turn", "metadata-only", "residual-only"]
    components += ["return-to-go", "return-and-penalties", "this-turn"]
    assert names[:10] == [("tiny", name) for name in components]
    assert names[10:] == [
        *(("tiny", f"log-{percent}") for percent in (10, 50)),
        *(("tiny-mc", f"log-{percent}") for percent in (10, 50, 100)),
    ]
    full, *others = ablations.rows
    assert full.difference is None
    for row in others:
        assert row.difference.return_.value == pytest.approx(row.return_.value - full.return_.value)
        assert row.difference.score.n_episodes == full.score.n_episodes == 6
        assert row.difference.p_value_holm >= row.difference.p_value
    rivals = {row.trained.policies[0]: row.to_compared for row in ablations.rows if row.to_compared is not None}
    assert set(rivals) == {"tiny", "tiny-log-10", "tiny-log-50"}
    whole = ablations.rows[-1]
    assert rivals["tiny"].return_.value == pytest.approx(full.return_.value - whole.return_.value)
    assert Ablations.load(request.out / "ablations.json") == ablations


def test_the_rows_are_those_of_results_json(finished):
    request, ablations = finished
    results = Results.load(request.out / "results.json")
    for row in ablations.rows:
        (policy,) = row.trained.policies
        there = results.row(policy, "test")
        assert (row.score.value, row.cost_usd.value) == pytest.approx((there.score_mean, there.cost_usd_mean))
        assert (row.score.ends, row.return_.ends) == (there.score_ci95, there.return_ci95)
        assert row.return_by_training == pytest.approx([there.return_mean])
    assert len(list((request.out / "plots").glob("*_test.png"))) == 3


def test_smaller_logs_lie_inside_larger_ones(finished, log):
    request, ablations = finished
    folder = request.out / "logs" / "s0"
    whole = Dataset.load(log).completed
    subsets = [Dataset.load(folder / percent).completed for percent in ("10", "50")]
    logs = [*subsets, whole]
    assert [len(one) for one in logs] == [4, 20, 40]
    by_id = {episode.episode_id: episode for episode in whole}
    for smaller, larger in pairwise(logs):
        assert {one.episode_id for one in smaller} < {one.episode_id for one in larger}
    assert all(episode == by_id[episode.episode_id] for one in logs for episode in one)
    sizes = [row.trained.n_logged_episodes for row in ablations.log_sizes]
    assert sizes == [4, 20, 40, 4, 20, 40]


def test_a_second_run_does_only_what_is_missing(finished):
    request, ablations = finished
    files = {path: path.stat().st_mtime_ns for path in sorted(request.out.glob("routers/*/router.json"))}
    episodes = {path: path.stat().st_mtime_ns for path in sorted(request.out.glob("episodes/**/*.parquet"))}
    assert (len(files), len(episodes)) == (15, 45)
    (request.out / "routers" / "tiny-task-only" / "router.json").unlink()
    again = run_ablations(request, say=lambda _: None, show_progress=False)
    assert again == ablations
    changed = {path.parent.name for path, time in files.items() if path.stat().st_mtime_ns != time}
    assert changed == {"tiny-task-only"}
    assert all(path.stat().st_mtime_ns == time for path, time in episodes.items())


def test_two_agents_can_be_compared_on_the_whole_log_alone(request_of, tmp_path):
    asked = request_of(tmp_path / "out", which=("log-size",), percents=(), n_trainings=2, per_task=1)
    ablations = run_ablations(asked, say=lambda _: None, show_progress=False)
    made = [(row.trained.agent, row.trained.log_percent, len(row.trained.policies)) for row in ablations.rows]
    assert made == [("tiny", 100, 2), ("tiny-mc", 100, 2)]
    assert ablations.rows[0].to_compared is not None


def test_further_trainings_are_averaged_episode_by_episode(finished):
    request, ablations = finished
    more = replace(request, which=("embeddings",), compared=None, n_trainings=2)
    found = run_ablations(more, say=lambda _: None, show_progress=False)
    full, history_only, _ = found.rows
    assert full.trained.policies == ("tiny", "tiny-s1")
    assert history_only.trained.policies == ("tiny-history-only", "tiny-history-only-s1")
    assert full.return_by_training[0] == pytest.approx(ablations.rows[0].return_.value)
    assert full.return_.value == pytest.approx(np.mean(full.return_by_training))
    assert full.return_.n_episodes == 6
    assert "trained 2 times and averaged" in found.to_text()
    with pytest.raises(InvalidConfigError, match=r"is of another setting \(differs in: seed\); choose another --out"):
        run_ablations(replace(request, seed=5), say=lambda _: None, show_progress=False)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"which": ("contexts",)}, UnknownNameError, r"group of ablations 'contexts'.*context"),
        ({"which": ()}, InvalidConfigError, r"which is empty, must name at least one of: embeddings"),
        ({"percents": (0, 50)}, InvalidConfigError, r"percents of the log are \[0, 50\], must be whole numbers from 1"),
        ({"n_trainings": 0}, InvalidConfigError, r"n_trainings is 0, must be at least 1"),
        ({"which": ("context",)}, InvalidConfigError, r"add log-size to --which, or leave --compare out"),
    ],
)
def test_wrong_requests_are_refused(request_of, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        request_of(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agent": "random"}, r"agent 'random' learns from no log, so it cannot be ablated"),
        ({"agent": "cascade"}, r"agent 'cascade' needs validation runs, so it cannot be ablated"),
        ({"agent": "task-table"}, r"cannot be trained as 'history-only'; leave embeddings out of --which"),
        ({"agent": "fitted-q", "compared": "fitted-q"}, r"compare is 'fitted-q', must be another agent"),
        ({"percents": (1, 50)}, r"the log has 40 completed episodes, of which 1% are 0, 50% are 20; every share must"),
    ],
)
def test_what_cannot_be_ablated_is_refused_before_training(request_of, tmp_path, changes, message):
    request = request_of(tmp_path / "out", **changes)
    with pytest.raises(InvalidConfigError, match=message):
        run_ablations(request, say=lambda _: None, show_progress=False)
    assert not (tmp_path / "out" / "routers").exists()


def test_what_can_be_ablated_depends_on_the_agent(corridor_config):
    assert groups_of("fitted-q", corridor_config) == GROUPS_OF_JOINT
    assert groups_of("factored-q", corridor_config) == ("context", "factors", "encoder", "log-size")
    assert groups_of("factored-q-recurrent", corridor_config) == ("memory", "factors", "encoder", "log-size")
    assert groups_of("monte-carlo-q", corridor_config) == tuple(one for one in GROUPS_OF_JOINT if one != "target")


def test_another_target_changes_nothing_else(request_of, tmp_path):
    request = request_of(tmp_path, agent="fitted-q", which=("target",), compared=None)
    own = load_agent("fitted-q", request.config.card)
    cards = {one.name: one.card(request.config) for one in request.variants}
    assert {name: card.algorithm for name, card in cards.items()} == {
        "full": "fitted_q",
        "return-to-go": "monte_carlo_q",
        "return-and-penalties": "monte_carlo_q",
        "this-turn": "myopic",
    }
    shared = {
        "n_iterations",
        "steps_per_iteration",
        "batch_size",
        "learning_rate",
        "schedule",
        "keep_last",
        "joint_hidden",
    }
    for card in cards.values():
        assert {name: card.parameters[name] for name in shared} == {name: own.parameters[name] for name in shared}
        load_algorithm(card)
    assert cards["return-and-penalties"].parameters["error_severities"] == {"*": "medium"}


def test_an_agent_that_is_the_variant_already_is_refused(request_of, tmp_path):
    agent = write_card(tmp_path, "poor", "fitted_q", model_embedding="metadata")
    request = request_of(tmp_path / "out", agent=agent, which=("model-features",), compared=None)
    with pytest.raises(InvalidConfigError, match=r"is 'metadata-only' already"):
        run_ablations(request, say=lambda _: None, show_progress=False)


def test_the_command_prints_its_table(finished, tmp_path, capsys):
    request, _ = finished
    words = ["ablate", "--env", "corridor", "--dataset", str(request.dataset), "--out", str(request.out)]
    words += ["--agent", request.agent, "--which", "context", "--per-task", "3", "--workers", "1"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "One thing changed at a time. corridor, test split" in printed
    assert "task-only" in printed
    assert "history-only" not in printed


def test_a_missing_file_says_who_writes_it(tmp_path):
    with pytest.raises(ResultsError, match=r"`mtrouter-rl lab ablate` writes it"):
        Ablations.load(tmp_path / "ablations.json")
