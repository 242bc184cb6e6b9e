"""A suite as a folder that can be played: its runs, and the cards of its environment and pool."""

from pathlib import Path

import yaml

from mtrouter_rl.datasets.importers.suites.build import SuiteRequest, build_suite
from mtrouter_rl.envs.replay.suite import SUITE_FILE, Suite
from mtrouter_rl.envs.replay.task import ReplaySettings, suite_env, suite_pool
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.files import write_atomically
from mtrouter_rl.records import Frozen

ENV_FILE, POOL_FILE = "env.yaml", "pool.yaml"


def write_suite(request: SuiteRequest, out: Path, *, overwrite: bool = False) -> Suite:
    """Read what the request names, and write the folder.

    Raises:
        DatasetError: As `build_suite`, or if there is a suite in the folder.
    """
    if (out / SUITE_FILE).exists() and not overwrite:
        raise DatasetError(f"{out} holds a suite already; give another folder, or --overwrite")
    suite = build_suite(request)
    save_playable(suite, out)
    return suite


def save_playable(suite: Suite, out: Path) -> None:
    """Write a suite with its cards; the environment card names the folder by its full path."""
    suite.save(out)
    settings = ReplaySettings(suite=out.resolve(), fingerprint=suite.fingerprint)
    name = suite.head.name
    _write(out / POOL_FILE, suite_pool(suite, name))
    _write(out / ENV_FILE, suite_env(suite, name=name, pool=POOL_FILE, settings=settings))


def _write(path: Path, card: Frozen) -> None:
    data = card.model_dump(mode="json", exclude_defaults=True)
    write_atomically(path, yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120).encode())
