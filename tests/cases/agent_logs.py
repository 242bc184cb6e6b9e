"""Small logs written by hand after the published formats: two calls of one session each, 300 prompt and 30 output tokens."""

import io
import json
import zipfile

SYSTEM = {"role": "system", "content": "You help."}
TASK = {"role": "user", "content": "List the files."}
LOOK = {
    "role": "assistant",
    "content": "I look.",
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "ls", "arguments": '{"path": "/"}'}}],
}
FOUND = {"role": "tool", "tool_call_id": "c1", "content": "bin etc"}
DONE = {"role": "assistant", "content": "bin and etc."}
USAGES = (
    {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    {
        "prompt_tokens": 200,
        "completion_tokens": 20,
        "total_tokens": 220,
        "prompt_tokens_details": {"cached_tokens": 80},
    },
)


def completion(index, message):
    return {
        "id": f"r{index}",
        "object": "chat.completion",
        "created": 1_760_000_000 + index,
        "model": "strong" if index else "cheap",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": USAGES[index],
    }


def pairs(**metadata):
    given = {"session_id": "s1"} | metadata
    first = {"model": "cheap", "messages": [SYSTEM, TASK], "metadata": given}
    second = {"model": "strong", "messages": [SYSTEM, TASK, LOOK, FOUND], "metadata": given}
    return [
        {"request": first, "response": completion(0, LOOK)},
        {"request": second, "response": completion(1, DONE)},
    ]


CLAUDE_CODE = [
    {"type": "summary", "summary": "Files", "leafUuid": "9"},
    {"type": "user", "sessionId": "s1", "uuid": "1", "timestamp": "2026-01-01T00:00:00Z", "message": TASK},
    {
        "type": "assistant",
        "sessionId": "s1",
        "uuid": "2",
        "timestamp": "2026-01-01T00:00:01Z",
        "message": {
            "id": "m1",
            "role": "assistant",
            "model": "cheap",
            "content": [{"type": "text", "text": "I look."}],
            "usage": {
                "input_tokens": 20,
                "cache_creation_input_tokens": 30,
                "cache_read_input_tokens": 50,
                "output_tokens": 1,
            },
        },
    },
    {
        "type": "assistant",
        "sessionId": "s1",
        "uuid": "3",
        "timestamp": "2026-01-01T00:00:02Z",
        "message": {
            "id": "m1",
            "role": "assistant",
            "model": "cheap",
            "content": [{"type": "tool_use", "id": "t1", "name": "ls", "input": {"path": "/"}}],
            "usage": {
                "input_tokens": 20,
                "cache_creation_input_tokens": 30,
                "cache_read_input_tokens": 50,
                "output_tokens": 10,
            },
        },
    },
    {
        "type": "user",
        "sessionId": "s1",
        "uuid": "4",
        "timestamp": "2026-01-01T00:00:03Z",
        "message": {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "bin etc"}]},
    },
    {
        "type": "assistant",
        "sessionId": "s1",
        "uuid": "5",
        "timestamp": "2026-01-01T00:00:04Z",
        "message": {
            "id": "m2",
            "role": "assistant",
            "model": "strong",
            "content": [{"type": "text", "text": "bin and etc."}],
            "usage": {"input_tokens": 200, "output_tokens": 20},
        },
    },
]


def codex_line(kind, second, **payload):
    return {"timestamp": f"2026-01-01T00:00:{second:02d}Z", "type": kind, "payload": payload}


def codex_count(second, last, total):
    names = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_output_tokens", "total_tokens")
    usages = [dict(zip(names, counts, strict=True)) for counts in (last, total)]
    info = {"last_token_usage": usages[0], "total_token_usage": usages[1], "model_context_window": 1000}
    return codex_line("event_msg", second, type="token_count", info=info)


CODEX = [
    codex_line("session_meta", 0, id="s1", cwd="/", cli_version="0.50.0"),
    codex_line("turn_context", 1, model="cheap"),
    codex_line(
        "response_item", 2, type="message", role="user", content=[{"type": "input_text", "text": "List the files."}]
    ),
    codex_line("response_item", 3, type="reasoning", summary=[], encrypted_content="x"),
    codex_line("response_item", 4, type="function_call", name="ls", arguments='{"path": "/"}', call_id="c1"),
    codex_count(5, (100, 40, 10, 4, 110), (100, 40, 10, 4, 110)),
    codex_count(5, (100, 40, 10, 4, 110), (100, 40, 10, 4, 110)),
    codex_line("response_item", 6, type="function_call_output", call_id="c1", output="bin etc"),
    codex_line("turn_context", 7, model="strong"),
    codex_line(
        "response_item", 8, type="message", role="assistant", content=[{"type": "output_text", "text": "bin and etc."}]
    ),
    codex_count(9, (200, 80, 20, 0, 220), (300, 120, 30, 4, 330)),
]


def spend_log(index, messages, answer, **fields):
    usage = USAGES[index]
    return {
        "request_id": f"r{index}",
        "call_type": "acompletion",
        "spend": (0.000014, 0.000416)[index],
        "total_tokens": usage["total_tokens"],
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage["completion_tokens"],
        "startTime": f"2026-01-01T00:00:0{index}Z",
        "endTime": f"2026-01-01T00:00:0{index + 1}Z",
        "model": "strong" if index else "cheap",
        "model_group": "strong" if index else "cheap",
        "custom_llm_provider": "openai",
        "cache_hit": "False",
        "session_id": "s1",
        "status": "success",
        "metadata": {"spend_logs_metadata": {"task": "files"}, "usage_object": usage},
        "messages": messages,
        "response": completion(index, answer),
    } | fields


def litellm(**fields):
    return [
        spend_log(0, [SYSTEM, TASK], LOOK) | fields,
        spend_log(1, [SYSTEM, TASK, LOOK, FOUND], DONE) | fields,
    ]


def attribute(name, value):
    if isinstance(value, int):
        return {"key": name, "value": {"intValue": str(value)}}
    return {"key": name, "value": {"stringValue": value if isinstance(value, str) else json.dumps(value)}}


def span(span_id, parent, attributes, *, second=0, events=()):
    return {
        "traceId": "t1",
        "spanId": span_id,
        "parentSpanId": parent,
        "name": span_id,
        "startTimeUnixNano": str(1_760_000_000_000_000_000 + second * 10**9),
        "endTimeUnixNano": str(1_760_000_000_500_000_000 + second * 10**9),
        "attributes": [attribute(name, value) for name, value in attributes.items()],
        "events": [
            {"name": name, "attributes": [attribute(key, value) for key, value in inner.items()]}
            for name, inner in events
        ],
    }


def otlp(*spans):
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {"name": "x"}, "spans": list(spans)}]}]}


def part(text):
    return {"type": "text", "content": text}


CALL_PART = {"type": "tool_call", "id": "c1", "name": "ls", "arguments": {"path": "/"}}
NEW_PROMPT = [{"role": "user", "parts": [part("List the files.")]}]
NEW_LOOK = {"role": "assistant", "parts": [part("I look."), CALL_PART]}
NEW_FOUND = {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "bin etc"}]}
NEW_DONE = {"role": "assistant", "parts": [part("bin and etc.")], "finish_reason": "stop"}


def gen_ai(index, **attributes):
    counts = USAGES[index]
    cached = {"gen_ai.usage.cache_read.input_tokens": 80} if index else {}
    return (
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "strong" if index else "cheap",
            "gen_ai.conversation.id": "s1",
            "gen_ai.usage.input_tokens": counts["prompt_tokens"],
            "gen_ai.usage.output_tokens": counts["completion_tokens"],
        }
        | cached
        | attributes
    )


def new_names():
    system = {"gen_ai.system_instructions": [part("You help.")]}
    first = {"gen_ai.input.messages": NEW_PROMPT, "gen_ai.output.messages": [NEW_LOOK]} | system
    second = {
        "gen_ai.input.messages": [*NEW_PROMPT, NEW_LOOK, NEW_FOUND],
        "gen_ai.output.messages": [NEW_DONE],
    } | system
    return otlp(
        span("root", "", {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "a"}),
        span("1", "root", gen_ai(0, **first), second=1),
        span("2", "root", gen_ai(1, **second), second=2),
    )


def indexed(prefix, messages):
    found = {}
    for index, message in enumerate(messages):
        found[f"{prefix}.{index}.role"] = message["role"]
        found[f"{prefix}.{index}.content"] = message["content"]
        for place, call in enumerate(message.get("tool_calls", ())):
            found[f"{prefix}.{index}.tool_calls.{place}.name"] = call["function"]["name"]
            found[f"{prefix}.{index}.tool_calls.{place}.arguments"] = call["function"]["arguments"]
    return found


def old_names():
    def attributes(index, prompt, answer):
        base = {
            "llm.request.type": "chat",
            "gen_ai.request.model": "strong" if index else "cheap",
            "traceloop.association.properties.session_id": "s1",
            "gen_ai.usage.prompt_tokens": USAGES[index]["prompt_tokens"],
            "gen_ai.usage.completion_tokens": USAGES[index]["completion_tokens"],
            "llm.usage.total_tokens": USAGES[index]["total_tokens"],
        } | ({"gen_ai.usage.cache_read_input_tokens": 80} if index else {})
        return base | indexed("gen_ai.prompt", prompt) | indexed("gen_ai.completion", [answer])

    return otlp(
        span("1", "", attributes(0, [SYSTEM, TASK], LOOK), second=1),
        span("2", "", attributes(1, [SYSTEM, TASK, LOOK, FOUND], DONE), second=2),
    )


def event_names():
    names = {"system": "gen_ai.system.message", "user": "gen_ai.user.message", "tool": "gen_ai.tool.message"}

    def events(prompt, answer):
        found = [(names.get(one["role"], "gen_ai.assistant.message"), one) for one in prompt]
        rows = [
            (name, {key: one[key] for key in ("role", "content", "tool_calls") if key in one}) for name, one in found
        ]
        return [*rows, ("gen_ai.choice", {"index": 0, "message": answer})]

    return otlp(
        span("1", "", gen_ai(0), second=1, events=events([SYSTEM, TASK], LOOK)),
        span("2", "", gen_ai(1), second=2, events=events([SYSTEM, TASK, LOOK, FOUND], DONE)),
    )


def open_inference():
    def messages(prefix, rows):
        found = {}
        for index, row in enumerate(rows):
            base = f"{prefix}.{index}.message"
            found[f"{base}.role"] = row["role"]
            found[f"{base}.content"] = row["content"]
            for place, call in enumerate(row.get("tool_calls", ())):
                found[f"{base}.tool_calls.{place}.tool_call.function.name"] = call["function"]["name"]
                found[f"{base}.tool_calls.{place}.tool_call.function.arguments"] = call["function"]["arguments"]
        return found

    def attributes(index, prompt, answer):
        base = {
            "openinference.span.kind": "LLM",
            "llm.model_name": "strong" if index else "cheap",
            "session.id": "s1",
            "llm.token_count.prompt": USAGES[index]["prompt_tokens"],
            "llm.token_count.completion": USAGES[index]["completion_tokens"],
            "llm.token_count.total": USAGES[index]["total_tokens"],
        } | ({"llm.token_count.prompt_details.cache_read": 80} if index else {})
        return base | messages("llm.input_messages", prompt) | messages("llm.output_messages", [answer])

    return otlp(
        span("0", "", {"openinference.span.kind": "CHAIN", "input.value": "x"}),
        span("1", "0", attributes(0, [SYSTEM, TASK], LOOK), second=1),
        span("2", "0", attributes(1, [SYSTEM, TASK, LOOK, FOUND], DONE), second=2),
    )


def generation(index, prompt, answer, **fields):
    buckets = (
        {"input": 100, "output": 10, "total": 110},
        {"input": 120, "input_cached_tokens": 80, "output": 20, "total": 220},
    )
    return {
        "id": f"g{index}",
        "type": "GENERATION",
        "traceId": "t1",
        "startTime": f"2026-01-01T00:00:0{index}.000Z",
        "endTime": f"2026-01-01T00:00:0{index + 1}.000Z",
        "model": "strong" if index else "cheap",
        "input": prompt,
        "output": answer,
        "usageDetails": buckets[index],
        "calculatedTotalCost": (0.000014, 0.000416)[index],
        "level": "DEFAULT",
    } | fields


def langfuse():
    observations = [
        {"id": "o0", "type": "SPAN", "traceId": "t1", "startTime": "2026-01-01T00:00:00.000Z"},
        generation(0, [SYSTEM, TASK], LOOK),
        generation(1, {"messages": [SYSTEM, TASK, LOOK, FOUND]}, DONE),
    ]
    score = {"id": "x", "name": "solved", "value": 0.5, "dataType": "NUMERIC", "traceId": "t1"}
    return {"id": "t1", "sessionId": "s1", "projectId": "p", "observations": observations, "scores": [score]}


def atif(**fields):
    metrics = (
        {"prompt_tokens": 100, "completion_tokens": 10},
        {"prompt_tokens": 200, "completion_tokens": 20, "cached_tokens": 80, "cost_usd": 0.000416},
    )
    call = {"tool_call_id": "c1", "function_name": "ls", "arguments": {"path": "/"}}
    return {
        "schema_version": "ATIF-v1.4",
        "session_id": "s1",
        "agent": {"name": "terminus-2", "version": "2.0", "model_name": "cheap"},
        "steps": [
            {"step_id": 1, "source": "system", "message": "You help."},
            {"step_id": 2, "source": "user", "message": "List the files."},
            {
                "step_id": 3,
                "source": "agent",
                "message": "I look.",
                "reasoning_content": "Hm.",
                "tool_calls": [call],
                "observation": {"results": [{"source_call_id": "c1", "content": "bin etc"}]},
                "metrics": metrics[0],
            },
            {
                "step_id": 4,
                "source": "agent",
                "model_name": "strong",
                "message": "bin and etc.",
                "metrics": metrics[1],
            },
        ],
        "final_metrics": {"total_prompt_tokens": 300, "total_completion_tokens": 30, "total_cost_usd": 0.0004},
    } | fields


def trial(**fields):
    return {
        "trial_name": "files__abc",
        "task_name": "files",
        "source": "terminal-bench",
        "agent_result": {"n_input_tokens": 300, "n_output_tokens": 30},
        "verifier_result": {"rewards": {"reward": 1.0}},
        "exception_info": None,
    } | fields


def model_event(index, prompt, answer, **fields):
    usage = (
        {"input_tokens": 100, "output_tokens": 10, "total_tokens": 110},
        {"input_tokens": 120, "input_tokens_cache_read": 80, "output_tokens": 20, "total_tokens": 220},
    )[index]
    model = "strong" if index else "cheap"
    return {
        "event": "model",
        "uuid": f"e{index}",
        "timestamp": f"2026-01-01T00:00:0{index}Z",
        "model": model,
        "input": prompt,
        "output": {
            "model": model,
            "choices": [{"message": answer, "stop_reason": "stop"}],
            "usage": usage,
            "time": 1.0,
        },
    } | fields


INSPECT_LOOK = LOOK | {"source": "generate", "tool_calls": [{"id": "c1", "function": "ls", "arguments": {"path": "/"}}]}


def inspect_sample(**fields):
    return {
        "id": "q1",
        "epoch": 1,
        "input": "List the files.",
        "target": "x",
        "messages": [],
        "output": {},
        "scores": {"match": {"value": "C", "answer": "bin"}},
        "events": [
            model_event(0, [SYSTEM, TASK | {"content": "attachment://a1"}], INSPECT_LOOK),
            model_event(1, [SYSTEM, TASK, INSPECT_LOOK, FOUND | {"function": "ls"}], DONE),
        ],
        "attachments": {"a1": "List the files."},
    } | fields


INSPECT_SPEC = {"task": "files", "eval_id": "E", "created": "2026-01-01T00:00:00Z", "model": "cheap", "config": {}}


def inspect_log(*samples):
    return {"version": 2, "status": "success", "eval": INSPECT_SPEC, "samples": list(samples or (inspect_sample(),))}


def inspect_zip(*samples):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", json.dumps({"version": 2, "status": "success", "eval": INSPECT_SPEC}))
        for index, sample in enumerate(samples or (inspect_sample(),)):
            archive.writestr(f"samples/{index}_epoch_1.json", json.dumps(sample))
    return buffer.getvalue()


def sweagent(**info):
    steps = [
        {"action": "ls /", "observation": "bin etc", "response": "I look.", "thought": "I look.", "state": "{}"},
        {"action": "submit", "observation": "", "response": "bin and etc.\nsubmit", "state": "{}"},
    ]
    stats = {"instance_cost": 0.000042, "tokens_sent": 300, "tokens_received": 30, "api_calls": 2}
    config = {"agent": {"model": {"name": "cheap", "per_instance_cost_limit": 3.0}}}
    return {
        "environment": "x__y-1",
        "trajectory": steps,
        "history": [SYSTEM, {"role": "assistant", "content": "demo", "is_demo": True}, TASK, DONE],
        "info": {"exit_status": "submitted", "submission": "diff", "model_stats": stats} | info,
        "replay_config": json.dumps(config),
    }


def mini_swe_agent():
    """A run of mini-swe-agent 2, with an answer in a wrong form and its evaluation."""

    def answer(index, **extra):
        response = {"model": "cheap", "object": "chat.completion", "choices": [], "usage": USAGES[index]}
        return {"extra": {"response": response, "cost": 0.00001} | extra}

    messages = [
        SYSTEM,
        TASK,
        {"role": "assistant", "content": "I look."} | answer(0),
        {"role": "user", "content": "Use one tool."} | answer(1, interrupt_type="FormatError"),
        {"role": "exit", "content": "", "extra": {"exit_status": "Submitted"}},
    ]
    config = {"agent": {"step_limit": 9, "cost_limit": 3.0}, "model": {"model_name": "cheap"}}
    info = {"exit_status": "Submitted", "submission": "diff", "config": config, "model_stats": {"api_calls": 2}}
    return {"info": info, "messages": messages, "trajectory_format": "mini-swe-agent-1.1", "instance_id": "x__y-1"}


SWE_BENCH_REPORT = {"total_instances": 1, "resolved_ids": ["x__y-1"], "unresolved_ids": [], "empty_patch_ids": []}


def tau2():
    """A folder of tau2-bench by name of the file, as the benchmark writes it."""
    info = {"agent_info": {"llm": "cheap"}, "environment_info": {"domain_name": "mock"}, "max_steps": 9}
    talk = [
        {"role": "assistant", "content": "Hi!", "usage": None},
        TASK,
        LOOK
        | {
            "tool_calls": [{"id": "c1", "name": "ls", "arguments": {"path": "/"}}],
            "usage": USAGES[0],
            "cost": 0.000014,
        },
        FOUND | {"requestor": "assistant"},
        DONE | {"usage": USAGES[1], "cost": 0.0001},
    ]
    run = {"id": "a", "task_id": "3", "trial": 0, "termination_reason": "agent_stop", "reward_info": {"reward": 1.0}}
    results = {"timestamp": "2026-01-01", "info": info, "tasks": [], "simulation_index": [{"id": "a"}]}
    return {"run/results.json": results, "run/simulations/a.json": run | {"messages": talk}}
