"""Runs turn by turn, joined to a suite by their task: trajectories of mini-SWE-agent (`*.traj.json`), as files or archives.

Which model of the suite they are of is not read off a name, since vendors, gateways and leaderboards each have their own: it is
the model whose table has the same number of calls and the same bill for these tasks.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtrouter_rl.datasets.importers.archives import read_files
from mtrouter_rl.datasets.importers.base import ImportReport, UnusableEpisodeError
from mtrouter_rl.datasets.importers.chat import parse_object
from mtrouter_rl.envs.replay.suite import COST_TOLERANCE_USD, RunTurn
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.records import JsonValue

SUFFIX = ".traj.json"
FAILED_COMMAND = "command_failed"
LEAST_MATCHING = 0.5
"""Share of the joined trajectories whose calls and bill have to be those of the model."""
_RETURN_CODE = re.compile(r"<returncode>\s*(-?\d+)\s*</returncode>")


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One run turn by turn.

    Attributes:
        task: Id of its task.
        turns: Its turns.
        total_usd: What the run says that it cost; None if it does not.
        is_complete: Whether every call has a cost and all of them add up to the total.
    """

    task: str
    turns: tuple[RunTurn, ...]
    total_usd: float | None
    is_complete: bool


def read_trajectories(paths: Sequence[Path]) -> tuple[dict[str, dict[str, Trajectory]], list[str]]:
    """Trajectories by the name of their model, then by task; and what was left out, a sentence each.

    Raises:
        DatasetError: If a path does not exist, or holds no trajectory.
    """
    found: dict[str, dict[str, Trajectory]] = {}
    report = ImportReport(format="suite")
    broken: list[str] = []
    for path in paths:
        n_before = sum(map(len, found.values()))
        for file in read_files(path, report, suffixes=(SUFFIX,)):
            try:
                name, run = _trajectory(parse_object(file.data), file.path.name.removesuffix(SUFFIX))
            except UnusableEpisodeError as error:
                broken.append(f"{file.source} ({error.detail})")
                continue
            if run.task in found.setdefault(name, {}):
                raise DatasetError(
                    f"{file.source}: task '{run.task}' has two trajectories of '{name}'; keep one of them"
                )
            found[name][run.task] = run
        if sum(map(len, found.values())) == n_before:
            raise DatasetError(
                f"{path}: holds no file that ends in {SUFFIX}; give trajectories of mini-SWE-agent, or leave the path out"
            )
    notes = [f"{len(broken)} trajectories cannot be read and are left out, such as {broken[0]}."] if broken else []
    return found, notes


def _trajectory(data: Mapping[str, JsonValue], name: str) -> tuple[str, Trajectory]:
    info, messages = data.get("info"), data.get("messages")
    if not isinstance(info, dict) or not isinstance(messages, list):
        raise UnusableEpisodeError("shape", "no 'info' or no 'messages'")
    stats = info.get("model_stats")
    total = stats.get("instance_cost") if isinstance(stats, dict) else None
    calls = list(_calls(messages))
    costs = [cost for cost, _ in calls]
    known = [cost for cost in costs if cost is not None]
    is_complete = len(known) == len(costs) > 0 and (
        not isinstance(total, int | float) or abs(sum(known) - total) <= COST_TOLERANCE_USD
    )
    run = Trajectory(
        task=str(data.get("instance_id") or name),
        turns=tuple(turn.model_copy(update={"cost_usd": cost or 0.0}) for cost, turn in calls),
        total_usd=float(total) if isinstance(total, int | float) else None,
        is_complete=is_complete,
    )
    return _model_name(info), run


def _model_name(info: Mapping[str, JsonValue]) -> str:
    config = info.get("config")
    model = config.get("model") if isinstance(config, dict) else None
    return str(model.get("model_name")) if isinstance(model, dict) else "(unnamed)"


def _calls(messages: Sequence[JsonValue]) -> Iterator[tuple[float | None, RunTurn]]:
    """Cost of every answer, None if it has none, and its turn without a cost."""
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") != "assistant":
            continue
        after = messages[index + 1] if index + 1 < len(messages) else None
        shown = str(after.get("content") or "") if isinstance(after, dict) and after.get("role") != "assistant" else ""
        code = _RETURN_CODE.search(shown)
        error = FAILED_COMMAND if code is not None and code[1] != "0" else ""
        yield (
            _cost(message),
            RunTurn(cost_usd=0.0, action=str(message.get("content") or ""), observation=shown, error=error),
        )


def _cost(message: Mapping[str, JsonValue]) -> float | None:
    """What the vendor billed, or what the agent worked out."""
    extra = message.get("extra")
    if not isinstance(extra, dict):
        return None
    response = extra.get("response")
    usage = response.get("usage") if isinstance(response, dict) else None
    billed = usage.get("cost") if isinstance(usage, dict) else None
    for value in (billed, extra.get("cost")):
        if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
            return float(value)
    return None


def join(
    runs: Mapping[str, Trajectory], name: str, totals: Mapping[str, Mapping[str, tuple[float, int | None]]]
) -> tuple[str, dict[str, tuple[RunTurn, ...]], str]:
    """The model that trajectories are of, and its runs whose turns are those of the table.

    Args:
        runs: Trajectories by task.
        name: What they call their model.
        totals: Model of the suite -> task -> cost and calls of its run.

    Returns:
        The model, turns by task, and a sentence that says how many fit; no turns where not exactly one model has these runs.
    """
    fits = Counter(
        {model: sum(_fits(run, cells.get(task)) for task, run in runs.items()) for model, cells in totals.items()}
    )
    joined = {model: sum(task in cells for task in runs) for model, cells in totals.items()}
    best = [model for model, n in fits.items() if n and n >= LEAST_MATCHING * joined[model]]
    if len(best) != 1:
        whose = f"those of {', '.join(best)} alike" if best else "of no model of the table"
        return (
            "",
            {},
            f"Trajectories of '{name}' are LEFT OUT: of {len(runs)}, {max(joined.values(), default=0)} are of tasks of the "
            f"table, and their calls and bills are {whose}.",
        )
    model = best[0]
    kept = {task: run.turns for task, run in runs.items() if run.is_complete and _fits(run, totals[model].get(task))}
    outside = sum(task not in totals[model] for task in runs)
    return (
        model,
        kept,
        f"Trajectories of '{name}' are those of '{model}': {len(kept)} runs are known turn by turn, "
        f"{joined[model] - len(kept)} do not agree with the table or lack a cost and are laid out by the rule, "
        f"{outside} are of other tasks.",
    )


def _fits(run: Trajectory, cell: tuple[float, int | None] | None) -> bool:
    """Whether a trajectory has calls and bill of a run."""
    if cell is None:
        return False
    cost, n_turns = cell
    total = run.total_usd if run.total_usd is not None else sum(turn.cost_usd for turn in run.turns)
    return len(run.turns) == n_turns and abs(total - cost) <= COST_TOLERANCE_USD
