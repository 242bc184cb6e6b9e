"""Rows of logs of calls, and an import of them, for the tests of what puts sessions together."""

import json

from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.datasets.importers.base import ImportReport, ImportSource
from mtrouter_rl.datasets.importers.openai_jsonl import OpenAIJsonlImporter, OpenAIJsonlOptions

USAGE = {"prompt_tokens": 100, "completion_tokens": 10}
POOL = PoolCard.model_validate(
    {
        "name": "two",
        "description": "Two models with round prices.",
        "models": [
            {
                "name": name,
                "aliases": [f"vendor/{name}"],
                "prices": {
                    "input": price,
                    "cached_input": price / 10,
                    "cache_write": price * 1.25,
                    "output": 2 * price,
                },
                "context_tokens": 128_000,
                "max_output_tokens": 8_000,
                "knowledge_cutoff": "2024-06-01",
            }
            for name, price in (("small", 1.0), ("big", 10.0))
        ],
        "token_counter": {"kind": "utf8_bytes"},
        "backend": {"kind": "none"},
    }
)


def user(text):
    return {"role": "user", "content": text}


def system(text):
    return {"role": "system", "content": text}


def answer(text, **fields):
    return {"role": "assistant", "content": text, **fields}


def call(session, messages, response, **fields):
    row = {"session_id": session, "messages": messages, "response": response, "model": "small", "usage": USAGE}
    return row | fields


def grown(session, n_calls, **last):
    """Calls whose prompts hold the whole conversation so far."""
    rows, messages = [], [user("Fix it.")]
    for index in range(n_calls):
        rows.append(call(session, list(messages), f"try {index}"))
        messages += [answer(f"try {index}"), user(f"no {index}")]
    rows[-1] |= {"score": 1.0, "status": "completed"} | last
    return rows


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_paths(*paths, scores=(), pool=POOL, **options):
    """Episodes by id, and the report as JSON."""
    report = ImportReport(format="openai-jsonl")
    source = ImportSource(paths=tuple(paths), pool=pool, report=report, scores=tuple(scores))
    episodes = list(OpenAIJsonlImporter(OpenAIJsonlOptions(**options)).episodes(source))
    return {episode.episode_id: episode for episode in episodes}, report.to_json()


def shown(episode):
    """(action, observation) of every turn."""
    return [(turn.action_text, turn.observation_text) for turn in episode.turns]
