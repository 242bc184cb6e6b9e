"""What a dataset is and how it was made: the contents of `info.json`."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator

from mtrouter_rl.cards.pool import ModelCard, PoolCard, PromptCacheCard
from mtrouter_rl.datasets.upgrade import upgrade_info
from mtrouter_rl.errors import DatasetError, PoolMismatchError
from mtrouter_rl.files import parse_json, read_json
from mtrouter_rl.files.reading import read_limited
from mtrouter_rl.records import Frozen, JsonValue, Split

SCHEMA_VERSION = 3
MAX_INFO_BYTES = 64 * 2**20
"""An info.json that is larger is not read."""

OLD_VERSIONS = (1, 2)
"""Versions that are read as well, and upgraded on the way; see `mtrouter_rl.datasets.upgrade`."""
INFO_FILE = "info.json"
_DATASET_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*-v[1-9][0-9]*")


class DatasetInfo(Frozen):
    """Provenance of a dataset. Nothing here depends on an encoder, on the machine or on the time of day.

    Attributes:
        schema_version: Layout of the folder; another version than `SCHEMA_VERSION` is refused.
        dataset_id: `name-vN`, such as "corridor-uniform-v1".
        env: Name of the environment card.
        pool_name: Name of the pool card.
        models: The M models in action order, with the prices that the costs were computed with.
        prompt_cache: Prompt cache of the pool, None where there was none.
        behavior_policy: Name of the policy that logged the data.
        split: Split that every episode belongs to.
        seed: Seed of the collection.
        n_episodes_planned: How many episodes the finished dataset has.
        max_turns: Turn limit of the environment.
        budget_usd: Budget of an episode, USD.
        is_simulated: Whether the models were simulated.
        package_version: Version of this package that wrote it.
        created_by: The exact call that made it, as JSON values. No timestamps and no machine paths, so that the same
            collection gives the same bytes.
        origin: Whether this package ran the episodes, or read them from another program's log.
        propensities: "exact" as logged by the behaviour policy, "estimated" by a fitted model of it, or "unknown" for
            some turns at least.
        assumptions: What was assumed where the original log says nothing, a sentence each; shown beside every result.
    """

    schema_version: int = SCHEMA_VERSION
    dataset_id: str
    env: Annotated[str, Field(min_length=1)]
    pool_name: Annotated[str, Field(min_length=1)]
    models: Annotated[tuple[ModelCard, ...], Field(min_length=1)]
    prompt_cache: PromptCacheCard | None
    behavior_policy: Annotated[str, Field(min_length=1)]
    split: Split
    seed: Annotated[int, Field(ge=0)]
    n_episodes_planned: Annotated[int, Field(gt=0)]
    max_turns: Annotated[int, Field(gt=0)]
    budget_usd: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    is_simulated: bool
    package_version: Annotated[str, Field(min_length=1)]
    created_by: dict[str, object]
    origin: Literal["collected", "imported"] = "collected"
    propensities: Literal["exact", "estimated", "unknown"] = "exact"
    assumptions: tuple[str, ...] = ()

    @field_validator("schema_version")
    @classmethod
    def _version_is_known(cls, version: int) -> int:
        if version != SCHEMA_VERSION:
            raise ValueError(f"must be {SCHEMA_VERSION}, the only version that this package reads and writes")
        return version

    @field_validator("dataset_id")
    @classmethod
    def _id_has_a_version(cls, dataset_id: str) -> str:
        if not _DATASET_ID.fullmatch(dataset_id):
            raise ValueError("must be `name-vN` (letters, digits, '_', '.', '-'; N from 1), such as 'corridor-v1'")
        return dataset_id

    @field_validator("models")
    @classmethod
    def _names_are_unique(cls, models: tuple[ModelCard, ...]) -> tuple[ModelCard, ...]:
        names = [model.name for model in models]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"name(s) {repeated} appear more than once; every model needs its own name")
        return models

    @field_validator("created_by")
    @classmethod
    def _is_plain_json(cls, created_by: dict[str, object]) -> dict[str, object]:
        # Normalized as a file would give it back, so that equal calls are equal objects and equal bytes.
        try:
            normal: dict[str, object] = json.loads(json.dumps(created_by, sort_keys=True, allow_nan=False))
        except TypeError as error:
            raise ValueError(f"must hold JSON values only: {error}") from error
        return normal

    @property
    def model_names(self) -> tuple[str, ...]:
        """Names in action order, length M."""
        return tuple(model.name for model in self.models)

    @property
    def fingerprint(self) -> str:
        """Short digest of everything that says which log this is: two collections may share an id, not a seed or a size."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def check_pool(self, pool: PoolCard) -> None:
        """Refuse a pool other than the one that the data was logged with.

        The name of the pool may differ; models, their order, prices, limits, dates and the prompt cache may not.

        Raises:
            PoolMismatchError: Names both pools and every difference.
        """
        differences = list(model_differences(self.models, pool.models, names=("the dataset", "the pool")))
        if self.prompt_cache != pool.prompt_cache:
            differences.append(f"prompt_cache: {self.prompt_cache!r} in the dataset, {pool.prompt_cache!r} in the pool")
        if differences:
            raise PoolMismatchError(
                f"dataset '{self.dataset_id}' was logged with pool '{self.pool_name}', which differs from pool "
                f"'{pool.name}':\n  " + "\n  ".join(differences) + "\n  use the pool that it was logged with, or "
                "collect the dataset anew"
            )

    def check_models(self, other: "DatasetInfo") -> None:
        """Refuse another log whose models are not those of this one, so that one router cannot learn from both.

        Names, their order, prices, limits and dates must agree. Prompt caches may differ: which models are warm is part of
        the state, and what that saves is part of the logged cost.

        Raises:
            PoolMismatchError: Names both logs and the first difference.
        """
        differences = list(model_differences(self.models, other.models, names=("the first log", "the second")))
        if differences:
            raise PoolMismatchError(
                f"datasets '{self.dataset_id}' (environment '{self.env}') and '{other.dataset_id}' (environment "
                f"'{other.env}') cannot train one router: {differences[0]}; one router needs the same models in the same "
                "order, at the same prices, limits and dates: leave one log out, or bring it to the other's prices with "
                "'mtrouter-rl reprice'"
            )

    def to_json(self) -> str:
        """Text of `info.json`; equal infos give equal text. `parse_info` is its inverse."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def model_differences(
    here: tuple[ModelCard, ...], there: tuple[ModelCard, ...], *, names: tuple[str, str]
) -> Iterator[str]:
    """How two lists of models differ, a phrase each: in names and their order first, then in prices, limits and dates.

    Args:
        here: Models of one side.
        there: Models of the other.
        names: What the sides are called in the phrases.
    """
    yield from _differing_names(tuple(model.name for model in here), tuple(model.name for model in there), names=names)
    yield from _differing_fields(here, there, names=names)


def _differing_names(here: tuple[str, ...], there: tuple[str, ...], *, names: tuple[str, str]) -> Iterator[str]:
    missing = [name for name in here if name not in there]
    added = [name for name in there if name not in here]
    if missing:
        yield f"model(s) {missing} are in {names[0]} only"
    if added:
        yield f"model(s) {added} are in {names[1]} only"
    if not missing and not added and here != there:
        yield f"order of models: {list(here)} in {names[0]}, {list(there)} in {names[1]}"


def _differing_fields(
    here: tuple[ModelCard, ...], there: tuple[ModelCard, ...], *, names: tuple[str, str]
) -> Iterator[str]:
    by_name = {model.name: model for model in there}
    for model in here:
        if model.name not in by_name:
            continue
        ours, theirs = _flat(model), _flat(by_name[model.name])
        for field, value in ours.items():
            if value != theirs[field]:
                yield f"model '{model.name}', {field}: {value} in {names[0]}, {theirs[field]} in {names[1]}"


def _flat(model: ModelCard) -> dict[str, object]:
    fields = model.model_dump(exclude={"prices", "aliases"})  # what a log calls a model changes nothing
    return fields | {f"prices.{kind}": price for kind, price in model.prices.model_dump().items()}


def parse_info(text: str, path: Path) -> DatasetInfo:
    """Read the text of an `info.json`.

    Args:
        text: Contents of the file.
        path: Where it is from, for error messages.

    Raises:
        DatasetError: If it is no JSON object, of another schema version, or has a field that breaks its rule.
    """
    restore = "restore the file from a copy, or collect the dataset anew"
    try:
        data = parse_json(text)
    except ValueError as error:
        raise DatasetError(f"{path} is not valid JSON: {error}; {restore}") from error
    if not isinstance(data, dict):
        raise DatasetError(f"{path} holds {type(data).__name__}, must be a JSON object; {restore}")
    version = data.get("schema_version")
    if version not in (SCHEMA_VERSION, *OLD_VERSIONS) or isinstance(version, bool):
        raise DatasetError(
            f"{path}: schema_version is {version!r}, must be {SCHEMA_VERSION} (or an older one that is upgraded when it "
            f"is read: {', '.join(map(str, OLD_VERSIONS))}); use the package version that wrote the dataset, or collect "
            "it anew"
        )
    if version != SCHEMA_VERSION:
        text = json.dumps(upgrade_info(data))
    try:
        return DatasetInfo.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise DatasetError(f"{path} breaks its rules:\n{_explain(error)}\n  {restore}") from error


def _explain(error: ValidationError) -> str:
    lines = []
    for issue in error.errors():
        where = ".".join(str(part) for part in issue["loc"])
        value = "" if issue["type"] == "missing" else f" is {issue['input']!r}"[:120]
        lines.append(f"  field '{where}'{value}: {issue['msg']}")
    return "\n".join(lines)


def stored_version(folder: Path) -> object:
    """Schema version that a dataset has on disk; `read_info` gives the present one always."""
    return read_info_json(folder).get("schema_version")


def read_info_json(folder: Path) -> dict[str, JsonValue]:
    """The object in `info.json`, none of its fields checked.

    Raises:
        DatasetError: If it cannot be read, or is no JSON object.
    """
    path = folder / INFO_FILE
    try:
        data = read_json(path, max_bytes=MAX_INFO_BYTES)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {error}; restore it from a copy") from error
    if not isinstance(data, dict):
        raise DatasetError(f"{path} holds {type(data).__name__}, must be a JSON object; restore it from a copy")
    return data


def read_info(folder: Path) -> DatasetInfo:
    """Read `info.json` of a dataset folder.

    Raises:
        DatasetError: If the folder is no dataset, or its `info.json` is unreadable or breaks a rule.
    """
    path = folder / INFO_FILE
    if folder.is_file():
        raise DatasetError(
            f"{folder} is a file, must be the folder of a dataset. A log of another program becomes one by: mtrouter-rl import "
            f"FORMAT {folder} --pool POOL --out {folder.with_suffix('')}-log; mtrouter-rl start {folder} goes the whole way"
        )
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; give the folder of a dataset, which holds {INFO_FILE}")
    if not path.is_file():
        raise DatasetError(
            f"{folder} is not a dataset, it has no {INFO_FILE}; give a folder that a collection or an import wrote; "
            "to make one of logs of other programs: mtrouter-rl import --help"
        )
    try:
        text = read_limited(path, max_bytes=MAX_INFO_BYTES).decode()
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{path} cannot be read: {error}; check its permissions or restore it from a copy"
        ) from error
    return parse_info(text, path)
