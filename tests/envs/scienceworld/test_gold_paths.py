import gzip
import json

import pytest

from mtrouter_rl.cards import card_root, load_env_card
from mtrouter_rl.cards.splits import episode_specs
from mtrouter_rl.envs.scienceworld.gold_paths import GoldPaths, save_shipped
from mtrouter_rl.errors import SimulatorError
from mtrouter_rl.files import CACHE_VARIABLE, cache_folder, write_atomically
from mtrouter_rl.records import SPLITS

PATHS = {"boil/0": ["go to kitchen", "wait", "wait"], "melt/12": ["wait", "focus on ice"]}


def refuse():
    raise AssertionError("made a path that is known")


@pytest.fixture
def shipped(tmp_path):
    path = tmp_path / "shipped.json.gz"
    save_shipped(path, version="1.2.3", paths=PATHS)
    return path


def store_of(tmp_path, *, shipped=None, version="1.2.3"):
    return GoldPaths(shipped=shipped, version=version, folder=tmp_path / "cache")


def test_shipped_paths_are_read(tmp_path, shipped):
    store = store_of(tmp_path, shipped=shipped)
    assert store.get("boil", 0, refuse) == PATHS["boil/0"]
    assert store.get("melt", 12, refuse) == PATHS["melt/12"]


def test_the_same_paths_give_the_same_bytes(tmp_path, shipped):
    other = tmp_path / "other.json.gz"
    save_shipped(other, version="1.2.3", paths=dict(reversed(PATHS.items())))
    assert other.read_bytes() == shipped.read_bytes()


def test_a_new_path_is_made_once_and_kept(tmp_path, shipped):
    made = []

    def make():
        made.append(1)
        return ["new", "path"]

    store = store_of(tmp_path, shipped=shipped)
    assert store.get("boil", 1, make) == ["new", "path"]
    assert store.get("boil", 1, make) == ["new", "path"]
    assert store_of(tmp_path).get("boil", 1, refuse) == ["new", "path"]  # another process finds it on disk
    assert made == [1]
    assert store.get("boil", 11, lambda: ["other"]) == ["other"]


def test_what_a_path_brings_is_played_once_and_kept(tmp_path):
    played = []

    def play():
        played.append(1)
        return (0.0, 100.0)

    assert store_of(tmp_path).gains("boil", 1, play) == (0.0, 100.0)
    assert store_of(tmp_path).gains("boil", 1, refuse) == (0.0, 100.0)  # another process finds it on disk
    assert played == [1]
    (file,) = (tmp_path / "cache").rglob("*.json")
    file.write_text('["go"]', encoding="utf-8")
    with pytest.raises(SimulatorError, match=r"boil-1-gains\.json is broken \(no list of numbers\); delete it"):
        store_of(tmp_path).gains("boil", 1, refuse)


def test_paths_of_another_engine_are_not_used(tmp_path, shipped):
    store = store_of(tmp_path, shipped=shipped, version="1.2.4")
    assert store.get("boil", 0, lambda: ["fresh"]) == ["fresh"]
    assert store_of(tmp_path).get("boil", 0, lambda: ["old engine"]) == ["old engine"]  # nor those that it cached


def _truncated(data):
    return data[: len(data) // 2]


def _garbled(data):
    return data[:15] + bytes(255 - byte for byte in data[15:30]) + data[30:]


@pytest.mark.parametrize(
    "damage",
    [
        _truncated,
        _garbled,
        lambda data: b"no gzip",
        lambda data: gzip.compress(b"no json"),
        lambda data: gzip.compress(b"\xff\xfe"),
        lambda data: gzip.compress(b'{"version": "1.2.3"}'),
        lambda data: gzip.compress(b"[1, 2]"),
        lambda data: gzip.compress(b'{"version": "1.2.3", "actions": [], "paths": {"boil/0": [7]}}'),
    ],
    ids=["truncated", "garbled", "no gzip", "no json", "no utf-8", "no paths", "no mapping", "no such action"],
)
def test_a_broken_shipped_file(tmp_path, shipped, damage):
    shipped.write_bytes(damage(shipped.read_bytes()))
    with pytest.raises(SimulatorError, match=r"gold path file .*shipped.json.gz cannot be read .*restore it"):
        store_of(tmp_path, shipped=shipped)


def test_a_missing_shipped_file(tmp_path):
    with pytest.raises(SimulatorError, match=r"nowhere.json.gz cannot be read .*restore it from the package"):
        store_of(tmp_path, shipped=tmp_path / "nowhere.json.gz")


@pytest.mark.parametrize("text", ["", '["go', "{}", "5", "[1]"])
def test_a_broken_cached_file(tmp_path, text):
    store_of(tmp_path).get("boil", 1, lambda: ["a"])
    (file,) = (tmp_path / "cache").rglob("*.json")
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SimulatorError, match=r"gold path .*boil-1\.json is broken .*delete it, it is then made again"):
        store_of(tmp_path).get("boil", 1, refuse)


def test_a_write_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(OSError, match=r"folder\.json"):
        write_atomically(tmp_path / "folder.json", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.json"]


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "mtrouter_rl"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "mtrouter_rl"


def test_the_shipped_file_holds_every_variation_of_the_card():
    card = load_env_card("scienceworld")
    data = json.loads(gzip.decompress((card_root() / "envs" / card.settings["gold_paths"]).read_bytes()))
    assert data["version"] == "1.2.3"
    wanted = {f"{task}/{variation}" for split in SPLITS for task, variation in episode_specs(card, split)}
    assert wanted - set(data["paths"]) == set()
    assert all(data["paths"][key] for key in wanted)
