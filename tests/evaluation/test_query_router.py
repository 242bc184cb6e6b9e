from dataclasses import replace

import numpy as np
import pytest

from mtrouter_rl.agents.resolve import RouterRef
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.evaluation import query_router as module
from mtrouter_rl.evaluation.query_router import (
    N_TRANSCRIPTS,
    STATE_COLUMNS,
    HistoryEmbedder,
    history_states,
    revisit,
    value_meaning,
)
from mtrouter_rl.workflows import TrainRequest, train_router


@pytest.fixture(scope="module")
def routers(tmp_path_factory, corridor_config, corridor_log):
    """Name -> router, trained for a moment."""
    from mtrouter_rl.workflows import load_agent

    folder = tmp_path_factory.mktemp("routers")
    small = {"n_iterations": 3, "steps_per_iteration": 8, "batch_size": 32}
    made = {}
    for name in ("fitted-q", "monte-carlo-q", "myopic", "behavior-cloning"):
        card = load_agent(name)
        card = card.model_copy(update={"parameters": card.parameters | small})
        request = TrainRequest(
            agent=card, config=corridor_config, seed=0, out=folder / name, dataset=corridor_log, encoder="hashing"
        )
        train_router(request, show_progress=False)
        made[name] = RouterRef.of(str(folder / name))(corridor_config)
    return made | {"random": RouterRef.of("random")(corridor_config)}


@pytest.fixture(scope="module")
def policies(corridor_log, routers):
    """The same logged episodes for every policy; what a router says of them does not depend on who ran them."""
    episodes = Dataset.load(corridor_log).episodes[:20]
    return dict.fromkeys([*routers, "stranger"], (*episodes, replace(episodes[0], status="failed", seed=10**6)))


@pytest.fixture(scope="module")
def traced(policies, routers, corridor_config):
    return revisit(policies, routers, corridor_config.pool)


def test_discount_is_the_routers_own(routers):
    found = {name: value_meaning(router, env="corridor") for name, router in routers.items()}
    assert {name: meaning and meaning.gamma for name, meaning in found.items()} == {
        "fitted-q": 0.95,
        "monte-carlo-q": 1.0,
        "myopic": 0.0,
        "behavior-cloning": None,
        "random": None,
    }
    assert found["fitted-q"].reward == routers["fitted-q"].provenance.reward


def test_learned_routers_are_asked_about_every_episode_and_others_about_transcripts(traced):
    asked = {name: sum(bool(one.action_probabilities.size) for one in episodes) for name, episodes in traced.items()}
    assert asked == {
        "fitted-q": 20,
        "monte-carlo-q": 20,
        "myopic": 20,
        "behavior-cloning": 20,
        "random": N_TRANSCRIPTS,
        "stranger": 0,
    }


def test_at_most_so_many_episodes_are_asked_about(policies, routers, corridor_config, monkeypatch):
    monkeypatch.setattr(module, "N_EPISODES", 5)
    few = revisit({"myopic": policies["myopic"]}, routers, corridor_config.pool)["myopic"]
    assert 5 <= sum(bool(one.action_probabilities.size) for one in few) <= 5 + N_TRANSCRIPTS


def test_answers_are_those_of_the_router(traced, routers, corridor_config):
    one = traced["fitted-q"][3]
    values = routers["fitted-q"].q_values(module.observations_of(one.episode, corridor_config.pool))
    np.testing.assert_allclose(one.q_values, values, atol=1e-6)
    assert traced["behavior-cloning"][3].q_values is None


@pytest.mark.parametrize("name", ["fitted-q", "behavior-cloning"])
def test_sampled_states_are_embedded_and_described(name, traced, routers, corridor_config):
    router, pool = routers[name], corridor_config.pool
    assert isinstance(router, HistoryEmbedder)
    states = history_states(router, {"test": traced[name]}, pool, rng=np.random.default_rng(0), n_states=30)
    assert len(states.embeddings) == len(states.metadata) == 30
    everything = history_states(router, {"test": traced[name]}, pool, rng=np.random.default_rng(1), n_states=10**6)
    flat = [
        (one, turn) for one in traced[name] if one.action_probabilities.size for turn in range(len(one.episode.turns))
    ]
    assert len(everything.metadata) == len(flat)
    for (one, turn), texts in list(zip(flat, everything.metadata, strict=True))[::17]:
        told = dict(zip(STATE_COLUMNS, texts, strict=True))
        opinions = (one.action_probabilities if one.q_values is None else one.q_values)[turn]
        before = one.episode.turns[turn - 1].error if turn else ""
        assert told == {
            "best_model": pool.model_names[int(np.argmax(opinions))],
            "called_model": one.episode.turns[turn].model,
            "task": one.episode.task,
            "phase": f"{1 + turn // 5} of 4",  # 20 turns are the limit
            "turn": str(turn + 1),
            "last_error": before or "none",
            "error": one.episode.turns[turn].error or "none",
            "split": "test",
        }
    first, turn = flat[40]
    alone = router.history_embeddings([module.observations_of(first.episode, pool)[turn]])[0]
    np.testing.assert_allclose(everything.embeddings[40], alone, atol=1e-5)
    assert np.ptp(everything.embeddings, axis=0).max() > 0.01


def test_no_state_no_sample(traced, routers, corridor_config):
    plain = [replace(one, action_probabilities=np.zeros((0, 0))) for one in traced["fitted-q"]]
    rng = np.random.default_rng(0)
    assert history_states(routers["fitted-q"], {"test": plain}, corridor_config.pool, rng=rng) is None
