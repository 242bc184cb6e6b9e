import json
import zipfile

import pytest

from mtrouter_rl.datasets.importers import mtrouter
from mtrouter_rl.datasets.importers.base import ImportReport, ImportSource
from mtrouter_rl.datasets.importers.formats import mini_answers
from mtrouter_rl.datasets.importers.mtrouter import MTRouterImporter, MTRouterOptions
from mtrouter_rl.datasets.importers.run import ImportRequest, import_log
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.records import UNLIMITED_BUDGET_USD, UNLIMITED_TURNS

PROMPT = [{"role": "system", "content": "You play."}, {"role": "user", "content": "Boil water."}]


def user(text, **fields):
    return {"role": "user", "content": text} | fields


def response(model, *, n_prompt=1000, n_output=100, **usage):
    counts = {"prompt_tokens": n_prompt, "completion_tokens": n_output, "prompt_tokens_details": None}
    return {"id": "x", "model": model, "usage": counts | usage}


def routed(text, model, **fields):
    """An answer as the paper's router logs it."""
    fields = {"model_name": model, "selected_model": model, "propensity": 0.5, "router_type": "Roulette"} | fields
    info = {"propensity": fields["propensity"], "selected_model": fields["selected_model"]}
    pool = {"n_models": 2, "model_pool": ["cheap", "strong"]}
    extra = {"response": response(fields["model_name"])}
    return {"role": "assistant", "content": text, "extra": extra, "router_info": info | pool} | fields


def run_of(*messages, top=None, **info):
    """A trajectory of the paper's code on ScienceWorld."""
    given = {
        "exit_status": "Submitted",
        "submission": "done",
        "model_stats": {"instance_cost": 0.1, "api_calls": sum(one["role"] == "assistant" for one in messages)},
        "config": {"agent": {"step_limit": 50, "cost_limit": 2.0}, "model": {"model_name": "propensity_roulette"}},
        "task_id": "boil_var3_run2",
        "task_name": "boil",
        "variation_idx": 3,
        "final_score": 75.0,
    }
    return {"info": given | info, "messages": [*PROMPT, *messages], "trajectory_format": "mini-agentic-router-1"} | (
        top or {}
    )


TWO_TURNS = (routed("look", "cheap"), user("a stove"), routed("activate stove", "strong"), user("done"))


def swe_answer(text, **fields):
    """An answer as mini-swe-agent 2 logs it."""
    call = {"id": "c", "type": "function", "function": {"name": "bash", "arguments": '{"command": "ls"}'}}
    extra = {"response": response("cheap"), "cost": 0.00014, "timestamp": 1.0}
    return {"role": "assistant", "content": text, "tool_calls": [call], "extra": extra} | fields


def swe_run(**info):
    config = {"agent": {"step_limit": 0, "cost_limit": 0.0}, "model": {"model_name": "cheap"}}
    given = {"exit_status": "Submitted", "submission": "diff", "config": config, "model_stats": {"api_calls": 1}}
    tool = {"role": "tool", "content": "a.py", "tool_call_id": "c", "extra": {"returncode": 0}}
    end = {"role": "exit", "content": "diff", "extra": {"exit_status": "Submitted"}}
    return {
        "info": given | info,
        "messages": [*PROMPT, swe_answer("I list."), tool, end],
        "trajectory_format": "mini-swe-agent-1.1",
        "instance_id": "django__django-1",
    }


@pytest.fixture
def read(tmp_path, pool):
    """Imports trajectories by file name; gives the episodes and the report as JSON."""

    def run(files, *more, **options):
        folder = tmp_path / "runs"
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        report = ImportReport(format="mtrouter")
        source = ImportSource(paths=(folder, *more), pool=pool, report=report)
        return list(MTRouterImporter(MTRouterOptions(**options)).episodes(source)), report.to_json()

    return run


def read_one(read, trajectory, **options):
    (episode,), report = read({"a.traj.json": trajectory}, **options)
    return episode, report


def test_a_run_of_the_papers_code(read, pool):
    episode, report = read_one(read, run_of(*TWO_TURNS))
    assert (episode.task, episode.variation, episode.seed) == ("boil", 3, 2)
    assert episode.episode_id.startswith("boil_var3_run2/")
    assert (episode.task_text, episode.first_observation) == ("Boil water.", "")
    assert (episode.max_turns, episode.budget_usd, episode.behavior_policy) == (50, 2.0, "Roulette")
    assert [turn.model for turn in episode.turns] == ["cheap", "strong"]
    assert [turn.propensity for turn in episode.turns] == [0.5, 0.5]
    assert [turn.observation_text for turn in episode.turns] == ["a stove", "done"]
    assert [turn.utility_gain for turn in episode.turns] == [0.0, 0.75]
    last = episode.turns[1]
    assert last.cost_usd == pool.model("strong").prices.cost_usd(last.usage) == 0.0028
    assert (last.terminated, last.truncated, episode.status) == (True, False, "completed")
    assert episode.extra["system_prompt"] == "You play."
    assert report["notes"]["answer whose logged cost is missing"]["n"] == 2


def test_the_fall_back_is_the_served_model_and_the_chosen_one_keeps_its_propensity(read, pool):
    fell = routed("look", "strong", fallback_from="cheap", selected_model="cheap")
    episode, _ = read_one(read, run_of(fell), propensities="exact")
    (turn,) = episode.turns
    assert (turn.model, turn.served_model, turn.propensity) == ("cheap", "strong", 0.5)
    assert turn.cost_usd == pool.model("strong").prices.cost_usd(turn.usage)


UNSURE = {
    "no word of whose propensity it is": routed("look", "strong", fallback_from="cheap", selected_model=None),
    "another model answered": routed("look", "cheap", selected_model=None, extra={"response": response("strong")}),
    "the router's pool lacks it": routed(
        "look", "cheap", router_info={"selected_model": "cheap", "model_pool": ["strong"]}
    ),
}


@pytest.mark.parametrize("message", UNSURE.values(), ids=UNSURE)
def test_a_propensity_that_may_be_another_models_is_dropped_or_the_run_left_out(read, message):
    episode, report = read_one(read, run_of(message))
    assert (episode.turns[0].model, episode.turns[0].propensity) == ("cheap", None)
    assert report["notes"][mtrouter.DROPPED]["n"] == 1
    episodes, report = read({"a.traj.json": run_of(message)}, propensities="exact")
    assert not episodes
    assert list(report["rejected"]) == ["propensity that is missing or out of range"]


def test_the_mask_is_the_routers_pool(read):
    info = {"selected_model": "cheap", "propensity": 1.0, "model_pool": ["cheap", "gone"]}
    episode, report = read_one(read, run_of(routed("look", "cheap", router_info=info, propensity=1.0)))
    assert episode.turns[0].action_mask == (True, False)
    assert report["notes"][mtrouter.UNKNOWN_CANDIDATE]["examples"][0]["detail"] == "'gone'"


@pytest.mark.parametrize(
    ("info", "utility"),
    [
        ({"final_score": 0.0}, 0.0),
        ({"final_score": -100}, -1.0),
        ({"benchmark": "hle", "final_score": None, "benchmark_data": {"judge_result": {"correct": True}}}, 1.0),
        ({"benchmark": "hle", "final_score": None, "benchmark_data": {"judge_result": {"correct": False}}}, 0.0),
    ],
)
def test_utility_is_score_over_maximum_so_that_nothing_is_no_half_success(read, info, utility):
    assert read_one(read, run_of(*TWO_TURNS, **info))[0].utility == utility


def test_a_broken_run_is_failed_and_its_score_not_taken(read):
    broken = run_of(*TWO_TURNS, exit_status="APIError", submission="502", final_score=0.0)
    episode, report = read_one(read, broken)
    assert (episode.status, episode.status_detail, episode.utility) == ("failed", "APIError: 502", 0.0)
    assert report["notes"][mtrouter.BROKE_SCORE]["n"] == 1


def test_a_limit_truncates_and_a_cost_limit_may_be_gone_over(read):
    config = {"agent": {"step_limit": 1, "cost_limit": 0.001}}
    episode, report = read_one(read, run_of(*TWO_TURNS, exit_status="LimitsExceeded", submission="", config=config))
    assert (episode.turns[-1].terminated, episode.turns[-1].truncated) == (False, True)
    assert episode.max_turns == 2
    assert episode.budget_usd == episode.cost_usd > 0.001
    assert report["notes"][mtrouter.OVER_LIMIT]["n"] == 1


def test_costs_that_differ_and_calls_that_were_not_logged_are_noted(read):
    turn = routed("look", "cheap", extra={"response": response("cheap", cost=0.1)})
    right = routed("wait", "cheap", extra={"response": response("cheap", cost=0.0001405)})
    _, report = read_one(read, run_of(turn, right, user("x"), model_stats={"api_calls": 5}))
    notes = {name: (found["n"], found["examples"][0]["detail"]) for name, found in report["notes"].items()}
    assert notes == {
        "logged cost that differs from tokens times the pool's prices by more than 1%": (
            1,
            "1 of 2 answers; in all logged 0.100141 USD, computed 0.00028 USD",
        ),
        mtrouter.UNLOGGED_CALLS: (3, "api_calls is 5, 2 answers are there"),
        mtrouter.SILENT: (1, ""),
    }


def test_mini_swe_agent_takes_scores_from_a_report(read, tmp_path):
    table = tmp_path / "report.json"
    table.write_text(json.dumps({"total_instances": 1, "resolved_ids": ["django__django-1"], "unresolved_ids": []}))
    (episode,), report = read({"a/a.traj.json": swe_run()}, table, propensities="exact")
    (turn,) = episode.turns
    assert turn.action_text == 'I list.\n[{"name": "bash", "arguments": {"command": "ls"}}]'
    assert (turn.observation_text, turn.propensity, turn.utility_gain) == ("a.py", 1.0, 1.0)
    assert (episode.task, episode.behavior_policy) == ("mini-swe-agent", "single:cheap")
    assert (episode.budget_usd, episode.max_turns) == (UNLIMITED_BUDGET_USD, UNLIMITED_TURNS)
    assert report["notes"] == {}
    again, _ = read({"b.traj.json": swe_run(model_stats={})}, table)
    assert {one.variation for one in again} == {episode.variation}


@pytest.mark.parametrize(
    ("table", "detail"),
    [
        ('{"django__django-1": 0.25}', None),
        ('{"django__django-1": 7}', "django__django-1: score is 7, must be a number in [-1, 1]"),
        ('{"resolved_ids": 3}', "report of SWE-bench, resolved_ids: Input should be a valid list"),
        ("{", "Expecting"),
    ],
)
def test_tables_of_scores(read, tmp_path, table, detail):
    path = tmp_path / "scores.json"
    path.write_text(table)
    episodes, report = read({"a.traj.json": swe_run()}, path)
    if detail is None:
        assert [one.utility for one in episodes] == [0.25]
    else:
        assert not episodes
        assert any(detail in one["detail"] for found in report["rejected"].values() for one in found["examples"])


def test_the_model_of_an_agent_with_a_mixed_configuration(read):
    mixed = swe_run(final_score=1.0)
    mixed["info"]["config"]["model"]["model_name"] = "roulette"
    episode, _ = read_one(read, mixed, max_score=2.0)
    assert (episode.turns[0].model, episode.turns[0].propensity, episode.behavior_policy) == ("cheap", None, "logged")
    assert episode.utility == 0.5


def no_usage(model="cheap"):
    return routed("look", "cheap", extra={"response": {"model": model}})


BAD = {
    "cut off": (json.dumps(run_of(*TWO_TURNS)).encode()[:900], "text that is no JSON object", ""),
    "binary": (bytes(range(256)), "text that is no JSON object", "begins with"),
    "empty": (b"", "text that is no JSON object", "is empty"),
    "list": (b" []", "field that is missing or breaks its rule", "is a list of messages without 'info'"),
    "other schema": ({"simulations": []}, "field that is missing or breaks its rule", "this is no trajectory"),
    "no answer": (run_of(), "conversation without any answer of a model", "2 messages"),
    "no end": (run_of(*TWO_TURNS, exit_status=None), "run without an exit status", "info.exit_status is missing"),
    "no score": (run_of(*TWO_TURNS, final_score=None), "score that is missing or out of range", "no final_score"),
    "NaN score": (run_of(*TWO_TURNS, final_score=float("nan")), "score that is missing or out of range", "'NaN'"),
    "high score": (run_of(*TWO_TURNS, final_score=101), "score that is missing or out of range", "[-100, 100]"),
    "no scale": (
        run_of(*TWO_TURNS, benchmark="other"),
        "score that is missing or out of range",
        "give --option max_score",
    ),
    "no usage": (run_of(no_usage()), "token count that is missing or invalid", "extra.response.usage"),
    "negative tokens": (
        run_of(routed("a", "cheap", extra={"response": response("cheap", n_prompt=-1)})),
        "token count that is missing or invalid",
        "is -1, must be",
    ),
    "unknown model": (
        run_of(routed("a", "chaep", selected_model=None)),
        "model that the pool does not have",
        "did you mean 'cheap'",
    ),
    "no model": (
        run_of({"role": "assistant", "content": "a", "extra": {"response": response(None)}}, config=None),
        "model that is missing",
        "no name of a model",
    ),
    "two chosen": (
        run_of(routed("a", "strong", fallback_from="strong", selected_model="cheap")),
        mtrouter.UNCLEAR_FALLBACK,
        "fallback_from is 'strong', selected_model 'cheap'",
    ),
    "propensity": (
        run_of(routed("a", "cheap", propensity=1.5)),
        "propensity that is missing or out of range",
        "(is 1.5)",
    ),
    "went on": (run_of(*TWO_TURNS, routed("more", "cheap")), mtrouter.WENT_ON, "message 5 ends the task, message 6"),
    "went on after done": (
        run_of(routed("a", "cheap"), user("won", extra={"done": True}), routed("b", "cheap")),
        mtrouter.WENT_ON,
        "message 3 ends",
    ),
    "went on after exit": (
        run_of(routed("a", "cheap"), {"role": "exit", "content": ""}, routed("b", "cheap")),
        mtrouter.WENT_ON,
        "message 3 ends",
    ),
}


@pytest.mark.parametrize(("content", "reason", "detail"), BAD.values(), ids=BAD)
def test_a_bad_file_is_counted_and_the_rest_is_imported(read, content, reason, detail):
    episodes, report = read({"a.traj.json": run_of(*TWO_TURNS), "bad.traj.json": content})
    assert len(episodes) == 1
    (found,) = report["rejected"].items()
    assert (found[0], found[1]["n"]) == (reason, 1)
    assert found[1]["examples"][0]["source"] == "bad.traj.json"
    assert detail in found[1]["examples"][0]["detail"]


def test_an_unknown_version_is_read_and_noted(read):
    _, report = read_one(read, run_of(*TWO_TURNS, top={"trajectory_format": "mini-swe-agent-9"}))
    assert report["notes"][mtrouter.UNKNOWN_FORMAT]["examples"][0]["detail"] == "'mini-swe-agent-9'"


def test_nothing_of_the_format(tmp_path, read):
    with pytest.raises(DatasetError, match=r"no trajectory in .*runs; give folders or archives with files that end in"):
        read({"results.json": {"a": 1}})
    with pytest.raises(DatasetError, match="no such file or folder"):
        read({"a.traj.json": run_of(*TWO_TURNS)}, tmp_path / "gone")


def test_the_dataset_loads_back_from_an_archive_and_a_file_given_twice_counts_once(tmp_path, pool):
    archive = tmp_path / "runs.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("a/a.traj.json", json.dumps(run_of(*TWO_TURNS)))
        packed.writestr("b/b.traj.json", json.dumps(run_of(*TWO_TURNS, task_id="boil_var3_run3")))
        packed.writestr("b/readme.md", "no log")
    single = tmp_path / "single.json"
    single.write_text(json.dumps(run_of(*TWO_TURNS)))
    request = ImportRequest(
        format="mtrouter",
        paths=(archive, single),
        pool=pool,
        out=tmp_path / "out",
        options={"propensities": "exact"},
    )
    report = import_log(request, show_progress=False).to_json()
    assert (report["n_files"], report["n_episodes"], report["n_turns"]) == (3, 2, 4)
    assert list(report["rejected"]) == ["episode that is there twice"]
    dataset = Dataset.load(tmp_path / "out")
    assert (dataset.info.propensities, dataset.info.max_turns, dataset.info.budget_usd) == ("exact", 50, 2.0)
    assert [episode.seed for episode in dataset.episodes] == [2, 3]


def complaint(**extra):
    return user("Use one tool.", extra={"interrupt_type": "FormatError", "cost": 0.0028} | extra)


def test_an_answer_in_a_wrong_form_is_a_billed_turn(read, pool):
    """mini-swe-agent 2 keeps such an answer only in the message that complains about it."""
    kept = {"choices": [{"message": {"content": "Hm.", "role": "assistant"}}]} | response("cheap", n_prompt=2000)
    run = swe_run(final_score=1.0, model_stats={"api_calls": 2})
    run["messages"][3:3] = [complaint(response=kept, cost=0.00024)]
    episode, report = read_one(read, run, max_score=1.0)
    assert [(turn.action_text, turn.error) for turn in episode.turns][1] == ("Hm.", "format_error")
    assert episode.turns[1].usage.n_fresh == 2000
    assert episode.turns[1].observation_text == "Use one tool.\n\na.py"
    assert report["notes"] == {mtrouter.SILENT: report["notes"][mtrouter.SILENT]} | {}


def test_an_answer_whose_tokens_are_lost_is_noted_with_its_money(read):
    run = swe_run(final_score=1.0, model_stats={"api_calls": 2})
    run["messages"][3:3] = [complaint(response="ModelResponse(id='r')")]
    episode, report = read_one(read, run, max_score=1.0)
    assert len(episode.turns) == 1
    (found,) = report["notes"][mini_answers.NO_TOKENS]["examples"]
    assert "messages.3.extra.response is" in found["detail"]
    assert "0.0028 USD" in found["detail"]
    assert mtrouter.UNLOGGED_CALLS not in report["notes"]


@pytest.mark.parametrize(
    ("status", "ending", "utility"),
    [
        ("LimitsExceeded", (False, True), 0.5),
        ("TimeExceeded", (False, True), 0.5),
        ("RepeatedFormatError", (True, False), 0.5),
    ],
)
def test_endings_of_mini_swe_agent(read, tmp_path, status, ending, utility):
    table = tmp_path / "scores.json"
    table.write_text('{"django__django-1": 0.5}')
    (episode,), _ = read({"a.traj.json": swe_run(exit_status=status)}, table)
    assert (episode.turns[-1].terminated, episode.turns[-1].truncated) == ending
    assert (episode.status, episode.utility) == ("completed", utility)


def test_a_run_that_the_model_broke_itself_scores_0_without_a_table(read):
    episode, report = read_one(read, swe_run(exit_status="RepeatedFormatError", submission=""))
    assert (episode.status, episode.utility, episode.turns[-1].terminated) == ("completed", 0.0, True)
    assert report["notes"][mtrouter.OWN_FAILURE]["n"] == 1


def test_answers_of_the_responses_api(read, pool):
    call = {"type": "function_call", "name": "bash", "arguments": '{"command": "ls"}', "call_id": "c"}
    whole = {
        "object": "response",
        "model": "cheap",
        "output": [{"type": "reasoning", "summary": []}, call],
        "usage": {"input_tokens": 100, "output_tokens": 10, "total_tokens": 110},
        "extra": {"actions": [], "cost": 0.000014},
    }
    run = swe_run(final_score=1.0)
    run["messages"][2:4] = [whole, {"type": "function_call_output", "call_id": "c", "output": "a.py"}]
    episode, report = read_one(read, run, max_score=1.0)
    (turn,) = episode.turns
    assert (turn.action_text, turn.observation_text) == ('[{"name": "bash", "arguments": {"command": "ls"}}]', "a.py")
    assert (turn.usage.n_fresh, turn.usage.n_output, report["n_rejected"]) == (100, 10, 0)


def test_what_a_run_that_is_left_out_cost_is_in_the_report(read):
    _, report = read({"a.traj.json": run_of(*TWO_TURNS, final_score=None)})
    assert report["left_out"] == {
        "n_calls": 2,
        "n_unknown": 0,
        "n_prompt": 2000,
        "n_output": 200,
        "usd": pytest.approx(0.00294),
    }
