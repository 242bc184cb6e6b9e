"""Names of before the move: each gives one error that names the new place."""

import importlib

import pytest

from mtrouter_rl.errors import MovedNameError, MTRouterError
from mtrouter_rl.moved import moved_modules

STILL_THERE = (
    "pools.simulated",
    "envs.babyai",
    "envs.scienceworld",
    "envs.textworld",
    "envs.gymnasium_text",
    "scaffold",
    "cli",
)


@pytest.mark.parametrize("old", sorted(moved_modules()))
def test_every_old_name_tells_the_new_place(old):
    new = moved_modules()[old]
    assert importlib.util.find_spec(new) is not None
    if old.removeprefix("mtrouter_rl.") in STILL_THERE:
        return
    with pytest.raises(MovedNameError, match=r"module 'mtrouter_rl\..*' is now 'mtrouter_rl\."):
        importlib.import_module(old)


NAMES = {
    "pools.simulated": "make_backend",
    "envs.babyai": "make_task",
    "envs.scienceworld": "make_task",
    "envs.textworld": "make_task",
    "envs.gymnasium_text": "make_task",
    "scaffold": "write_plugin",
    "cli": "build_parser",
}


@pytest.mark.parametrize("package", STILL_THERE)
def test_a_name_of_a_module_that_became_a_folder_tells_the_new_place(package):
    old = rf"mtrouter_rl\.{package}"
    name = NAMES[package]
    with pytest.raises(MovedNameError, match=rf"'{old}\.{name}' is now '{old}\.\w+\.{name}'"):
        exec(f"from mtrouter_rl.{package} import {name}")
    with pytest.raises(AttributeError):
        importlib.import_module(f"mtrouter_rl.{package}").pytest_plugins  # noqa: B018


def test_the_error_is_ours_and_an_import_error():
    with pytest.raises(ImportError) as caught:
        importlib.import_module("mtrouter_rl.datasets.splits")
    assert isinstance(caught.value, MTRouterError)
    assert (
        str(caught.value)
        == "module 'mtrouter_rl.datasets.splits' is now 'mtrouter_rl.cards.splits'; import it from there"
    )


def test_a_name_that_never_was_is_left_to_the_interpreter():
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'mtrouter_rl\.nowhere'"):
        importlib.import_module("mtrouter_rl.nowhere")
    import mtrouter_rl.scaffold as package

    assert not hasattr(package, "__wrapped__")


def test_public_names_that_stay():
    """What README, docs, examples and plug-ins import, by the names that it had before."""
    from mtrouter_rl.cards import EnvCard, load_agent_card, load_env_card, load_pool_card  # noqa: F401
    from mtrouter_rl.datasets.store import Dataset, DatasetWriter  # noqa: F401
    from mtrouter_rl.envs.factory import make_env, resolve_env  # noqa: F401
    from mtrouter_rl.errors import CallOrderError, unknown_name  # noqa: F401
    from mtrouter_rl.protocols import TaskStart, TaskStep  # noqa: F401
    from mtrouter_rl.rollout import RolloutPool, run_episode  # noqa: F401
    from mtrouter_rl.testing.contract import check_environment  # noqa: F401
    from mtrouter_rl.workflows import collect_dataset, evaluate_routers, train_router  # noqa: F401
