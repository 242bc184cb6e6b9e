"""Writes a made-up log of an agent that calls tools, as an agent's own code would log it: to try `mtrouter-rl start` on.

No model was called for it: difficulty, mistakes and tokens are drawn. Three models, tool calls, usage of every call, a score at
the end of a session, and no propensities, since hardly any log has them. Run it with:

    python examples/make_agent_log.py my-log --sessions 300
    mtrouter-rl start my-log/calls.jsonl --pool my-log/my-pool.yaml --out runs/mine
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

POOL = """\
name: my-pool
description: Three made-up models at made-up prices.
models:
  - name: small
    aliases: [vendor/small-2025-08-07]
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


def session(number: int, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Lines of one session, a line a call."""
    level = rng.choices((0, 1, 2), weights=(3, 4, 3))[0]
    task = f"Issue {number}: {rng.choice(WORDS[level])} {rng.choice(PARTS)} of service {rng.randrange(40)}."
    messages: list[dict[str, Any]] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": task}]
    model = rng.choice(MODELS)
    n_done = 0
    n_prompt = 900 + 12 * len(task)
    for call in range(MAX_CALLS):
        if call and rng.random() < 0.3:
            model = rng.choice(MODELS)
        is_right = rng.random() < SKILL[model][level]
        n_done += is_right
        is_last = n_done == N_STEPS or call == MAX_CALLS - 1
        name = "submit" if n_done == N_STEPS else rng.choice(("bash", "read_file", "edit_file"))
        arguments = {"path": f"src/module_{rng.randrange(9)}.py", "step": n_done}
        tool_call = {
            "id": f"call_{number}_{call}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
        answer = {"role": "assistant", "content": None, "tool_calls": [tool_call]}
        n_output = rng.randrange(60, 260)
        result = "ok: tests of this step pass" if is_right else f"error: exit code 1, {rng.choice(PARTS)} still fails"
        line: dict[str, Any] = {
            "session_id": f"issue-{number}",
            "task": "issue",
            "instance": f"issue-{number}",
            "timestamp": 1_760_000_000 + 1000 * number + call,
            "model": model,
            "messages": messages,
            "response": answer,
            "usage": {
                "prompt_tokens": n_prompt,
                "completion_tokens": n_output,
                "total_tokens": n_prompt + n_output,
                "prompt_tokens_details": {"cached_tokens": 0},
            },
        }
        if is_last:
            yield line | {"score": float(n_done == N_STEPS), "observation": result}
            return
        yield line
        messages = [*messages, answer, {"role": "tool", "tool_call_id": tool_call["id"], "content": result}]
        n_prompt += n_output + 40 + len(result) // 4


def write_log(folder: Path, n_sessions: int, seed: int = 0) -> None:
    """Write `calls.jsonl` and `my-pool.yaml`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "my-pool.yaml").write_text(POOL, encoding="utf-8")
    rng = random.Random(seed)
    with (folder / "calls.jsonl").open("w", encoding="utf-8") as file:
        for number in range(n_sessions):
            file.writelines(json.dumps(line) + "\n" for line in session(number, rng))


def main() -> None:
    """Write a log where the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder that gets calls.jsonl and my-pool.yaml")
    parser.add_argument("--sessions", type=int, default=300, help="how many (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="seed (default: 0)")
    asked = parser.parse_args()
    write_log(asked.folder, asked.sessions, asked.seed)
    print(f"{asked.folder / 'calls.jsonl'} and {asked.folder / 'my-pool.yaml'} are written")


if __name__ == "__main__":
    main()
