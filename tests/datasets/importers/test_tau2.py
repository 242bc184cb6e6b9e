import json
import zipfile

import pytest

from mtrouter_rl.datasets.importers import tau2
from mtrouter_rl.datasets.importers.base import ImportReport, ImportSource
from mtrouter_rl.datasets.importers.run import ImportRequest, import_log
from mtrouter_rl.datasets.importers.tau2 import Tau2Importer, Tau2Options
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.records import TokenUsage

GREETING = {"role": "assistant", "content": "Hi! How can I help?", "tool_calls": None, "cost": 0.0, "usage": None}
INFO = {
    "git_commit": "0",
    "num_trials": 2,
    "max_steps": 200,
    "agent_info": {"implementation": "llm_agent", "llm": "cheap", "llm_args": {}},
    "user_info": {"implementation": "user_simulator", "llm": "strong"},
    "environment_info": {"domain_name": "airline", "policy": "Be kind."},
    "seed": 300,
}


def user(text, **fields):
    return {
        "role": "user",
        "content": text,
        "cost": 0.01,
        "usage": {"prompt_tokens": 9, "completion_tokens": 9},
    } | fields


def answer(text, **fields):
    usage = {"prompt_tokens": 1000, "completion_tokens": 100}
    return {"role": "assistant", "content": text, "usage": usage, "cost": 0.00014} | fields


TALK = (
    GREETING,
    user("Cancel my flight."),
    answer(None, tool_calls=[{"id": "1", "name": "get", "arguments": {"id": 7}, "requestor": "assistant"}]),
    {"role": "tool", "id": "1", "content": '{"flight": 7}', "requestor": "assistant", "error": False},
    answer("Done.", generation_time_seconds=1.5),
    user("Thanks. ###STOP###"),
)


def simulation(*messages, **fields):
    given = {
        "id": "abc",
        "task_id": "7",
        "timestamp": "2025-06-01",
        "termination_reason": "user_stop",
        "reward_info": {"reward": 1.0, "db_check": None},
        "trial": 1,
        "seed": 626729,
        "agent_cost": 0.00028,
        "user_cost": 0.02,
        "messages": list(messages or TALK),
    }
    return given | fields


def results(*simulations, **info):
    return {"timestamp": "2025-06-01", "info": INFO | info, "tasks": [], "simulations": list(simulations)}


@pytest.fixture
def read(tmp_path, pool):
    """Imports files of a folder; gives the episodes and the report as JSON."""

    def run(files, **options):
        folder = tmp_path / "results"
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        report = ImportReport(format="tau2")
        source = ImportSource(paths=(folder,), pool=pool, report=report)
        return list(Tau2Importer(Tau2Options(**options)).episodes(source)), report.to_json()

    return run


def read_one(read, row, **options):
    (episode,), report = read({"a.json": results(row)}, **options)
    return episode, report


def test_a_simulation_becomes_an_episode(read):
    episode, report = read_one(read, simulation())
    assert (episode.episode_id, episode.task) == ("airline/7/1/abc", "airline")
    assert (episode.variation, episode.seed, episode.max_turns) == (7, 1, 200)
    assert (episode.task_text, episode.first_observation) == ("Cancel my flight.", "")
    assert episode.extra["greeting"] == "Hi! How can I help?"
    first, second = episode.turns
    assert first.action_text == '[{"name": "get", "arguments": {"id": 7}}]'
    assert (first.observation_text, second.observation_text) == ('{"flight": 7}', "Thanks. ###STOP###")
    assert first.usage == TokenUsage(n_fresh=1000, n_output=100)
    assert (first.latency_s, second.latency_s, second.propensity) == (None, 1.5, 1.0)
    assert (first.utility_gain, second.utility_gain, second.terminated) == (0.0, 1.0, True)
    assert episode.behavior_policy == "single:cheap"
    assert episode.cost_usd == pytest.approx(0.00028)
    notes = {name: found["examples"][0]["detail"] for name, found in report["notes"].items()}
    assert notes == {tau2.USER_COST: "0.02 USD"}


def test_what_only_the_customers_tools_said_is_left_out(read):
    hidden = [
        user(None, tool_calls=[{"id": "u", "name": "toggle_data", "arguments": {}, "requestor": "user"}]),
        {"role": "tool", "id": "u", "content": "secret", "requestor": "user"},
        user("I switched it on."),
    ]
    episode, report = read_one(read, simulation(*TALK[:-1], *hidden))
    assert episode.turns[-1].observation_text == "I switched it on."
    assert report["notes"][tau2.USER_TOOLS]["n"] == 2


@pytest.mark.parametrize(
    ("reason", "status", "terminated", "truncated", "utility"),
    [
        ("agent_stop", "completed", True, False, 1.0),
        ("agent_error", "completed", True, False, 1.0),
        ("max_steps", "completed", False, True, 1.0),
        ("too_many_errors", "completed", False, True, 1.0),
        ("infrastructure_error", "failed", False, False, 0.0),
        ("user_error", "failed", False, False, 0.0),
    ],
)
def test_endings(read, reason, status, terminated, truncated, utility):
    episode, _ = read_one(read, simulation(termination_reason=reason))
    assert (episode.status, episode.turns[-1].terminated, episode.turns[-1].truncated) == (
        status,
        terminated,
        truncated,
    )
    assert episode.utility == utility
    assert episode.status_detail == (reason if status == "failed" else "")


def test_a_broken_simulation_needs_no_reward(read):
    episode, _ = read_one(read, simulation(termination_reason="infrastructure_error", reward_info=None))
    assert episode.status == "failed"


def test_tasks_without_a_number_and_costs_and_cached_tokens_of_the_vendor(read):
    raw = {"model": "cheap", "usage": {"prompt_tokens": 999, "prompt_tokens_details": {"cached_tokens": 800}}}
    talk = (*TALK[:4], answer("Done.", raw_data=raw, cost=0.5), TALK[5])
    episode, report = read_one(read, simulation(*talk, task_id="[mobile]no_data"))
    again, _ = read_one(read, simulation(*talk, task_id="[mobile]no_data", trial=0))
    assert episode.variation == again.variation > 2**32
    assert episode.turns[1].usage == TokenUsage(n_fresh=200, n_cached=800, n_output=100)
    detail = report["notes"]["logged cost that differs from tokens times the pool's prices by more than 1%"]
    assert detail["examples"][0]["detail"] == "1 of 2 answers; in all logged 0.50014 USD, computed 0.000208 USD"


def test_an_answer_of_another_model(read):
    talk = (*TALK[:4], answer("Done.", raw_data={"model": "strong"}))
    episodes, report = read({"a.json": results(simulation(*talk))})
    assert not episodes
    assert (
        "propensities=unknown"
        in report["rejected"]["propensity that is missing or out of range"]["examples"][0]["detail"]
    )
    episode, report = read_one(read, simulation(*talk), propensities="unknown")
    assert [(turn.model, turn.propensity) for turn in episode.turns] == [("cheap", 1.0), ("strong", None)]
    assert report["notes"][tau2.OTHER_MODEL]["n"] == 1


BAD = {
    "schema": ({"id": "x"}, "field that is missing or breaks its rule", "task_id"),
    "no object": (7, "field that is missing or breaks its rule", "it: "),
    "no messages": (simulation(messages=None), tau2.AUDIO, "messages is missing"),
    "empty": (simulation(messages=[]), "conversation without any answer of a model", "messages is empty"),
    "greeting only": (simulation(*TALK[:2]), "conversation without any answer of a model", "1 messages"),
    "two answers": (simulation(*TALK[:2], answer("a"), answer("b")), "messages that do not alternate", "both answers"),
    "no usage": (
        simulation(*TALK[:4], answer("a", usage=None)),
        "token count that is missing or invalid",
        "without usage",
    ),
    "negative": (
        simulation(*TALK[:4], answer("a", usage={"prompt_tokens": -1, "completion_tokens": 0})),
        "token count that is missing or invalid",
        "is -1, must be",
    ),
    "no reward": (simulation(reward_info=None), "score that is missing or out of range", "reward_info is missing"),
    "NaN reward": (simulation(reward_info={"reward": float("nan")}), "score that is missing or out of range", "'NaN'"),
    "reason": (
        simulation(termination_reason="bored"),
        "field that is missing or breaks its rule",
        "'bored', must be one of",
    ),
}


@pytest.mark.parametrize(("row", "reason", "detail"), BAD.values(), ids=BAD)
def test_a_bad_simulation_is_counted_and_the_rest_is_imported(read, row, reason, detail):
    episodes, report = read({"a.json": results(simulation(), row)})
    assert len(episodes) == 1
    (found,) = report["rejected"].items()
    assert (found[0], found[1]["n"]) == (reason, 1)
    assert found[1]["examples"][0]["source"] == "a.json, simulation 1"
    assert detail in found[1]["examples"][0]["detail"]


@pytest.mark.parametrize(
    ("content", "reason", "detail"),
    [
        (json.dumps(results(simulation())).encode()[:500], "text that is no JSON object", ""),
        (bytes(range(256)), "text that is no JSON object", "begins with"),
        (b"", "text that is no JSON object", "is empty"),
        ({"messages": []}, "field that is missing or breaks its rule", "this is no results file"),
        ({"info": {}, "simulations": []}, "field that is missing or breaks its rule", "agent_info"),
        (
            results(simulation(), agent_info={"llm": "chaep"}),
            "model that the pool does not have",
            "did you mean 'cheap'",
        ),
    ],
)
def test_a_bad_file_is_counted_and_the_rest_is_imported(read, content, reason, detail):
    episodes, report = read({"a.json": results(simulation()), "b.json": content})
    assert len(episodes) == 1
    assert list(report["rejected"]) == [reason]
    assert detail in report["rejected"][reason]["examples"][0]["detail"]


def test_results_with_a_file_a_simulation(read):
    files = {
        "run/results.json": results(simulation_index=[]),
        "run/simulations/a.json": simulation(),
        "lone/simulations/b.json": simulation(id="b"),
    }
    episodes, report = read(files)
    assert [episode.episode_id for episode in episodes] == ["airline/7/1/abc"]
    assert list(report["rejected"]) == [tau2.NO_INFO]


INDEX = {key: value for key, value in results().items() if key != "simulations"} | {
    "simulation_index": [{"id": "abc", "task_id": "7", "trial": 1}, {"id": "gone", "task_id": "8", "trial": 0}]
}


def test_the_folder_as_tau2_writes_it(read):
    """Its results.json has no 'simulations', only an index of them."""
    episodes, report = read({"run/results.json": INDEX, "run/simulations/abc.json": simulation()})
    assert [(episode.episode_id, episode.utility, len(episode.turns)) for episode in episodes] == [
        ("airline/7/1/abc", 1.0, 2)
    ]
    (example,) = report["rejected"][tau2.NO_SIMULATION]["examples"]
    assert example == {"source": "run/simulations/gone.json", "detail": "'gone' is in simulation_index"}


def test_an_archive_may_hold_the_results_after_their_simulations(tmp_path, pool):
    with zipfile.ZipFile(tmp_path / "run.zip", "w") as packed:
        packed.writestr("run/simulations/abc.json", json.dumps(simulation()))
        packed.writestr("run/results.json", json.dumps(INDEX))
    source = ImportSource(paths=(tmp_path / "run.zip",), pool=pool, report=ImportReport(format="tau2"))
    assert [one.utility for one in Tau2Importer(Tau2Options()).episodes(source)] == [1.0]


def test_the_first_version_of_the_benchmark_has_no_tokens(read):
    old = [{"task_id": 0, "reward": 1.0, "info": {}, "traj": [{"role": "user", "content": "Hi"}], "trial": 0}]
    episodes, report = read({"a.json": results(simulation()), "old.json": old})
    assert len(episodes) == 1
    assert report["rejected"]["field that is missing or breaks its rule"]["examples"][0]["detail"] == tau2.OLD_RESULTS


def test_nothing_of_the_format(read):
    with pytest.raises(DatasetError, match=r"no results of tau2-bench in .*results; give results files"):
        read({"a.json": {"messages": []}})


def test_the_dataset_loads_back_and_several_trials_are_of_one_variation(tmp_path, pool):
    path = tmp_path / "airline.json"
    rows = [simulation(), simulation(), simulation(id="def", trial=0), simulation(id="x", reward_info=None)]
    path.write_text(json.dumps(results(*rows)))
    request = ImportRequest(format="tau2", paths=(path,), pool=pool, out=tmp_path / "out")
    report = import_log(request, show_progress=False).to_json()
    assert set(report["rejected"]) == {"episode that is there twice", "score that is missing or out of range"}
    dataset = Dataset.load(tmp_path / "out")
    assert [(one.variation, one.seed) for one in dataset.episodes] == [(7, 1), (7, 0)]
    assert (dataset.info.propensities, dataset.info.behavior_policy) == ("exact", "single:cheap")
