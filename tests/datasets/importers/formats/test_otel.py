import json

import pytest

from mtrouter_rl.datasets.importers.formats import call_logs, otel
from mtrouter_rl.errors import InvalidConfigError
from tests.cases import agent_logs as logs


def call(span_id, parent, index=0, **more):
    prompt = [logs.SYSTEM, logs.TASK] if index == 0 else [logs.SYSTEM, logs.TASK, logs.LOOK, logs.FOUND]
    attributes = logs.gen_ai(index) | logs.indexed("gen_ai.prompt", prompt)
    attributes |= logs.indexed("gen_ai.completion", [logs.DONE if index else logs.LOOK]) | more
    return logs.span(span_id, parent, attributes, second=index + 1)


def test_a_frameworks_span_around_a_clients_is_one_call(read):
    outer = call("outer", "")
    rows = logs.otlp(outer, call("inner", "outer"), call("2", "", 1))
    (episode,), report = read("otel", {"a.json": rows}, scores={"s1": 1})
    assert len(episode.turns) == 2
    assert report.to_json()["passed_over"][otel.OUTER]["n"] == 1
    assert report.read.n_prompt == 300


def agent(span_id, parent, name):
    return logs.span(span_id, parent, {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": name})


def test_the_calls_of_an_agent_below_another_one_are_no_turns(read):
    rows = logs.otlp(
        agent("boss", "", "boss"),
        call("1", "boss"),
        agent("mason", "boss", "mason"),
        call("3", "mason", **{"gen_ai.prompt.1.content": "Lay bricks."}),
        call("2", "boss", 1),
    )
    (episode,), report = read("otel", {"a.json": rows}, scores={"s1": 1})
    assert [turn.action_text for turn in episode.turns][-1] == "bin and etc."
    assert (len(episode.turns), episode.extra["sub_agent_calls"]) == (2, 1)
    assert report.left_out.n_prompt == 100


def test_the_calls_of_agents_are_turns_that_name_their_parents_where_that_is_asked_for(read):
    rows = logs.otlp(
        agent("boss", "", "boss"),
        call("1", "boss"),
        agent("mason", "boss", "mason"),
        call("3", "mason", **{"gen_ai.prompt.1.content": "Lay bricks."}),
        agent("helper", "mason", "helper"),
        call("4", "helper", **{"gen_ai.prompt.1.content": "Carry."}),
        call("2", "boss", 1),
    )
    (episode,), report = read("otel", {"a.json": rows}, scores={"s1": 1}, sub_agents="turns")
    assert episode.parents == ((), (0,), (1,), (0, 1))
    assert episode.extra["turn_agents"] == ["", "mason/mason", "helper/helper", ""]
    assert report.left_out.n_prompt == 0


def test_a_session_may_be_named_above_or_be_the_trace(read):
    def bare(span_id, parent, index):
        found = call(span_id, parent, index)
        found["attributes"] = [one for one in found["attributes"] if one["key"] != "gen_ai.conversation.id"]
        return found

    root = logs.span("root", "", {"session.id": "above"})
    (episode,), _ = read(
        "otel", {"a.json": logs.otlp(root, bare("1", "root", 0), bare("2", "root", 1))}, scores={"above": 1}
    )
    assert episode.episode_id == "above"
    (episode,), _ = read("otel", {"b.json": logs.otlp(bare("1", "", 0), bare("2", "", 1))}, "b.json", scores={"t1": 1})
    assert episode.episode_id == "t1"


def evaluation(name, value):
    event = ("gen_ai.evaluation.result", {"gen_ai.evaluation.name": name, "gen_ai.evaluation.score.value": value})
    return logs.span(f"eval-{name}", "", {"gen_ai.conversation.id": "s1"}, events=[event])


def test_an_evaluation_is_the_score(read):
    rows = logs.otlp(call("1", ""), call("2", "", 1), evaluation("solved", 1))
    (episode,), _ = read("otel", {"a.json": rows})
    assert episode.utility == 1.0
    two = logs.otlp(call("1", ""), call("2", "", 1), evaluation("solved", 1), evaluation("polite", 0))
    with pytest.raises(InvalidConfigError, match=r"score_name=\.\.\. \(polite, solved\)"):
        read("otel", {"b.json": two}, "b.json")
    (episode,), report = read("otel", {"c.json": two}, "c.json", score_name="polite")
    assert episode.utility == 0.0
    assert report.to_json()["notes"][otel.OTHER_SCORE]["examples"][0]["detail"] == "solved"


def test_events_that_are_log_records(read):
    spans = logs.otlp(logs.span("1", "", logs.gen_ai(0), second=1))
    body = {"kvlistValue": {"values": [logs.attribute("content", "List the files.")]}}
    message = {"kvlistValue": {"values": [logs.attribute("content", "I look.")]}}
    choice = {"kvlistValue": {"values": [{"key": "message", "value": message}]}}
    records = [
        {"traceId": "t1", "spanId": "1", "eventName": name, "body": inner}
        for name, inner in (("gen_ai.user.message", body), ("gen_ai.choice", choice))
    ]
    files = {"spans.json": spans, "logs.json": {"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]}}
    (episode,), _ = read("otel", files, scores={"s1": 1})
    assert (episode.task_text, episode.turns[0].action_text) == ("List the files.", "I look.")


def test_spans_as_objects_with_plain_attributes(read):
    rows = []
    for index in (0, 1):
        attributes = {
            one["key"]: next(iter(one["value"].values())) for one in call(str(index), "", index)["attributes"]
        }
        context = {"trace_id": "0xt", "span_id": f"0x{index}"}
        rows.append(
            {
                "name": "chat",
                "context": context,
                "parent_id": None,
                "start_time": f"2026-01-01T00:00:0{index}Z",
                "attributes": attributes,
            }
        )
    (episode,), _ = read("otel", {"a.jsonl": rows}, scores={"s1": 1})
    assert [turn.usage.n_cached for turn in episode.turns] == [0, 80]


def test_contents_that_were_not_recorded_say_how_to(read):
    episodes, report = read("otel", {"a.json": logs.otlp(logs.span("1", "", logs.gen_ai(0)))}, scores={"s1": 1})
    assert episodes == []
    (example,) = report.to_json()["rejected"][otel.NO_MESSAGES]["examples"]
    assert "CAPTURE_MESSAGE_CONTENT" in example["detail"]
    assert report.left_out.n_prompt == 100


def test_a_span_that_is_there_twice_and_one_that_failed(read):
    failed = logs.span("9", "", {"gen_ai.operation.name": "chat", "gen_ai.request.model": "cheap"})
    failed["status"] = {"code": 2, "message": "timeout"}
    rows = logs.otlp(call("1", ""), call("1", ""), call("2", "", 1), failed)
    (episode,), report = read("otel", {"a.json": rows}, scores={"s1": 1})
    passed = report.to_json()["passed_over"]
    assert (passed[otel.DOUBLED]["n"], passed[call_logs.FAILED_CALL]["n"]) == (1, 1)
    assert len(episode.turns) == 2


def test_a_count_of_an_unknown_name_is_named(read):
    rows = logs.otlp(call("1", "", **{"gen_ai.usage.audio_tokens": 7}), call("2", "", 1))
    (_,), report = read("otel", {"a.json": rows}, scores={"s1": 1})
    assert any("gen_ai.usage.audio_tokens" in note for note in report.to_json()["notes"])


def test_a_json_text_of_parts_is_content(read):
    parts = json.dumps([{"type": "text", "text": "List the files."}])
    rows = logs.otlp(call("1", "", **{"gen_ai.prompt.1.content": parts}))
    (episode,), _ = read("otel", {"a.json": rows}, scores={"s1": 1})
    assert episode.task_text == "List the files."
