"""The whole router on a small task: what is due shows in the state, and models differ where a failure is fatal."""

import dataclasses

import numpy as np
import pytest

from mtrouter_rl.agents.factored.factored_q import FactoredQParameters
from mtrouter_rl.agents.loading import load_router, save_router
from mtrouter_rl.agents.rules.heuristics import single_router
from mtrouter_rl.errors import InvalidConfigError, RouterError
from mtrouter_rl.records import TokenUsage
from mtrouter_rl.registry import ALGORITHMS
from mtrouter_rl.transitions.arrays import Transitions
from tests.cases.routing_toy import (
    END,
    NETWORK,
    POOL,
    StateFeatures,
    make_card,
    make_context,
    make_dataset,
    make_episode,
    make_pool,
    make_turn,
)

WORDS = ("walk", "lift", "push")  # what is due in states 0, 1 and 2
FATAL = (0.5, 0.4, 0.02)  # in state 1, by model
SUCCESS = (0.85, 0.6, 0.85)  # elsewhere
LOOP = {"n_iterations": 4, "steps_per_iteration": 60, "batch_size": 128, "learning_rate": 4e-3, "keep_last": 1}


def turn_of(rng, state, model):
    """A turn in a state: done, useless, or fatal. Returns the turn and the next state."""
    if state == 1 and rng.random() < FATAL[model]:
        gain, following, text = -1.0, END, "lift badly"
    elif rng.random() < SUCCESS[model]:
        gain, following, text = (1.0 if state == 2 else 0.0), state + 1 if state < 2 else END, f"{WORDS[state]} it"
    else:
        gain, following, text = 0.0, state, "sleep"
    usage = TokenUsage(n_fresh=10, n_output=4000)
    cost = POOL.models[model].prices.cost_usd(usage)
    turn = make_turn(model, state=state, next_state=following, gain=gain, cost=cost)
    return type(turn)(**{**vars(turn), "usage": usage}), text, following


def played(choose, *, n_episodes, seed):
    rng = np.random.default_rng(seed)
    episodes = []
    for index in range(n_episodes):
        state, turns = 0, []
        while state != END and len(turns) < 12:
            turn, text, state = turn_of(rng, state, choose(rng, state))
            is_over = state == END
            turns.append(type(turn)(**{**vars(turn), "action_text": text, "terminated": is_over}))
        turns[-1] = type(turn)(**{**vars(turns[-1]), "truncated": not turns[-1].terminated})
        episodes.append(make_episode(turns, index=index))
    return episodes


def observation(state, history=(), mask=(1, 1, 1)):
    turns = tuple(
        {"model": model, "action": action, "observation": f"state {state}", "error": ""} for model, action in history
    )
    return {
        "task": "toy",
        "first_observation": f"state {state}",
        "history": turns,
        "turn": np.int64(len(turns)),
        "max_turns": np.int64(50),
        "budget_left_usd": np.array([100.0], dtype=np.float32),
        "budget_usd": np.array([100.0], dtype=np.float32),
        "warm": np.zeros(3, dtype=np.int8),
        "action_mask": np.array(mask, dtype=np.int8),
    }


@pytest.fixture(scope="module", params=[0, 8])
def router(request):
    """Without and with a memory that is carried from turn to turn."""
    log = make_dataset(played(lambda rng, _: int(rng.integers(3)), n_episodes=500, seed=0))
    card = make_card("factored_q", **NETWORK, **LOOP, memory_size=request.param)
    return ALGORITHMS.load("factored_q").from_card(card).train(make_context(log))


def mean_return(policy, *, n_episodes=400):
    def choose(rng, state):
        return int(policy.action_probabilities([observation(state)])[0].argmax())

    episodes = played(choose, n_episodes=n_episodes, seed=1)
    return sum(turn.utility_gain - turn.cost_usd for one in episodes for turn in one.turns) / n_episodes


def test_it_calls_the_dear_model_only_where_failing_is_fatal(router):
    chosen = router.action_probabilities([observation(state) for state in range(3)]).argmax(axis=1)
    assert chosen.tolist() == [0, 2, 0]


def test_it_beats_the_cheapest_and_the_strongest_model_alone(router):
    alone = [mean_return(single_router(name, POOL)) for name in ("small", "large")]
    assert mean_return(router) > max(alone) + 0.05


def test_it_leaves_a_model_that_was_called_in_vain(router):
    useless = [(0, "sleep")] * 8
    assert router.action_probabilities([observation(0, useless)])[0].argmax() != 0
    done = router.action_probabilities([observation(0, [*useless, (1, "walk it")])])[0]
    assert done.argmax() == 0


def test_a_conversation_that_is_followed_equals_one_that_is_read_from_its_start(router, tmp_path):
    history = [(0, "sleep"), (1, "walk it"), (0, "sleep"), (2, "push it")]
    followed = [router.q_values([observation(0, history[:length])])[0] for length in range(len(history) + 1)]
    save_router(router, tmp_path)

    def fresh():
        return load_router(tmp_path, pool=POOL, make_features=lambda config: StateFeatures(config["scripted"]))

    np.testing.assert_allclose(fresh().q_values([observation(0, history)])[0], followed[-1], atol=1e-6)
    lengths = (4, 1, 3, 0, 2, 3)
    states = [observation(0, history[:length]) for length in lengths]
    np.testing.assert_allclose(fresh().q_values(states), [followed[length] for length in lengths], atol=1e-6)
    other = fresh()
    forked = [observation(0, [*history[:3], (model, "push it")]) for model in (2, 1)]  # two ways to go on, in one batch
    other.q_values([observation(0, history[:2])])
    np.testing.assert_allclose(
        other.q_values([forked[1], states[2], forked[0]])[1:], [followed[3], followed[4]], atol=1e-6
    )
    np.testing.assert_allclose(other.q_values(forked[1:]), fresh().q_values(forked[1:]), atol=1e-6)


def test_a_price_that_changes_after_the_training_changes_values(router, tmp_path):
    save_router(router, tmp_path)
    dearer = make_pool(prices=(1.0, 2.0, 30.0))
    loaded = load_router(tmp_path, pool=dearer, make_features=lambda config: StateFeatures(config["scripted"]))
    before, after = (one.q_values([observation(1)])[0] for one in (router, loaded))
    extra = float(router.tokens.output[2] + router.tokens.prompt @ [10.0, 0.0, 1.0]) * 15.0 / 1e6
    assert (before[2] - after[2]) - (before[0] - after[0]) == pytest.approx(extra, rel=1e-4)


def test_it_acts_at_any_cost_weight_and_weighs_only_the_price_of_a_call_anew(router, tmp_path):
    some = [observation(state) for state in (0, 1, 2)]
    dearer, own = router.at(2.5), router.settings.reward
    assert (dearer.name, dearer.settings.reward.cost_weight) == (f"{router.name}@2.5", 2.5)
    prices = (router.q_values(some) - router.at(0.0).q_values(some)) / own.cost_weight  # less their mean
    assert np.ptp(prices) > 0.0
    np.testing.assert_allclose(dearer.q_values(some), router.at(0.0).q_values(some) + 2.5 * prices, atol=1e-12)
    assert router.at(50.0).action_probabilities(some).argmax(axis=1).tolist() == [0, 0, 0]  # the cheapest everywhere
    np.testing.assert_array_equal(dearer.at(own.cost_weight).q_values(some), router.q_values(some))
    assert dearer.provenance.reward is None  # its values are not those of a return
    assert router.at(own.cost_weight).provenance == router.provenance
    grid = router.cost_weight_grid(5)
    assert (grid[0], grid[-1]) == (0.0, 40.0)
    save_router(dearer, tmp_path)
    loaded = load_router(tmp_path, pool=POOL, make_features=lambda config: StateFeatures(config["scripted"]))
    np.testing.assert_array_equal(loaded.q_values(some), dearer.q_values(some))
    with pytest.raises(InvalidConfigError, match="cost_weight is -1"):
        router.at(-1.0)


def test_an_evaluation_during_the_training_is_refused_and_not_ignored():
    context = dataclasses.replace(make_context(make_dataset(played(lambda *_: 0, n_episodes=5, seed=0))), evaluation=1)
    with pytest.raises(InvalidConfigError, match="leave out --evaluate-every"):
        ALGORITHMS.load("factored_q").from_card(make_card("factored_q", **NETWORK, **LOOP)).train(context)


def test_a_log_of_one_model_and_one_variation_trains():
    episodes = [type(one)(**{**vars(one), "variation": 0}) for one in played(lambda *_: 0, n_episodes=30, seed=0)]
    router = (
        ALGORITHMS.load("factored_q")
        .from_card(make_card("factored_q", **NETWORK, **LOOP))
        .train(make_context(make_dataset(episodes)))
    )
    assert np.isfinite(router.q_values([observation(0)])).all()


def test_what_is_allowed_changes_no_value_of_what_is_allowed(router):
    free, closed = router.q_values([observation(1), observation(1, mask=(1, 0, 1))])
    np.testing.assert_allclose(free[[0, 2]], closed[[0, 2]], atol=1e-6)
    assert router.action_probabilities([observation(1, mask=(1, 1, 0))])[0].tolist() == [0.0, 1.0, 0.0]


def turns(n, *, n_episodes=1):
    """Transitions of so many turns, in episodes of one length."""
    zeros = np.zeros(n, dtype=np.float32)
    numbers = np.arange(n)
    return Transitions(
        observations=zeros[:, None], rows=numbers, actions=numbers, rewards=zeros, terminals=zeros, utility_gains=zeros,
        costs_usd=zeros, episodes=numbers * n_episodes // n, turns=numbers, returns=zeros, n_models=3,
    )  # fmt: skip


def trained(episodes, **parameters):
    card = make_card("factored_q", **NETWORK, **LOOP | parameters)
    return ALGORITHMS.load("factored_q").from_card(card).train(make_context(make_dataset(episodes)))


def test_a_small_log_gets_fewer_steps():
    parameters = FactoredQParameters(n_iterations=4, steps_per_iteration=100, batch_size=100, max_passes=10)
    assert [parameters.bounded(turns(n)).steps_per_iteration for n in (1000, 1001)] == [25, 26]
    assert parameters.bounded(turns(4000)) == parameters.bounded(turns(10**5)) == parameters
    recurrent = parameters.model_copy(update={"memory_size": 8})
    assert (
        recurrent.bounded(turns(1000, n_episodes=50)).steps_per_iteration == 25
    )  # 5 episodes a step, 100 turns together
    assert recurrent.bounded(turns(1000, n_episodes=2)).steps_per_iteration == 5  # one episode of 500 turns a step
    episodes = played(lambda rng, _: int(rng.integers(3)), n_episodes=20, seed=0)
    states = [observation(state) for state in range(3)]
    few, many = (
        np.ptp([one.due for one in trained(episodes, max_passes=n)._followed(states)], axis=0).max()
        for n in (0.01, 100)
    )
    assert few < 0.5 * many  # one step an iteration tells states hardly apart


def test_errors_of_a_known_kind_are_imitated_if_the_card_says_so():
    """In state 0 most calls try to walk, and most of these are errors; of the others most sleep."""
    rng = np.random.default_rng(0)
    episodes = []
    for index in range(120):
        turns = []
        for _ in range(6):
            drawn = rng.random()
            turn = make_turn(int(rng.integers(3)), state=0, next_state=0, gain=0.0, cost=1e-5)
            said = {"action_text": "sleep" if drawn < 0.3 else "walk it", "error": "unknown_action" * (drawn > 0.5)}
            turns.append(type(turn)(**{**vars(turn), **said, "usage": TokenUsage(n_fresh=10, n_output=4)}))
        turns[-1] = type(turns[-1])(**{**vars(turns[-1]), "truncated": True})
        episodes.append(make_episode(turns, index=index))
    for imitate_errors, expected in ((False, "sleep"), (True, "walk")):
        router = trained(episodes, imitate_errors=imitate_errors)
        due = router._followed([observation(0)])[0].due
        assert router.settings.kinds.words[int(due.argmax())] == expected


@pytest.mark.parametrize(("memory_size", "is_known"), [(0, False), (8, True)])
def test_a_memory_tells_what_only_an_earlier_turn_showed(memory_size, is_known):
    """The first state says what is due at the second turn; the state that is seen then says nothing."""
    rng = np.random.default_rng(0)
    episodes = []
    for index in range(200):
        start = int(rng.integers(2))
        turns = []
        for text in ("push it", WORDS[start]):
            turn = make_turn(int(rng.integers(3)), state=2, next_state=2, gain=0.0, cost=1e-5)
            turns.append(type(turn)(**{**vars(turn), "action_text": text, "usage": TokenUsage(n_fresh=10, n_output=4)}))
        turns[-1] = type(turns[-1])(**{**vars(turns[-1]), "truncated": True})
        episodes.append(make_episode(turns, index=index, start=start))
    router = trained(episodes, memory_size=memory_size)
    second = []
    for start in (0, 1):
        seen = observation(start, [(0, "push it")])
        seen["history"][0]["observation"] = "state 2"
        second.append(router._followed([seen])[0].due)
    kinds = router.settings.kinds.words
    chances = np.array([[one[kinds.index(word)] for word in WORDS[:2]] for one in second])
    assert (chances.diagonal() > 0.9).all() == is_known
    assert np.ptp(chances, axis=0).max() < 0.1 or is_known


def test_errors_are_read_and_not_imitated_by_networks_with_a_memory():
    """Every second call is an error of the kind that is never right."""
    episodes = []
    for index in range(60):
        turns = []
        for number in range(6):
            turn = make_turn(0, state=0, next_state=0, gain=0.0, cost=1e-5)
            said = {"action_text": "walk it"} if number % 2 else {"action_text": "sleep", "error": "unknown_action"}
            turns.append(type(turn)(**{**vars(turn), **said, "usage": TokenUsage(n_fresh=10, n_output=4)}))
        turns[-1] = type(turns[-1])(**{**vars(turns[-1]), "truncated": True})
        episodes.append(make_episode(turns, index=index))
    due = trained(episodes, memory_size=8)._followed([observation(0)])[0].due
    assert due[1] > 0.95  # the kinds are those of turns without an error: a rare one, and "walk"


def test_what_was_known_is_taken_up_and_nothing_else_is_read(router, monkeypatch):
    """One row a conversation from its second decision on, however long it is, and however it goes on."""
    fresh = type(router).of(router, router.pool)  # nothing is known yet
    read = []
    encode = StateFeatures.of_observations
    monkeypatch.setattr(
        StateFeatures, "of_observations", lambda self, many: read.append(len(many)) or encode(self, many)
    )
    histories = [[(model, "sleep")] * 30 for model in range(3)]
    fresh.q_values([observation(0, one) for one in histories])
    assert sum(read) == 3 * 31
    read.clear()
    fresh.q_values([observation(0, [*one, (0, "walk it")]) for one in histories])
    assert sum(read) == 3
    read.clear()
    forks = [observation(0, [*histories[0], (0, "walk it"), (model, "lift badly")]) for model in range(3)]
    fresh.q_values([*forks, observation(0, [*histories[0], (0, "walk it")])])
    assert sum(read) == 3
    read.clear()
    other = [(2, "lift badly")] * 10
    fresh.q_values([observation(0, [*other, (model, "sleep")]) for model in range(3)] + [observation(0, other)])
    assert sum(read) == 14  # the beginning that three conversations share is read once
    assert len(fresh._states) == 13  # what was asked for, and not every turn on the way


def test_conversations_of_any_lengths_are_read_as_each_alone(router):
    """Many rows at once: in pieces, by length, with what is padded left out."""
    rng = np.random.default_rng(0)
    networks = router._networks
    layout = router.settings.layout.n_columns
    conversations = [rng.standard_normal((n, layout)).astype(np.float32) for n in (1, 700, 3, 2500, 1, 40, 700, 700)]
    together = networks.follow(conversations)
    for one, (due, after) in zip(conversations, together, strict=True):
        [(alone, memory)] = networks.follow([one])
        assert due.shape == (len(one), len(router.settings.kinds))
        np.testing.assert_allclose(due, alone, atol=1e-5)
        np.testing.assert_allclose(after, memory, atol=1e-5)
    half = networks.follow([conversations[5][:20]])[0][1][19]
    np.testing.assert_allclose(networks.follow([conversations[5][20:]], [half])[0][0], together[5][0][20:], atol=1e-5)


@pytest.mark.parametrize("memory_size", [0, 8])
def test_a_router_of_several_iterates_is_saved_and_loaded(memory_size, tmp_path):
    log = played(lambda rng, _: int(rng.integers(3)), n_episodes=20, seed=0)
    router = trained(log, memory_size=memory_size, keep_last=2)
    save_router(router, tmp_path)
    loaded = load_router(tmp_path, pool=POOL, make_features=lambda config: StateFeatures(config["scripted"]))
    seen = [observation(0, [(0, "sleep"), (1, "walk it")]), observation(1)]
    np.testing.assert_array_equal(loaded.q_values(seen), router.q_values(seen))
    record = tmp_path / "router.json"
    record.write_text(record.read_text().replace(f'"memory_size": {memory_size}', '"memory_size": -1'))
    with pytest.raises(RouterError, match="memory_size"):
        load_router(tmp_path, pool=POOL, make_features=lambda config: StateFeatures(config["scripted"]))


def test_a_training_of_whole_episodes_that_was_killed_ends_with_the_same_weights(tmp_path, monkeypatch):
    log = make_dataset(played(lambda rng, _: int(rng.integers(3)), n_episodes=30, seed=0))
    agent = ALGORITHMS.load("factored_q").from_card(make_card("factored_q", **NETWORK, **LOOP, memory_size=8))
    whole = agent.train(make_context(log)).weights
    sample, drawn = Transitions.sample_episodes, []

    def stop(self, *arguments):
        drawn.append(1)
        if len(drawn) > 26:  # in the second network
            raise KeyboardInterrupt
        return sample(self, *arguments)

    monkeypatch.setattr(Transitions, "sample_episodes", stop)
    with pytest.raises(KeyboardInterrupt):
        agent.train(make_context(log, folder=tmp_path))
    monkeypatch.undo()
    resumed = agent.train(make_context(log, folder=tmp_path)).weights
    assert all((one == resumed[name]).all() for name, one in whole.items())
