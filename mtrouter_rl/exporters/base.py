"""What an exporter is, how it writes without leaving halves behind, and how an export becomes a dataset again."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Generic, TypeVar, cast

from pydantic import Field, ValidationError

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.datasets.info import DatasetInfo, read_info
from mtrouter_rl.datasets.rewrite import traced_episodes, whole, write_dataset
from mtrouter_rl.errors import DatasetError, InvalidConfigError, MissingDependencyError, unknown_name
from mtrouter_rl.records import Frozen, TracedEpisode
from mtrouter_rl.registry import EXPORTERS, RESTORERS

OptionsT = TypeVar("OptionsT", bound=Frozen)
Restorer = Callable[[Path], tuple[DatasetInfo, Iterator[TracedEpisode]]]
"""Reads an export: what the dataset is, and its episodes one by one, in the order that they were exported in."""


class NoOptions(Frozen):
    """For a format without options."""


class RewardOptions(Frozen):
    """How a format that knows one reward a turn gets it: utility gain - cost_weight * cost_usd / cost_unit_usd.

    Attributes:
        cost_weight: Price of one cost unit in utility. The default leaves money out of the reward; it is beside it.
        cost_unit_usd: USD of one cost unit.
    """

    cost_weight: Annotated[
        float, Field(ge=0, allow_inf_nan=False, description="price of one cost unit in utility; 0 leaves money out")
    ] = 0.0
    cost_unit_usd: Annotated[float, Field(gt=0, allow_inf_nan=False, description="USD of one cost unit")] = 1.0

    @property
    def reward(self) -> RewardCard:
        """The reward as the rest of the package has it."""
        return RewardCard(cost_weight=self.cost_weight, cost_unit_usd=self.cost_unit_usd)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A dataset as exporters get it: checked against every rule, and not empty.

    Attributes:
        info: What it is.
        traced: Its episodes in order, with what only a simulator knows of them.
    """

    info: DatasetInfo
    traced: tuple[TracedEpisode, ...]

    @classmethod
    def load(cls, folder: Path) -> "Loaded":
        """Load a dataset.

        Raises:
            DatasetError: If it breaks a rule or has no episode.
        """
        loaded = cls(info=read_info(folder), traced=tuple(traced_episodes(folder)))
        if not loaded.traced:
            raise DatasetError(f"{folder} holds no episode, so there is nothing to export; finish its collection first")
        return loaded


@dataclass(frozen=True, kw_only=True)
class Exporter(Generic[OptionsT]):
    """Writes datasets in one format.

    Attributes:
        format: Name of the format.
        description: One sentence for the user who chooses.
        options_model: What `--option NAME=VALUE` may set; every field has a description.
        write: Writes a dataset to a path that is not there yet.
        is_file: Whether the export is one file, not a folder.
        check: Sees, before anything is read, that what the format needs is installed.
        summary: What to tell the user of an export that was written; None if there is nothing to tell.
    """

    format: str
    description: str
    options_model: type[OptionsT]
    write: Callable[[Loaded, Path, OptionsT], None]
    is_file: bool = False
    check: Callable[[OptionsT], object] | None = None
    summary: Callable[[Path], str] | None = None

    def __call__(self, folder: Path, out: Path, options: Mapping[str, object]) -> None:
        """Export a dataset.

        Args:
            folder: The dataset.
            out: Where the export goes; must not be there. A format of many files takes an empty folder as well, and
                fills it. What is written lies beside it until it is whole.
            options: Options of the format.

        Raises:
            UnknownNameError: If the format has no such option.
            InvalidConfigError: If an option is missing or out of range, or `out` is there and not empty, or is
                a folder though the format is one file.
            MissingDependencyError: If the format's package is not installed; says what to install.
            DatasetError: If the dataset breaks a rule, holds something that the format cannot carry, or the disk refuses
                it.
        """
        checked = self._checked(options)
        if self.is_file and out.is_dir():
            raise InvalidConfigError(
                f"{out} is a folder, and format '{self.format}' is one file; give --out the file's name, such as "
                f"{out / f'log.{self.format}'}"
            )
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise InvalidConfigError(f"{out} is there already and not empty; give another --out, or delete it")
        if self.check is not None:
            self.check(checked)
        loaded = Loaded.load(folder)
        with whole(out) as partial:
            self.write(loaded, partial, checked)

    def _checked(self, options: Mapping[str, object]) -> OptionsT:
        known = self.options_model.model_fields
        for option in options:
            if option not in known:
                raise unknown_name(f"option of format '{self.format}'", option, known)
        try:
            return self.options_model.model_validate(dict(options))
        except ValidationError as error:
            raise InvalidConfigError(
                f"options of format '{self.format}' break their rules:\n" + explain(error)
            ) from error


def explain(error: ValidationError) -> str:
    """One line a field that breaks its rule."""
    lines = []
    for issue in error.errors():
        where = ".".join(str(part) for part in issue["loc"])
        value = "" if issue["type"] == "missing" else f" is {issue['input']!r}"[:120]
        lines.append(f"  field '{where}'{value}: {issue['msg']}")
    return "\n".join(lines)


def missing_package(package: str) -> MissingDependencyError:
    """Error for a format whose package is not installed."""
    return MissingDependencyError(f"package '{package}' is missing; run: pip install 'mtrouter-rl[exports]'")


def load_exporter(name: str) -> Exporter[Frozen]:
    """Exporter of a format.

    Raises:
        UnknownNameError: If there is no such format.
    """
    return cast(Exporter[Frozen], EXPORTERS.load(name))


def export_dataset(name: str, folder: Path, out: Path, options: Mapping[str, object] | None = None) -> None:
    """Write a dataset in another format; see `Exporter.__call__` for arguments and errors.

    Raises:
        UnknownNameError: If there is no such format.
    """
    load_exporter(name)(folder, out, options or {})


def restore_dataset(name: str, path: Path, out: Path, *, overwrite: bool = False) -> DatasetInfo:
    """Write the dataset that an export was made of, equal in every field.

    Args:
        name: Format, one that loses nothing.
        path: The export.
        out: Folder of the dataset.
        overwrite: Replace another dataset that lies there.

    Raises:
        UnknownNameError: If the format is unknown, or cannot be restored.
        MissingDependencyError: If the format's package is not installed.
        DatasetError: If the export is unreadable or breaks a rule, or `out` is not empty.
    """
    info, traced = cast(Restorer, RESTORERS.load(name))(path)
    return write_dataset(out, info, traced, overwrite=overwrite, keeps_info=True)
