import sys

import pytest

from mtrouter_rl import registry
from mtrouter_rl.errors import UnknownNameError
from mtrouter_rl.registry import Registry

REGISTRIES = {name: value for name, value in vars(registry).items() if isinstance(value, Registry)}
BUILTIN = [(name, key) for name, value in REGISTRIES.items() for key in value.builtin]


def test_there_are_registries():
    assert set(REGISTRIES) == {
        "TASK_FAMILIES",
        "BACKENDS",
        "ENCODERS",
        "ALGORITHMS",
        "IMPORTERS",
        "EXPORTERS",
        "RESTORERS",
    }


def test_groups_are_different():
    assert len({one.group for one in REGISTRIES.values()}) == len(REGISTRIES)


def test_whatever_is_restored_is_exported():
    assert set(registry.RESTORERS.builtin) <= set(registry.EXPORTERS.builtin)


@pytest.mark.parametrize(("name", "key"), BUILTIN, ids=lambda value: value)
def test_every_line_can_be_loaded(name, key):
    assert callable(REGISTRIES[name].load(key))


@pytest.mark.parametrize("name", list(REGISTRIES))
def test_unknown(name):
    one = REGISTRIES[name]
    nearly = next(iter(one.builtin)) + "x"
    with pytest.raises(UnknownNameError) as caught:
        one.load(nearly)
    assert f"unknown {one.kind} '{nearly}'; did you mean '{nearly[:-1]}'?" in str(caught.value)
    assert f"entry-point group {one.group}" in str(caught.value)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A third party's package, as pip leaves it behind."""
    folder = tmp_path / "mtr_plugin_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("def make_task(card):\n    return card\n", encoding="utf-8")
    info = tmp_path / "mtr_plugin_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mtr-plugin-package\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(
        "[mtrouter_rl.envs]\nmaze = mtr_plugin_package:make_task\ncorridor = mtr_plugin_package:make_task\n"
        "[mtrouter_rl.cards]\nplugin = mtr_plugin_package\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, folder.name, raising=False)
    return folder


@pytest.mark.usefixtures("installed")
def test_a_plug_in_is_found_and_does_not_replace_ours():
    assert registry.TASK_FAMILIES.load("maze")("card") == "card"
    assert registry.TASK_FAMILIES.targets()["corridor"] == "mtrouter_rl.envs.corridor:make_task"


def test_cards_of_a_plug_in_are_found_and_do_not_replace_ours(installed):
    from mtrouter_rl.cards import card_root, find_card, list_cards, load_env_card

    (installed / "envs").mkdir()
    text = (card_root() / "envs" / "corridor.yaml").read_text(encoding="utf-8")
    for name in ("maze", "corridor"):
        (installed / "envs" / f"{name}.yaml").write_text(
            text.replace("name: corridor", f"name: {name}"), encoding="utf-8"
        )
    assert find_card("envs", "maze") == installed / "envs" / "maze.yaml"
    assert load_env_card("maze").name == "maze"
    assert list_cards("envs")["corridor"] == card_root() / "envs" / "corridor.yaml"
