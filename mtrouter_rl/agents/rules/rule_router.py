"""What routers by a written rule share, which have no weights: what they hold, and how they are saved and loaded."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Generic, Self, TypeVar

from mtrouter_rl.agents.saving import Provenance, RouterRecord, SavedRouter, write_router
from mtrouter_rl.records import FloatArray, Frozen, Observation

SettingsT = TypeVar("SettingsT", bound=Frozen)


class RuleRouter(ABC, Generic[SettingsT]):
    """A router made of settings alone; a subclass says what it does with them.

    Attributes:
        KIND: Registered name of the class, see `loading.ROUTER_KINDS`.
        SETTINGS: Class of its settings.
        name: Name in logs and tables.
        model_names: Names of its pool, length M.
        settings: Everything that makes it.
        provenance: How it was made; None if it was written down as a behaviour policy.
    """

    KIND: ClassVar[str]
    SETTINGS: ClassVar[type[Frozen]]

    def __init__(
        self,
        *,
        name: str,
        model_names: tuple[str, ...],
        settings: SettingsT,
        provenance: Provenance | None = None,
    ) -> None:
        self.name = name
        self.model_names = model_names
        self.settings = settings
        self.provenance = provenance

    @abstractmethod
    def action_probabilities(self, observations: Sequence[Observation]) -> FloatArray:
        """Probability of every model, shape (B, M). Raises as `distributions.action_masks`."""

    def save(self, folder: Path) -> None:
        """Write `router.json`."""
        record = RouterRecord(
            kind=self.KIND,
            name=self.name,
            model_names=self.model_names,
            settings=self.settings.model_dump(mode="json"),
            provenance=self.provenance,
        )
        write_router(folder, record)

    @classmethod
    def from_saved(cls, saved: SavedRouter) -> Self:
        """Make the router of a record whose pool has been checked.

        Raises:
            RouterError: If the settings are broken, or do not fit the pool.
        """
        settings: SettingsT = saved.settings(cls.SETTINGS)  # type: ignore[assignment]  # SETTINGS is their class
        cls.check_settings(saved, settings)
        return cls(
            name=saved.record.name,
            model_names=saved.record.model_names,
            settings=settings,
            provenance=saved.record.provenance,
        )

    @classmethod
    @abstractmethod
    def check_settings(cls, saved: SavedRouter, settings: SettingsT) -> None:
        """Make sure that settings that were read fit the pool.

        Raises:
            RouterError: If a model is missing, unknown or named twice.
        """
