"""A made-up suite, drawn from a seed: five models that differ in strength, price and length of runs. No real model is in it."""

from typing import Annotated

import numpy as np
from pydantic import Field

from mtrouter_rl.envs.replay.layout import Layout
from mtrouter_rl.envs.replay.suite import Suite, SuiteHead, SuiteTask
from mtrouter_rl.records import Frozen

MODELS = ("tiny", "small", "middle", "large", "giant")
_STRENGTHS = np.array([-1.2, -0.2, 0.3, 0.9, 1.3])
_USD_PER_TURN = np.array([0.001, 0.002, 0.006, 0.015, 0.03])
_GROUPS = ("parser", "server", "plots")
_LAYOUT = Layout(shape="linear", rate=0.03)


class MadeUpCard(Frozen):
    """A made-up suite in the settings of a card.

    Attributes:
        n_tasks: Tasks, dealt to three groups.
        seed: What everything is drawn from.
    """

    n_tasks: Annotated[int, Field(ge=3)]
    seed: Annotated[int, Field(ge=0)]


def make_up(card: MadeUpCard) -> Suite:
    """Draw the suite. A task has a difficulty that all models share; a run that fails is longer than one that succeeds."""
    rng = np.random.default_rng([card.seed, 19])
    difficulty = rng.normal(size=card.n_tasks)
    chances = 1 / (1 + np.exp(-1.7 * (_STRENGTHS[None, :] - difficulty[:, None])))
    scores = (rng.random(chances.shape) < chances).astype(np.float64)
    n_turns = 2 + rng.poisson(np.where(scores > 0, 8.0, 16.0))
    costs_usd = _USD_PER_TURN * n_turns * rng.lognormal(0.0, 0.2, size=chances.shape)
    tasks = tuple(
        SuiteTask(
            id=f"{_GROUPS[n % 3]}-{n // 3 + 1}",
            group=_GROUPS[n % 3],
            text=f"Made-up issue {n // 3 + 1} of the {_GROUPS[n % 3]}.",
            order=float(n // 3),
        )
        for n in range(card.n_tasks)
    )
    head = SuiteHead(
        name="made-up",
        models=MODELS,
        layout=_LAYOUT,
        layout_source="given",
        notes=("Everything is made up: drawn from a seed, no model was called.",),
    )
    return Suite(head=head, tasks=tasks, scores=scores, costs_usd=costs_usd, n_turns=n_turns.astype(np.int64))
