import copy

from mtrouter_rl.datasets.importers.formats import claude_code
from tests.cases import agent_logs as logs


def changed(*more, **fields):
    rows = copy.deepcopy(logs.CLAUDE_CODE)
    return [*rows, *more] if not fields else [row | fields for row in rows]


def answer(uuid, message_id, text, **fields):
    message = {
        "id": message_id,
        "role": "assistant",
        "model": "cheap",
        "content": [{"type": "text", "text": text}],
        "usage": {"input_tokens": 7, "output_tokens": 3},
    }
    return {
        "type": "assistant",
        "sessionId": "s1",
        "uuid": uuid,
        "timestamp": f"2026-01-01T00:01:0{uuid[-1]}Z",
        "message": message,
    } | fields


def told(user, text, **fields):
    return {"type": "user", "sessionId": "s1", "uuid": user, "message": {"role": "user", "content": text}} | fields


def test_the_largest_usage_of_an_answers_lines_counts(read):
    (episode,), report = read("claude-code", {"s1.jsonl": logs.CLAUDE_CODE}, scores={"s1": 1})
    assert [turn.usage.n_output for turn in episode.turns] == [10, 20]
    assert report.read.n_calls == 2
    assert report.to_json()["notes"][claude_code.NO_CALL_LINE]["examples"][0]["detail"] == "type is 'summary'"


def test_what_came_back_after_the_last_answer_is_its_observation(read):
    (episode,), _ = read("claude-code", {"s1.jsonl": changed(told("6", "Thanks."))}, scores={"s1": 1})
    assert episode.turns[-1].observation_text == "Thanks."


def test_the_calls_of_sub_agents_are_counted_and_no_turns(read):
    side = {"isSidechain": True, "agentId": "a1"}
    main = changed()
    files = {"s1.jsonl": main, "agent-a1.jsonl": [told("u1", "Search.", **side), answer("u2", "m9", "Found.", **side)]}
    (episode,), report = read("claude-code", files, scores={"s1": 1})
    assert len(episode.turns) == 2
    assert episode.extra["sub_agent_calls"] == 1
    assert (report.left_out.n_calls, report.left_out.n_prompt, report.left_out.n_output) == (1, 7, 3)


def test_lines_that_a_resumed_session_copied_count_once(read):
    new = [told("7", "Now the sizes.", sessionId="s2"), answer("8", "m3", "They are small.", sessionId="s2")]
    files = {"a.jsonl": changed(), "b.jsonl": [row | {"sessionId": "s2"} for row in changed()] + new}
    episodes, report = read("claude-code", files, scores={"s1": 1, "s2": 1})
    assert {episode.episode_id: len(episode.turns) for episode in episodes} == {"s1": 2, "s2": 1}
    assert (report.read.n_calls, report.read.n_prompt) == (3, 307)
    assert report.to_json()["passed_over"][claude_code.COPIED]["n"] == 5


def test_an_answer_that_claude_code_made_up_is_no_call(read):
    made_up = answer("6", "m7", "API Error", isApiErrorMessage=True)
    (episode,), report = read("claude-code", {"s1.jsonl": changed(made_up)}, scores={"s1": 1})
    assert len(episode.turns) == 2
    assert report.to_json()["notes"][claude_code.SYNTHETIC]["n"] == 1


def stream(*more):
    rows = [row for row in changed() if "message" in row]
    return [
        {"type": "system", "subtype": "init", "session_id": "s1"},
        *(
            {"type": row["type"], "session_id": "s1", "parent_tool_use_id": None, "message": row["message"]}
            for row in rows
        ),
        *more,
    ]


def test_the_printed_stream_with_its_result(read):
    rows = stream({"type": "result", "subtype": "error_max_turns", "session_id": "s1", "is_error": False})
    (episode,), report = read("claude-code", {"out.jsonl": rows}, scores={"s1": 0})
    assert episode.turns[-1].truncated
    assert report.read.n_calls == 2
    rows = stream({"type": "result", "subtype": "error_during_execution", "session_id": "s1", "is_error": True})
    (episode,), _ = read("claude-code", {"out2.jsonl": rows}, "out2.jsonl")
    assert (episode.status, episode.status_detail) == ("failed", "error_during_execution")


def test_a_session_without_a_score_is_left_out_with_its_money(read):
    episodes, report = read("claude-code", {"s1.jsonl": logs.CLAUDE_CODE})
    assert episodes == []
    assert (report.left_out.n_prompt, report.left_out.n_output) == (300, 30)
    assert report.left_out.usd > 0


def test_an_answer_without_usage_names_its_line(read):
    rows = changed()
    del rows[-1]["message"]["usage"]
    episodes, report = read("claude-code", {"s1.jsonl": rows}, scores={"s1": 1})
    assert episodes == []
    (example,) = report.to_json()["rejected"]["token count that is missing or invalid"]["examples"]
    assert example["source"] == "s1.jsonl:6"
    assert "message.usage is missing" in example["detail"]
