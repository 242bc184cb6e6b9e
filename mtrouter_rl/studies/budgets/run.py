"""The same policies under several budgets: an evaluation for each, and one file with the rows of all."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.evaluation.closed_loop import Contestant
from mtrouter_rl.evaluation.result_rows import update_rows
from mtrouter_rl.evaluation.results import Results, header
from mtrouter_rl.records import Episode
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.studies.budgets.record import BudgetOutcome, BudgetSweep
from mtrouter_rl.workers.executors import Workers
from mtrouter_rl.workflows import RESULTS_FILE, EvaluateRequest, describe, episodes_of_run, evaluate_routers

BUDGETS_FOLDER = "budgets"
"""Folder of the evaluations, one folder a budget, within that of the results."""
_TIMES = "x"


def parse_budgets(texts: Sequence[str], full_usd: float) -> tuple[float, ...]:
    """Budgets from what a user wrote: USD, or times the environment's budget with an "x" behind it.

    Raises:
        InvalidConfigError: If one is no number above 0, or two are the same.

    Example:
        >>> parse_budgets(["0.1x", "2"], 5.0)
        (0.5, 2.0)
    """
    budgets = []
    for text in texts:
        try:
            budget = float(text.removesuffix(_TIMES)) * (full_usd if text.endswith(_TIMES) else 1.0)
        except ValueError:
            budget = float("nan")
        if not 0 < budget < float("inf"):
            raise InvalidConfigError(
                f"--budgets: '{text}' is no budget; give USD above 0, or times the environment's {full_usd:g} USD, such as 0.1x"
            )
        budgets.append(budget)
    if len({_folder(budget) for budget in budgets}) < len(budgets):
        raise InvalidConfigError(f"--budgets: {', '.join(texts)} name one budget twice; give every one once")
    return tuple(budgets)


def evaluate_budgets(
    config: EnvConfig,
    request: EvaluateRequest,
    budgets_usd: Sequence[float],
    *,
    n_workers: Workers,
    show_progress: bool = True,
) -> tuple[Results, BudgetSweep]:
    """Run the policies of a request under every budget, on the same episodes.

    Every budget is an evaluation in a folder of its own, `budgets/BUDGET`. Their rows, with the budget in `budget_usd`, make
    `results.json`; how many episodes the budget cut short makes `budgets.json`.

    Args:
        config: Environment; its own budget plays no part.
        request: Policies, split, seeds and folder.
        budgets_usd: The budgets, USD.
        n_workers: Worker processes.
        show_progress: Whether to draw progress bars.

    Raises:
        InvalidConfigError: If the folder holds rows of an evaluation without budgets, or of another setting.
    """
    path = request.out / RESULTS_FILE
    merged = Results.load(path) if path.is_file() and not request.overwrite else None
    _check_there(merged, config, path)
    contestants = [Contestant.of(text, config, cache=request.cache) for text in request.routers]
    outcomes: list[BudgetOutcome] = []
    for budget_usd in budgets_usd:
        limits = replace(config.limits, budget_usd=budget_usd)
        folder = request.out / BUDGETS_FOLDER / _folder(budget_usd)
        with RolloutPool(replace(config, limits=limits), n_workers=n_workers) as pool:
            found = evaluate_routers(pool, replace(request, out=folder), show_progress=show_progress)
        names = [one.name for one in contestants]
        rows = [row for row in found.rows if row.split == request.split and row.policy in names]
        priced = [row.model_copy(update={"budget_usd": budget_usd}) for row in rows]
        merged = update_rows(merged or _empty(found, config), priced, roles=found.roles)
        episodes = episodes_of_run(folder)[request.split]
        outcomes += [BudgetOutcome.of(row, _episodes_of(row.policy, contestants, episodes)) for row in priced]
    assert merged is not None
    merged.save(path)
    made = BudgetSweep(
        **header(config),
        split=request.split,
        outcomes=tuple(sorted(outcomes, key=lambda one: (one.budget_usd, -one.return_mean))),
    )
    made.save(request.out)
    return merged, made


def _folder(budget_usd: float) -> str:
    return f"{budget_usd:.6g}"


def _empty(found: Results, config: EnvConfig) -> Results:
    """A file of the same setting without rows; the budget of the environment itself stands in its configuration."""
    return found.model_copy(update={"rows": (), "config": describe(config)})


def _check_there(there: Results | None, config: EnvConfig, path: Path) -> None:
    if there is None:
        return
    if any(row.budget_usd is None for row in there.rows):
        raise InvalidConfigError(
            f"{path} holds rows of an evaluation at the environment's own budget; choose another --out for --budgets, or give "
            "--overwrite"
        )
    if there.config != describe(config):
        raise InvalidConfigError(f"{path} holds results of another setting; choose another --out, or give --overwrite")


def _episodes_of(
    policy: str, contestants: Sequence[Contestant], episodes: dict[str, tuple[Episode, ...]]
) -> tuple[Episode, ...]:
    """A policy's episodes; one that calls the same single model as another has taken over its."""
    if policy in episodes:
        return episodes[policy]
    first_model = {one.name: one.first_model for one in contestants}
    owner = next(name for name in episodes if first_model.get(name) == first_model[policy])
    return episodes[owner]
