"""One router for several environments or one for each: what a comparison of them found, environment by environment.

Everything is read off the results of one run in each environment; nothing is estimated here anew.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue

from mtrouter_rl.errors import ResultsError
from mtrouter_rl.evaluation.results import PairedDifference, ResultRow, Results
from mtrouter_rl.files import SavedRecord, write_atomically
from mtrouter_rl.records import Ends, FiniteRecord, NonNegative, Split
from mtrouter_rl.reporting.tables import (
    ABSENT,
    Table,
    caption,
    format_interval,
    format_p_value,
    format_percent,
    format_usd_interval,
    format_usd_mean,
    format_with_ends,
    to_markdown,
    to_plain,
    verdict_word,
)
from mtrouter_rl.statistics.rank_agreement import holm

JSON_FILE = "cross.json"
MARKDOWN_FILE = "cross.md"
TEXT_FILE = "cross.txt"
Part = Literal["own", "together", "left out", "other", "baseline"]
_COMPARED: tuple[Part, ...] = ("own", "together", "left out")
PARTS: tuple[Part, ...] = (*_COMPARED, "other", "baseline")
"""In the order of the tables; see `NOTE`. "other": trained on some environments, but none of the three."""
NOTE = (
    "Own: trained on a log of this environment alone; together: on logs of all; left out: on logs of all others, so that this "
    "environment is new to it. Every router was trained once, with the same number of gradient steps: the intervals cover the "
    "choice of tasks and episodes, not what another training seed would change."
)


@dataclass(frozen=True, kw_only=True)
class CrossRouter:
    """A router of the comparison.

    Attributes:
        name: Its name in tables.
        agent: Name of the agent card behind it.
        envs: Environments whose logs it is trained on.
    """

    name: str
    agent: str
    envs: tuple[str, ...]

    def part_in(self, env: str, all_envs: Sequence[str]) -> Part:
        """Which part it plays in an environment.

        Example:
            >>> CrossRouter(name="q@a", agent="q", envs=("a",)).part_in("b", ["a", "b"])
            'left out'
        """
        if self.envs == (env,):
            return "own"
        if set(self.envs) == set(all_envs):
            return "together"
        return "left out" if set(self.envs) == set(all_envs) - {env} else "other"


class CrossRow(FiniteRecord):
    """A policy in an environment; numbers as in `results.ResultRow`.

    Attributes:
        policy: Its name.
        agent: Name of the agent card behind it; None for a baseline.
        part: See `PARTS`.
        trained_on: Environments whose logs it was trained on; none for a baseline.
        n_episodes: Completed episodes.
        n_failed: Episodes that broke for outside reasons.
        score_mean: Mean score, with its 95% interval, as the next two.
        score_ci95: None with fewer than two (task, variation) pairs, likewise below.
        cost_usd_mean: USD of an episode.
        cost_usd_ci95: Likewise.
        return_mean: Mean return.
        return_ci95: Likewise.
        cost_saved_share: 1 - cost / cost of the strongest single model.
    """

    policy: str
    agent: str | None
    part: Part
    trained_on: tuple[str, ...]
    n_episodes: Annotated[int, Field(ge=1)]
    n_failed: Annotated[int, Field(ge=0)]
    score_mean: float
    score_ci95: Ends | None
    cost_usd_mean: NonNegative
    cost_usd_ci95: Ends | None
    return_mean: float
    return_ci95: Ends | None
    cost_saved_share: float | None


class CrossDifference(FiniteRecord):
    """Paired difference of two policies over the same episodes.

    Attributes:
        policy: The one.
        baseline: The other, which is subtracted.
        difference: What is left; its adjusted p-value is over the differences that are shown of the environment.
    """

    policy: str
    baseline: str
    difference: PairedDifference


class CrossEnv(FiniteRecord):
    """What came of it in one environment.

    Attributes:
        env: Name of the environment card.
        caption: Split, pool, episodes and reward, in words.
        rows: One per policy: by part, then as evaluated.
        differences: Routers against each other, then against baselines.
    """

    env: str
    caption: str
    rows: tuple[CrossRow, ...]
    differences: tuple[CrossDifference, ...]


class CrossReport(SavedRecord):
    """The whole comparison, as `cross.json` holds it.

    Attributes:
        schema_version: Version of this layout.
        split: Split that was run.
        package_version: Version of mtrouter_rl.
        config: Resolved configuration of the study.
        envs: One per environment.
    """

    SOURCE: ClassVar[str] = "`mtrouter-rl lab study-cross` writes it"
    FIX: ClassVar[str] = "run it again"

    schema_version: Literal[1] = 1
    split: Split
    package_version: str
    config: dict[str, JsonValue]
    envs: Annotated[tuple[CrossEnv, ...], Field(min_length=2)]

    def to_text(self) -> str:
        """Tables as aligned text."""
        parts = [f"{one.env}\n\n" + "\n\n".join(map(to_plain, _tables(one))) for one in self.envs]
        return "\n\n\n".join([*parts, NOTE]) + "\n"

    def to_markdown(self) -> str:
        """Tables in Markdown."""
        parts = [f"## {one.env}\n\n" + "\n\n".join(map(to_markdown, _tables(one))) for one in self.envs]
        return "\n\n".join(["# One router for several environments", NOTE, *parts]) + "\n"

    def save(self, folder: Path) -> None:
        """Write `cross.json`, `cross.md` and `cross.txt`."""
        self.write(folder / JSON_FILE)
        write_atomically(folder / MARKDOWN_FILE, self.to_markdown().encode())
        write_atomically(folder / TEXT_FILE, self.to_text().encode())


def compare_in_env(results: Results, split: Split, routers: Sequence[CrossRouter]) -> CrossEnv:
    """What the routers and the baselines of a run earned in its environment.

    Args:
        results: Results of the run; `routers` are learned policies of it.
        split: Which split.
        routers: Every router of the comparison.

    Raises:
        ResultsError: If a router has no row of that split.
    """
    by_name = {router.name: router for router in routers}
    all_envs = list(dict.fromkeys(env for router in routers for env in router.envs))
    missing = sorted(set(by_name) - {row.policy for row in results.split_rows(split)})
    if missing:
        raise ResultsError(f"results of '{results.env}' have no row of {', '.join(missing)} on {split}; evaluate them")
    order = list(dict.fromkeys((*results.roles.learned, *results.roles.baselines)))
    rows = sorted(
        (
            _row(row, by_name.get(row.policy), results.env, all_envs)
            for row in results.split_rows(split)
            if row.policy in order
        ),
        key=lambda row: (PARTS.index(row.part), order.index(row.policy)),
    )
    return CrossEnv(
        env=results.env,
        caption=caption(results, split),
        rows=tuple(rows),
        differences=_adjusted(tuple(_differences(results, split, rows))),
    )


def _row(row: ResultRow, router: CrossRouter | None, env: str, all_envs: Sequence[str]) -> CrossRow:
    shared = {name: getattr(row, name) for name in CrossRow.model_fields if name in ResultRow.model_fields}
    return CrossRow(
        agent=None if router is None else router.agent,
        part="baseline" if router is None else router.part_in(env, all_envs),
        trained_on=() if router is None else router.envs,
        **shared,
    )


def _differences(results: Results, split: Split, rows: Sequence[CrossRow]) -> Iterator[CrossDifference]:
    """Own, together and left out against each other, agent by agent, then each of them against every baseline."""
    compared = [row for row in rows if row.part in _COMPARED]
    baselines = [row for row in rows if row.part == "baseline"]
    pairs = [
        (later, earlier)
        for number, later in enumerate(compared)
        for earlier in compared[:number]
        if later.agent == earlier.agent
    ]
    pairs += [(row, baseline) for row in compared for baseline in baselines]
    for one, other in pairs:
        row = results.row(one.policy, split)
        assert row is not None
        yield CrossDifference(policy=one.policy, baseline=other.policy, difference=row.paired[other.policy])


def _adjusted(differences: Sequence[CrossDifference]) -> tuple[CrossDifference, ...]:
    """Differences with Holm's p-values over just these: the run's own are over many more, and over each pair twice."""
    values = [one.difference.p_value for one in differences]
    adjusted = holm([1.0 if value is None else value for value in values])
    return tuple(
        one.model_copy(
            update={
                "difference": one.difference.model_copy(
                    update={"p_value_holm": None if value is None else p_value_holm}
                )
            }
        )
        for one, value, p_value_holm in zip(differences, values, adjusted, strict=True)
    )


def _tables(one: CrossEnv) -> tuple[Table, Table]:
    rows = tuple(
        (
            row.policy,
            _trained_on(row),
            format_with_ends(row.score_mean, row.score_ci95, decimals=1),
            format_usd_mean(row.cost_usd_mean, row.cost_usd_ci95),
            format_percent(row.cost_saved_share),
            format_with_ends(row.return_mean, row.return_ci95, decimals=3),
        )
        for row in one.rows
    )
    header = ("policy", "trained on", "score (95% CI)", "USD/episode (95% CI)", "saved", "return (95% CI)")
    differences = tuple(
        (
            f"{pair.policy} - {pair.baseline}",
            format_interval(pair.difference.return_, decimals=3),
            format_interval(pair.difference.score, decimals=1),
            format_usd_interval(pair.difference.cost_usd),
            verdict_word(pair.difference.return_),
            format_p_value(pair.difference.p_value_holm),
        )
        for pair in one.differences
    )
    return Table(caption=one.caption, header=header, rows=rows), Table(
        caption=(
            "Paired differences over the same episodes, 95% intervals bootstrapped over (task, variation), not corrected for "
            "their number; p, Holm: of the difference of return, adjusted for all differences of this table."
        ),
        header=(
            *("difference", "return (95% CI)", "score (95% CI)", "cost, USD (95% CI)"),
            *("return is", "p, Holm"),
        ),
        rows=differences,
    )


def _trained_on(row: CrossRow) -> str:
    return ABSENT if row.part == "baseline" else f"{row.part}: {', '.join(row.trained_on)}"
