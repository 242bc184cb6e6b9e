"""What restarts earn and cost, worked out from a table of outcomes with the standard library alone.

It shares no code with the package: its own reading of the table, its own laying out of costs, its own rule of restarts.
    python tests/cases/replay_by_hand.py OUTCOMES.csv RATE TASK MODEL MODEL ...   # a model for every turn
"""

import csv
import gzip
import sys
from pathlib import Path

NAMES = {
    "task": ("instance_id", "task"),
    "model": ("model",),
    "score": ("resolved", "score"),
    "cost": ("cost_usd", "cost"),
    "turns": ("api_calls", "turns"),
}


def read(path):
    """(task, model) -> (score, cost, turns)."""
    data = Path(path).read_bytes()
    text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()
    rows = list(csv.DictReader(text.splitlines()))
    column = {what: next(name for name in names if name in rows[0]) for what, names in NAMES.items()}
    return {
        (row[column["task"]], row[column["model"]]): (
            float(row[column["score"]]),
            float(row[column["cost"]]),
            int(row[column["turns"]]),
        )
        for row in rows
    }


def cost_of_turn(total, n_turns, turn, rate):
    """Turn t (from 0) costs in proportion to 1 + rate * t."""
    whole = n_turns + rate * n_turns * (n_turns - 1) / 2
    return total * (1 + rate * turn) / whole


def play(table, task, model_of_turn, *, rate, max_turns):
    """Score, cost and turns of an episode in which `model_of_turn(t)` is called at turn t."""
    spent, place, running = 0.0, 0, None
    for turn in range(max_turns):
        model = model_of_turn(turn)
        place = place + 1 if model == running else 0
        running = model
        score, total, n_turns = table[task, model]
        spent += cost_of_turn(total, n_turns, place, rate)
        if place == n_turns - 1:
            return score, spent, turn + 1
    return 0.0, spent, max_turns


if __name__ == "__main__":
    path, rate, task, *models = sys.argv[1:]
    print(play(read(path), task, models.__getitem__, rate=float(rate), max_turns=len(models)))  # noqa: T201
