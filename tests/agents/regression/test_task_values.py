import logging

import numpy as np
import pytest

from mtrouter_rl.agents.loading import load_router
from mtrouter_rl.agents.regression.values import TaskValueRouter, key_of
from mtrouter_rl.errors import InvalidConfigError, RouterError
from mtrouter_rl.registry import ALGORITHMS
from tests.cases.routing_toy import (
    TaskFeatures,
    make_card,
    make_context,
    make_dataset,
    make_episode,
    make_observation,
    make_turn,
    single_model_log,
    uniform_log,
)

FORMS = ("task_table", "task_ridge", "task_neighbors", "task_clusters", "task_boosting", "task_factorization")
PARAMETERS = {
    "task_table": {"key_pattern": "(?m)^task: (.*)$"},
    "task_ridge": {"penalty": 0.1},
    "task_clusters": {"prior_weight": 0.0},
    "task_neighbors": {"n_neighbors": 500},
    "task_boosting": {"n_trees": 20},
    "task_factorization": {},
}


def observe(start):
    return make_observation(start) | {"task": f"toy\ntask: start {start}"}


def train(name, log=None, **parameters):
    algorithm = ALGORITHMS.load(name).from_card(make_card(name, **(PARAMETERS[name] | parameters)))
    return algorithm.train(make_context(log or single_model_log(600), features=TaskFeatures()))


@pytest.mark.parametrize("name", FORMS)
def test_each_task_gets_the_model_that_is_best_at_it(name):
    parameters = {"n_neighbors": 40} if name == "task_neighbors" else {}
    router = train(name, **parameters).with_cost_weight(0.0, name="free")
    assert router.action_probabilities([observe(0), observe(1)]).argmax(axis=1).tolist() == [2, 0]


@pytest.mark.parametrize("name", ["task_table", "task_clusters"])
def test_predictions_are_the_means_of_the_cells_by_hand(name):
    log = single_model_log(600)
    outcomes = train(name, log).outcomes([observe(0), observe(1)])
    for start in range(2):
        for model in range(3):
            cell = [
                episode
                for episode in log.episodes
                if episode.first_observation == f"state {start}" and episode.models == (log.info.model_names[model],)
            ]
            assert outcomes[start, model, 0] == pytest.approx(np.mean([episode.utility for episode in cell]))
            assert outcomes[start, model, 1] == pytest.approx(np.mean([episode.cost_usd for episode in cell]))


def test_all_neighbors_of_a_model_are_its_mean():
    log = single_model_log(60)
    outcomes = train("task_neighbors", log).outcomes([observe(0)])
    for model, name in enumerate(log.info.model_names):
        own = [episode.utility for episode in log.episodes if episode.models == (name,)]
        assert outcomes[0, model, 0] == pytest.approx(np.mean(own))


def test_a_task_of_an_unknown_kind_gets_the_mean_over_all():
    log = single_model_log(60)
    unknown = make_observation(0) | {"task": "task: never seen"}
    outcomes = train("task_table", log).outcomes([unknown])
    own = [episode.utility for episode in log.episodes if episode.models == (log.info.model_names[1],)]
    assert outcomes[0, 1, 0] == pytest.approx(np.mean(own))


def test_a_large_cost_weight_chooses_the_cheapest():
    router = train("task_table")
    cheapest = router.outcomes([observe(0)])[0, :, 1].argmin()
    assert router.with_cost_weight(1e6, name="miser").action_probabilities([observe(0)])[0, cheapest] == 1.0


def test_the_choice_stays_the_same_over_an_episode():
    router = train("task_ridge")
    later = observe(0) | {"history": ({"model": 1, "action": "x", "observation": "state 1", "error": ""},)}
    first = router.action_probabilities([observe(0)])
    later["turn"] = np.int64(1)
    # The scripted features read the last state, as a task block never would: the real one reads the task text alone.
    router.features.of_observations = lambda observations: TaskFeatures()._rows(["state 0"] * len(observations))
    assert (router.action_probabilities([later]) == first).all()


def test_episodes_of_several_models_are_left_out_and_said(caplog):
    mixed = uniform_log(40)
    both = make_dataset([*single_model_log(60).episodes, *(e for e in mixed.episodes if len(set(e.models)) > 1)])
    n_mixed = len(both.episodes) - 60
    with caplog.at_level(logging.WARNING):
        router = train("task_table", both)
    assert f"left out {n_mixed} of {60 + n_mixed} episodes" in caplog.text
    alone = train("task_table", single_model_log(60))
    np.testing.assert_array_equal(router.outcomes([observe(0)]), alone.outcomes([observe(0)]))


def test_a_model_without_an_episode_of_its_own_is_named():
    log = single_model_log(60)
    some = make_dataset([episode for episode in log.episodes if episode.models != ("middle",)])
    with pytest.raises(
        InvalidConfigError,
        match=r"no completed episode that was played throughout by middle; .*collect.*learns_from to 'turns'",
    ):
        train("task_table", some)


@pytest.mark.parametrize("name", FORMS)
def test_a_log_of_changing_models_teaches_which_call_is_worth_most(name):
    """Task 1 starts in state 1, where the middle model is best; no single episode of one model is needed."""
    rng = np.random.default_rng(0)
    episodes = []
    for index in range(400):
        start, models = index % 2, rng.integers(3, size=4)
        good = 2 if start == 0 else 1
        turns = [
            make_turn(model, state=start, next_state=start, gain=0.2 * (model == good), cost=0.01, terminated=last)
            for model, last in zip(models, [False, False, False, True], strict=True)
        ]
        episodes.append(make_episode(turns, index=index, start=start, task=f"toy\ntask: start {start}"))
    parameters = {"n_neighbors": 100} if name == "task_neighbors" else {}
    router = train(name, make_dataset(episodes), learns_from="turns", **parameters)
    assert router.action_probabilities([observe(0), observe(1)]).argmax(axis=1).tolist() == [2, 1]
    outcomes = router.outcomes([observe(0)])[0]
    assert outcomes[2, 0] - outcomes[0, 0] == pytest.approx(0.2, abs=0.06)
    assert outcomes[:, 0].mean() == pytest.approx(4 * 0.2 / 3, abs=0.06)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    from safetensors.numpy import save_file

    router = train("task_neighbors")
    router.save(tmp_path)
    save_file({"utility": np.zeros(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(RouterError, match="the weights lack cost, model, vectors"):
        load_router(tmp_path, pool=make_context(single_model_log()).pool, make_features=lambda _: TaskFeatures())


def test_kind_is_registered(tmp_path):
    router = train("task_clusters")
    router.save(tmp_path)
    pool = make_context(single_model_log()).pool
    loaded = load_router(tmp_path, pool=pool, make_features=lambda _: TaskFeatures())
    assert isinstance(loaded, TaskValueRouter)


@pytest.mark.parametrize(
    ("pattern", "text", "key"),
    [("", "whole text", "whole text"), ("b.", "abcd", "bc"), ("x(.)", "xyz", "y"), ("q", "abc", "abc")],
)
def test_key_of(pattern, text, key):
    assert key_of(pattern, text) == key
