"""The dataset schema as data: every field of `info.json` and every column, with type, meaning and rules.

Made from the code that reads and checks datasets, so that it cannot say anything else: types from the column schemas,
meanings from the docstrings of the records, rules from `mtrouter_rl.datasets.validation`.
"""

import inspect
import re
from typing import Literal, TypedDict, get_args

import pyarrow as pa

from mtrouter_rl.cards.pool import HandoverCard, ModelCard, Prices, PromptCacheCard
from mtrouter_rl.datasets.columns import EPISODE_SCHEMA, HIDDEN_SCHEMA, turn_schema
from mtrouter_rl.datasets.info import INFO_FILE, OLD_VERSIONS, SCHEMA_VERSION, DatasetInfo
from mtrouter_rl.datasets.validation import EPISODE_RULES, TURN_RULES
from mtrouter_rl.records import SPLITS, Episode, EpisodeStatus, TokenUsage, Turn, UsageSource

Table = Literal["episodes", "turns", "hidden"]
_VERSION = "schema_version"
"""Required in a file, though it has a default in memory."""
_ATTRIBUTE = re.compile(r" {4}(\w+): (.*)")
_CONTINUED = re.compile(r" {8,}(\S.*)")

_MEANINGS: dict[Table, dict[str, str]] = {
    "episodes": {
        "split": f"Which split the episode belongs to: {', '.join(SPLITS)}.",
        "status": f"{' or '.join(get_args(EpisodeStatus))}: whether it ran to its end and counts, or broke for outside "
        "reasons, and is stored, counted and never scored.",
        "usage_source": f"{' or '.join(get_args(UsageSource))}: whether its tokens and costs are those that were billed, "
        "were worked out by a stated rule, or only its costs are known, so that its token counts are 0.",
        "extra": "JSON object as text: what the original log said besides, by name; kept for splits and diagnosis, never "
        "shown to a router.",
    },
    "turns": {
        "episode_id": "Episode that the turn belongs to; a row of the episodes file of the same shard.",
        "turn": "Index of the turn in its episode, from 0.",
        "parents": "Earlier turns that this one comes from, by index: several where answers of sub-agents or parallel calls "
        "meet, none where it starts from the task alone. Null if the log does not say: then it comes from the turn before.",
    },
    "hidden": {
        "episode_id": "Episode that the turn belongs to.",
        "turn": "Index of the turn in its episode, from 0.",
        "hidden": "JSON object as text: what only a simulator knows, such as why a simulated model failed; no router may "
        "be trained on it.",
    },
}
_SCHEMAS: dict[Table, pa.Schema] = {
    "episodes": EPISODE_SCHEMA,
    "turns": turn_schema(has_parents=True),
    "hidden": HIDDEN_SCHEMA,
}
_RECORD_RULES: dict[str, tuple[str, ...]] = {
    "turns.model": ("must be a model of info.json",),
    "turns.served_model": ("must be a model of info.json",),
    "turns.cost_usd": (
        "must be the tokens times the prices of served_model in info.json, plus router_cost_usd, not rounded",
        'may be any amount of at least 0 where the episode\'s usage_source is "cost_only"',
    ),
    "turns.utility_gain": ("must keep the sum over the turns so far in [-1, 1]",),
    "turns.turn": ("must run from 0 to T-1 in every episode, in order",),
    "turns.episode_id": ("must be an episode of the same shard",),
    "turns.terminated": ("must be False before the last turn",),
    "turns.truncated": (
        "must be False before the last turn",
        "must be True on the last turn of a completed episode that is not terminated",
    ),
    "turns.propensity": ('may be null only where info.json says that propensities are "unknown"',),
    "turns.latency_s": ("may be null only in an imported log",),
    "turns.parents": (
        "must be earlier turns of the episode, each once and the smallest first",
        "the column is there only in a shard of which a turn names its parents",
    ),
    "episodes.episode_id": ("must be unique in the dataset",),
    "episodes.max_turns": ("must be at least the number of turns",),
    "episodes.budget_usd": ("must be at least the cost of all turns",),
    "hidden.episode_id": ("must have one row for every turn of the episode, or none",),
    "hidden.hidden": ("must be JSON",),
}
"""Rules that look at more than one field, in words; `mtrouter_rl.datasets.validation` and `store` enforce them."""


class FieldJson(TypedDict):
    """A field of `info.json`, as JSON values."""

    name: str
    type: str
    required: bool
    meaning: str


class ColumnJson(TypedDict):
    """A column of a Parquet file, as JSON values."""

    name: str
    type: str
    nullable: bool
    meaning: str
    rules: list[str]


class SchemaJson(TypedDict):
    """What `mtrouter-rl validate --schema` prints.

    `info_schema` is a JSON Schema of `info.json`; `info` has its fields with their meanings, nested ones by dotted name.
    """

    schema_version: int
    reads_versions: list[int]
    info_file: str
    info: list[FieldJson]
    info_schema: dict[str, object]
    files: dict[str, list[ColumnJson]]


def dataset_schema() -> SchemaJson:
    """The whole schema; a dictionary that `json.dumps` takes."""
    return SchemaJson(
        schema_version=SCHEMA_VERSION,
        reads_versions=sorted((*OLD_VERSIONS, SCHEMA_VERSION)),
        info_file=INFO_FILE,
        info=_info_fields(),
        info_schema=_info_schema(),
        files={f"{table}-NNNNN.parquet": _columns(table) for table in _SCHEMAS},
    )


def attribute_meanings(record: type) -> dict[str, str]:
    """Meaning of every attribute that a class documents in the section "Attributes" of its docstring.

    Example:
        >>> attribute_meanings(TokenUsage)["n_cached"]
        'Prompt tokens read from a warm prompt cache.'
    """
    _, _, section = (inspect.getdoc(record) or "").partition("\nAttributes:\n")
    meanings: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if start := _ATTRIBUTE.fullmatch(line):
            name = start[1]
            meanings[name] = start[2]
        elif (more := _CONTINUED.fullmatch(line)) and name:
            meanings[name] += f" {more[1]}"
        else:
            break
    return meanings


def _columns(table: Table) -> list[ColumnJson]:
    documented: dict[Table, dict[str, str]] = {
        "episodes": attribute_meanings(Episode),
        "turns": attribute_meanings(Turn) | attribute_meanings(TokenUsage),
        "hidden": {},
    }
    meanings = documented[table] | _MEANINGS[table]
    return [
        ColumnJson(
            name=column.name,
            type=str(column.type),
            nullable=column.nullable,
            meaning=meanings[column.name],
            rules=_rules(table, column.name),
        )
        for column in _SCHEMAS[table]
    ]


def _rules(table: Table, column: str) -> list[str]:
    single = {
        "episodes": [(rule.field, rule.must) for rule in EPISODE_RULES],
        "turns": [(rule.field, rule.must) for rule in TURN_RULES],
        "hidden": [],
    }
    found = [must for field, must in single[table] if field.rpartition(".")[2] == column]
    return [*found, *_RECORD_RULES.get(f"{table}.{column}", ())]


def _info_fields() -> list[FieldJson]:
    parts: dict[str, type[DatasetInfo | ModelCard | Prices | HandoverCard | PromptCacheCard]] = {
        "": DatasetInfo,
        "models[].": ModelCard,
        "models[].prices.": Prices,
        "models[].handover.": HandoverCard,
        "prompt_cache.": PromptCacheCard,
    }
    return [
        FieldJson(
            name=f"{prefix}{name}",
            type=_type_of(model.model_json_schema()["properties"][name]),
            required=field.is_required() or name == _VERSION,
            meaning=attribute_meanings(model)[name],
        )
        for prefix, model in parts.items()
        for name, field in model.model_fields.items()
    ]


def _info_schema() -> dict[str, object]:
    schema = DatasetInfo.model_json_schema()
    return schema | {"required": [_VERSION, *schema["required"]]}


def _type_of(schema: dict[str, object]) -> str:
    """A JSON Schema in a few words, such as "number or null" or "array of string"."""
    options, items, reference = schema.get("anyOf"), schema.get("items"), schema.get("$ref")
    if isinstance(options, list):
        return " or ".join(_type_of(option) for option in options)
    if isinstance(items, dict):
        return f"array of {_type_of(items)}"
    if isinstance(reference, str):
        return "object"
    if isinstance(values := schema.get("enum"), list):
        return " or ".join(f'"{value}"' for value in values)
    return f"{schema['type']} ({schema['format']})" if "format" in schema else str(schema["type"])
