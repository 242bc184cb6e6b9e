"""Do models fail at the same tasks? What the others solve of what the best model solves, and of what it fails.

The odds ratio of the two shares is 1 where models fail independently, and does not depend on how good the models are. Shares
themselves do, so that pools of unlike models are compared by it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mtrouter_rl.errors import InvalidConfigError

_CONTINUITY = 0.5


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """One model beside the best one, over the tasks that both ran.

    Attributes:
        model: The model.
        solved: Share of the tasks that it solves.
        of_solved: Share that it solves of what the best model solves; None where that solves nothing.
        of_failed: Share that it solves of what the best model fails; None where that fails nothing.
        odds_ratio: Odds of solving among what the best model solves, over those among what it fails.
        n_tasks: Tasks that both ran.
    """

    model: str
    solved: float
    of_solved: float | None
    of_failed: float | None
    odds_ratio: float
    n_tasks: int


def agreement_with_best(solved: Mapping[str, Mapping[str, bool]]) -> tuple[str, float, list[Agreement]]:
    """The best model, the share that it solves, and every other one beside it, the next best first.

    Args:
        solved: Model -> task -> whether the model solved it.

    Raises:
        InvalidConfigError: If there are fewer than two models, or two that share no task.

    Source: Haldane, The estimation and significance of the logarithm of a ratio of frequencies (1956): one half is added to
    every cell of the table, so that an empty one gives a finite odds ratio.
    """
    shares = {model: float(np.mean(list(tasks.values()))) for model, tasks in solved.items() if tasks}
    if len(shares) < 2:
        raise InvalidConfigError(f"outcomes of {len(shares)} model(s), must be of at least 2; add logs of other models")
    best, *others = sorted(shares, key=lambda model: (-shares[model], model))
    return best, shares[best], [_beside(solved[best], solved[model], model) for model in others]


def typical_odds_ratio(rows: list[Agreement]) -> float:
    """Geometric mean of the odds ratios."""
    return math.exp(float(np.mean([math.log(row.odds_ratio) for row in rows])))


def _beside(best: Mapping[str, bool], other: Mapping[str, bool], model: str) -> Agreement:
    both = sorted(set(best) & set(other))
    if not both:
        raise InvalidConfigError(f"model '{model}' and the best one share no task; run both on the same tasks")
    pairs = [(best[task], other[task]) for task in both]
    cells = {pair: pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))}
    n_solved, n_failed = cells[True, True] + cells[True, False], cells[False, True] + cells[False, False]
    ours, theirs = cells[True, True] + _CONTINUITY, cells[True, False] + _CONTINUITY
    return Agreement(
        model=model,
        solved=float(np.mean([other[task] for task in both])),
        of_solved=cells[True, True] / n_solved if n_solved else None,
        of_failed=cells[False, True] / n_failed if n_failed else None,
        odds_ratio=ours / theirs * (cells[False, False] + _CONTINUITY) / (cells[False, True] + _CONTINUITY),
        n_tasks=len(both),
    )
