import json

import pytest

from mtrouter_rl.datasets.importers.formats import call_logs, openai_pairs
from tests.cases import agent_logs as logs


def turns_of(read, rows, **given):
    episodes, report = read("openai-pairs", {"a.jsonl": rows}, **given)
    return {episode.episode_id: [turn.model for turn in episode.turns] for episode in episodes}, report


def without_metadata(rows):
    return [row | {"request": {k: v for k, v in row["request"].items() if k != "metadata"}} for row in rows]


def test_a_session_may_stand_in_metadata_headers_or_the_conversation_itself(read):
    both = ["cheap", "strong"]
    assert turns_of(read, logs.pairs(), scores={"s1": 1})[0] == {"s1": both}
    headers = [
        {"request": {"headers": {"X-Session-Id": "h"}, "body": row["request"]}, "response": {"body": row["response"]}}
        for row in without_metadata(logs.pairs())
    ]
    assert turns_of(read, headers, scores={"h": 1})[0] == {"h": both}
    found, report = turns_of(read, without_metadata(logs.pairs()), scores={"r0": 1})
    assert found == {"r0": both}
    assert report.to_json()["notes"][call_logs.BY_PREFIX]["n"] == 1


def test_two_attempts_at_one_task_without_ids_are_two_sessions(read):
    again = [
        row | {"response": row["response"] | {"id": f"x{index}"}}
        for index, row in enumerate(without_metadata(logs.pairs()))
    ]
    again[0]["response"] = again[0]["response"] | {
        "choices": [{"message": {"role": "assistant", "content": "Other words."}}]
    }
    again[1]["request"] = again[1]["request"] | {
        "messages": [logs.SYSTEM, logs.TASK, {"role": "assistant", "content": "Other words."}, logs.FOUND]
    }
    found, _ = turns_of(read, [*without_metadata(logs.pairs()), *again], scores={"r0": 1, "x0": 0})
    assert found == {"r0": ["cheap", "strong"], "x0": ["cheap", "strong"]}


def test_what_the_caller_put_into_metadata_counts(read):
    given = {
        "score": "0.25",
        "task": "files",
        "instance": "q7",
        "propensity": 0.5,
        "max_turns": "9",
        "status": "truncated",
    }
    (episode,), _ = read("openai-pairs", {"a.jsonl": logs.pairs(**given)}, propensities="exact")
    assert (episode.utility, episode.task, episode.max_turns) == (0.25, "files", 9)
    assert [turn.propensity for turn in episode.turns] == [0.5, 0.5]
    assert episode.turns[-1].truncated


def batch():
    asked = [
        {"custom_id": f"q{index}", "method": "POST", "url": "/v1/chat/completions", "body": row["request"]}
        for index, row in enumerate(without_metadata(logs.pairs()))
    ]
    answered = [
        {
            "id": f"b{index}",
            "custom_id": f"q{index}",
            "response": {"status_code": 200, "body": row["response"]},
            "error": None,
        }
        for index, row in enumerate(logs.pairs())
    ]
    return asked, answered


def test_a_batch_is_joined_by_custom_id_whichever_file_comes_first(read):
    asked, answered = batch()
    files = {"a_output.jsonl": answered[:1], "b_input.jsonl": asked[:1]}
    (episode,), report = read("openai-pairs", files, scores={"q0": 1})
    assert (episode.episode_id, episode.cost_usd, report.n_rejected) == ("q0", pytest.approx(0.000014), 0)


def test_a_batch_without_one_of_its_files_is_told(read):
    asked, answered = batch()
    episodes, report = read("openai-pairs", {"out.jsonl": answered[:1], "in.jsonl": asked[1:]})
    assert episodes == []
    told = report.to_json()
    assert (
        "custom_id 'q0'; give the batch's input file"
        in told["rejected"][openai_pairs.NO_REQUEST]["examples"][0]["detail"]
    )
    assert told["passed_over"][openai_pairs.NO_ANSWER]["n"] == 1
    assert (report.left_out.n_prompt, report.left_out.n_output) == (100, 10)


def test_a_request_of_a_batch_that_failed_was_not_billed(read):
    asked, answered = batch()
    failed = {"custom_id": "q1", "response": {"status_code": 429, "body": {"error": {"message": "slow down"}}}}
    episodes, report = read("openai-pairs", {"a.jsonl": [*asked, answered[0], failed]}, scores={"q0": 1})
    assert [episode.episode_id for episode in episodes] == ["q0"]
    assert report.to_json()["passed_over"][call_logs.FAILED_CALL]["n"] == 1


def responses_api():
    usage = {
        "input_tokens": 100,
        "output_tokens": 10,
        "total_tokens": 110,
        "input_tokens_details": {"cached_tokens": 40},
    }
    call = {"type": "function_call", "name": "ls", "arguments": '{"path": "/"}', "call_id": "c1"}
    text = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "bin and etc."}]}
    first = {"model": "cheap", "instructions": "You help.", "input": "List the files."}
    came = [{"type": "function_call_output", "call_id": "c1", "output": "bin etc"}]
    second = {"model": "cheap", "previous_response_id": "p1", "input": came}
    answers = ({"id": "p1", "output": [{"type": "reasoning", "summary": []}, call]}, {"id": "p2", "output": [text]})
    base = {"object": "response", "model": "cheap", "usage": usage, "status": "completed"}
    return [
        {"request": request, "response": base | {"created_at": index} | answer}
        for index, (request, answer) in enumerate(zip((first, second), answers, strict=True))
    ]


def anthropic():
    usage = {"input_tokens": 60, "cache_read_input_tokens": 40, "output_tokens": 10}
    block = {"type": "tool_use", "id": "t", "name": "ls", "input": {"path": "/"}}
    came = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "bin etc"}]}
    base = {"type": "message", "role": "assistant", "model": "cheap", "usage": usage}
    first = {"model": "cheap", "system": "You help.", "messages": [logs.TASK], "metadata": {"session_id": "p1"}}
    second = first | {"messages": [logs.TASK, {"role": "assistant", "content": [block]}, came]}
    return [
        {"request": first, "response": base | {"id": "m1", "content": [block]}},
        {"request": second, "response": base | {"id": "m2", "content": [{"type": "text", "text": "bin and etc."}]}},
    ]


def gemini():
    usage = {"promptTokenCount": 100, "cachedContentTokenCount": 40, "candidatesTokenCount": 7, "thoughtsTokenCount": 3}
    call = {"functionCall": {"name": "ls", "args": {"path": "/"}}}
    task = {"role": "user", "parts": [{"text": "List the files."}]}
    came = {"role": "user", "parts": [{"functionResponse": {"name": "ls", "response": "bin etc"}}]}
    system = {"parts": [{"text": "You help."}]}
    first = {"model": "cheap", "systemInstruction": system, "contents": [task]}
    second = first | {"contents": [task, {"role": "model", "parts": [call]}, came]}
    return [
        {
            "session_id": "p1",
            "request": request,
            "response": {
                "candidates": [{"content": {"role": "model", "parts": parts}}],
                "usageMetadata": usage | {"totalTokenCount": 110},
                "modelVersion": "cheap",
                "responseId": f"g{index}",
            },
        }
        for index, (request, parts) in enumerate(((first, [call]), (second, [{"text": "bin and etc."}])))
    ]


@pytest.mark.parametrize("rows", [responses_api(), anthropic(), gemini()], ids=["responses", "anthropic", "gemini"])
def test_the_forms_of_other_vendors(read, rows):
    (episode,), report = read("openai-pairs", {"a.jsonl": rows}, scores={"p1": 1})
    assert episode.episode_id == "p1"
    assert [turn.action_text for turn in episode.turns] == [
        '[{"name": "ls", "arguments": {"path": "/"}}]',
        "bin and etc.",
    ]
    assert [turn.observation_text for turn in episode.turns] == ["bin etc", ""]
    assert [(turn.usage.n_fresh, turn.usage.n_cached, turn.usage.n_output) for turn in episode.turns] == [
        (60, 40, 10)
    ] * 2
    assert episode.extra["system_prompt"] == "You help."
    assert report.n_rejected == 0


def test_a_stored_completion_holds_its_own_messages(read):
    stored = [
        row["response"] | {"messages": row["request"]["messages"], "metadata": {"session_id": "s"}}
        for row in logs.pairs()
    ]
    assert turns_of(read, stored, scores={"s": 1})[0] == {"s": ["cheap", "strong"]}


def test_a_fall_back_is_the_served_model(read):
    rows = logs.pairs()[:1]
    rows[0]["response"]["model"] = "strong"
    (episode,), _ = read("openai-pairs", {"a.jsonl": rows}, scores={"s1": 1})
    assert (episode.turns[0].model, episode.turns[0].served_model) == ("cheap", "strong")
    rows[0]["request"]["model"] = "auto"
    (episode,), _ = read("openai-pairs", {"b.jsonl": rows}, "b.jsonl", scores={"s1": 1})
    assert (episode.turns[0].model, episode.turns[0].served_model) == ("strong", "strong")


def bad(**changes):
    rows = json.loads(json.dumps(logs.pairs()))
    for path, value in changes.items():
        holder = rows[1]
        *parents, last = path.split("__")
        for key in parents:
            holder = holder[key]
        holder[last] = value
    return rows


BAD = {
    "no usage": (bad(response__usage=None), "token count that is missing or invalid", "response.usage is missing"),
    "negative": (
        bad(response__usage={"prompt_tokens": -1, "completion_tokens": 1}),
        "token count that is missing or invalid",
        "prompt_tokens",
    ),
    "chunks": (bad(response__choices=[{"delta": {}}]), "field that is missing or breaks its rule", "not its chunks"),
    "no messages": (bad(request__messages=[]), "field that is missing or breaks its rule", "request has no messages"),
    "unknown model": (bad(request__model="chaep", response__model="x"), "model that the pool does not have", "'cheap'"),
    "score": (bad(request__metadata={"session_id": "s1", "score": 50}), "score that is missing or out of range", "50"),
    "propensity": (
        bad(request__metadata={"session_id": "s1", "propensity": -0.7}),
        "propensity that is missing or out of range",
        "must be in (0, 1]",
    ),
}


@pytest.mark.parametrize(("rows", "reason", "detail"), BAD.values(), ids=BAD)
def test_a_call_that_cannot_be_read_takes_its_session_with_it(read, rows, reason, detail):
    good = logs.pairs(session_id="good")
    for row in good:
        row["response"] = row["response"] | {"id": f"g{row['response']['id']}"}
    episodes, report = read("openai-pairs", {"a.jsonl": [*rows, *good]}, scores={"s1": 1, "good": 1})
    assert [episode.episode_id for episode in episodes] == ["good"]
    (found,) = report.to_json()["rejected"].items()
    assert found[0] == reason
    assert detail in found[1]["examples"][0]["detail"]
    assert "a.jsonl:" in found[1]["examples"][0]["source"]
