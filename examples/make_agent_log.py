"""Writes a made-up log of an agent that calls tools, as a proxy would log it: to try `mtrouter-rl start` on.

No model was called for it: difficulty, mistakes and tokens are drawn. It holds whole requests and responses of three models,
tool calls, usage of every call, scores in a file of their own, and no propensities, since hardly any log has them. Run it with:

    python examples/make_agent_log.py my-log --sessions 300
    mtrouter-rl start my-log/calls.jsonl --scores my-log/scores.csv --pool my-log/my-pool.yaml --out runs/mine
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

POOL = """\
name: my-pool
description: Three made-up models at made-up prices.
models:
  - name: small
    aliases: [vendor/small-2025-08-07, small-2025-08-07]
    prices: { input: 0.05, cached_input: 0.005, output: 0.4 }
    context_tokens: 272000
    max_output_tokens: 128000
  - name: middle
    aliases: [vendor/middle]
    prices: { input: 0.25, cached_input: 0.025, output: 2.0 }
    context_tokens: 272000
    max_output_tokens: 128000
  - name: large
    aliases: [vendor/large]
    prices: { input: 1.25, cached_input: 0.125, output: 10.0 }
    context_tokens: 272000
    max_output_tokens: 128000
"""
MODELS = ("vendor/small-2025-08-07", "vendor/middle", "vendor/large")
# Probability that a step goes right, for an easy, an ordinary and a hard issue.
SKILL = {MODELS[0]: (0.85, 0.45, 0.10), MODELS[1]: (0.90, 0.70, 0.35), MODELS[2]: (0.92, 0.85, 0.75)}
WORDS = (
    ("fix the typo in", "rename the option of", "update the docs of"),
    ("add a missing check to", "handle the empty input of", "mend the date format of"),
    ("find the race condition in", "speed up the query of", "track down the memory leak of"),
)
PARTS = (
    "the parser",
    "the billing job",
    "the login page",
    "the export",
    "the scheduler",
    "the search index",
    "the cache",
)
N_STEPS = 4
MAX_CALLS = 9
SYSTEM = "You are a coding agent. Call one tool at a time; call submit when the issue is solved."


def session(number: int, rng: random.Random) -> tuple[list[dict[str, Any]], float]:
    """Requests and responses of one session, and its score."""
    level = rng.choices((0, 1, 2), weights=(3, 4, 3))[0]
    task = f"Issue {number}: {rng.choice(WORDS[level])} {rng.choice(PARTS)} of service {rng.randrange(40)}."
    messages: list[dict[str, Any]] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": task}]
    model = rng.choice(MODELS)
    pairs = []
    n_done = 0
    n_prompt = 900 + 12 * len(task)
    for call in range(MAX_CALLS):
        if call and rng.random() < 0.3:
            model = rng.choice(MODELS)
        is_right = rng.random() < SKILL[model][level]
        n_done += is_right
        name = "submit" if n_done == N_STEPS else rng.choice(("bash", "read_file", "edit_file"))
        arguments = {"path": f"src/module_{rng.randrange(9)}.py", "step": n_done}
        tool_call = {
            "id": f"call_{number}_{call}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
        answer = {"role": "assistant", "content": None, "tool_calls": [tool_call]}
        n_output = rng.randrange(60, 260)
        usage = {"prompt_tokens": n_prompt, "completion_tokens": n_output, "total_tokens": n_prompt + n_output}
        response = {
            "id": f"chatcmpl-{number}-{call}",
            "object": "chat.completion",
            "created": 1_760_000_000 + 1000 * number + call,
            "model": model.rsplit("/", 1)[-1],
            "choices": [{"index": 0, "message": answer, "finish_reason": "tool_calls"}],
            "usage": usage,
        }
        pairs.append(
            {"session_id": f"issue-{number}", "request": {"model": model, "messages": messages}, "response": response}
        )
        if n_done == N_STEPS:
            break
        result = "ok: tests of this step pass" if is_right else f"error: exit code 1, {rng.choice(PARTS)} still fails"
        messages = [*messages, answer, {"role": "tool", "tool_call_id": tool_call["id"], "content": result}]
        n_prompt += n_output + 40 + len(result) // 4
    return pairs, float(n_done == N_STEPS)


def write_log(folder: Path, n_sessions: int, seed: int = 0) -> None:
    """Write `calls.jsonl`, `scores.csv` and `my-pool.yaml`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "my-pool.yaml").write_text(POOL, encoding="utf-8")
    rng = random.Random(seed)
    lines, scores = [], ["session_id,score"]
    for number in range(n_sessions):
        pairs, score = session(number, rng)
        lines += [json.dumps(pair) for pair in pairs]
        scores.append(f"issue-{number},{score}")
    (folder / "calls.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "scores.csv").write_text("\n".join(scores) + "\n", encoding="utf-8")


def main() -> None:
    """Write a log where the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder that gets calls.jsonl, scores.csv and my-pool.yaml")
    parser.add_argument("--sessions", type=int, default=300, help="how many (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="seed (default: 0)")
    asked = parser.parse_args()
    write_log(asked.folder, asked.sessions, asked.seed)
    print(f"{asked.folder}: calls.jsonl with {asked.sessions} sessions, scores.csv and my-pool.yaml are written")


if __name__ == "__main__":
    main()
