"""The picture of the architecture is drawn from the imports, and a picture that no longer holds is found."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "img" / "architecture.svg"


def load():
    spec = importlib.util.spec_from_file_location("architecture", ROOT / "scripts" / "site" / "architecture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


architecture = load()
FILES = {
    "__init__.py": "",
    "errors.py": '"""Named errors: all of them."""\n',
    "pools/__init__.py": '"""Prices.\n\nAnd more."""\nfrom house.errors import Mistake\n',
    "pools/card.py": "import house.errors\nfrom . import prices\n",
    "agents/__init__.py": "",
    "agents/base.py": (
        "from typing import TYPE_CHECKING\n"
        "from ..pools.card import Card\n"
        "if TYPE_CHECKING:\n"
        "    from house.cli import main\n"
    ),
    "attic.py": "from house import agents\n",
    "cli.py": "def main():\n    from house import pools\n",
}


@pytest.fixture
def package(tmp_path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "house"


def test_rooms_have_sizes_purposes_and_imports(package):
    rooms = architecture.read_graph(package)
    assert set(rooms) == {"errors", "pools", "agents", "attic", "cli"}
    assert rooms["pools"] == {"lines": 6, "files": 2, "purpose": "Prices", "imports": {"errors": 2}, "lazy": {}}
    assert (rooms["agents"]["imports"], rooms["agents"]["lazy"]) == ({"pools": 1}, {"cli": 1})
    assert (rooms["cli"]["imports"], rooms["cli"]["lazy"]) == ({}, {"pools": 1})
    assert rooms["errors"]["purpose"] == "Named errors"


def test_rooms_that_the_order_does_not_know_stand_below_what_they_import(package):
    rooms = architecture.read_graph(package)
    order = architecture.house_order(rooms)
    assert order == ["errors", "pools", "agents", "attic", "cli"]
    assert architecture.against_the_order(rooms, order) == {"agents": ["cli"]}


def test_a_drawn_picture_holds_until_an_import_a_room_or_a_size_changes(package, tmp_path, capsys):
    picture = tmp_path / "img" / "architecture.svg"
    check = ["--check", "--package", str(package), "--out", str(picture)]
    assert architecture.main(check) == 1
    assert "there is no" in capsys.readouterr().err

    assert architecture.main(check[1:]) == 0
    assert picture.with_suffix(".png").stat().st_size > 0
    assert architecture.main(check) == 0
    first = picture.read_bytes()
    architecture.main(check[1:])
    assert picture.read_bytes() == first, "the same code gives the same file"

    (package / "errors.py").write_text('"""Named errors."""\n' + "\n" * 300, encoding="utf-8")
    (package / "attic.py").write_text("from house import pools\n", encoding="utf-8")
    (package / "cli.py").unlink()
    capsys.readouterr()
    assert architecture.main(check) == 1
    told = capsys.readouterr().err
    for reason in (
        "room cli is gone",
        "attic now imports pools",
        "attic no longer imports agents",
        "agents no longer imports inside functions cli",
        "errors has 301 lines, drawn with 1",
    ):
        assert reason in told


def test_a_file_without_a_graph_is_no_picture(tmp_path):
    (tmp_path / "empty.svg").write_text("<svg/>", encoding="utf-8")
    with pytest.raises(ValueError, match="holds no graph"):
        architecture.drawn_graph(tmp_path / "empty.svg")


def test_the_picture_of_this_package_is_up_to_date():
    assert architecture.stale(architecture.drawn_graph(PICTURE), architecture.read_graph(architecture.PACKAGE)) == []
