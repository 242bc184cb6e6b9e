"""What routers that were learned from features share: what they hold, and how they are saved and loaded."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, Self, TypeVar

from mtrouter_rl.agents.q.networks import StateDict
from mtrouter_rl.agents.saving import Provenance, RouterRecord, SavedRouter, write_router
from mtrouter_rl.errors import RouterError
from mtrouter_rl.records import Frozen

if TYPE_CHECKING:
    from mtrouter_rl.embeddings.history import HistoryFeatures

SettingsT = TypeVar("SettingsT", bound=Frozen)


class LearnedRouter(ABC, Generic[SettingsT]):
    """A router made of settings and weights over history features; a subclass says what it does with them.

    Attributes:
        KIND: Registered name of the class, see `loading.ROUTER_KINDS`.
        SETTINGS: Class of its settings.
        name: Name in logs and tables.
        model_names: Names of its pool, length M.
        features: History features that it was trained on.
        settings: Everything that makes it, weights apart.
        weights: Its tensors, by name.
        provenance: How it was made.
    """

    KIND: ClassVar[str]
    SETTINGS: ClassVar[type[Frozen]]

    def __init__(
        self,
        *,
        name: str,
        model_names: tuple[str, ...],
        features: "HistoryFeatures",
        settings: SettingsT,
        weights: StateDict,
        provenance: Provenance | None = None,
    ) -> None:
        self.name = name
        self.model_names = model_names
        self.features = features
        self.settings = settings
        self.weights = weights
        self.provenance = provenance

    def save(self, folder: Path) -> None:
        """Write `router.json` and `weights.safetensors`."""
        record = RouterRecord(
            kind=self.KIND,
            name=self.name,
            model_names=self.model_names,
            settings=self.settings.model_dump(mode="json"),
            features=self.features.to_config(),
            provenance=self.provenance,
        )
        write_router(folder, record, weights=self.weights)

    @classmethod
    def from_saved(cls, saved: SavedRouter) -> Self:
        """Make the router of a record whose pool has been checked.

        Raises:
            RouterError: If the files are missing or broken, do not fit each other, or the features are configured
                otherwise.
        """
        features = saved.features()
        check_features(saved, features)
        settings = saved.settings(cls.SETTINGS)
        weights = saved.weights()
        cls.check_weights(saved, settings, weights)  # type: ignore[arg-type]  # SETTINGS is the class of SettingsT
        return cls(
            name=saved.record.name,
            model_names=saved.record.model_names,
            features=features,
            settings=settings,  # type: ignore[arg-type]
            weights=weights,
            provenance=saved.record.provenance,
        )

    @classmethod
    @abstractmethod
    def check_weights(cls, saved: SavedRouter, settings: SettingsT, weights: StateDict) -> None:
        """Make sure that weights that were read fit the settings.

        Raises:
            RouterError: If a tensor is missing, unknown or of another shape.
        """


def check_features(saved: SavedRouter, features: "HistoryFeatures") -> None:
    """Make sure that features are configured as those that a router was trained on.

    Raises:
        RouterError: If they are not; names the differing fields.
    """
    theirs = saved.record.features or {}
    ours = features.to_config()
    differing = [key for key in sorted({*theirs, *ours}) if theirs.get(key) != ours.get(key)]
    if differing:
        details = "; ".join(f"{key} was {theirs.get(key)!r}, is {ours.get(key)!r}" for key in differing)
        raise RouterError(
            f"router {saved.folder} was trained on other history features: {details}; make them from the record's own "
            "configuration"
        )


def check_shapes(saved: SavedRouter, weights: StateDict, *, n_members: int, expected: StateDict) -> None:
    """Make sure that weights fit an ensemble: `n_members` of every tensor of `expected`.

    Raises:
        RouterError: If a tensor is missing, unknown, or of another shape or type.
    """
    theirs = {name: (tensor.dtype, *tensor.shape) for name, tensor in weights.items()}
    ours = {name: (tensor.dtype, n_members, *tensor.shape) for name, tensor in expected.items()}
    differing = [name for name in sorted({*theirs, *ours}) if theirs.get(name) != ours.get(name)]
    if differing:
        raise RouterError(
            f"router {saved.folder}: the weights do not fit router.json at {', '.join(differing[:3])}; both files must "
            "come from one training"
        )
