"""Every rule that a log has to keep, each with the words that say what is wrong and how to mend it.

Nothing is mended here and nothing is skipped: a missing cost or propensity is an error, never 0.0 or 1.0.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Generic, TypeVar, cast, get_args

import pyarrow as pa
import pyarrow.compute as pc

from mtrouter_rl.cards.pool import Prices
from mtrouter_rl.datasets.info import DatasetInfo
from mtrouter_rl.errors import DatasetError, unknown_name
from mtrouter_rl.files import check_depth
from mtrouter_rl.records import Episode, EpisodeStatus, Turn, UsageSource

RecordT = TypeVar("RecordT")
MAX_LISTED = 20
UTILITY_TOLERANCE = 1e-9
BUDGET_TOLERANCE_USD = 1e-9
COST_RELATIVE_TOLERANCE = 1e-9
COST_ABSOLUTE_TOLERANCE_USD = 1e-12
_MAX_SHOWN = 80


@dataclass(frozen=True, kw_only=True)
class Violation:
    """One broken rule.

    Attributes:
        file: Name of the file inside the dataset folder.
        episode: Episode id, None if the whole file is concerned.
        turn: Turn index, None if the whole episode or file is concerned.
        field: Field that breaks the rule.
        value: Its value, as shown to the reader.
        rule: What it must be.
        fix: What to do about it.
    """

    file: str
    episode: str | None = None
    turn: int | None = None
    field: str
    value: str
    rule: str
    fix: str

    def __str__(self) -> str:
        """One line: where, field, value, rule and fix."""
        episode = "" if self.episode is None else f", episode '{self.episode}'"
        turn = "" if self.turn is None else f", turn {self.turn}"
        return f"{self.file}{episode}{turn}: {self.field} is {self.value}, {self.rule}; {self.fix}"


@dataclass
class ViolationLog:
    """Collects violations, keeps the first ones, and raises them as one error.

    Attributes:
        max_listed: How many are kept.
        listed: The first violations.
        n_violations: How many there are in all.
    """

    max_listed: int = MAX_LISTED
    listed: list[Violation] = field(default_factory=list)
    n_violations: int = 0

    def add(self, violation: Violation) -> None:
        """Record one violation."""
        self.n_violations += 1
        if len(self.listed) < self.max_listed:
            self.listed.append(violation)

    def raise_if_any(self, subject: str) -> None:
        """Raise what was recorded.

        Args:
            subject: What breaks the rules, for the first line of the message.

        Raises:
            DatasetError: If anything was recorded; lists at most `max_listed` violations and counts the rest.
        """
        if not self.n_violations:
            return
        lines = [f"  {violation}" for violation in self.listed]
        if self.n_violations > len(lines):
            lines.append(f"  ... and {self.n_violations - len(lines)} more")
        raise DatasetError(f"{subject} breaks its rules ({self.n_violations} violations):\n" + "\n".join(lines))


@dataclass(frozen=True, kw_only=True)
class Rule(Generic[RecordT]):
    """A rule about one field of a turn or an episode.

    Attributes:
        field: Dotted name of the field.
        holds: Whether the record keeps the rule, given the dataset's context.
        must: The rule in words.
        fix: What to do if it is broken.
    """

    field: str
    holds: Callable[[RecordT, "Context"], bool]
    must: str
    fix: str


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the rules need to know of the dataset.

    Attributes:
        split: Split of every episode.
        prices: Prices by model name, in pool order.
        actions: Action index by model name.
        may_lack_propensity: Whether info.json says that propensities are unknown.
        may_lack_latency: Whether the log was imported.
    """

    split: str
    prices: dict[str, Prices]
    actions: dict[str, int]
    may_lack_propensity: bool = False
    may_lack_latency: bool = False

    @classmethod
    def of(cls, info: DatasetInfo) -> "Context":
        """Context of a dataset."""
        return cls(
            split=info.split,
            prices={model.name: model.prices for model in info.models},
            actions={name: index for index, name in enumerate(info.model_names)},
            may_lack_propensity=info.propensities == "unknown",
            may_lack_latency=info.origin == "imported",
        )


def _mask_allows(turn: Turn, context: Context) -> bool:
    # An unknown model or a mask of the wrong length is reported by its own rule.
    if turn.model not in context.actions or len(turn.action_mask) != len(context.actions):
        return True
    return turn.action_mask[context.actions[turn.model]]


def _is_json_object(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    try:
        check_depth(value)
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _has_tokens(turn: Turn) -> bool:
    return bool(turn.usage.n_prompt or turn.usage.n_output)


_COUNT_FIX = "log the tokens as the vendor billed them"
_MASK_LENGTH = "must have one entry per model of info.json"
TURN_RULES: tuple[Rule[Turn], ...] = (
    Rule(field="usage.n_fresh", holds=lambda turn, _: turn.usage.n_fresh >= 0, must="must be >= 0", fix=_COUNT_FIX),
    Rule(field="usage.n_cached", holds=lambda turn, _: turn.usage.n_cached >= 0, must="must be >= 0", fix=_COUNT_FIX),
    Rule(field="usage.n_written", holds=lambda turn, _: turn.usage.n_written >= 0, must="must be >= 0", fix=_COUNT_FIX),
    Rule(field="usage.n_output", holds=lambda turn, _: turn.usage.n_output >= 0, must="must be >= 0", fix=_COUNT_FIX),
    Rule(
        field="utility_gain",
        holds=lambda turn, _: math.isfinite(turn.utility_gain),
        must="must be finite",
        fix="log the change of score / maximal score caused by the turn",
    ),
    Rule(
        field="propensity",
        holds=lambda turn, context: (
            context.may_lack_propensity if turn.propensity is None else 0 < turn.propensity <= 1
        ),
        must="must be in (0, 1]",
        fix="log the behaviour policy's probability for the chosen model; where nobody knows it, info.json says so",
    ),
    Rule(
        field="latency_s",
        holds=lambda turn, context: (
            context.may_lack_latency if turn.latency_s is None else 0 <= turn.latency_s < math.inf
        ),
        must="must be finite and >= 0",
        fix="log the duration of the call in seconds",
    ),
    Rule(
        field="router_cost_usd",
        holds=lambda turn, _: 0 <= turn.router_cost_usd < math.inf,
        must="must be finite and >= 0",
        fix="log what the decision cost, USD; 0 for a router that calls no model itself",
    ),
    Rule(
        field="action_mask",
        holds=lambda turn, context: len(turn.action_mask) == len(context.actions),
        must=_MASK_LENGTH,
        fix="log which models were allowed, in pool order",
    ),
    Rule(
        field="warm",
        holds=lambda turn, context: len(turn.warm) == len(context.actions),
        must=_MASK_LENGTH,
        fix="log which models held a warm prompt cache, in pool order",
    ),
    Rule(
        field="action_mask",
        holds=_mask_allows,
        must="must allow the chosen model",
        fix="log the mask that the behaviour policy saw, or drop the episode",
    ),
)
EPISODE_RULES: tuple[Rule[Episode], ...] = (
    Rule(
        field="episode_id",
        holds=lambda episode, _: bool(episode.episode_id),
        must="must not be empty",
        fix="give every episode an id of its own",
    ),
    Rule(
        field="variation",
        holds=lambda episode, _: episode.variation >= 0,
        must="must be >= 0",
        fix="log the index of the task's variation",
    ),
    Rule(
        field="seed",
        holds=lambda episode, _: episode.seed >= 0,
        must="must be >= 0",
        fix="log the seed that the episode was reset with",
    ),
    Rule(
        field="split",
        holds=lambda episode, context: episode.split == context.split,
        must="must be the split of info.json",
        fix="keep every split in a dataset of its own, so that no test episode leaks into training",
    ),
    Rule(
        field="status",
        holds=lambda episode, _: episode.status in get_args(EpisodeStatus),
        must=f"must be one of {', '.join(get_args(EpisodeStatus))}",
        fix="say 'failed' of an episode that broke for outside reasons",
    ),
    Rule(
        field="status_detail",
        holds=lambda episode, _: episode.status != "failed" or bool(episode.status_detail),
        must="must say why a failed episode failed",
        fix="log the message of the error that broke it",
    ),
    Rule(
        field="usage_source",
        holds=lambda episode, _: episode.usage_source in get_args(UsageSource),
        must=f"must be one of {', '.join(get_args(UsageSource))}",
        fix="say 'reconstructed' where tokens were worked out, 'cost_only' where costs are known and tokens are not",
    ),
    Rule(
        field="usage_source",
        holds=lambda episode, _: episode.usage_source != "cost_only" or not any(map(_has_tokens, episode.turns)),
        must="must not be 'cost_only' where a turn has tokens",
        fix="say 'logged' or 'reconstructed' and let costs be tokens times prices, or set all tokens to 0",
    ),
    Rule(
        field="extra",
        holds=lambda episode, _: _is_json_object(episode.extra),
        must="must be a mapping of names to JSON values, NaN and infinity not among them, and not nested too deep",
        fix="write a JSON object, or {} for nothing",
    ),
    Rule(
        field="behavior_policy",
        holds=lambda episode, _: bool(episode.behavior_policy),
        must="must not be empty",
        fix="name the policy that chose the models, such as 'single:MODEL' or 'uniform'",
    ),
    Rule(
        field="budget_usd",
        holds=lambda episode, _: 0 < episode.budget_usd < math.inf,
        must="must be finite and > 0",
        fix="log the budget that the episode was run with",
    ),
    Rule(
        field="max_turns",
        holds=lambda episode, _: episode.max_turns > 0,
        must="must be > 0",
        fix="log the turn limit that the episode was run with",
    ),
)


@dataclass(frozen=True, kw_only=True)
class ShardFiles:
    """Names of the files of one shard, in the order in which they are written.

    Attributes:
        turns: Turn rows.
        hidden: What only a simulator knows.
        episodes: Episode rows; written last, because a shard counts once this file is there.
    """

    turns: str
    hidden: str
    episodes: str

    @classmethod
    def of(cls, index: int) -> "ShardFiles":
        """Files of a shard.

        Example:
            >>> ShardFiles.of(3).turns
            'turns-00003.parquet'
        """
        return cls(
            turns=f"turns-{index:05d}.parquet",
            hidden=f"hidden-{index:05d}.parquet",
            episodes=f"episodes-{index:05d}.parquet",
        )


def check_columns(table: pa.Table, schema: pa.Schema, *, file: str, log: ViolationLog) -> bool:
    """Check that every column is there, of its type, without nulls, and that there is no other.

    Returns:
        Whether the rows of the table can be read.
    """
    n_before = log.n_violations
    for expected in schema:
        if expected.name not in table.column_names:
            log.add(
                Violation(
                    file=file,
                    field=f"column '{expected.name}'",
                    value="missing",
                    rule=f"must be there, of type {expected.type}",
                    fix="log it and write the shard anew; there is no default",
                )
            )
        elif table.column_names.count(expected.name) > 1 or table.schema.field(expected.name).type != expected.type:
            kinds = [str(column.type) for column in table.schema if column.name == expected.name]
            log.add(
                Violation(
                    file=file,
                    field=f"column '{expected.name}'",
                    value=f"of type {' and '.join(kinds)}",
                    rule=f"must be one column of type {expected.type}",
                    fix="write the shard with DatasetWriter, or cast the column",
                )
            )
    for name in sorted(set(table.column_names) - set(schema.names)):
        log.add(
            Violation(
                file=file,
                field=f"column '{name}'",
                value="there",
                rule="must not be: the schema does not know it",
                fix="remove it or correct its spelling",
            )
        )
    if log.n_violations == n_before:
        _check_nulls(table, schema, file=file, log=log)
    return log.n_violations == n_before


def _check_nulls(table: pa.Table, schema: pa.Schema, *, file: str, log: ViolationLog) -> None:
    for name in (column.name for column in schema if not column.nullable):
        column = table[name]
        nulls = pc.is_null(column)
        if pa.types.is_list(column.type):
            holes = pc.list_parent_indices(column).filter(pc.is_null(pc.list_flatten(column)))
            nulls = pc.or_(nulls, pc.is_in(pa.array(range(len(column)), pa.int64()), value_set=holes.unique()))
        n_nulls = pc.sum(nulls).as_py() or 0
        if not n_nulls:
            continue
        row = pc.index(nulls, value=True).as_py()
        episode = table["episode_id"][row].as_py()
        log.add(
            Violation(
                file=file,
                episode="(null)" if episode is None else episode,
                turn=table["turn"][row].as_py() if "turn" in table.column_names else None,
                field=name,
                value=f"null (first of {n_nulls} rows)",
                rule="must have a value in every row",
                fix="log it; there is no default",
            )
        )


def group_turns(
    rows: Sequence[tuple[str, int, Turn]], *, episode_ids: Sequence[str], files: ShardFiles, log: ViolationLog
) -> dict[str, list[Turn]]:
    """Turns of every episode of a shard; reports turns without an episode, and indices other than 0..T-1 in order."""
    grouped: dict[str, list[Turn]] = {episode_id: [] for episode_id in episode_ids}
    for episode_id, index, turn in rows:
        if episode_id not in grouped:
            log.add(
                Violation(
                    file=files.turns,
                    episode=episode_id,
                    turn=index,
                    field="episode_id",
                    value=repr(episode_id),
                    rule=f"must be an episode of {files.episodes}",
                    fix="add the episode's row or remove its turns",
                )
            )
            continue
        turns = grouped[episode_id]
        if index != len(turns):
            log.add(
                Violation(
                    file=files.turns,
                    episode=episode_id,
                    turn=index,
                    field="turn",
                    value=str(index),
                    rule=f"must be {len(turns)}: the turns of an episode are 0..T-1, in order",
                    fix="restore the missing turns or remove the repeated ones",
                )
            )
        turns.append(turn)
    return grouped


def check_hidden(
    rows: Sequence[tuple[str, int]],
    *,
    n_turns: Mapping[str, int],
    n_rows: int | None,
    files: ShardFiles,
    log: ViolationLog,
) -> None:
    """Check that the hidden rows of a shard are those of its episodes: none foreign, none missing, none out of place.

    Args:
        rows: Episode id and turn of every row, in the order of the file.
        n_turns: Turns of every episode of the shard.
        n_rows: How many rows the episodes file says there are; None if it does not say.
        files: Names of the shard's files.
        log: Where broken rules go.
    """

    def broken(episode: str | None, turn: int | None, field: str, value: str, rule: str) -> None:
        fix = "restore the hidden file from a copy, or collect the shard anew"
        log.add(Violation(file=files.hidden, episode=episode, turn=turn, field=field, value=value, rule=rule, fix=fix))

    if n_rows is not None and n_rows != len(rows):
        broken(None, None, "number of rows", str(len(rows)), f"must be {n_rows}, as {files.episodes} says")
    seen: dict[str, int] = {}
    previous = None
    for episode, turn in rows:
        if episode not in n_turns:
            broken(episode, turn, "episode_id", repr(episode), f"must be an episode of {files.episodes}")
            continue
        expected = seen.get(episode, 0)
        if turn != expected or (expected and previous != episode):
            broken(
                episode,
                turn,
                "turn",
                str(turn),
                f"must be {expected}: rows are 0..T-1, one after the other",
            )
        seen[episode] = expected + 1
        previous = episode
    for episode, n_there in seen.items():
        if n_there != n_turns[episode]:
            rule = f"must be the number of turns, {n_turns[episode]}, or 0"
            broken(episode, None, "number of hidden rows", str(n_there), rule)


def check_episodes(episodes: Iterable[Episode], *, context: Context, files: ShardFiles, log: ViolationLog) -> None:
    """Check every rule about the values of episodes and their turns."""
    for episode in episodes:
        for rule in EPISODE_RULES:
            if not rule.holds(episode, context):
                log.add(_violation(rule, episode, file=files.episodes, episode=episode.episode_id))
        for index, turn in enumerate(episode.turns):
            _check_turn(turn, context, file=files.turns, episode=episode.episode_id, index=index, log=log)
            if episode.usage_source == "cost_only":
                _check_bill(turn, file=files.turns, episode=episode.episode_id, index=index, log=log)
            elif turn.served_model in context.prices:
                prices = context.prices[turn.served_model]
                _check_cost(turn, prices, file=files.turns, episode=episode.episode_id, index=index, log=log)
        _check_parents(episode, files.turns, log)
        _check_ends(episode, files.turns, log)
        _check_utility(episode, files.turns, log)
        _check_limits(episode, files.episodes, log)


def check_unique_ids(ids: Sequence[tuple[str, str]], log: ViolationLog) -> None:
    """Check that no episode id is used twice; `ids` holds (file, episode id) of every episode row."""
    first_file: dict[str, str] = {}
    for file, episode_id in ids:
        if episode_id in first_file:
            log.add(
                Violation(
                    file=file,
                    episode=episode_id,
                    field="episode_id",
                    value=f"used before in {first_file[episode_id]}",
                    rule="must be unique in the dataset",
                    fix="remove the repeated episode or give it an id of its own",
                )
            )
        first_file.setdefault(episode_id, file)


def _violation(rule: Rule[RecordT], record: RecordT, *, file: str, episode: str, turn: int | None = None) -> Violation:
    return Violation(
        file=file,
        episode=episode,
        turn=turn,
        field=rule.field.rpartition(".")[2],
        value=repr(attrgetter(rule.field)(record))[:_MAX_SHOWN],
        rule=rule.must,
        fix=rule.fix,
    )


def _check_turn(turn: Turn, context: Context, *, file: str, episode: str, index: int, log: ViolationLog) -> None:
    for rule in TURN_RULES:
        if not rule.holds(turn, context):
            log.add(_violation(rule, turn, file=file, episode=episode, turn=index))
    for name, model in (("model", turn.model), ("served_model", turn.served_model)):
        if model not in context.actions:
            log.add(
                Violation(
                    file=file,
                    episode=episode,
                    turn=index,
                    field=name,
                    value=repr(model),
                    rule="must be a model of info.json",
                    fix=str(unknown_name("model", model, context.actions)),
                )
            )


def _check_bill(turn: Turn, *, file: str, episode: str, index: int, log: ViolationLog) -> None:
    """Check a cost that stands for itself."""
    if not turn.router_cost_usd <= turn.cost_usd < math.inf:
        log.add(
            Violation(
                file=file,
                episode=episode,
                turn=index,
                field="cost_usd",
                value=repr(turn.cost_usd),
                rule="must be finite and >= 0"
                + (f" and at least router_cost_usd, {turn.router_cost_usd!r}" if turn.router_cost_usd else ""),
                fix="log what the turn cost, USD",
            )
        )


def _check_cost(turn: Turn, prices: Prices, *, file: str, episode: str, index: int, log: ViolationLog) -> None:
    expected = prices.cost_usd(turn.usage) + turn.router_cost_usd
    # Both tolerances only cover another order of summation; a rounded cost is a wrong cost.
    if not math.isclose(turn.cost_usd, expected, rel_tol=COST_RELATIVE_TOLERANCE, abs_tol=COST_ABSOLUTE_TOLERANCE_USD):
        log.add(
            Violation(
                file=file,
                episode=episode,
                turn=index,
                field="cost_usd",
                value=repr(turn.cost_usd),
                rule=f"must be {expected!r}, the tokens times the prices of '{turn.served_model}' in info.json"
                + (", plus router_cost_usd" if turn.router_cost_usd else ""),
                fix="log tokens and cost as billed, and keep in info.json the prices they were billed at",
            )
        )


def _check_parents(episode: Episode, file: str, log: ViolationLog) -> None:
    """Check that the turns which a turn says it comes from are earlier ones, so that the links are a graph without circles."""
    for index, turn in enumerate(episode.turns):
        if turn.parents is None:
            continue
        problem = _parents_problem(turn.parents, index, len(episode.turns))
        if problem:
            log.add(
                Violation(
                    file=file,
                    episode=episode.episode_id,
                    turn=index,
                    field="parents",
                    value=str(list(turn.parents))[:_MAX_SHOWN],
                    rule=problem,
                    fix="name earlier turns of the episode by their index, each once and the smallest first; [] for a turn "
                    "that comes from the task alone, null where the log does not say",
                )
            )


def _parents_problem(parents: Sequence[object], index: int, n_turns: int) -> str:
    """The rule that parents break, in words; empty if they keep all."""
    for parent in parents:
        if not isinstance(parent, int) or isinstance(parent, bool) or not 0 <= parent < n_turns:
            return f"{parent} is no turn of the episode, whose turns are 0 to {n_turns - 1}"
        if parent == index:
            return "a turn must not come from itself"
        if parent > index:
            return f"{parent} is a later turn; a turn comes from earlier ones"
    if list(parents) != sorted(set(cast("Sequence[int]", parents))):
        return "must name every turn once, the smallest first"
    return ""


def _check_ends(episode: Episode, file: str, log: ViolationLog) -> None:
    ended = [index for index, turn in enumerate(episode.turns) if turn.terminated or turn.truncated]
    last = len(episode.turns) - 1
    for index in ended:
        if index < last:
            turn = episode.turns[index]
            log.add(
                Violation(
                    file=file,
                    episode=episode.episode_id,
                    turn=index,
                    field="(terminated, truncated)",
                    value=f"({turn.terminated}, {turn.truncated})",
                    rule=f"must be (False, False) before the last turn, {last}",
                    fix="an episode ends once; remove the turns after the end or correct the flag",
                )
            )
    if episode.status == "completed" and episode.turns and last not in ended:
        log.add(
            Violation(
                file=file,
                episode=episode.episode_id,
                turn=last,
                field="(terminated, truncated)",
                value="(False, False)",
                rule="must have one of them True on the last turn of a completed episode",
                fix="restore the missing turns, log how it ended, or say that it failed",
            )
        )


def _check_utility(episode: Episode, file: str, log: ViolationLog) -> None:
    utility = 0.0
    for index, turn in enumerate(episode.turns):
        utility += turn.utility_gain
        if abs(utility) > 1 + UTILITY_TOLERANCE:
            log.add(
                Violation(
                    file=file,
                    episode=episode.episode_id,
                    turn=index,
                    field="cumulative utility_gain",
                    value=repr(utility),
                    rule="must be in [-1, 1]",
                    fix="log the gain of score / maximal score, not the score so far",
                )
            )
            return


def _check_limits(episode: Episode, file: str, log: ViolationLog) -> None:
    if len(episode.turns) > episode.max_turns:
        log.add(
            Violation(
                file=file,
                episode=episode.episode_id,
                field="number of turns",
                value=str(len(episode.turns)),
                rule=f"must be <= max_turns, {episode.max_turns}",
                fix="log the turn limit that the episode was run with",
            )
        )
    if episode.cost_usd > episode.budget_usd + BUDGET_TOLERANCE_USD:
        log.add(
            Violation(
                file=file,
                episode=episode.episode_id,
                field="total cost_usd",
                value=repr(episode.cost_usd),
                rule=f"must be <= budget_usd, {episode.budget_usd!r}",
                fix="log the budget that the episode was run with",
            )
        )
