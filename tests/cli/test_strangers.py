"""Cards, logs and routers of strangers: whatever text stands in any field, no code of theirs runs."""

import copy
import json
import sys
from pathlib import Path

import pytest
import yaml

from mtrouter_rl.agents.loading import load_router
from mtrouter_rl.agents.resolve import load_algorithm, make_features
from mtrouter_rl.cards import find_card, list_cards, load_agent_card, load_pool_card
from mtrouter_rl.cli import main
from mtrouter_rl.datasets.rewrite import traced_episodes, write_dataset
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.envs.factory import build_env, make_env, resolve_env
from mtrouter_rl.errors import InvalidConfigError, MTRouterError

ROOT = Path(__file__).parents[2]
CODE = "stranger:run"
CARDS = {
    "corridor": lambda: find_card("envs", "corridor"),
    "hle": lambda: find_card("envs", "hle"),
    "babyai": lambda: find_card("envs", "babyai"),
    "textworld": lambda: find_card("envs", "textworld"),
    "scienceworld": lambda: find_card("envs", "scienceworld"),
    "tales": lambda: ROOT / "examples" / "cards" / "tales.yaml",
    "tau2": lambda: ROOT / "examples" / "cards" / "tau2-retail.yaml",
}


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A folder with a stranger's module in it, which is the current one and on the path; whether the module ran."""
    marker = tmp_path / "owned"
    (tmp_path / "stranger.py").write_text(
        f"from pathlib import Path\nPath({str(marker)!r}).touch()\ndef run(*args, **kwargs):\n    raise SystemExit\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "stranger", raising=False)
    return marker


def places(value, path=()):
    """Every place of a text in a card."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value[:2]):
            yield from places(inner, (*path, index))
    elif isinstance(value, str):
        yield path


def changed(value, path, new):
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return value


def attempt(act):
    try:
        act()
    except MTRouterError:
        return


def use_env(path):
    config = resolve_env(path)
    env = build_env(config)
    try:
        env.reset(seed=0)
    finally:
        env.close()


@pytest.mark.parametrize("name", CARDS)
def test_no_text_of_an_environment_card_runs_code(name, stranger, tmp_path):
    data = yaml.safe_load(CARDS[name]().read_text())
    data.setdefault("settings", {})
    found = [
        path for path in places(data) if path[0] not in ("train_tasks", "description", "skills", "topics", "studies")
    ]
    extra = [
        ("settings", "search"),
        ("settings", "entry_point"),
        ("settings", "id"),
        ("settings", "judge"),
        ("settings", "level_id"),
    ]
    assert ("family",) in found
    for path in [*found, *extra]:
        for new in (CODE, {"backend": CODE, "options": {"x": 1}}, f"{CODE.partition(':')[0]}:Env-v0"):
            card = tmp_path / "card.yaml"
            card.write_text(yaml.safe_dump(changed(data, path, new)))
            if path == ("family",) or path in extra or name == "corridor":
                attempt(lambda card=card: use_env(card))
            else:
                attempt(lambda card=card: resolve_env(card))
            assert not stranger.exists(), path


def test_no_text_of_a_pool_card_runs_code(stranger, tmp_path):
    data = yaml.safe_load(find_card("pools", "corridor-three").read_text())
    for path in places(data):
        (tmp_path / "pool.yaml").write_text(yaml.safe_dump(changed(data, path, CODE)))
        attempt(lambda: build_env(resolve_env("corridor", tmp_path / "pool.yaml")).reset(seed=0))
        assert not stranger.exists(), path


def test_no_text_of_an_agent_card_runs_code(stranger, tmp_path):
    for name, card in list_cards("agents").items():
        data = yaml.safe_load(card.read_text())
        for path in places(data):
            (tmp_path / "agent.yaml").write_text(yaml.safe_dump(changed(data, path, CODE)))
            attempt(lambda: load_algorithm(load_agent_card(tmp_path / "agent.yaml")))
            assert not stranger.exists(), (name, path)


def test_no_text_of_a_saved_router_runs_code(stranger, tmp_path, corridor_log, tiny_agent):
    out = tmp_path / "router"
    words = ["--agent", "task-table", "--dataset", str(corridor_log), "--workers", "1", "--out", str(out), "--quiet"]
    assert main(["train", *words]) == 0
    pool = load_pool_card("corridor-three")
    for name in ("router.json", "deployment.json"):
        kept = json.loads((out / name).read_text())
        for path in places(kept):
            (out / name).write_text(json.dumps(changed(kept, path, CODE)))
            attempt(lambda: load_router(out, pool=pool, make_features=lambda config: make_features(config, pool, None)))
            main(
                ["evaluate", "--router", str(out), "--per-task", "1", "--workers", "1", "--out", str(tmp_path / "run")]
            )
            assert not stranger.exists(), path
        (out / name).write_text(json.dumps(kept))
    kept = json.loads((out / "router.json").read_text())
    (out / "router.json").write_text(json.dumps(kept | {"kind": "this:s"}))
    sys.modules.pop("this", None)
    with pytest.raises(MTRouterError, match="unknown kind of saved router 'this:s'"):
        load_router(out, pool=pool, make_features=lambda config: make_features(config, pool, None))
    assert "this" not in sys.modules


@pytest.mark.parametrize("command", ["train", "ope"])
def test_the_environment_of_a_log_is_a_name_and_never_a_path(command, stranger, tmp_path, corridor_log, capsys):
    """A card that lies in the log is not read, even where it names nothing but what is built in."""
    log = tmp_path / "log"
    write_dataset(log, Dataset.load(corridor_log).info, traced_episodes(corridor_log))
    card = yaml.safe_load(find_card("envs", "corridor").read_text())
    (log / "card.yaml").write_text(yaml.safe_dump(card | {"family": CODE}))
    info = json.loads((log / "info.json").read_text())
    rest = ["uniform"] if command == "ope" else ["--agent", "task-table", "--workers", "1"]
    for env in (str(log / "card.yaml"), "log/card.yaml", CODE):
        (log / "info.json").write_text(json.dumps(info | {"env": env}))
        assert main([command, *rest, "--dataset", str(log), "--out", str(tmp_path / "out")]) == 1
        told = capsys.readouterr().err
        assert "unknown env card in " in told
        assert "A file names a card, it never gives a path" in told
        assert not stranger.exists()


def test_code_runs_where_the_user_says_so_and_only_there(stranger, tmp_path, capsys):
    data = yaml.safe_load(find_card("envs", "corridor").read_text())
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data | {"family": "mine:make_task"}))
    (tmp_path / "mine.py").write_text("from mtrouter_rl.envs.corridor import make_task\n")
    words = ["collect", "--env", str(path), "--policy", "uniform", "--episodes", "4", "--workers", "1", "--quiet"]
    assert main([*words, "--out", str(tmp_path / "log")]) == 1
    assert "environment family 'mine:make_task' is code that would run on this machine" in capsys.readouterr().err
    assert main([*words, "--out", str(tmp_path / "log"), "--allow-code"]) == 0
    with pytest.raises(InvalidConfigError, match="give the option --allow-code"):  # it held for that command alone
        make_env(path)
    make_env(path, allow_code=True).reset(seed=0)
