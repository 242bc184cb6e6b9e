"""Sums a log up for its reader: how many episodes, what they scored and cost, which models acted, what went wrong."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.records import Episode, Turn

_INDENT = "  "


class Spread(TypedDict):
    """Mean and range of a quantity; None where there is nothing to average."""

    mean: float | None
    min: float | None
    max: float | None


class PropensitySpread(Spread):
    """Spread of the known propensities, how many different ones there are, and how many turns have none."""

    n_unique: int
    n_unknown: int


class CostSummary(TypedDict):
    """Money of the completed episodes, USD; that of the failed ones stands apart."""

    total: float
    mean: float | None
    failed_total: float


class TaskSummary(TypedDict):
    """Completed episodes of one task; `score_mean` is 100 x utility."""

    n_episodes: int
    score_mean: float | None
    cost_usd_mean: float | None
    turns_mean: float | None


class ModelSummary(TypedDict):
    """Turns of completed episodes in which one model was chosen; `share` is of all turns."""

    n_turns: int
    share: float | None
    cost_usd: float
    error_rate: float | None
    n_output_mean: float | None


class Summary(TypedDict):
    """What `summarize` gives. All but the counts and costs of failures is over completed episodes."""

    dataset_id: str
    env: str
    pool: str
    is_simulated: bool
    behavior_policy: str
    split: str
    origin: str
    propensities: str
    assumptions: list[str]
    n_episodes_planned: int
    n_episodes: int
    n_reconstructed: int
    n_completed: int
    n_failed: int
    failed_reasons: dict[str, int]
    n_turns: int
    turns_per_episode: Spread
    cost_usd: CostSummary
    score_mean: float | None
    switches_mean: float | None
    n_terminated: int
    n_truncated: int
    n_without_turns: int
    propensity: PropensitySpread
    errors: dict[str, int]
    tasks: dict[str, TaskSummary]
    models: dict[str, ModelSummary]


def summarize(dataset: Dataset) -> Summary:
    """Sum a dataset up.

    Scores, turns, models and propensities are those of completed episodes. An end that is both terminated and truncated
    counts as both.

    Returns:
        A dictionary that `json.dumps` takes.
    """
    info, counted = dataset.info, _Counted()
    for episode in dataset.episodes:
        counted.add(episode)
    n_turns = sum(counted.lengths)
    cost_usd = sum(counted.costs_usd)
    return Summary(
        dataset_id=info.dataset_id,
        env=info.env,
        pool=info.pool_name,
        is_simulated=info.is_simulated,
        behavior_policy=info.behavior_policy,
        split=info.split,
        origin=info.origin,
        propensities=info.propensities,
        assumptions=list(info.assumptions),
        n_episodes_planned=info.n_episodes_planned,
        n_episodes=len(dataset.episodes),
        n_reconstructed=counted.n_reconstructed,
        n_completed=len(counted.lengths),
        n_failed=sum(counted.failed_reasons.values()),
        failed_reasons=_counts(counted.failed_reasons),
        n_turns=n_turns,
        turns_per_episode=_spread(counted.lengths),
        cost_usd=CostSummary(
            total=cost_usd, mean=_ratio(cost_usd, len(counted.lengths)), failed_total=counted.failed_usd
        ),
        score_mean=_mean(counted.scores),
        switches_mean=_mean(counted.switches),
        n_terminated=counted.n_terminated,
        n_truncated=counted.n_truncated,
        n_without_turns=sum(not length for length in counted.lengths),
        propensity=PropensitySpread(
            **_spread(counted.propensities),
            n_unique=len(set(counted.propensities)),
            n_unknown=n_turns - len(counted.propensities),
        ),
        errors=_counts(counted.errors),
        tasks={task: _task(rows) for task, rows in sorted(counted.tasks.items())},
        models={name: counted.models[name].summary(n_turns) for name in info.model_names},
    )


@dataclass(kw_only=True)
class _CountedModel:
    """Turns of one model so far."""

    n_turns: int = 0
    cost_usd: float = 0.0
    n_errors: int = 0
    n_told: int = 0
    n_output: int = 0

    def add(self, turn: Turn) -> None:
        self.n_turns += 1
        self.cost_usd += turn.cost_usd
        self.n_errors += bool(turn.error)
        if turn.usage.n_prompt or turn.usage.n_output:
            self.n_told += 1
            self.n_output += turn.usage.n_output

    def summary(self, n_all: int) -> ModelSummary:
        return ModelSummary(
            n_turns=self.n_turns,
            share=_ratio(self.n_turns, n_all),
            cost_usd=self.cost_usd,
            error_rate=_ratio(self.n_errors, self.n_turns),
            n_output_mean=_ratio(self.n_output, self.n_told),
        )


class _Counted:
    """What a summary is made of: a few numbers an episode, so that the episodes themselves need not stay in memory."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.costs_usd: list[float] = []
        self.scores: list[float] = []
        self.switches: list[int] = []
        self.propensities = array("d")
        self.errors: Counter[str] = Counter()
        self.failed_reasons: Counter[str] = Counter()
        self.tasks: dict[str, list[tuple[float, float, int]]] = {}
        self.models: defaultdict[str, _CountedModel] = defaultdict(_CountedModel)
        self.failed_usd = 0.0
        self.n_reconstructed = self.n_terminated = self.n_truncated = 0

    def add(self, episode: Episode) -> None:
        """Count one episode."""
        self.n_reconstructed += episode.usage_source == "reconstructed"
        if episode.status == "failed":
            self.failed_reasons[episode.status_detail] += 1
            self.failed_usd += episode.cost_usd
            return
        score = 100 * episode.utility
        self.lengths.append(len(episode.turns))
        self.costs_usd.append(episode.cost_usd)
        self.scores.append(score)
        self.switches.append(_n_switches(episode))
        self.tasks.setdefault(episode.task, []).append((score, episode.cost_usd, len(episode.turns)))
        for turn in episode.turns:
            self._add_turn(turn)

    def _add_turn(self, turn: Turn) -> None:
        self.models[turn.model].add(turn)
        self.n_terminated += turn.terminated
        self.n_truncated += turn.truncated
        if turn.error:
            self.errors[turn.error] += 1
        if turn.propensity is not None:
            self.propensities.append(turn.propensity)


def _task(rows: Sequence[tuple[float, float, int]]) -> TaskSummary:
    scores, costs_usd, lengths = zip(*rows, strict=True)
    return TaskSummary(
        n_episodes=len(rows), score_mean=_mean(scores), cost_usd_mean=_mean(costs_usd), turns_mean=_mean(lengths)
    )


def _n_switches(episode: Episode) -> int:
    return sum(before != after for before, after in zip(episode.models, episode.models[1:], strict=False))


def _counts(counter: Counter[str]) -> dict[str, int]:
    return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))


def _ratio(total: float, count: int) -> float | None:
    return total / count if count else None


def _mean(values: Sequence[float]) -> float | None:
    return _ratio(sum(values), len(values))


def _spread(values: Sequence[float]) -> Spread:
    if not values:
        return Spread(mean=None, min=None, max=None)
    return Spread(mean=_mean(values), min=min(values), max=max(values))


def format_summary(summary: Summary) -> str:
    """Readable text of a summary for a terminal: facts first, then one table per task, per model and per error kind."""
    blocks = [_aligned([(f"{name}:", value) for name, value in _facts(summary)])]
    if summary["assumptions"]:
        blocks.append("\n".join(["assumed:", *(f"{_INDENT}- {text}" for text in summary["assumptions"])]))
    cost = _cost_title(summary)
    blocks.append(_table("task", ["episodes", "score", cost, "turns"], _task_rows(summary)))
    blocks.append(_table("model", ["turns", "share", cost, "errors", "output tokens"], _model_rows(summary)))
    if summary["errors"]:
        blocks.append(_table("error", ["turns"], [(name, str(n)) for name, n in summary["errors"].items()]))
    if summary["failed_reasons"]:
        rows = [(reason, str(n)) for reason, n in summary["failed_reasons"].items()]
        blocks.append(_table("failed because", ["episodes"], rows))
    return "\n\n".join(blocks)


def _cost_title(summary: Summary) -> str:
    """Heading of money: simulated models cost nothing, whatever their prices say."""
    return "simulated cost USD" if summary["is_simulated"] else "cost USD"


def _facts(summary: Summary) -> list[tuple[str, str]]:
    turns, cost, propensity = summary["turns_per_episode"], summary["cost_usd"], summary["propensity"]
    return [
        ("dataset", summary["dataset_id"]),
        ("environment", summary["env"]),
        ("origin", summary["origin"]),
        ("pool", summary["pool"] + (" (simulated models)" if summary["is_simulated"] else "")),
        ("behaviour policy", summary["behavior_policy"]),
        ("split", summary["split"]),
        (
            "episodes",
            f"{summary['n_episodes']} of {summary['n_episodes_planned']} planned; {summary['n_completed']} completed, "
            f"{summary['n_failed']} failed",
        ),
        (
            "ends",
            f"{summary['n_terminated']} terminated, {summary['n_truncated']} truncated, "
            f"{summary['n_without_turns']} without a turn",
        ),
        (
            "turns",
            f"{summary['n_turns']}; per episode mean {_shown(turns['mean'], 1)}, min {_shown(turns['min'], 0)}, "
            f"max {_shown(turns['max'], 0)}"
            + (
                f"; tokens reconstructed in {summary['n_reconstructed']} episodes" if summary["n_reconstructed"] else ""
            ),
        ),
        ("score", f"mean {_shown(summary['score_mean'], 1)}"),
        (
            _cost_title(summary),
            f"{_shown(cost['total'], 4)}; per episode mean {_shown(cost['mean'], 6)}; "
            f"failed episodes {_shown(cost['failed_total'], 4)}",
        ),
        (
            "propensity",
            f"min {_shown(propensity['min'], 4)}, mean {_shown(propensity['mean'], 4)}, "
            f"max {_shown(propensity['max'], 4)}; {propensity['n_unique']} different; {summary['propensities']}"
            + (f", missing in {propensity['n_unknown']} turns" if propensity["n_unknown"] else ""),
        ),
        ("switches", f"per episode mean {_shown(summary['switches_mean'], 1)}"),
    ]


def _task_rows(summary: Summary) -> list[tuple[str, ...]]:
    return [
        (
            name,
            str(task["n_episodes"]),
            _shown(task["score_mean"], 1),
            _shown(task["cost_usd_mean"], 6),
            _shown(task["turns_mean"], 1),
        )
        for name, task in summary["tasks"].items()
    ]


def _model_rows(summary: Summary) -> list[tuple[str, ...]]:
    return [
        (
            name,
            str(model["n_turns"]),
            _percent(model["share"]),
            _shown(model["cost_usd"], 4),
            _percent(model["error_rate"]),
            _shown(model["n_output_mean"], 1),
        )
        for name, model in summary["models"].items()
    ]


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"


def _aligned(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}{_INDENT}{value}" for name, value in rows)


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [(title, *header), *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header) + 1)]
    return "\n".join(
        _INDENT.join(
            [f"{line[0]:<{widths[0]}}", *(f"{cell:>{w}}" for cell, w in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )
