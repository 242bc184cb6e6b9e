"""What a saved router looks like: `router.json`, and `weights.safetensors` beside it if there are any. No pickles."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import torch
from pydantic import Field, JsonValue, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mtrouter_rl.agents.extrapolation import Extrapolation
from mtrouter_rl.cards import AgentCard, RewardCard
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.datasets.info import DatasetInfo
from mtrouter_rl.errors import PoolMismatchError, RouterError
from mtrouter_rl.files import read_json, write_atomically
from mtrouter_rl.records import Frozen
from mtrouter_rl.transitions.hold_out import HoldOut

if TYPE_CHECKING:
    from mtrouter_rl.embeddings.history import HistoryFeatures

RECORD_FILE = "router.json"
WEIGHTS_FILE = "weights.safetensors"
_DTYPES = (torch.float32, torch.float64, torch.int64, torch.int32, torch.bool)

MakeFeatures = Callable[[dict[str, JsonValue]], "HistoryFeatures"]
"""Makes the history features that a saved router was trained on from their `to_config()`."""

SettingsT = TypeVar("SettingsT", bound=Frozen)


class LogRecord(Frozen):
    """A log that a router learned from.

    Attributes:
        dataset_id: Its id.
        dataset_fingerprint: Its `DatasetInfo.fingerprint`.
        env: Environment that it is of.
        reward: What the router maximises in that environment.
    """

    dataset_id: str
    dataset_fingerprint: str
    env: str
    reward: RewardCard


class Provenance(Frozen):
    """How a router was made.

    Attributes:
        card: The agent card, as it was given.
        seed: Seed of the training.
        dataset_id: The log that it learned from, the first of several; None if it needed none.
        dataset_fingerprint: `DatasetInfo.fingerprint` of that log; None if it needed none, or was saved before there was one.
        env: Environment of that log; None likewise.
        reward: What it maximises, in the environment of the first log if there are several; None if it maximises nothing.
        more_logs: The other logs that it learned from.
        held_out: The model that was held out of the training; None if it learned from the whole log.
        extrapolated: Models that no logged turn stands behind: held out, or added later by their cards alone.
        removed_models: Models that it was trained with and that left its pool afterwards.
    """

    card: AgentCard
    seed: int
    dataset_id: str | None = None
    dataset_fingerprint: str | None = None
    env: str | None = None
    reward: RewardCard | None = None
    more_logs: tuple[LogRecord, ...] = ()
    held_out: HoldOut | None = None
    extrapolated: tuple[Extrapolation, ...] = ()
    removed_models: tuple[str, ...] = ()

    @property
    def dataset_ids(self) -> tuple[str, ...]:
        """Ids of the logs that it learned from, in the order in which they were given; none if it needed none."""
        first = () if self.dataset_id is None else (self.dataset_id,)
        return (*first, *(log.dataset_id for log in self.more_logs))

    @property
    def envs(self) -> tuple[str, ...]:
        """Environments of those logs, each once; none if it needed none, or was saved before they were written down."""
        first = () if self.env is None else (self.env,)
        return tuple(dict.fromkeys((*first, *(log.env for log in self.more_logs))))

    def is_of(self, info: DatasetInfo) -> bool:
        """Whether the router learned from this log; by its id alone where the fingerprint is not known."""
        if any(log.dataset_fingerprint == info.fingerprint for log in self.more_logs):
            return True
        if self.dataset_fingerprint is None:
            return self.dataset_id == info.dataset_id
        return self.dataset_fingerprint == info.fingerprint

    def reward_in(self, env: str) -> RewardCard | None:
        """What the router maximises in an environment.

        With logs of several environments money is worth something else in each; in one that is not among them, what the
        router's values stand for is unknown, so the answer is None.
        """
        if not self.more_logs or env == self.env:
            return self.reward
        return next((log.reward for log in self.more_logs if log.env == env), None)


class RouterRecord(Frozen):
    """Contents of `router.json`.

    Attributes:
        schema_version: Version of this layout.
        kind: Registered name of the router class.
        name: Name of the router in tables.
        model_names: Names of the pool that it was made for, in pool order.
        settings: Checked by the router class.
        features: Configuration of the history features; None if it reads none.
        provenance: How it was made; None for a policy that was written down rather than trained.
        package_version: Version of mtrouter_rl that wrote it.
    """

    schema_version: Literal[1] = 1
    kind: str
    name: str
    model_names: tuple[str, ...]
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    features: dict[str, JsonValue] | None = None
    provenance: Provenance | None = None
    package_version: str = Field(default_factory=lambda: version("mtrouter-rl"))


@dataclass(frozen=True, kw_only=True)
class SavedRouter:
    """A saved router that is being loaded.

    Attributes:
        folder: Where it is.
        record: Its `router.json`.
        pool: The pool that it is loaded for; its names are those of the record.
        make_features: See `MakeFeatures`.
    """

    folder: Path
    record: RouterRecord
    pool: PoolCard
    make_features: MakeFeatures

    def settings(self, model: type[SettingsT]) -> SettingsT:
        """The record's settings.

        Raises:
            RouterError: If they break the rules of the router class.
        """
        try:
            return model.model_validate(self.record.settings)
        except ValidationError as error:
            raise RouterError(f"router {self.folder / RECORD_FILE}: settings break their rules: {error}") from error

    def features(self) -> "HistoryFeatures":
        """The history features that the router was trained on.

        Raises:
            RouterError: If the record has none.
        """
        if self.record.features is None:
            raise RouterError(
                f"router {self.folder / RECORD_FILE}: features is null, but kind '{self.record.kind}' needs them; "
                "train the router again"
            )
        return self.make_features(self.record.features)

    def weights(self) -> dict[str, Tensor]:
        """The router's weights.

        Raises:
            RouterError: If the file is missing, cannot be read, or holds numbers of another kind than routers are saved with.
        """
        path = self.folder / WEIGHTS_FILE
        try:
            weights = load(path.read_bytes())  # not mapped: a file that is written over must not change a router in use
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise RouterError(
                f"router weights {path} cannot be read ({error}); copy or train the router again"
            ) from error
        for name, tensor in weights.items():
            if tensor.dtype not in _DTYPES:
                raise RouterError(
                    f"router weights {path}: '{name}' is of type {tensor.dtype}, must be one of "
                    f"{', '.join(map(str, _DTYPES))}; copy or train the router again"
                )
            if not bool(torch.isfinite(tensor).all()):
                raise RouterError(
                    f"router weights {path}: '{name}' holds NaN or infinity, so nothing could be chosen by it; train the "
                    "router again"
                )
        return weights


def write_router(folder: Path, record: RouterRecord, *, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write a router into a folder, which is made if need be. The record comes last: with it the router is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    if weights is not None:
        (folder / RECORD_FILE).unlink(missing_ok=True)  # an older one does not fit these weights
        write_atomically(folder / WEIGHTS_FILE, save(dict(weights)))
    write_atomically(folder / RECORD_FILE, (record.model_dump_json(indent=2) + "\n").encode())


def read_record(folder: Path) -> RouterRecord:
    """Read `router.json`.

    Raises:
        RouterError: If it is missing, unreadable, of another version, or was written by something else.
    """
    path = folder / RECORD_FILE
    if not path.is_file():
        raise RouterError(f"no saved router in {folder}: {RECORD_FILE} is missing; give the folder that `train` wrote")
    try:
        return RouterRecord.model_validate(read_json(path))
    except ValidationError as error:
        raise RouterError(f"router {path} was not written by this version of mtrouter_rl: {error}") from error
    except (ValueError, OSError) as error:
        raise RouterError(f"router {path} cannot be read ({error}); copy or train the router again") from error


def digest(folder: Path) -> str:
    """Hash of a saved router's files, 16 hexadecimal digits; empty if there is none in the folder."""
    if not (folder / RECORD_FILE).is_file():
        return ""
    found = hashlib.blake2b(digest_size=8)
    for name in (RECORD_FILE, WEIGHTS_FILE):
        path = folder / name
        found.update(path.read_bytes() if path.is_file() else b"")
    return found.hexdigest()


def check_pool(record: RouterRecord, pool: PoolCard) -> None:
    """Make sure that a router fits a pool.

    Raises:
        PoolMismatchError: If the pool's models are others or in another order; names the differing ones.
    """
    theirs, ours = record.model_names, pool.model_names
    if theirs == ours:
        return
    missing = [name for name in theirs if name not in ours]
    unknown = [name for name in ours if name not in theirs]
    if missing or unknown:
        difference = (
            f"only the router knows: {', '.join(missing) or '(none)'}; only the pool: {', '.join(unknown) or '(none)'}"
        )
    else:
        difference = f"same models in another order: {', '.join(theirs)} and {', '.join(ours)}"
    raise PoolMismatchError(
        f"router '{record.name}' was made for another pool than '{pool.name}'; {difference}; "
        "use the router's pool, or train a router for this one"
    )
