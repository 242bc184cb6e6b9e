"""Claims about the parts of a full study that have folders of their own: other markets, and budgets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.cards.policy import single_model
from mtrouter_rl.errors import ResultsError
from mtrouter_rl.records import Episode
from mtrouter_rl.statistics.estimate import Estimate
from mtrouter_rl.statistics.paired_means import PairedMeans, Resamples
from mtrouter_rl.studies.budgets.record import BUDGET_FILE, BudgetSweep
from mtrouter_rl.studies.full.claim_evidence import ABOVE_ZERO
from mtrouter_rl.studies.full.claims import Claim, Goal, joint_claim, not_measured
from mtrouter_rl.studies.full.claims_of_main import ESTIMATOR, FITTED
from mtrouter_rl.workflows import episodes_of_run

MARKETS_FOLDER, BUDGETS_FOLDER = "markets", "budgets"
TOLD_BUDGET = "fitted-q-budget"
SPLIT: Literal["test"] = "test"
"""The split that these parts are run on."""

Episodes = Mapping[str, Sequence[Episode]]


def claims_of_other_parts(out: Path, *, reward: RewardCard, seed: int) -> tuple[Claim, ...]:
    """All claims about markets and budgets; "not measured" where a part was not run.

    Args:
        out: Folder of the study.
        reward: Cost weight and unit of the returns.
        seed: Seed of the bootstrap.

    Raises:
        ResultsError: If a file of these parts is broken.
    """
    return (
        other_markets(out / MARKETS_FOLDER, reward=reward, seed=seed),
        within_budgets(out / BUDGETS_FOLDER),
        told_the_budget(out / BUDGETS_FOLDER, seed=seed),
    )


def other_markets(folder: Path, *, reward: RewardCard, seed: int) -> Claim:
    """On pools that nothing was tuned for, more return than the best single model and the Monte-Carlo router.

    The best single model is that of the best return on these very episodes, which flatters it.
    """
    key, text = (
        "other-markets",
        "On every other market, without tuning, the return at the default cost weight is higher than that of the best single "
        "model and of the Monte-Carlo router",
    )
    parts: dict[str, Estimate | float] = {}
    for market in sorted(path for path in folder.glob("*") if path.is_dir()):
        played = episodes_of_run(market).get(SPLIT, {})
        if FITTED not in played or ESTIMATOR not in played:
            continue
        for other in (_best_single(played, reward), ESTIMATOR):
            parts[f"{market.name}: {other}"] = _Paired(played, (FITTED, other), seed=seed).return_(reward)
    if not parts:
        return not_measured(key, text, "return", goal=ABOVE_ZERO, why="the part 'markets'")
    return joint_claim(key, text, "return", goal=ABOVE_ZERO, parts=parts)


def within_budgets(folder: Path) -> Claim:
    """No policy ever spends more than the budget."""
    key, text = "within-budgets", "Under every budget, no episode spends more than it"
    goal = Goal(kind="at most", target=0.0)
    if not (folder / BUDGET_FILE).is_file():
        return not_measured(key, text, "episodes", goal=goal, why="the part 'budgets'")
    sweep = BudgetSweep.load(folder / BUDGET_FILE)
    over = float(sum(one.budget_violations for one in sweep.outcomes))
    total = sum(one.n_episodes for one in sweep.outcomes)
    claim = joint_claim(key, text, "episodes", goal=goal, parts={"episodes over budget": over})
    return claim.model_copy(update={"parts": (), "notes": (f"Of {total} episodes of all policies and budgets.",)})


def told_the_budget(folder: Path, *, seed: int) -> Claim:
    """The router that is told the budget scores more than the same router that is not."""
    key, text = (
        "told-the-budget",
        "Under every budget, the score is higher with a router that was trained to be told the budget than with the same "
        "router without that",
    )
    parts: dict[str, Estimate | float] = {}
    found = (episodes_of_run(path).get(SPLIT, {}) for path in (folder / BUDGETS_FOLDER).glob("*"))
    budgets = {
        played[TOLD_BUDGET][0].budget_usd: played for played in found if played.get(TOLD_BUDGET) and played.get(FITTED)
    }
    for budget_usd, played in sorted(budgets.items()):
        parts[f"{budget_usd:g} USD"] = _Paired(played, (TOLD_BUDGET, FITTED), seed=seed).score
    if not parts:
        return not_measured(key, text, "points", goal=ABOVE_ZERO, why="the part 'budgets'")
    return joint_claim(key, text, "points", goal=ABOVE_ZERO, parts=parts)


def _best_single(played: Episodes, reward: RewardCard) -> str:
    def mean_return(name: str) -> float:
        completed = [one for one in played[name] if one.status == "completed"]
        return float(np.mean([reward.reward(one.utility, one.cost_usd) for one in completed])) if completed else -np.inf

    singles = [name for name in played if single_model(name) is not None]
    if not singles:
        raise ResultsError("no single model was run in a market; run the part 'markets' again")
    return max(singles, key=mean_return)


class _Paired:
    """The difference of two policies on the (task, variation) that both ran."""

    def __init__(self, played: Episodes, names: tuple[str, str], *, seed: int) -> None:
        ran = [{(one.task, one.variation) for one in played[name]} for name in names]
        common = set.intersection(*ran)
        both = {name: [one for one in played[name] if (one.task, one.variation) in common] for name in names}
        self._names = names
        self._resamples = Resamples.of(PairedMeans.of(both), seed=seed)

    @property
    def score(self) -> Estimate:
        return self._resamples.score_difference(*self._names)

    def return_(self, reward: RewardCard) -> Estimate:
        return self._resamples.return_difference(*self._names, reward)
