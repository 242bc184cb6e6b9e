import importlib
import sys

import pytest

from mtrouter_rl import registry
from mtrouter_rl.agents.loading import ROUTER_KINDS
from mtrouter_rl.cards import card_root, find_card, list_cards, load_env_card
from mtrouter_rl.cli.program import main
from mtrouter_rl.errors import InvalidConfigError, UnknownNameError
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
        "CARD_COMPLETERS",
        "SEARCH_BACKENDS",
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
        "broken = mtr_plugin_package:no_such_function\nlost = mtr_no_such_package:make_task\n"
        "[mtrouter_rl.agents]\nmaze_agent = mtr_plugin_package:make_task\n"
        "[mtrouter_rl.backends]\nmaze_backend = mtr_plugin_package:make_task\n"
        "[mtrouter_rl.encoders]\nmaze_encoder = mtr_plugin_package:make_task\n"
        "[mtrouter_rl.importers]\nmaze_log = mtr_plugin_package:make_task\n"
        "[mtrouter_rl.exporters]\nmaze_export = mtr_plugin_package:make_task\n"
        "[mtrouter_rl.router_kinds]\nmaze_router = mtr_plugin_package:make_task\n"
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
    (installed / "envs").mkdir()
    text = (card_root() / "envs" / "corridor.yaml").read_text(encoding="utf-8")
    for name in ("maze", "corridor"):
        (installed / "envs" / f"{name}.yaml").write_text(
            text.replace("name: corridor", f"name: {name}"), encoding="utf-8"
        )
    assert find_card("envs", "maze") == installed / "envs" / "maze.yaml"
    assert load_env_card("maze").name == "maze"
    assert list_cards("envs")["corridor"] == card_root() / "envs" / "corridor.yaml"


PLUGGED_IN = {
    "TASK_FAMILIES": "maze",
    "ALGORITHMS": "maze_agent",
    "BACKENDS": "maze_backend",
    "ENCODERS": "maze_encoder",
    "IMPORTERS": "maze_log",
    "EXPORTERS": "maze_export",
}


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("registry_name", "key"), PLUGGED_IN.items())
def test_every_kind_of_plug_in_is_loaded_and_suggested(registry_name, key):
    one = REGISTRIES[registry_name]
    assert one.load(key)("argument") == "argument"
    with pytest.raises(UnknownNameError, match=f"did you mean '{key}'"):
        one.load(f"{key}s")


@pytest.mark.usefixtures("installed")
def test_a_router_kind_of_a_plug_in_is_loaded():
    assert ROUTER_KINDS.load("maze_router")("argument") == "argument"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "broken",
            "'broken' is 'mtr_plugin_package:no_such_function', but 'mtr_plugin_package' has no 'no_such_function'",
        ),
        ("lost", "'lost' is 'mtr_no_such_package:make_task', which cannot be imported: No module named"),
        ("mtr_plugin_package:nothing", "has no 'nothing'; correct the name, or reinstall the plug-in"),
    ],
)
def test_a_broken_plug_in_is_named(name, message, monkeypatch):
    monkeypatch.setenv("MTROUTER_RL_ALLOW_CODE", "1")
    with pytest.raises(InvalidConfigError, match=message):
        registry.TASK_FAMILIES.load(name)


def test_a_name_with_a_colon_is_taken_at_its_word_where_the_user_allows_code():
    code = "mtrouter_rl.envs.corridor:make_task"
    assert registry.TASK_FAMILIES.load(code, allow_code=True) is registry.TASK_FAMILIES.load("corridor")
    with registry.code_allowed():
        assert registry.TASK_FAMILIES.load(code) is registry.TASK_FAMILIES.load("corridor")
    with pytest.raises(
        InvalidConfigError, match=r"is code that would run on this machine.*give the option --allow-code"
    ):
        registry.TASK_FAMILIES.load(code)


def test_the_kind_of_a_saved_router_is_never_code():
    with registry.code_allowed(), pytest.raises(UnknownNameError, match="unknown kind of saved router 'this:s'"):
        ROUTER_KINDS.load("this:s")


@pytest.mark.parametrize("package", ["mtr_gone", "mtr_gone.cards"])
def test_cards_of_a_plug_in_that_is_gone_are_left_out_with_a_warning(installed, package, caplog):
    entry_points = installed.parent / "mtr_plugin_package-1.0.dist-info" / "entry_points.txt"
    entry_points.write_text(f"[mtrouter_rl.cards]\nplugin = {package}\n", encoding="utf-8")
    assert "corridor" in list_cards("envs")
    assert "scienceworld" in list_cards("envs")
    told = [record.message for record in caplog.records]
    assert len(told) == 1  # once, however often cards are listed
    assert (
        f"entry point 'plugin' of group mtrouter_rl.cards: no package '{package}', so its cards are left out" in told[0]
    )


@pytest.mark.parametrize("folder", ["agents", "datasets", "envs/pools"])
def test_cards_of_every_kind_are_found_beside_the_plug_in(installed, folder):
    (installed / folder).mkdir(parents=True)
    path = installed / folder / "of_plugin.yaml"
    path.write_text("name: of_plugin\n", encoding="utf-8")
    assert find_card("pools" if folder == "envs/pools" else folder, "of_plugin") == path


def test_a_plug_in_that_breaks_while_it_is_imported_does_not_end_the_command_line(installed, capsys, caplog):
    (installed / "__init__.py").write_text("raise RuntimeError('half written')", encoding="utf-8")
    info = installed.parent / "mtr_plugin_package-1.0.dist-info" / "entry_points.txt"
    groups = ("importers", "exporters", "encoders")
    info.write_text("".join(f"[mtrouter_rl.{group}]\nbroken = mtr_plugin_package:x\n" for group in groups))
    importlib.invalidate_caches()
    for words in (["import", "--list"], ["export", "--list"], ["list", "encoders"], ["list", "importers"]):
        assert main(words) == 0
        assert "broken" not in capsys.readouterr().out
    told = "left out: log format 'broken' is 'mtr_plugin_package:x', which breaks while it is imported: RuntimeError"
    assert told in caplog.text
    with pytest.raises(InvalidConfigError, match="half written; mend or uninstall it"):
        registry.IMPORTERS.load("broken")
