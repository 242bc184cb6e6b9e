"""`overestimation.json`: how far the Q-values of a run's routers lie above what their own episodes then earned."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from mtrouter_rl.agents.loading import load_router
from mtrouter_rl.agents.resolve import fingerprint, make_features
from mtrouter_rl.agents.saving import RECORD_FILE, Provenance, read_record
from mtrouter_rl.cards.policy import split_name_at
from mtrouter_rl.datasets.info import INFO_FILE, DatasetInfo, read_info
from mtrouter_rl.datasets.logged import logged_pool
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import ResultsError, RouterError
from mtrouter_rl.evaluation.query_router import ask, value_meaning
from mtrouter_rl.evaluation.results import Results
from mtrouter_rl.evaluation.value_calibration import Calibration, calibrate
from mtrouter_rl.files import ResultFile
from mtrouter_rl.progress import track
from mtrouter_rl.protocols import PricedRouter, Router, ValueRouter
from mtrouter_rl.records import Ends, FiniteRecord, NonNegative, Split
from mtrouter_rl.reporting.reported_run import RESULTS_FILE
from mtrouter_rl.reporting.tables import Table, format_number, format_with_ends

OVERESTIMATION_FILE = "overestimation.json"
EPISODES_FOLDER = "episodes"
ROUTERS_FOLDER = "routers"
CACHE_FOLDER = "embeddings"

Positive = Annotated[int, Field(gt=0)]


class OverestimationRow(FiniteRecord):
    """One router on one split. All values are discounted returns-to-go, mean over the turns of its completed episodes.

    Attributes:
        policy: Name of the router.
        learner: What learned its values: the parameter `learner` of its agent card, or its algorithm if it has none.
        split: Which split it was run on.
        gamma: Its discount factor.
        cost_weight: Cost weight of the reward that its values are of.
        predicted: Q-value of the model that was called.
        achieved: What the episode went on to earn.
        overestimation: Predicted minus achieved.
        overestimation_ci95: Its 95% interval over (task, variation); None with fewer than two of them.
        calibration_error: See `Calibration.error`.
        n_episodes: Episodes behind it.
        n_turns: Turns behind it.
    """

    policy: str
    learner: str
    split: Split
    gamma: Annotated[float, Field(ge=0, le=1)]
    cost_weight: NonNegative
    predicted: float
    achieved: float
    overestimation: float
    overestimation_ci95: Ends | None
    calibration_error: NonNegative
    n_episodes: Positive
    n_turns: Positive


class Overestimation(ResultFile):
    """Contents of the file.

    Attributes:
        schema_version: Version of this layout.
        seed: Seed of the bootstrap, that of the results.
        rows: By split, least over-estimation first.
        without_values: Policies of the results that have no Q-values, or whose router was not found.
    """

    SOURCE: ClassVar[str] = "`mtrouter-rl lab overestimation RUN` writes it"
    FIX: ClassVar[str] = "run it again"
    IS_STRICT: ClassVar[bool] = True

    schema_version: Literal[1] = 1
    seed: int
    rows: tuple[OverestimationRow, ...]
    without_values: tuple[str, ...] = ()

    def save(self, folder: Path) -> Path:
        """Write the file into the folder of a run."""
        return self.write(folder / OVERESTIMATION_FILE)


def measure_overestimation(
    folder: Path, *, routers: Sequence[Path] = (), cache: Path | None = None, show_progress: bool = True
) -> Overestimation:
    """Ask the routers of a finished run again about every turn of their completed episodes, and compare.

    Nothing is run. With as many episodes, the numbers are those that TensorBoard shows.

    Args:
        folder: Folder of an evaluation or a study: `results.json`, and the episodes that it kept.
        routers: Folders of the routers; none takes those in `routers/` of the run, where a study puts them.
        cache: Folder of the embedding cache; None takes that of the run.
        show_progress: Whether to draw progress bars.

    Raises:
        ResultsError: If the results cannot be read, or no router with Q-values ran an episode.
        RouterError: If a router cannot be read, two have one name, or one is not the router that ran the episodes.
        PoolMismatchError: If a router is of another pool.
        DatasetError: If the episodes cannot be read.
    """
    results = Results.load(folder / RESULTS_FILE)
    by_name = _folders_by_name(
        routers or sorted(path.parent for path in folder.glob(f"{ROUTERS_FOLDER}/*/{RECORD_FILE}"))
    )
    rows = []
    for path in sorted(folder.glob(f"{EPISODES_FOLDER}/*/*/{INFO_FILE}")):
        info = read_info(path.parent)
        router_folder = by_name.get(info.behavior_policy) or by_name.get(split_name_at(info.behavior_policy)[0])
        if router_folder is None:
            continue
        router = _load(router_folder, info, cache=cache or folder / CACHE_FOLDER)
        row = _row(router, path.parent, results, show_progress=show_progress)
        if row is not None:
            rows.append(row)
    if not rows:
        raise ResultsError(
            f"{folder}: no router with Q-values ran a completed episode in it (routers looked at: "
            f"{', '.join(by_name) or 'none'}); give the folders of its routers with --router"
        )
    known = {row.policy for row in rows}
    return Overestimation(
        env=results.env,
        pool=results.pool,
        seed=results.seed,
        package_version=results.package_version,
        rows=tuple(sorted(rows, key=lambda row: (results.splits.index(row.split), row.overestimation))),
        without_values=tuple(dict.fromkeys(row.policy for row in results.rows if row.policy not in known)),
    )


def _folders_by_name(folders: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in folders:
        name = read_record(folder).name
        if name in found:
            raise RouterError(f"routers {found[name]} and {folder} are both named '{name}'; give one of them")
        found[name] = folder
    return found


def _load(folder: Path, info: DatasetInfo, *, cache: Path) -> Router:
    """The router that ran a dataset, at its cost weight if the policy names one."""
    router = load_router(
        folder, pool=logged_pool(info), make_features=lambda config: make_features(config, logged_pool(info), cache)
    )
    ran = info.created_by.get("router")
    if ran != fingerprint(str(folder)):
        raise RouterError(
            f"router {folder} is not the one that ran the episodes of '{info.behavior_policy}' on split '{info.split}' "
            f"(fingerprint {fingerprint(str(folder))}, theirs is {ran}); give that router with --router, or evaluate again"
        )
    if info.behavior_policy != router.name and isinstance(router, PricedRouter):
        cost_weight = split_name_at(info.behavior_policy)[1]
        assert cost_weight is not None  # a priced router plays under a name that tells its weight
        return router.at(float(cost_weight))
    return router


def _row(router: Router, episodes: Path, results: Results, *, show_progress: bool) -> OverestimationRow | None:
    """None if the router has no Q-values or completed no turn."""
    meaning = value_meaning(router, env=results.env)
    if meaning is None or not isinstance(router, ValueRouter):
        return None
    dataset = Dataset.load(episodes)
    pool = logged_pool(dataset.info)
    title = f"{router.name}, {dataset.info.split}"
    completed = [one for one in dataset.completed if one.turns]
    shown = track(completed, title, total=len(completed), is_shown=show_progress, stays=False)
    traced = [ask(router, one, pool) for one in shown]
    found = calibrate(traced, meaning, model_names=results.model_names, seed=results.seed)
    if found is None:
        return None
    predicted, achieved = _means(found)
    return OverestimationRow(
        policy=router.name,
        learner=_learner(router),
        split=dataset.info.split,
        gamma=meaning.gamma,
        cost_weight=meaning.reward.cost_weight,
        predicted=predicted,
        achieved=achieved,
        overestimation=found.overestimation.value,
        overestimation_ci95=found.overestimation.ends,
        calibration_error=found.error,
        n_episodes=found.n_episodes,
        n_turns=found.n_turns,
    )


def _means(found: Calibration) -> tuple[float, float]:
    """Mean prediction and mean achievement over all turns, from the bins."""
    weights = [one.achieved.n_episodes for one in found.bins]
    predicted, achieved = ([one.predicted for one in found.bins], [one.achieved.value for one in found.bins])
    return float(np.average(predicted, weights=weights)), float(np.average(achieved, weights=weights))


def _learner(router: Router) -> str:
    provenance = getattr(router, "provenance", None)
    assert isinstance(provenance, Provenance), "a router whose values have a meaning says how it was made"
    return str(provenance.card.parameters.get("learner", provenance.card.algorithm))


def overestimation_table(runs: Sequence[tuple[str, Overestimation]]) -> Table:
    """Every router of every run; `runs` holds names and contents of the files."""
    has_several = len(runs) > 1
    rows: list[tuple[str, ...]] = []
    groups: set[int] = set()
    for name, run in runs:
        for number, row in enumerate(run.rows):
            if number == 0 or row.split != run.rows[number - 1].split:
                groups.add(len(rows))
            rows.append(((name,) if has_several else ()) + _cells(row))
    envs = ", ".join(dict.fromkeys(run.env for _, run in runs))
    return Table(
        caption=f"Do Q-values come true? {envs}. Predicted: Q-value of the model that was called; achieved: discounted return "
        "from that turn on; both are means over the turns of the router's own episodes. Brackets: 95% intervals over "
        "(task, variation). Compare rows of one discount factor only.",
        header=(("run",) if has_several else ())
        + ("policy", "learner", "split", "gamma", "predicted", "achieved", "predicted - achieved (95% CI)")
        + ("calibration error", "episodes", "turns"),
        rows=tuple(rows),
        groups=frozenset(groups),
    )


def _cells(row: OverestimationRow) -> tuple[str, ...]:
    return (
        row.policy,
        row.learner,
        row.split,
        f"{row.gamma:g}",
        format_number(row.predicted, decimals=3),
        format_number(row.achieved, decimals=3),
        format_with_ends(row.overestimation, row.overestimation_ci95, decimals=3),
        format_number(row.calibration_error, decimals=3),
        str(row.n_episodes),
        str(row.n_turns),
    )
