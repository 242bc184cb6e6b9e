"""`behavior.json` of a run or of a dataset: finds episodes and hidden information on disk, makes rows, keeps the file."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from mtrouter_rl.datasets.info import INFO_FILE
from mtrouter_rl.datasets.store import Dataset, load_hidden
from mtrouter_rl.errors import ResultsError
from mtrouter_rl.evaluation.behavior import BehaviorSetting, HiddenByEpisode, behavior_row
from mtrouter_rl.evaluation.behavior_file import BEHAVIOR_FILE, Behavior
from mtrouter_rl.evaluation.results import Results
from mtrouter_rl.files import slug
from mtrouter_rl.records import Episode, Split

logger = logging.getLogger(__name__)


def update_behavior(
    folder: Path,
    episodes: Mapping[str, Sequence[Episode]],
    *,
    setting: BehaviorSetting,
    results: Results,
    datasets: Path,
    overwrite: bool = False,
) -> Behavior:
    """Add the rows of an evaluation to `folder/behavior.json`; a row of the same policy and split is replaced.

    Args:
        folder: Folder of the run.
        episodes: Policy -> its episodes, completed and failed.
        setting: Their split, the pool, and the seed.
        results: Results of the run, for environment and pool.
        datasets: Folder with a dataset per policy, where the hidden information lies.
        overwrite: Whether rows that are there already are dropped.

    Raises:
        ResultsError: If the file that is there is of another environment or pool, or a policy completed no episode.
        DatasetError: If the hidden information of a policy cannot be read.
    """
    path = folder / BEHAVIOR_FILE
    hidden = _hidden_of_policies(episodes, datasets)
    rows = tuple(
        behavior_row(policy, logged, setting, hidden=hidden.get(policy)) for policy, logged in episodes.items()
    )
    behavior = Behavior(env=results.env, pool=results.pool, model_names=results.model_names, rows=rows)
    if path.is_file() and not overwrite:
        behavior = Behavior.load(path).merge(behavior)
    behavior.write(path)
    return behavior


def behavior_of_folder(folder: Path, *, seed: int = 0) -> Behavior:
    """Behaviour of every policy of a dataset, or of a run.

    A dataset is worked out from its episodes. A run's `behavior.json` is read; a run that has none, made by an older
    version, is worked out from the episodes that it kept.

    Args:
        folder: Folder of a dataset, or of an evaluation or a study.
        seed: Seed of bootstrap and shuffles, where anything is worked out.

    Raises:
        ResultsError: If the folder is neither, or nothing was completed.
        DatasetError: If a dataset is unreadable or breaks a rule.
    """
    if (folder / INFO_FILE).is_file():
        return _behavior_of_dataset(folder, seed=seed)
    if (folder / BEHAVIOR_FILE).is_file():
        return Behavior.load(folder / BEHAVIOR_FILE)
    paths = sorted(path.parent for path in folder.glob(f"episodes/*/*/{INFO_FILE}"))
    if not paths:
        raise ResultsError(
            f"{folder} holds neither {INFO_FILE} nor {BEHAVIOR_FILE} nor episodes/SPLIT/POLICY; give the folder of a "
            "dataset, or of a run that `mtrouter-rl evaluate` or `mtrouter-rl study` wrote"
        )
    behavior = _behavior_of_dataset(paths[0], seed=seed)
    for path in paths[1:]:
        behavior = behavior.merge(_behavior_of_dataset(path, seed=seed))
    _warn_of_shared(folder, behavior)
    return behavior


def _behavior_of_dataset(folder: Path, *, seed: int) -> Behavior:
    dataset = Dataset.load(folder)
    hidden = load_hidden(folder)
    names = tuple(model.name for model in dataset.info.models)
    groups: dict[tuple[str, Split], list[Episode]] = {}
    for episode in dataset.episodes:
        groups.setdefault((episode.behavior_policy, episode.split), []).append(episode)
    if not groups:
        raise ResultsError(f"{folder} holds no episode, so nothing can be told of it; collect or import some first")
    rows = tuple(
        behavior_row(policy, logged, BehaviorSetting(split=split, model_names=names, seed=seed), hidden=hidden)
        for (policy, split), logged in groups.items()
    )
    return Behavior(env=dataset.info.env, pool=dataset.info.pool_name, model_names=names, rows=rows)


def _hidden_of_policies(episodes: Mapping[str, Sequence[Episode]], datasets: Path) -> dict[str, HiddenByEpisode]:
    """Hidden information by policy. A policy without a dataset took its episodes, turn by turn, from one that has."""
    hidden: dict[str, HiddenByEpisode] = {
        policy: load_hidden(datasets / slug(policy))
        for policy in episodes
        if (datasets / slug(policy) / INFO_FILE).is_file()
    }
    turns = {policy: [episode.turns for episode in logged] for policy, logged in episodes.items()}
    owners = tuple(hidden)
    for policy in episodes:
        owner = next((name for name in owners if policy not in hidden and turns[name] == turns[policy]), None)
        if owner is not None:
            hidden[policy] = hidden[owner]
    return hidden


def _warn_of_shared(folder: Path, behavior: Behavior) -> None:
    path = folder / "results.json"
    rows = Results.load(path).rows if path.is_file() else ()
    missing = sorted({row.policy for row in rows if behavior.row(row.policy, row.split) is None})
    if missing:
        logger.warning(
            "%s: policies %s share the episodes of another one and have no row; evaluate them again to add it",
            folder,
            missing,
        )
