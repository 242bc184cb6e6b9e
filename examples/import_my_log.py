"""From calls that your own system logged to a router: write openai-jsonl lines, import, look at the report, train a clone.

The lines stand for what a gateway or your own code logs, one a call. The format is described in docs/import-my-logs.md. Run
it with: python examples/import_my_log.py
With --write FOLDER it writes the log and the pool card there and stops, so that the commands can be tried on them.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mtrouter_rl.agents.resolve import resolve_router
from mtrouter_rl.cards import load_agent_card, load_pool_card
from mtrouter_rl.datasets.importers.run import ImportRequest, import_log
from mtrouter_rl.datasets.logged import logged_env
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.datasets.summary import format_summary, summarize
from mtrouter_rl.records import Observation
from mtrouter_rl.workflows import TrainRequest, train_router

POOL = """
name: my-pool
description: The two models that our help desk called, at the prices that we paid.
models:
  - name: quick
    aliases: [vendor/quick-2025-01-15]
    prices: { input: 0.1, cached_input: 0.05, output: 0.4 }
    context_tokens: 128000
    max_output_tokens: 8000
    knowledge_cutoff: 2024-06-01
  - name: careful
    prices: { input: 2.0, cached_input: 1.0, output: 8.0 }
    context_tokens: 200000
    max_output_tokens: 32000
    knowledge_cutoff: 2025-01-01
token_counter: { kind: utf8_bytes }
backend: { kind: none }
"""
TINY = {"n_iterations": 2, "steps_per_iteration": 25, "batch_size": 64}


def my_calls(n_tickets: int) -> Iterator[dict[str, Any]]:
    """One line a call: the part that your own system has done already. Here tickets are played by chance."""
    rng = random.Random(0)
    for ticket in range(n_tickets):
        messages = [
            {"role": "system", "content": "You solve tickets."},
            {"role": "user", "content": f"A customer wants a refund for order {ticket % 60}."},
        ]
        for call in range(3):
            model = rng.choice(["vendor/quick-2025-01-15", "careful"])
            is_solved = rng.random() < (0.7 if model == "careful" else 0.2)
            line = {
                "session_id": f"ticket-{ticket}",
                "task": "refund",
                "instance": f"order-{ticket % 60}",
                "max_turns": 3,
                "messages": messages,
                "response": f"Attempt {call}",
                "model": model,
                "propensity": 0.5,
                "usage": {
                    "prompt_tokens": 400,
                    "completion_tokens": 60,
                    "prompt_tokens_details": {"cached_tokens": 100},
                },
            }
            if is_solved or call == 2:
                yield line | {"score": float(is_solved), "status": "completed" if is_solved else "truncated"}
                break
            yield line
            answer = {"role": "assistant", "content": f"Attempt {call}"}
            messages = [*messages, answer, {"role": "user", "content": "The customer asks again."}]


def write_log(folder: Path) -> None:
    """Write `calls.jsonl`, of which two lines are no good, and `my-pool.yaml`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "my-pool.yaml").write_text(POOL, encoding="utf-8")
    lines = [json.dumps(line) for line in my_calls(1000)]
    lines += ['{"session_id": "cut', json.dumps(next(my_calls(1)) | {"session_id": "no-end"})]
    (folder / "calls.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Write a log and a pool card, import, inspect, train, ask."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write the log and the pool card there and stop")
    write_only = parser.parse_args().write
    if write_only is not None:
        write_log(write_only)
        print(f"{write_only / 'calls.jsonl'} and {write_only / 'my-pool.yaml'} are written")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_log(folder)
        pool = load_pool_card(folder / "my-pool.yaml")
        request = ImportRequest(
            format="openai-jsonl",
            paths=(folder / "calls.jsonl",),
            pool=pool,
            out=folder / "log",
            options={"propensities": "exact"},
        )
        print(import_log(request, show_progress=False))
        dataset = Dataset.load(folder / "log")
        print(format_summary(summarize(dataset)))

        config = logged_env(dataset.info, cost_weight=0.5, cost_unit_usd=0.01)
        card = load_agent_card("behavior-cloning")
        card = card.model_copy(update={"parameters": card.parameters | TINY})
        training = TrainRequest(agent=card, config=config, seed=0, out=folder / "router", dataset=folder / "log")
        router = resolve_router(str(train_router(training, show_progress=False)), pool)
        observation = Observation(
            task="A customer wants a refund for order 3.",
            first_observation="",
            history=(),
            turn=np.int64(0),
            max_turns=np.int64(3),
            budget_left_usd=np.ones(1, dtype=np.float32),
            budget_usd=np.ones(1, dtype=np.float32),
            warm=np.zeros(2, dtype=np.int8),
            action_mask=np.ones(2, dtype=np.int8),
        )
        chances = router.action_probabilities([observation])[0]
        shares = ", ".join(f"{model} {share:.2f}" for model, share in zip(router.model_names, chances, strict=True))
        print(f"the clone's first choice: {shares}")


if __name__ == "__main__":
    main()
