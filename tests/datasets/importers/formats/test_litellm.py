import csv
import io
import json

import pytest

from mtrouter_rl.datasets.importers.formats import call_logs, litellm
from tests.cases import agent_logs as logs


def payload(index, prompt, answer):
    usage = logs.USAGES[index]
    return {
        "id": f"r{index}",
        "trace_id": "t1",
        "call_type": "acompletion",
        "response_cost": (0.000014, 0.000416)[index],
        "status": "success",
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage["completion_tokens"],
        "total_tokens": usage["total_tokens"],
        "startTime": 1760000000.0 + index,
        "endTime": 1760000000.5 + index,
        "model": "openai/strong" if index else "openai/cheap",
        "model_group": "strong" if index else "cheap",
        "metadata": {"usage_object": usage, "requester_metadata": {"task": "files", "propensity": 0.5}},
        "messages": prompt,
        "response": logs.completion(index, answer),
    }


def test_standard_logging_payloads_are_sessions_by_trace(read):
    rows = [payload(0, [logs.SYSTEM, logs.TASK], logs.LOOK)]
    rows.append({"standard_logging_object": payload(1, [logs.SYSTEM, logs.TASK, logs.LOOK, logs.FOUND], logs.DONE)})
    (episode,), report = read("litellm", {"a.jsonl": rows}, scores={"t1": 1}, propensities="exact")
    assert (episode.episode_id, episode.task) == ("t1", "files")
    assert [turn.usage.n_cached for turn in episode.turns] == [0, 80]
    assert [turn.latency_s for turn in episode.turns] == [0.5, 0.5]
    assert report.read.usd == pytest.approx(0.00043)
    assert report.to_json()["notes"].keys() == {"session whose status was not logged: it is taken as completed"}


def test_a_table_whose_cells_are_json(read):
    out = io.StringIO()
    rows = [
        {key: json.dumps(value) if isinstance(value, dict | list) else value for key, value in row.items()}
        for row in logs.litellm()
    ]
    writer = csv.DictWriter(out, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    (episode,), report = read("litellm", {"spend.csv": out.getvalue().encode()}, scores={"s1": 1})
    assert [turn.usage.n_prompt for turn in episode.turns] == [100, 200]
    assert report.read.n_output == 30


def test_answers_of_the_gateways_own_cache_cost_nothing(read):
    rows = logs.litellm()
    rows[1] |= {"cache_hit": "True", "spend": 0.0}
    (episode,), report = read("litellm", {"a.jsonl": rows}, scores={"s1": 1})
    assert [turn.cost_usd for turn in episode.turns] == [pytest.approx(0.000014), 0.0]
    assert report.to_json()["notes"][litellm.CACHE_HIT]["n"] == 1


def test_requests_that_failed_and_calls_that_are_no_chats_are_passed_over(read):
    failed = logs.spend_log(1, {}, logs.DONE, request_id="f", status="failure", spend=0.0)
    embedding = logs.spend_log(1, {}, logs.DONE, request_id="e", call_type="aembedding")
    (episode,), report = read("litellm", {"a.jsonl": [*logs.litellm(), failed, embedding]}, scores={"s1": 1})
    assert len(episode.turns) == 2
    passed = report.to_json()["passed_over"]
    assert (passed[call_logs.FAILED_CALL]["n"], passed[call_logs.OTHER_CALL]["n"]) == (1, 1)
    assert (report.left_out.n_prompt, report.left_out.n_output) == (200, 20)


@pytest.mark.parametrize("field", ["messages", "response"])
def test_a_prompt_that_was_not_stored_says_which_setting_stores_it(read, field):
    episodes, report = read("litellm", {"a.jsonl": logs.litellm(**{field: {}})}, scores={"s1": 1})
    assert episodes == []
    (example,) = report.to_json()["rejected"][litellm.NO_PROMPT]["examples"]
    assert field in example["detail"]
    assert report.left_out.n_prompt == 300


def test_the_prompt_may_stand_in_the_proxys_request(read):
    rows = logs.litellm()
    for row in rows:
        row["proxy_server_request"] = json.dumps({"model": "cheap", "messages": row.pop("messages")})
        row["messages"] = {}
    (episode,), _ = read("litellm", {"a.jsonl": rows}, scores={"s1": 1})
    assert episode.task_text == "List the files."


def test_counts_that_differ_are_noted(read):
    rows = logs.litellm()
    rows[1]["prompt_tokens"] = 120
    (_,), report = read("litellm", {"a.jsonl": rows}, scores={"s1": 1})
    (example,) = report.to_json()["notes"][litellm.OTHER_COUNT]["examples"]
    assert example["detail"] == "prompt_tokens: 120 and 200"


def test_without_any_session_id(read):
    rows = [row | {"session_id": None} for row in logs.litellm()]
    episodes, report = read("litellm", {"a.jsonl": rows})
    assert episodes == []
    assert "session_id, metadata.session_id and trace_id are missing" in str(report)
