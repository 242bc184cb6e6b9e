"""`ablations.json`: a router beside the same router with one thing changed, run on the same episodes.

Every variant may have been trained several times. Its trainings are averaged episode by episode before anything else, so
that an interval is over (task, variation) as everywhere; how far the trainings lie apart is told beside it.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue

from mtrouter_rl.evaluation.metrics import PolicyMetrics, averaged_trainings
from mtrouter_rl.evaluation.result_rows import QUANTITIES, trainings_difference
from mtrouter_rl.evaluation.results import PairedDifference
from mtrouter_rl.files import SavedRecord, write_atomically
from mtrouter_rl.records import FiniteRecord, NonNegative, Split
from mtrouter_rl.reporting.tables import (
    ABSENT,
    Table,
    format_interval,
    format_number,
    format_p_value,
    format_usd_interval,
    format_usd_mean,
    format_with_ends,
    to_markdown,
    to_plain,
    verdict_word,
)
from mtrouter_rl.statistics.cluster_bootstrap import episode_means
from mtrouter_rl.statistics.estimate import Estimate, bounded
from mtrouter_rl.statistics.rank_agreement import holm

ABLATIONS_FILE = "ablations.json"
MARKDOWN_FILE = "ablations.md"
FULL = "full"
LOG_SIZE = "log-size"
WHOLE_LOG = 100

Percent = Annotated[int, Field(ge=1, le=WHOLE_LOG)]


class VariantRecord(FiniteRecord):
    """What was trained.

    Attributes:
        variant: Its name, such as "history-only"; "full" for the router that nothing was changed of.
        group: What it is an ablation of, such as "embeddings"; None for the full router.
        agent: Name of the agent card.
        changes: Parameters of the card that were changed, with their values.
        encoder: Registered name of the text encoder.
        log_percent: Share of the log's completed episodes that it learned from.
        n_logged_episodes: How many these are.
        policies: Name of its router in `results.json`, one for every training.
    """

    variant: str
    group: str | None
    agent: str
    changes: dict[str, JsonValue]
    encoder: str
    log_percent: Percent
    n_logged_episodes: Annotated[int, Field(ge=1)]
    policies: Annotated[tuple[str, ...], Field(min_length=1)]


class AblationRow(FiniteRecord):
    """What a variant earned. Intervals are over (task, variation), of means over trainings.

    Attributes:
        trained: The variant.
        score: Score, 100 * utility.
        cost_usd: Cost of an episode, USD.
        return_: Undiscounted return; the file calls it "return".
        return_by_training: Mean return of every training, over all episodes that it completed.
        n_failed: Episodes that broke for outside reasons, of all trainings; not scored.
        difference: This variant minus the full router, over the episodes that both completed in all trainings; None for
            the full router.
        to_compared: This variant minus the second agent with the whole log; None but for logs of several sizes.
    """

    trained: VariantRecord
    score: Estimate
    cost_usd: Estimate
    return_: Estimate = Field(validation_alias="return", serialization_alias="return")
    return_by_training: tuple[float, ...]
    n_failed: Annotated[int, Field(ge=0)]
    difference: PairedDifference | None
    to_compared: PairedDifference | None


class AblationSetting(FiniteRecord):
    """What all variants have in common.

    Attributes:
        env: Name of the environment card.
        pool: Name of the pool card.
        split: Split that was run.
        is_simulated: Whether the models were simulated.
        cost_weight: Cost weight of the returns.
        cost_unit_usd: Cost unit of the returns, USD.
        dataset_id: The log.
        agent: Name of the agent card that is ablated.
        compared: Name of the second agent card of the logs of several sizes; None without one.
        n_seeds: Episodes per (task, variation).
        n_trainings: Trainings of every variant.
        seed: Seed of the first training; the others count up from it. Also that of the bootstrap.
        package_version: Version of mtrouter_rl.
        config: Resolved configuration of the run.
    """

    env: str
    pool: str
    split: Split
    is_simulated: bool
    cost_weight: NonNegative
    cost_unit_usd: Annotated[float, Field(gt=0)]
    dataset_id: str
    agent: str
    compared: str | None
    n_seeds: Annotated[int, Field(ge=1)]
    n_trainings: Annotated[int, Field(ge=1)]
    seed: int
    package_version: str
    config: dict[str, JsonValue]


class Ablations(SavedRecord):
    """Contents of the file.

    Attributes:
        schema_version: Version of this layout.
        setting: What all variants have in common.
        rows: One per variant, the full router first.
    """

    SOURCE: ClassVar[str] = "`mtrouter-rl lab ablate` writes it"
    FIX: ClassVar[str] = "run it again"

    schema_version: Literal[1] = 1
    setting: AblationSetting
    rows: Annotated[tuple[AblationRow, ...], Field(min_length=1)]

    @property
    def components(self) -> tuple[AblationRow, ...]:
        """The full router and the variants in which something is missing or exchanged."""
        return tuple(row for row in self.rows if row.trained.group != LOG_SIZE)

    @property
    def log_sizes(self) -> tuple[AblationRow, ...]:
        """Rows of logs of several sizes, by agent and size, whole logs included; none if no smaller log was asked for."""
        rows = [row for row in self.rows if row.trained.group == LOG_SIZE or row.trained.variant == FULL]
        if len(rows) < 2:
            return ()
        agents = list(dict.fromkeys(row.trained.agent for row in rows))
        return tuple(sorted(rows, key=lambda row: (agents.index(row.trained.agent), row.trained.log_percent)))

    def tables(self) -> tuple[Table, ...]:
        """The table of components, and that of log sizes, each if there is something to compare in it."""
        setting = self.setting
        models = "simulated models (no LLM was called)" if setting.is_simulated else "real models"
        words = (
            f"{setting.env}, {setting.split} split, pool {setting.pool}, {models}, log {setting.dataset_id}; "
            f"return = utility - {setting.cost_weight:g} x cost / {setting.cost_unit_usd:g} USD. Every variant was trained "
            f"{_times(setting.n_trainings)}. Differences are over the same episodes, the variant minus the full router: below "
            "0 means that the change did harm (of cost: that it saved money). Brackets: 95% intervals over (task, variation); "
            "they do not cover what other trainings would change. p, Holm: of the difference of return, adjusted for all "
            "differences of this file."
        )
        made = []
        if len(self.components) > 1:
            made.append(_component_table(self.components, words))
        if self.log_sizes:
            made.append(_log_size_table(self.log_sizes, words, compared=setting.compared))
        return tuple(made)

    def to_text(self) -> str:
        """Tables as aligned text."""
        return "\n\n".join(map(to_plain, self.tables()))

    def save(self, folder: Path) -> None:
        """Write `ablations.json` and its tables in Markdown."""
        self.write(folder / ABLATIONS_FILE)
        write_atomically(folder / MARKDOWN_FILE, ("\n\n".join(map(to_markdown, self.tables())) + "\n").encode())


def compare_variants(
    variants: Sequence[VariantRecord],
    metrics: Mapping[str, PolicyMetrics],
    setting: AblationSetting,
    *,
    seed: int,
) -> Ablations:
    """Compare every variant with the full router, and logs of several sizes with the second agent's whole log.

    Args:
        variants: What was trained, the full router first.
        metrics: Policy -> what it did on the split.
        setting: What they have in common.
        seed: Seed of the resamples.
    """
    trainings = {one.policies: [metrics[policy] for policy in one.policies] for one in variants}
    full = trainings[variants[0].policies]
    compared = next((one for one in variants if (one.agent, one.log_percent) == (setting.compared, WHOLE_LOG)), None)
    rows = []
    for one in variants:
        own = trainings[one.policies]
        is_size = one.group == LOG_SIZE or one.variant == FULL
        means = episode_means([averaged_trainings(own, name) for name in QUANTITIES], seed=seed).estimates()
        score, cost_usd, return_ = bounded(means)
        has_rival = compared is not None and is_size and one.agent != setting.compared
        rows.append(
            AblationRow(
                trained=one,
                score=score,
                cost_usd=cost_usd,
                return_=return_,
                return_by_training=tuple(training.mean("return_") for training in own),
                n_failed=sum(training.n_failed for training in own),
                difference=None if one.variant == FULL else trainings_difference(own, full, seed=seed),
                to_compared=trainings_difference(own, trainings[compared.policies], seed=seed)
                if has_rival and compared
                else None,
            )
        )
    return Ablations(setting=setting, rows=_adjusted(rows))


def _adjusted(rows: Sequence[AblationRow]) -> tuple[AblationRow, ...]:
    """Rows with Holm's p-values over all differences of the file; an unknown p-value counts as one that found nothing."""
    places = list(_places(rows))
    values = [1.0 if difference.p_value is None else difference.p_value for _, _, difference in places]
    known = list(rows)
    for (number, name, difference), adjusted in zip(places, holm(values), strict=True):
        p_value_holm = None if difference.p_value is None else adjusted
        changed = difference.model_copy(update={"p_value_holm": p_value_holm})
        known[number] = known[number].model_copy(update={name: changed})
    return tuple(known)


def _places(rows: Sequence[AblationRow]) -> Iterator[tuple[int, str, PairedDifference]]:
    for number, row in enumerate(rows):
        for name, difference in (("difference", row.difference), ("to_compared", row.to_compared)):
            if difference is not None:
                yield number, name, difference


def _times(n_trainings: int) -> str:
    return "once" if n_trainings == 1 else f"{n_trainings} times and averaged"


def _component_table(rows: Sequence[AblationRow], words: str) -> Table:
    groups = [row.trained.group for row in rows]
    return Table(
        caption=f"One thing changed at a time. {words}",
        header=("variant", "of", *_VALUES, *_DIFFERENCES, "p, Holm"),
        rows=tuple(
            (
                row.trained.variant,
                row.trained.group or row.trained.agent,
                *_value_cells(row),
                *_difference_cells(row.difference),
                ABSENT if row.difference is None else format_p_value(row.difference.p_value_holm),
            )
            for row in rows
        ),
        groups=frozenset(number for number in range(1, len(rows)) if groups[number] != groups[number - 1]),
    )


def _log_size_table(rows: Sequence[AblationRow], words: str, *, compared: str | None) -> Table:
    agents = [row.trained.agent for row in rows]
    rival = () if compared is None else (f"return - {compared}'s with the whole log", "p, Holm")
    cells = []
    for row in rows:
        sizes = (f"{row.trained.log_percent}%", str(row.trained.n_logged_episodes))
        other = row.to_compared
        shown = (ABSENT, ABSENT)
        if other is not None:
            shown = (format_interval(other.return_, decimals=3), format_p_value(other.p_value_holm))
        line = (row.trained.agent, *sizes, *_value_cells(row), *_difference_cells(row.difference))
        cells.append(line if compared is None else (*line, *shown))
    return Table(
        caption=f"Logs of several sizes: nested random subsets of the log's completed episodes. {words}",
        header=("agent", "of the log", "episodes", *_VALUES, *_DIFFERENCES, *rival),
        rows=tuple(cells),
        groups=frozenset(number for number in range(1, len(rows)) if agents[number] != agents[number - 1]),
    )


_VALUES = ("score (95% CI)", "USD/episode (95% CI)", "return (95% CI)", "by training")
_DIFFERENCES = ("return - full's", "score - full's", "USD - full's", "return is")


def _value_cells(row: AblationRow) -> tuple[str, ...]:
    trainings = row.return_by_training
    spread = ABSENT if len(trainings) == 1 else ", ".join(format_number(value, decimals=3) for value in trainings)
    return (
        format_with_ends(row.score.value, row.score.ends, decimals=1),
        format_usd_mean(row.cost_usd.value, row.cost_usd.ends),
        format_with_ends(row.return_.value, row.return_.ends, decimals=3),
        spread,
    )


def _difference_cells(difference: PairedDifference | None) -> tuple[str, ...]:
    if difference is None:
        return (ABSENT,) * len(_DIFFERENCES)
    return (
        format_interval(difference.return_, decimals=3),
        format_interval(difference.score, decimals=1),
        format_usd_interval(difference.cost_usd),
        verdict_word(difference.return_),
    )
