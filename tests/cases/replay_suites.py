"""Suites with known answers."""

import csv
import random

import numpy as np

from mtrouter_rl.envs.replay.layout import Layout
from mtrouter_rl.envs.replay.suite import RunTurn, Suite, SuiteHead, SuiteTask

CHEAP, STRONG = 0, 1


def by_hand():
    """Two tasks of one group. A turn of `cheap` costs 0.1, one of `strong` 1, but for task b's run, known turn by turn."""
    head = SuiteHead(
        name="hand", models=("cheap", "strong"), layout=Layout(shape="flat"), layout_source="given", notes=("By hand.",)
    )
    turns = (
        RunTurn(cost_usd=0.5, action="look", observation="a file", error="command_failed"),
        RunTurn(cost_usd=1.5, action="submit", observation=""),
    )
    return Suite(
        head=head,
        tasks=(SuiteTask(id="a", group="g", text="Mend a."), SuiteTask(id="b", group="g", text="Mend b.")),
        scores=np.array([[0.0, 1.0], [0.5, 1.0]]),
        costs_usd=np.array([[0.3, 2.0], [0.1, 2.0]]),
        n_turns=np.array([[3, 2], [1, 2]]),
        turns={(1, STRONG): turns},
    )


def write_table(path, *, n_tasks=60, seed=0, header=("task", "model", "score", "cost", "turns"), helps=True):
    """A table in which restarting helps, or does not, and nothing else does.

    `quick` solves two of three tasks in 4 turns and shows its failures by going on to 30; `deep` solves them all, for ten
    times the money. Where restarts do not help, its turns tell nothing.
    """
    rng = random.Random(seed)
    rows = []
    for n in range(n_tasks):
        task = f"{'abcde'[n % 5]}-{n}"
        is_easy = rng.random() < 2 / 3
        turns = (4 if is_easy else 30) if helps else rng.randint(4, 30)
        rows.append({"task": task, "model": "quick", "score": int(is_easy), "cost": 0.01 * turns, "turns": turns})
        rows.append({"task": task, "model": "deep", "score": 1, "cost": 1.0, "turns": 10})
        rows.append({"task": task, "model": "bad", "score": 0, "cost": 0.5, "turns": 10})
    rng.shuffle(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(header))
        writer.writeheader()
        writer.writerows(rows)
    return path
