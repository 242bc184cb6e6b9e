"""The folder of a run as the report reads it: results, and what lies beside them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from mtrouter_rl.errors import ResultsError
from mtrouter_rl.evaluation.behavior_file import BEHAVIOR_FILE, Behavior
from mtrouter_rl.evaluation.results import Results
from mtrouter_rl.evaluation.shown_episodes import TRANSCRIPTS_FILE, Transcripts
from mtrouter_rl.files import read_json

if TYPE_CHECKING:
    from mtrouter_rl.ope.record import OpeReport

RESULTS_FILE = "results.json"
CONFIG_FILE = "config.json"
OPE_PATH = Path("ope", "ope.json")
"""Where `mtrouter-rl ope --out RUN/ope` leaves its estimates in a run's folder."""
PLOTS_FOLDER = "plots"
_SPLIT_ORDER = ("test", "ood")


@dataclass(frozen=True, kw_only=True)
class ReportedRun:
    """One run of a report.

    Attributes:
        name: What the report calls it: the end of its path that tells it from the others.
        folder: Where it lies.
        results: Its results.
        config: Its resolved configuration, nested fields as "limits.max_turns"; outcomes are not part of it.
        behavior: How its policies routed; None if there is no such file.
        ope: Estimates from a log; None if there are none.
        transcripts: Episodes turn by turn; None if none were kept.
    """

    name: str
    folder: Path
    results: Results
    config: dict[str, JsonValue]
    behavior: Behavior | None
    ope: "OpeReport | None"
    transcripts: Transcripts | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        """Its splits in the order of the report: test, ood, any other."""
        known = [split for split in _SPLIT_ORDER if split in self.results.splits]
        return (*known, *(split for split in self.results.splits if split not in _SPLIT_ORDER))


def load_runs(folders: Sequence[Path]) -> tuple[ReportedRun, ...]:
    """Read the folders of runs.

    Raises:
        ResultsError: If no folder or one folder twice is given, or a file breaks its schema; `results.json` must be there.
        InvalidConfigError: If an `ope.json` cannot be read.
    """
    if not folders:
        raise ResultsError("no run folder is given; give at least one that holds a results.json")
    counts = Counter(folder.resolve() for folder in folders)
    twice = [str(folder) for folder in folders if counts[folder.resolve()] > 1]
    if twice:
        raise ResultsError(f"run folders {twice} are the same folder; give every run once")
    return tuple(_load(folder, name) for folder, name in zip(folders, _names(folders), strict=True))


def _names(folders: Sequence[Path]) -> list[str]:
    """The last parts of each path, as many as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    longest = max(map(len, parts))
    for n_parts in range(1, longest + 1):
        names = ["/".join(one[-n_parts:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("different folders have different paths")


def _load(folder: Path, name: str) -> ReportedRun:
    results = Results.load(folder / RESULTS_FILE)
    behavior = folder / BEHAVIOR_FILE
    return ReportedRun(
        name=name,
        folder=folder,
        results=results,
        config=_config(results, folder / CONFIG_FILE),
        behavior=Behavior.load(behavior) if behavior.is_file() else None,
        ope=_load_ope(folder / OPE_PATH),
        transcripts=Transcripts.load(folder / TRANSCRIPTS_FILE) if (folder / TRANSCRIPTS_FILE).is_file() else None,
    )


def _load_ope(path: Path) -> "OpeReport | None":
    if not path.is_file():
        return None
    from mtrouter_rl.ope.record import load_report

    return load_report(path)


def _config(results: Results, path: Path) -> dict[str, JsonValue]:
    """Configuration of a study from its own file, else what the results say; the fields of the results count."""
    recorded: JsonValue = results.config
    if path.is_file():
        try:
            recorded = read_json(path)
        except ValueError as error:
            raise ResultsError(
                f"{path} is not valid JSON: {error}; run the study again, or restore the file"
            ) from error
    own: dict[str, JsonValue] = {
        "env": results.env,
        "pool": results.pool,
        "model_names": list(results.model_names),
        "is_simulated": results.is_simulated,
        "cost_weight": results.cost_weight,
        "cost_unit_usd": results.cost_unit_usd,
        "dataset_id": results.dataset_id,
        "seed": results.seed,
        "n_seeds": results.n_seeds,
        "package_version": results.package_version,
        "estimator": results.estimator,
    }
    return _flat(recorded) | own


def _flat(value: JsonValue, *, prefix: str = "") -> dict[str, JsonValue]:
    """Nested objects as dotted names.

    Example:
        >>> _flat({"limits": {"max_turns": 20}, "seed": 0})
        {'limits.max_turns': 20, 'seed': 0}
    """
    if not isinstance(value, dict):
        return {prefix.removesuffix("."): value}
    found: dict[str, JsonValue] = {}
    for key, inner in value.items():
        found |= _flat(inner, prefix=f"{prefix}{key}.")
    return found
