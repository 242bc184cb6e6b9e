import copy

import pytest

from mtrouter_rl.datasets.importers.formats import atif, whole_runs
from tests.cases import agent_logs as logs


def job(trajectory=None, result=None, **more):
    files = {
        "job/files__abc/agent/trajectory.json": trajectory or logs.atif(),
        "job/result.json": {"n_total_trials": 1},
    }
    return files | ({"job/files__abc/result.json": result} if result else {}) | more


def test_the_reward_lies_in_the_trials_result(read):
    (episode,), report = read("atif", job(result=logs.trial()))
    assert (episode.episode_id, episode.task) == ("files__abc/s1", "terminal-bench")
    assert (episode.utility, episode.behavior_policy) == (1.0, "logged")
    notes = report.to_json()["notes"]
    assert (
        list(notes) == ["answer whose logged cost is missing", "hidden thinking of a model, left out of its action"][:1]
    )


@pytest.mark.parametrize(("name", "text"), [("reward.txt", b"1\n"), ("reward.json", b'{"reward": 1.0}')])
def test_the_reward_may_be_the_verifiers_file(read, name, text):
    (episode,), _ = read("atif", job(**{f"job/files__abc/verifier/{name}": text}))
    assert episode.utility == 1.0


def test_an_agent_of_one_model_chose_it_with_certainty(read):
    one = logs.atif()
    del one["steps"][3]["model_name"]
    (episode,), _ = read("atif", job(one, logs.trial()), propensities="exact")
    assert [turn.propensity for turn in episode.turns] == [1.0, 1.0]
    assert episode.behavior_policy == "single:cheap"
    episodes, report = read(
        "atif", {"x/trajectory.json": logs.atif(), "x/result.json": logs.trial()}, "x", propensities="exact"
    )
    assert episodes == []
    assert "propensities=unknown" in str(report)


ENDINGS = {
    "time": ({"exception_type": "AgentTimeoutError", "exception_message": "900 s"}, 0.0, ("completed", False, True)),
    "broke": ({"exception_type": "DockerError", "exception_message": "gone"}, None, ("failed", False, False)),
    "broke and scored": (
        {"exception_type": "CancelledError", "exception_message": ""},
        1.0,
        ("completed", True, False),
    ),
}


@pytest.mark.parametrize(("error", "reward", "ending"), ENDINGS.values(), ids=ENDINGS)
def test_endings(read, error, reward, ending):
    verifier = None if reward is None else {"rewards": {"reward": reward}}
    (episode,), report = read("atif", job(result=logs.trial(exception_info=error, verifier_result=verifier)))
    assert (episode.status, episode.turns[-1].terminated, episode.turns[-1].truncated) == ending
    assert (atif.WRONG_TRIAL in report.to_json()["notes"]) == (error["exception_type"] == "CancelledError")


def test_several_rewards_need_one_of_name_reward(read):
    two = logs.trial(verifier_result={"rewards": {"style": 1.0, "tests": 0.0}})
    episodes, report = read("atif", job(result=two))
    assert episodes == []
    assert "several rewards (style, tests) and none of name 'reward'" in str(report)
    assert (report.left_out.n_prompt, report.left_out.n_output) == (300, 30)


def test_a_scale_of_rewards_is_an_option(read):
    high = logs.trial(verifier_result={"rewards": {"reward": 5}})
    episodes, report = read("atif", job(result=high))
    assert episodes == []
    assert "is 5, must be in [-1, 1]" in str(report)
    (episode,), _ = read("atif", job(result=high), max_reward=10.0)
    assert episode.utility == 0.5


def test_a_table_of_scores_stands_in_for_results(read, tmp_path):
    (episode,), _ = read("atif", {"a/trajectory.json": logs.atif()}, scores={"s1": 0.25})
    assert episode.utility == 0.25
    episodes, report = read("atif", {"b/trajectory.json": logs.atif()}, "b")
    assert episodes == []
    assert "give a table of scores that has 's1'" in str(report)


def continued():
    first, second = logs.atif(), logs.atif()
    first["steps"] = first["steps"][:3]
    first["continued_trajectory_ref"] = "trajectory.cont-1.json"
    second["steps"] = [one | {"is_copied_context": True} for one in second["steps"][:3]] + second["steps"][3:]
    return first, second


def test_a_trajectory_in_two_parts_is_one_episode(read):
    first, second = continued()
    folder = "job/files__abc/agent"
    files = {f"{folder}/trajectory.json": first, f"{folder}/trajectory.cont-1.json": second}
    (episode,), report = read("atif", files | {"job/files__abc/result.json": logs.trial()})
    assert [turn.model for turn in episode.turns] == ["cheap", "strong"]
    assert (report.read.n_prompt, report.n_rejected) == (300, 0)


def test_a_part_without_its_beginning_is_left_out(read):
    _, second = continued()
    episodes, report = read("atif", job(second, logs.trial()))
    assert episodes == []
    assert list(report.to_json()["rejected"]) == [atif.LOST_PART]
    assert report.left_out.n_prompt == 200


def test_sub_agents_are_counted_and_no_episodes(read):
    main, sub = logs.atif(), logs.atif(session_id="sub")
    reference = {"session_id": "sub", "trajectory_path": "sub.json"}
    main["steps"][2]["observation"]["results"][0]["subagent_trajectory_ref"] = [reference]
    (episode,), report = read("atif", job(main, logs.trial(), **{"job/files__abc/agent/sub.json": sub}))
    assert episode.episode_id == "files__abc/s1"
    assert (report.left_out.n_calls, report.left_out.n_prompt) == (2, 300)
    main = copy.deepcopy(logs.atif()) | {"subagent_trajectories": [sub]}
    (episode,), report = read("atif", {"y/trajectory.json": main, "y/result.json": logs.trial()}, "y")
    assert report.left_out.n_output == 30


def test_a_step_without_a_call_is_part_of_what_came_before(read):
    run = logs.atif()
    run["steps"].insert(3, {"step_id": 9, "source": "agent", "message": "(waits)", "llm_call_count": 0})
    (episode,), report = read("atif", job(run, logs.trial()))
    assert episode.turns[0].observation_text == "bin etc\n\n(waits)"
    assert atif.NO_CALL in report.to_json()["notes"]


def test_totals_that_differ_are_noted(read):
    (_,), report = read("atif", job(logs.atif(final_metrics={"total_prompt_tokens": 900}), logs.trial()))
    (example,) = report.to_json()["notes"][whole_runs.OTHER_TOTAL]["examples"]
    assert example["detail"] == "prompt tokens: final_metrics says 900, steps 300"


def test_tokens_written_to_the_cache_stand_under_extra(read):
    run = logs.atif()
    run["steps"][2]["metrics"]["extra"] = {"cache_creation_input_tokens": 60, "stop": "end"}
    (episode,), _ = read("atif", job(run, logs.trial()))
    assert (episode.turns[0].usage.n_fresh, episode.turns[0].usage.n_written) == (40, 60)


def test_a_step_without_metrics_names_itself(read):
    run = logs.atif()
    del run["steps"][3]["metrics"]
    episodes, report = read("atif", job(run, logs.trial()))
    assert episodes == []
    assert "steps.3.metrics is missing" in str(report)
    assert (report.left_out.n_calls, report.left_out.n_prompt, report.left_out.n_unknown) == (2, 100, 1)


def test_a_newer_version_is_read_and_noted(read):
    (_,), report = read("atif", job(logs.atif(schema_version="ATIF-v1.99"), logs.trial()))
    assert report.to_json()["notes"][atif.UNKNOWN_VERSION]["examples"][0]["detail"] == "ATIF-v1.99"
