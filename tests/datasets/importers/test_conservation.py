"""What was read and what was left out add up to what was there, however broken it is, and nothing ends in a traceback.

The counts here look at the files alone and share no code with the importers.
"""

import contextlib
import copy
import gzip
import json
import random

import pytest

from mtrouter_rl.datasets.importers.base import ImportReport
from mtrouter_rl.datasets.importers.run import ImportRequest, import_log
from mtrouter_rl.errors import MTRouterError
from tests.cases.call_rows import POOL, answer, user

PRICES = {"small": (1.0, 0.1, 1.25, 2.0), "big": (10.0, 1.0, 12.5, 20.0)}
WORDS = ["look", "go on", "open the door", "Straße", "\u2028", "", "x" * 500, "{}", "1"]
ODD = [None, "", "x", -1, 1.5, True, [], {}, float("nan"), 10**30, "\ud83d", [[[]]], {"a": {"b": None}}]


def usage(rng):
    prompt, output, cached = rng.randint(1, 5000), rng.randint(1, 500), 0
    if rng.random() < 0.3:
        cached = rng.randint(0, prompt)
        return {"input_tokens": prompt - cached, "cache_read_input_tokens": cached, "output_tokens": output}
    raw = {"prompt_tokens": prompt, "completion_tokens": output}
    if rng.random() < 0.5:
        raw["prompt_tokens_details"] = {"cached_tokens": rng.randint(0, prompt)}
    if rng.random() < 0.5:
        raw["total_tokens"] = prompt + output
    return raw


def said(rng, text):
    forms = [
        text,
        answer(text),
        answer([{"type": "text", "text": text}]),
        answer(None, tool_calls=[{"id": "1", "function": {"name": "f", "arguments": json.dumps({"t": text})}}]),
    ]
    return rng.choice(forms)


def session(rng, name):
    rows, messages = [], [user(f"task {name}")]
    is_cumulative = rng.random() < 0.7
    for index in range(rng.randint(1, 5)):
        response = said(rng, f"{rng.choice(WORDS)} {name} {index}")
        rows.append(
            {
                "session_id": name,
                "messages": list(messages),
                "response": response,
                "model": rng.choice(["small", "vendor/big"]),
                "usage": usage(rng),
                "timestamp": 1_700_000_000 + len(rows),
                "request_id": f"{name}-{index}",
            }
        )
        shown = [answer(response) if isinstance(response, str) else response, user(rng.choice(WORDS))]
        messages = [*messages, *shown] if is_cumulative else shown[1:]
    rows[-1]["score"] = rng.random()
    if rng.random() < 0.3:
        return [whole(rows)]
    return rows


def whole(rows):
    messages = [user("task")]
    for row in rows:
        one = row["response"] if isinstance(row["response"], dict) else answer(row["response"])
        messages += [one | {"model": row["model"], "usage": row["usage"]}, user("next")]
    return {"session_id": rows[0]["session_id"], "messages": messages, "score": rows[-1]["score"]}


def mutated(rng, rows):
    rows = copy.deepcopy(rows)
    for _ in range(rng.randint(1, 4)):
        index = rng.randrange(len(rows))
        kind = rng.choice(["drop", "double", "swap", "delete key", "odd value", "odd message", "odd usage", "new key"])
        row = rows[index]
        if kind == "drop" and len(rows) > 1:
            del rows[index]
        elif kind == "double":
            rows.insert(rng.randrange(len(rows)), copy.deepcopy(row))
        elif kind == "swap":
            rng.shuffle(rows)
        elif kind == "delete key":
            row.pop(rng.choice(list(row)), None)
        elif kind == "odd value":
            row[rng.choice([*row, "latency_s", "propensity", "status", "seed", "max_turns"])] = rng.choice(ODD)
        elif kind == "odd message" and isinstance(row.get("messages"), list):
            row["messages"].insert(0, rng.choice([*ODD, {"role": "user", "content": rng.choice(ODD)}]))
        elif kind == "odd usage" and isinstance(row.get("usage"), dict) and row["usage"]:
            row["usage"][rng.choice([*row["usage"], "novel"])] = rng.choice([None, -1, True, "x", 0.5])
        elif kind == "new key":
            row[f"key{rng.randint(0, 9)}"] = rng.choice(ODD)
    return rows


def tokens_of(raw):
    """(fresh, cached, output) of the two forms that are made here; None if something in it cannot be."""
    if not isinstance(raw, dict):
        return None
    is_openai = "prompt_tokens" in raw or "completion_tokens" in raw
    if is_openai:
        raw = {
            key: value
            for key, value in raw.items()
            if value is not None or key in ("prompt_tokens", "completion_tokens")
        }
        details = raw.get("prompt_tokens_details")
        details = details if isinstance(details, dict) else {}
        numbers = [raw.get("prompt_tokens"), details.get("cached_tokens", 0), raw.get("completion_tokens")]
    else:
        cached = raw.get("cache_read_input_tokens")
        numbers = [raw.get("input_tokens"), 0 if cached is None else cached, raw.get("output_tokens")]
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in numbers):
        return None
    if is_openai:
        total = raw.get("total_tokens", numbers[0] + numbers[2])
        if isinstance(total, bool) or total != numbers[0] + numbers[2] or numbers[1] > numbers[0]:
            return None
        numbers[0] -= numbers[1]
    return numbers


def counted(text):
    """Calls, prompt and output tokens of the lines of a log, and their price where the model is known."""
    n_calls = n_prompt = n_output = 0
    usd = 0.0
    for line in text.split("\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if not isinstance(row, dict):
            continue
        is_call = bool({"model", "usage", "response"} & row.keys())
        messages = row.get("messages")
        if not is_call and isinstance(messages, list):
            calls = [one for one in messages if isinstance(one, dict) and one.get("role") == "assistant"]
        else:
            calls = [row]
        for one in calls:
            n_calls += 1
            found = tokens_of(one.get("usage"))
            if found is None:
                continue
            fresh, cached, output = found
            n_prompt += fresh + cached
            n_output += output
            model = one.get("served_model") or one.get("model")
            price = PRICES.get(str(model).removeprefix("vendor/")) if isinstance(model, str) else None
            if price:
                usd += (fresh * price[0] + cached * price[1] + output * price[3]) / 1e6
    return n_calls, n_prompt, n_output, usd


def imported(tmp_path, name, *paths, pool=POOL, **options):
    """The report of an import, whether it made a dataset or not."""
    report = ImportReport(format=name)
    out = tmp_path / "out"
    request = ImportRequest(format=name, paths=paths, pool=pool, out=out, options=options)
    with contextlib.suppress(MTRouterError):
        import_log(request, show_progress=False, report=report)
    return report


@pytest.mark.parametrize("seed", range(60))
def test_calls_read_and_left_out_are_those_of_the_log(tmp_path, seed):
    rng = random.Random(seed)
    rows = [row for index in range(rng.randint(2, 6)) for row in session(rng, f"s{index}")]
    if seed:
        rows = mutated(rng, rows)
    lines = [json.dumps(row) for row in rows]
    if rng.random() < 0.3:
        place = rng.randrange(len(lines))
        lines[place] = lines[place][: rng.randrange(len(lines[place]))]
    cut = rng.randint(0, len(lines))
    parts = {"a.jsonl": "\n".join(lines[:cut]), "b.jsonl": "\n".join(lines[cut:])}
    paths = []
    for name, text in parts.items():
        if text:
            is_packed = rng.random() < 0.5
            paths.append(tmp_path / (f"{name}.gz" if is_packed else name))
            paths[-1].write_bytes(gzip.compress(text.encode()) if is_packed else text.encode())
    report = imported(tmp_path, "openai-jsonl", *paths)
    n_calls, n_prompt, n_output, usd = counted("\n".join(parts.values()))
    total = report.read + report.left_out
    assert (total.n_prompt, total.n_output) == (n_prompt, n_output), report
    assert total.usd == pytest.approx(usd, rel=1e-9, abs=1e-12)
    assert total.n_calls >= n_calls - sum("status" in row or "score" in row for row in rows)


@pytest.mark.parametrize("seed", range(25))
def test_bytes_that_are_changed_end_in_no_traceback(tmp_path, seed):
    rng = random.Random(seed)
    data = bytearray("\n".join(json.dumps(row) for index in range(4) for row in session(rng, f"s{index}")).encode())
    for _ in range(rng.randint(1, 30)):
        place = rng.randrange(len(data))
        data[place : place + rng.randint(0, 3)] = bytes(rng.randrange(256) for _ in range(rng.randint(0, 3)))
    (tmp_path / "a.jsonl").write_bytes(data)
    report = imported(tmp_path, "openai-jsonl", tmp_path / "a.jsonl")
    assert report.n_episodes + report.n_rejected + sum(report._passed.values()) > 0


@pytest.mark.parametrize("seed", range(25))
def test_one_turn_tables_add_up(tmp_path, seed):
    rng = random.Random(seed)
    records = []
    for index in range(rng.randint(1, 8)):
        record = {"index": index, "prompt": f"Q{index}", "origin_query": "Q", "score": rng.random(), "raw_output": "A"}
        record |= {"prompt_tokens": rng.randint(1, 99), "completion_tokens": rng.randint(0, 99), "cost": 0.001}
        if rng.random() < 0.5:
            record[rng.choice(list(record))] = rng.choice(ODD)
        if rng.random() < 0.2:
            record.pop(rng.choice(list(record)))
        records.append(rng.choice([record] * 9 + [7]))
    run = {"dataset_name": "d", "split": "s", "model_name": "small", "demo": seed % 5 == 0, "records": records}
    (tmp_path / "d-s-small-20260101_000000.json").write_text(json.dumps(run), encoding="utf-8")
    report = imported(tmp_path, "llmrouterbench", tmp_path / "d-s-small-20260101_000000.json")
    total = report.read + report.left_out

    def count(record, name):
        value = record.get(name) if isinstance(record, dict) else None
        is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
        return value if is_count or (isinstance(value, float) and value >= 0 and value.is_integer()) else None

    both = [(count(one, "prompt_tokens"), count(one, "completion_tokens")) for one in records]
    known = [pair for pair in both if None not in pair]
    assert total.n_calls == len(records)
    if total.n_unknown == len(records) - len(known):
        assert (total.n_prompt, total.n_output) == (sum(a for a, _ in known), sum(b for _, b in known))
    assert total.n_prompt <= sum(a for a, _ in known)


@pytest.mark.parametrize("seed", range(25))
def test_balrog_totals_add_up(tmp_path, seed):
    rng = random.Random(seed)
    expected = 0
    for run in range(3):
        folder = tmp_path / "log" / "small" / "babyai" / "goto"
        folder.mkdir(parents=True, exist_ok=True)
        n_turns = rng.randint(1, 6)
        actions = [rng.choice(["", "left", "go"]) for _ in range(n_turns)]
        content = {
            "task": "goto",
            "input_tokens": rng.randint(0, 10**6),
            "output_tokens": rng.randint(0, 1000),
            "episode_return": 0.5,
            "num_steps": n_turns,
            "progression": 0.5,
            "failed_candidates": [],
            "agent": {"type": "naive", "max_history": 2},
            "client": {"model_id": "small"},
        }
        rows = "".join(f"{i},{action},,seen {i},0,False\r\n" for i, action in enumerate(actions))
        data = json.dumps(content).encode()
        if rng.random() < 0.3:
            data = data[: rng.randrange(len(data))]
        if rng.random() < 0.3:
            rows = rows[: rng.randrange(len(rows))]
        (folder / f"goto_run_0{run}.csv").write_bytes(
            f"Step,Action,Reasoning,Observation,Reward,Done\r\n{rows}".encode()
        )
        (folder / f"goto_run_0{run}.json").write_bytes(data)
        with contextlib.suppress(ValueError):
            expected += json.loads(data)["input_tokens"]
    report = imported(tmp_path, "balrog", tmp_path / "log")
    assert (report.read + report.left_out).n_prompt == expected, report
