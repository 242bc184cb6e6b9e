"""A trained router in front of an agent: what it takes, what it refuses, and that it sees what the importers see."""

import json
import re
import threading
from pathlib import Path

import numpy as np
import pytest

from mtrouter_rl.agents.deployment import DEPLOYMENT_FILE, CallStatistics, Deployment, deployment_of
from mtrouter_rl.cards import RewardCard, load_agent_card, load_pool_card
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.datasets.importers.run import ImportRequest, import_log
from mtrouter_rl.datasets.logged import logged_env
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.embeddings.encoders import make_encoder
from mtrouter_rl.embeddings.history import HistoryFeatures
from mtrouter_rl.embeddings.history_sources import observations_of
from mtrouter_rl.errors import InvalidConfigError, NoModelAllowedError, ResultsError, UnknownNameError
from mtrouter_rl.records import UNLIMITED_BUDGET_USD, UNLIMITED_TURNS
from mtrouter_rl.serving import LiveRouter, load_router
from mtrouter_rl.workflows import TrainRequest, train_router
from tests.cases.agent_logs import FOUND, LOOK, SYSTEM, TASK
from tests.cases.call_rows import POOL, grown, write
from tests.cases.dataset_fixtures import pool  # noqa: F401
from tests.datasets.importers.formats.conftest import read  # noqa: F401
from tests.datasets.importers.formats.test_formats_contract import LOGS, run

TINY = {"n_iterations": 2, "n_warm_start": 1, "steps_per_iteration": 5, "batch_size": 16, "keep_last": 1}
TALK = [TASK, LOOK, FOUND]


class Fixed:
    """A router with fixed values."""

    name = "fixed"

    def __init__(self, names, values):
        self.model_names = names
        self._values = np.array(values)

    def q_values(self, observations):
        masks = np.array([one["action_mask"] for one in observations], dtype=bool)
        return np.where(masks, self._values, -100.0)

    def action_probabilities(self, observations):
        return np.eye(len(self.model_names))[self.q_values(observations).argmax(axis=1)]


def deployment(**changes):
    fields = {
        "env": "log",
        "pool": POOL,
        "reward": RewardCard(cost_weight=0.5, cost_unit_usd=0.01),
        "max_turns": UNLIMITED_TURNS,
        "budget_usd": UNLIMITED_BUDGET_USD,
        "tokens_per_character": 0.5,
        "calls": {"small": CallStatistics(n_calls=4, mean_output_tokens=100.0)},
    }
    return Deployment(**(fields | changes))


@pytest.fixture
def live():
    return LiveRouter(Fixed(("small", "big"), [0.2, 0.7]), POOL, deployment())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder of a router that was trained on an imported log, and the log."""
    folder = tmp_path_factory.mktemp("trained")
    rows = [row for number in range(12) for row in grown(f"s{number}", 3, score=float(number % 2))]
    for number, row in enumerate(rows):
        row["model"] = ("small", "vendor/big")[number % 2]
    path = write(folder / "calls.jsonl", rows)
    import_log(ImportRequest(format="openai-jsonl", paths=(path,), pool=POOL, out=folder / "log"), show_progress=False)
    dataset = Dataset.load(folder / "log")
    card = load_agent_card("fitted-q")
    request = TrainRequest(
        agent=card.model_copy(update={"parameters": card.parameters | TINY}),
        config=logged_env(dataset.info, cost_weight=0.5, cost_unit_usd=0.001),
        seed=0,
        out=folder / "router",
        dataset=folder / "log",
    )
    return train_router(request, show_progress=False), dataset


def test_a_decision_says_what_and_why(live):
    first = live.choose([SYSTEM, TASK])
    assert (first.model, first.probability, first.turn) == ("big", 1.0, 0)
    assert first.q_values == {"small": 0.2, "big": 0.7}
    n_prompt = round(0.5 * (len("You help.") + len("List the files.")))
    assert first.expected_cost_usd == {"small": pytest.approx((n_prompt * 1.0 + 100 * 2.0) / 1e6), "big": None}
    second = live.choose([SYSTEM, *TALK], models=["vendor/small"])
    assert second.turn == 1
    assert "changes from small" in second.reason
    assert "the best other is small with 0.200" in second.reason


def test_exploration_has_exact_probabilities():
    router = LiveRouter(Fixed(("small", "big"), [0.2, 0.7]), POOL, deployment(), explore=0.4, seed=3)
    found = [router.choose([TASK]) for _ in range(200)]
    assert {one.model: one.probability for one in found} == {
        "big": pytest.approx(0.8),
        "small": pytest.approx(0.2),
    }
    assert 20 <= sum(one.model == "small" for one in found) <= 60
    assert router.choose([TASK], candidates=["small"]).probability == 1.0
    with pytest.raises(InvalidConfigError, match=r"explore is 2, must be a share from 0 to 1"):
        LiveRouter(Fixed(("small", "big"), [0, 1]), POOL, deployment(), explore=2)


def test_a_message_may_name_its_model(live):
    assert live.choose([TASK, LOOK | {"model": "small"}, FOUND]).turn == 1


@pytest.mark.parametrize(
    ("messages", "given", "error", "message"),
    [
        (TALK, {}, InvalidConfigError, r"models names 0 models, but the messages hold 1 answers"),
        (TALK, {"models": ["small", "big"]}, InvalidConfigError, r"models names 2 models"),
        (TALK, {"models": ["smal"]}, UnknownNameError, r"'smal'; did you mean 'small'.*knows no other"),
        (TALK, {"models": ["small"], "errors": ["x", "y"]}, InvalidConfigError, r"errors has 2 entries.*1 answers"),
        ([SYSTEM], {}, InvalidConfigError, r"messages: .*none of role 'user'"),
        ([{"role": "wizard", "content": "x"}], {}, InvalidConfigError, r"messages.*wizard"),
        ([TASK], {"candidates": ["large"]}, UnknownNameError, r"'large'"),
    ],
)
def test_what_is_refused(live, messages, given, error, message):
    with pytest.raises(error, match=message):
        live.choose(messages, **given)


def test_models_are_ruled_out_by_money_context_and_candidates(live):
    dear = live.choose([TASK], budget_left_usd=0.001)
    assert dear.model == "small"
    assert dear.q_values == {"small": 0.2}
    assert "may cost" in dear.not_allowed["big"]
    assert live.choose([TASK], candidates=["vendor/small"]).not_allowed == {"big": "not among the candidates"}
    long = [{"role": "user", "content": "x" * 300_000}]
    assert (
        "does not fit its 128000"
        in LiveRouter(Fixed(("small", "big"), [0, 1]), POOL, deployment(tokens_per_character=0.5))._not_allowed(
            150_000, {}, left=None, n_output=None, candidates=None
        )["small"]
    )
    with pytest.raises(
        NoModelAllowedError, match=r"no model may be called at turn 0: small: a prompt of about 150000 tokens"
    ):
        live.choose(long)
    with pytest.raises(NoModelAllowedError, match=r"small: its next call may cost .* 1e-09 USD are left"):
        live.choose([TASK], budget_left_usd=1e-9)


def test_the_output_limit_makes_the_bound_a_hard_one(live):
    worst = (round(0.5 * len("List the files.")) * 1.25 + 1000 * 2.0) / 1e6
    assert live.choose([TASK], budget_left_usd=worst, max_output_tokens=1000).model == "small"
    with pytest.raises(NoModelAllowedError):
        live.choose([TASK], budget_left_usd=worst * 0.999, max_output_tokens=1000)


def test_a_router_without_limits_asks_for_them():
    live = LiveRouter(Fixed(("small", "big"), [0.2, 0.7]), POOL)
    with pytest.raises(InvalidConfigError, match=r"max_turns is missing"):
        live.choose([TASK])
    decision = live.choose([TASK], max_turns=5)
    assert decision.expected_cost_usd == {"small": None, "big": None}


def test_budgets_are_shown_only_to_a_router_that_learned_from_them(live):
    seen = []

    class Seeing(Fixed):
        def action_probabilities(self, observations):
            seen.append(observations[0])
            return super().action_probabilities(observations)

    for limit in (UNLIMITED_BUDGET_USD, 2.0):
        router = LiveRouter(Seeing(("small", "big"), [0, 1]), POOL, deployment(budget_usd=limit))
        router.choose([TASK], budget_left_usd=1.0)
    assert [float(one["budget_left_usd"][0]) for one in seen] == [UNLIMITED_BUDGET_USD, 1.0]
    assert [float(one["budget_usd"][0]) for one in seen] == [UNLIMITED_BUDGET_USD, 2.0]


def test_the_router_gives_live_the_values_that_it_gave_on_the_log(trained):
    folder, dataset = trained
    live = load_router(folder)
    assert live.pool.models == POOL.models
    from mtrouter_rl.agents.resolve import resolve_router

    router = resolve_router(str(folder), POOL)
    for episode in dataset.episodes:
        messages, models = [TASK | {"content": episode.task_text}], []
        for index, turn in enumerate(episode.turns):
            decision = live.choose(messages, models=models)
            logged = router.q_values([observations_of(episode, POOL)[index]])[0]
            assert list(decision.q_values.values()) == pytest.approx(logged.tolist(), abs=1e-6)
            models.append(turn.model)
            messages += [{"role": "assistant", "content": turn.action_text}]
            messages += [{"role": "user", "content": turn.observation_text}]


@pytest.mark.parametrize(("name", "files", "usages"), LOGS.values(), ids=LOGS)
def test_features_live_are_those_of_the_imported_log(read, pool, name, files, usages):  # noqa: F811
    ((episode,), _) = run(read, name, files)
    features = HistoryFeatures(encoder=make_encoder("hashing", None), pool=pool)
    logged = features.of_episode(episode)
    live = LiveRouter(
        Fixed(pool.model_names, [0.0] * len(pool.models)), pool, deployment(pool=pool, max_turns=episode.max_turns)
    )
    look = LOOK if name != "codex" else LOOK | {"content": None}
    for index, (messages, models) in enumerate((([SYSTEM, TASK], []), ([SYSTEM, TASK, look, FOUND], ["cheap"]))):
        observation = live.observe(messages, models=models)
        np.testing.assert_array_equal(features.of_observations([observation])[0], logged[index])


def test_the_deployment_holds_what_the_log_says_of_calls(trained):
    folder, dataset = trained
    saved = Deployment.load(folder / DEPLOYMENT_FILE)
    assert saved.calls == {
        "big": CallStatistics(n_calls=18, mean_output_tokens=10.0),
        "small": CallStatistics(n_calls=18, mean_output_tokens=10.0),
    }
    characters = sum(
        len(episode.task_text)
        + sum(len(turn.action_text) + len(turn.observation_text) for turn in episode.turns[:index])
        for episode in dataset.episodes
        for index in range(len(episode.turns))
    )
    assert saved.tokens_per_character == pytest.approx(3600 / characters)
    assert (saved.max_turns, saved.budget_usd) == (UNLIMITED_TURNS, UNLIMITED_BUDGET_USD)
    empty = deployment_of(logged_env(dataset.info, cost_weight=1.0, cost_unit_usd=1.0), (), is_simulated=None)
    assert (empty.tokens_per_character, empty.calls) == (None, {})


def test_a_router_of_an_older_version_needs_its_pool(trained, tmp_path):
    folder, _ = trained
    for name in ("router.json", "weights.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ResultsError, match=r"deployment.json: no such file;.*or give its pool card"):
        load_router(tmp_path)
    card = tmp_path / "pool.yaml"
    card.write_text(json.dumps(json.loads(POOL.model_dump_json())))
    assert load_router(tmp_path, pool=card).choose([TASK], max_turns=3).model in ("small", "big")


def test_one_router_serves_many_threads(trained):
    live = load_router(trained[0])
    talks = [[{"role": "user", "content": f"task {number}"}] for number in range(8)]
    alone = [live.choose(talk).q_values for talk in talks]
    found = [None] * len(talks)

    def ask(number):
        for _ in range(5):
            found[number] = live.choose(talks[number]).q_values

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(talks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == alone


def messages_before(episode, turn):
    """A conversation as an agent would hold it before a turn."""
    messages = [{"role": "user", "content": episode.task_text}]
    if episode.first_observation:
        messages.append({"role": "user", "content": episode.first_observation})
    for one in episode.turns[:turn]:
        messages.append({"role": "assistant", "content": one.action_text})
        if one.observation_text:
            messages.append({"role": "tool", "content": one.observation_text, "tool_call_id": "x"})
    return messages


SHARED = Path(__file__).parents[3] / "shared" / "cases"
CASES = {
    "tau2": "tau2_json_format",
    "mtrouter": "mini2_time_exceeded",
    "routerbench": "routerbench_csv_bom",
    "llmrouterbench": "llmrouterbench_failed_generation",
    "balrog": "balrog_empty_calls_billed",
    "openai-jsonl": "session_late_score",
}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the cases beside the checkout are not there")
@pytest.mark.parametrize(("name", "case"), CASES.items())
def test_values_live_are_those_on_the_log_for_every_older_importer(name, case, tmp_path):
    folder = SHARED / case
    words = re.search(rf"mtrouter-rl import {name} (.*) --pool", (folder / "expected.txt").read_text())[1].split()
    card = load_pool_card(str(SHARED / "pool.yaml"))
    request = ImportRequest(format=name, paths=tuple(folder / word for word in words), pool=card, out=tmp_path / "log")
    import_log(request, show_progress=False)
    features = HistoryFeatures(encoder=make_encoder("hashing", None), pool=card)
    episodes = Dataset.load(tmp_path / "log").episodes
    assert episodes
    for episode in episodes:
        saved = deployment(pool=card, budget_usd=episode.budget_usd)
        live = LiveRouter(Fixed(card.model_names, [0.0, 0.0]), card, saved)
        logged = features.of_episode(episode)
        for index in range(len(episode.turns)):
            spent = sum(turn.cost_usd for turn in episode.turns[:index])
            seen = live.observe(
                messages_before(episode, index),
                models=episode.models[:index],
                errors=[turn.error for turn in episode.turns[:index]],
                max_turns=episode.max_turns,
                budget_left_usd=episode.budget_usd - spent,
            )
            np.testing.assert_allclose(features.of_observations([seen])[0], logged[index], atol=1e-6)


# --- what a switch costs, and histories that cannot be handed over

CACHED = PoolCard.model_validate(
    {
        "name": "cached",
        "models": [
            {
                "name": "small",
                "prices": {"input": 1, "cached_input": 0.1, "output": 2},
                "context_tokens": 9999,
                "max_output_tokens": 50,
            },
            {
                "name": "small-long",
                "variant_of": "small",
                "prices": {"input": 1, "cached_input": 0.1, "output": 2},
                "context_tokens": 9999,
                "max_output_tokens": 500,
            },
            {
                "name": "big",
                "prices": {"input": 10, "cached_input": 2, "output": 20},
                "context_tokens": 9999,
                "max_output_tokens": 50,
            },
        ],
        "prompt_cache": {"ttl_s": 300, "min_tokens": 10},
    }
)


def cached_router(values, **changes):
    calls = {name: CallStatistics(n_calls=4, mean_output_tokens=100.0) for name in CACHED.model_names}
    saved = deployment(pool=CACHED, tokens_per_character=1.0, calls=calls, **changes)
    return LiveRouter(Fixed(CACHED.model_names, values), CACHED, saved)


def test_a_decision_says_what_a_switch_loses():
    said, seen = {"role": "assistant", "content": "I look."}, {"role": "user", "content": "A key."}
    long = [{"role": "user", "content": "x" * 1000}, said, seen]
    n_prompt = 1000 + len("I look.") + len("A key.")
    decision = cached_router([0.1, 0.2, 0.9]).choose(long, models=["small"], cached_tokens={"small": 1000})
    assert decision.cold_cache_usd == {"small": 0.0, "small-long": 0.0, "big": pytest.approx(1000 * 8 / 1e6)}
    assert decision.expected_cost_usd["small-long"] == pytest.approx((1000 * 0.1 + n_prompt - 1000 + 100 * 2) / 1e6)
    assert "changes from small, so it costs 0.008 USD more" in decision.reason
    assert cached_router([0.1, 0.2, 0.9]).choose(long, models=["small"]).cold_cache_usd == {}
    with pytest.raises(InvalidConfigError, match=r"cached_tokens\['small'\] is -1"):
        cached_router([0, 0, 1]).choose(long, models=["small"], cached_tokens={"small": -1})


def test_a_router_sees_warm_caches_only_if_its_log_did():
    for sees in (False, True):
        router = cached_router([0.1, 0.2, 0.9], sees_cache=sees)
        seen = router.observe([TASK, LOOK, FOUND], models=["small"], warm=["small"])
        assert seen["warm"].tolist() == [int(sees), 0, 0]


def test_a_history_that_cannot_be_handed_over_is_masked_with_its_reason():
    sealed = {
        "role": "assistant",
        "content": "",
        "tool_calls": None,
        "reasoning_details": [{"type": "reasoning.encrypted"}],
    }
    decision = cached_router([0.1, 0.2, 0.9]).choose([TASK, sealed, FOUND], models=["small"])
    assert decision.model == "small-long"
    assert decision.not_allowed == {"big": "an answer of small is encrypted thinking and nothing else"}
    assert "not allowed: big (an answer of small is encrypted thinking" in decision.reason
