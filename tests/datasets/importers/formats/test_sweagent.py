import pytest

from mtrouter_rl.datasets.importers import mtrouter
from mtrouter_rl.datasets.importers.formats import sweagent, whole_runs
from tests.cases import agent_logs as logs


def test_the_tokens_of_the_turns_add_up_to_the_totals(read):
    (episode,), report = read("sweagent", {"m/x__y-1.traj": logs.sweagent()}, scores={"x__y-1": 1})
    assert sum(turn.usage.n_prompt for turn in episode.turns) == 300
    assert sum(turn.usage.n_output for turn in episode.turns) == 30
    assert episode.turns[0].usage.n_prompt < episode.turns[1].usage.n_prompt
    assert (episode.usage_source, episode.behavior_policy) == ("reconstructed", "single:cheap")
    assert [turn.action_text for turn in episode.turns] == ["I look.\nls /", "bin and etc.\nsubmit"]
    assert [turn.observation_text for turn in episode.turns] == ["bin etc", ""]
    assert (episode.task_text, episode.extra["system_prompt"]) == ("List the files.", "You help.")
    assert (episode.utility, episode.budget_usd) == (1.0, 3.0)
    assert report.to_json()["notes"] == {}


ENDINGS = {
    "submitted": ("completed", True, False),
    "submitted (exit_cost)": ("completed", False, True),
    "exit_context": ("completed", False, True),
    "exit_format": ("completed", True, False),
    "exit_error": ("failed", False, False),
}


@pytest.mark.parametrize("status", ENDINGS)
def test_endings(read, status):
    (episode,), _ = read("sweagent", {"x__y-1.traj": logs.sweagent(exit_status=status)}, scores={"x__y-1": 0})
    assert (episode.status, episode.turns[-1].terminated, episode.turns[-1].truncated) == ENDINGS[status]


def test_a_run_that_the_model_gave_up_scores_0_without_a_report(read):
    (episode,), report = read("sweagent", {"x.traj": logs.sweagent(exit_status="exit_forfeit", submission=None)})
    assert episode.utility == 0.0
    assert sweagent.OWN_FAILURE in report.to_json()["notes"]


def test_the_model_may_be_an_option(read):
    old = {key: value for key, value in logs.sweagent().items() if key != "replay_config"}
    episodes, report = read("sweagent", {"x.traj": old}, scores={"x": 1})
    assert episodes == []
    assert "give --option model=NAME" in str(report)
    (episode,), _ = read("sweagent", {"x.traj": old}, scores={"x": 1}, model="strong")
    assert episode.models == ("strong", "strong")


def test_queries_say_how_long_each_prompt_was(read):
    run = logs.sweagent()
    run["trajectory"][0]["query"] = [{"role": "user", "content": "x" * 100}]
    run["trajectory"][1]["query"] = [{"role": "user", "content": "x" * 50}]
    (episode,), _ = read("sweagent", {"x.traj": run}, scores={"x": 1})
    assert [turn.usage.n_prompt for turn in episode.turns] == [200, 100]


STATS = {"instance_cost": 0.000042, "tokens_sent": 300, "tokens_received": 30, "api_calls": 2}
BAD = {
    "no tokens": ({"model_stats": STATS | {"tokens_sent": 0}}, "tokens_sent 0, tokens_received 30"),
    "no stats": ({"model_stats": None}, "tokens_sent None"),
    "no end": ({"exit_status": None}, "info.exit_status is missing"),
}


@pytest.mark.parametrize(("info", "detail"), BAD.values(), ids=BAD)
def test_runs_that_cannot_be_used(read, info, detail):
    files = {"x.traj": logs.sweagent(), "y.traj": logs.sweagent(**info)}
    episodes, report = read("sweagent", files, scores={"x": 1, "y": 1})
    assert [episode.extra["instance"] for episode in episodes] == ["x"]
    assert detail in str(report)


def test_several_attempts_and_calls_made_again(read):
    files = {
        "x.traj": logs.sweagent(model_stats=STATS | {"api_calls": 5, "instance_cost": 9.0}),
        "y.traj": logs.sweagent() | {"attempts": [{}, {}]},
    }
    (_,), report = read("sweagent", files, scores={"x": 1, "y": 1})
    told = report.to_json()
    assert told["notes"][sweagent.REQUERIES]["n"] == 3
    assert whole_runs.OTHER_TOTAL in told["notes"]
    assert list(told["rejected"]) == [sweagent.ATTEMPTS]
    assert report.left_out.n_prompt == 300


def test_mini_swe_agents_importer_tells_them_apart(read):
    episodes, report = read("mtrouter", {"x.traj.json": logs.sweagent(), "y.traj.json": _mini()})
    assert len(episodes) == 1
    assert mtrouter.OTHER_AGENT in str(report.to_json()["rejected"])


def _mini():
    usage = {"prompt_tokens": 10, "completion_tokens": 1}
    answer = {"role": "assistant", "content": "x", "extra": {"response": {"model": "cheap", "usage": usage}}}
    info = {"exit_status": "RepeatedFormatError", "config": {"model": {"model_name": "cheap"}}}
    return {"info": info, "messages": [logs.TASK, answer], "trajectory_format": "mini-swe-agent-1", "instance_id": "q"}
