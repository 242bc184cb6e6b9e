"""What a run writes beside its results, and how what it was run with is described."""

import json
from dataclasses import asdict
from pathlib import Path

from mtrouter_rl import __version__
from mtrouter_rl.datasets.info import INFO_FILE, read_info
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.files import read_json, write_atomically
from mtrouter_rl.records import Episode, JsonValue, Split
from mtrouter_rl.rollout.collection import fingerprint_cards

CONFIG_FILE = "config.json"
RESULTS_FILE = "results.json"
EPISODES_FOLDER = "episodes"
TENSORBOARD_FOLDER = "tensorboard"
OPE_FOLDER = "ope"


def save_config(folder: Path, config: dict[str, JsonValue]) -> None:
    """Write the resolved configuration of a run beside its results."""
    text = json.dumps(config | {"package_version": __version__}, indent=2, sort_keys=True)
    write_atomically(folder / CONFIG_FILE, (text + "\n").encode())


def read_setting(path: Path) -> dict[str, JsonValue]:
    """What a folder was made with, as `save_config` wrote it.

    Raises:
        InvalidConfigError: If the file cannot be read, or is no JSON object.
    """
    try:
        there = read_json(path)
    except (OSError, ValueError) as error:
        raise InvalidConfigError(
            f"{path} cannot be read: {error}; choose another --out, or restore the file"
        ) from error
    if not isinstance(there, dict):
        raise InvalidConfigError(f"{path} holds {type(there).__name__}, must be an object; choose another --out")
    return there


def describe(config: EnvConfig) -> dict[str, JsonValue]:
    """JSON of a resolved environment, for provenance."""
    return {
        "env": config.card.name,
        "pool": config.pool.name,
        "cost_weight": config.cost_weight,
        "cost_unit_usd": config.reward.cost_unit_usd,
        "limits": asdict(config.limits),
        "cards": fingerprint_cards(config),
    }


def model_names_of_run(folder: Path) -> tuple[str, ...]:
    """Names of the pool's models, in pool order, of the episodes that an evaluation kept; empty if it kept none."""
    path = next(iter(sorted((folder / EPISODES_FOLDER).glob(f"*/*/{INFO_FILE}"))), None)
    return () if path is None else tuple(model.name for model in read_info(path.parent).models)


def episodes_of_run(folder: Path) -> dict[Split, dict[str, tuple[Episode, ...]]]:
    """Episodes that an evaluation kept, by split and policy."""
    found: dict[Split, dict[str, tuple[Episode, ...]]] = {}
    for path in sorted((folder / EPISODES_FOLDER).glob(f"*/*/{INFO_FILE}")):
        dataset = Dataset.load(path.parent)
        found.setdefault(dataset.info.split, {})[dataset.info.behavior_policy] = tuple(dataset.episodes)
    return found
