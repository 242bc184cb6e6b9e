import copy
from pathlib import Path

import numpy as np
import pytest
import yaml

from mtrouter_rl.agents.resolve import load_algorithm
from mtrouter_rl.cards import (
    RewardCard,
    card_root,
    files,
    find_card,
    list_cards,
    load_agent_card,
    load_dataset_card,
    load_env_card,
    load_pool_card,
)
from mtrouter_rl.cards.splits import episode_specs
from mtrouter_rl.envs.factory import build_env, resolve_env
from mtrouter_rl.errors import CardError, UnknownNameError

LOADERS = {"envs": load_env_card, "pools": load_pool_card, "agents": load_agent_card, "datasets": load_dataset_card}
SHIPPED = [(kind, name) for kind in LOADERS for name in list_cards(kind)]
CORRIDOR = yaml.safe_load((card_root() / "envs/corridor.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def env_data():
    return copy.deepcopy(CORRIDOR)


@pytest.fixture
def write(tmp_path):
    def write_card(data):
        path = tmp_path / "card.yaml"
        text = data if isinstance(data, str) else yaml.safe_dump(data)
        path.write_text(text, encoding="utf-8")
        return path

    return write_card


# --- the shipped ones


@pytest.mark.parametrize(("kind", "name"), SHIPPED)
def test_every_shipped_card_loads(kind, name):
    card = LOADERS[kind](name)
    assert card.name == name
    assert card.description


def test_there_are_shipped_cards_of_every_kind():
    assert {kind for kind, _ in SHIPPED} == set(LOADERS)
    assert {"scienceworld", "corridor"} <= set(list_cards("envs"))
    assert {"fitted-q", "monte-carlo-q", "behavior-cloning", "random", "cheapest", "strongest"} <= set(
        list_cards("agents")
    )


@pytest.mark.parametrize("name", list_cards("envs"))
def test_every_environment_fits_its_pool(name):
    config = resolve_env(name)
    build_env(config).close()
    card = config.card
    assert set(card.topics) <= {*card.train_tasks, *card.ood_tasks}
    for split in ("train", "validation", "test"):
        assert episode_specs(card, split)


@pytest.mark.parametrize("name", list_cards("agents"))
def test_every_agent_has_an_algorithm_that_takes_its_parameters(name):
    load_algorithm(load_agent_card(name))


@pytest.mark.parametrize("name", list_cards("datasets"))
def test_every_dataset_card_names_cards(name):
    card = load_dataset_card(name)
    resolve_env(card.env, card.pool)


@pytest.mark.parametrize("name", list_cards("pools"))
def test_every_simulated_pool_says_so(name):
    card = load_pool_card(name)
    assert card.backend.kind != "simulated" or "SIMULATED" in card.description


# --- finding


def test_by_name_and_by_path(tmp_path, write, env_data):
    assert find_card("envs", "corridor") == card_root() / "envs/corridor.yaml"
    assert find_card("pools", "corridor-three") == card_root() / "envs/pools/corridor-three.yaml"
    path = write(env_data)
    assert find_card("envs", path) == find_card("envs", str(path)) == path
    plain = tmp_path / "no-suffix"
    plain.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    assert load_env_card(plain) == load_env_card("corridor")


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (
            "envs",
            "scienceword",
            r"unknown env card 'scienceword'; did you mean 'scienceworld'\?.*A path to a YAML file",
        ),
        ("pools", "paper-sciencworld", r"unknown pool card .*did you mean 'paper-scienceworld'\?"),
        ("agents", "fited-q", r"unknown agent card 'fited-q'; did you mean 'fitted-q'\?"),
        ("datasets", "zzz", r"unknown dataset card 'zzz'; Valid: "),
        ("envs", "corridor-three", "unknown env card"),
    ],
)
def test_unknown_name(kind, name, message):
    with pytest.raises(UnknownNameError, match=message):
        LOADERS[kind](name)


def test_missing_file(tmp_path):
    with pytest.raises(
        CardError, match=r"envs card '.*nowhere\.yaml': no such file; give a path .* one of: .*corridor"
    ):
        load_env_card(tmp_path / "nowhere.yaml")


def test_broken_installation(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "_PACKAGE_ROOT", Path(tmp_path) / "package")
    with pytest.raises(CardError, match=r"no card folders beside or inside .*reinstall mtrouter_rl"):
        card_root()


# --- broken ones


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [unclosed", r"(?s)card .*card\.yaml is not valid YAML: .*line"),
        ("name: a\n\tb: c", "is not valid YAML"),
        ("- a\n- b", "holds list, must be a mapping of fields to values"),
        ("", "holds NoneType, must be a mapping"),
        ("just text", "holds str, must be a mapping"),
    ],
)
def test_no_yaml_mapping(write, text, message):
    with pytest.raises(CardError, match=message):
        load_env_card(write(text))


def test_no_text(tmp_path):
    path = tmp_path / "card.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(CardError, match="is not valid YAML"):
        load_env_card(path)


@pytest.mark.parametrize(
    ("mutate", "message"),
    [
        (lambda d: d.pop("pool"), r"field 'pool': Field required; add it; there is no default"),
        (lambda d: d["limits"].pop("budget_usd"), r"field 'limits\.budget_usd': Field required; add it"),
        (lambda d: d.update(bugdet=1), r"field 'bugdet': got 1: .*not permitted; remove it or correct its spelling"),
        (lambda d: d["reward"].update(cost_weight=-1), r"field 'reward\.cost_weight': got -1: .*greater than or equal"),
        (lambda d: d["reward"].update(cost_unit_usd=0), r"field 'reward\.cost_unit_usd': got 0: .*greater than 0"),
        (lambda d: d["reward"].update(cost_weight=float("nan")), r"field 'reward\.cost_weight': got nan"),
        (lambda d: d["limits"].update(max_turns=0), r"field 'limits\.max_turns': got 0"),
        (lambda d: d["limits"].update(budget_usd=float("inf")), r"field 'limits\.budget_usd': got inf: .*finite"),
        (lambda d: d["limits"].update(max_turns="many"), r"field 'limits\.max_turns': got 'many': .*valid integer"),
        (lambda d: d["train_tasks"].update(short=0), r"field 'train_tasks\.short': got 0"),
        (lambda d: d.update(train_tasks={}), r"field 'train_tasks'.*at least 1"),
        (lambda d: d["skills"][0].update(pattern="(walk"), r"field 'skills\.0\.pattern': got '\(walk': .*regular expr"),
        (
            lambda d: d["ood_tasks"].update(middle=3, short=1),
            r"\['middle', 'short'\] are both in train_tasks and ood_tasks; a held-out task must not be trained on",
        ),
        (
            lambda d: d["splits"].update(train=0.8, validation=0.2),
            r"field 'splits'.*train \+ validation is 1\.0, must be below 1 to leave a test split",
        ),
        (lambda d: d["splits"].update(train=0.9, validation=0.3), r"is 1\.2.*, must be below 1"),
        (lambda d: d["splits"].update(train=0.0), r"field 'splits\.train': got 0\.0: .*greater than 0"),
        (lambda d: d["splits"].update(train=1.0, validation=0.0), r"field 'splits\.train': got 1\.0: .*less than 1"),
        (lambda d: d["splits"].update(validation=-0.1), r"field 'splits\.validation': got -0\.1"),
        (lambda d: d["splits"].update(variations_per_task=0), r"field 'splits\.variations_per_task': got 0"),
    ],
)
def test_broken_environment_card(write, env_data, mutate, message):
    mutate(env_data)
    path = write(env_data)
    with pytest.raises(CardError, match=message) as caught:
        load_env_card(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("train", [0.05 * i for i in range(1, 20)])
def test_a_split_that_leaves_nothing_is_refused_whatever_the_rounding(write, env_data, train):
    env_data["splits"].update(train=train, validation=1 - train)
    with pytest.raises(CardError, match="to leave a test split"):
        load_env_card(write(env_data))


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        ("agents", {"name": "a", "description": "b"}, r"field 'algorithm': Field required; add it"),
        ("agents", {"name": "a", "description": "b", "algorithm": "c", "gamma": 1}, r"field 'gamma': got 1"),
        ("datasets", {"name": "a", "description": "b", "env": "c", "policy": "d"}, r"field 'n_episodes': Field req"),
        (
            "datasets",
            {"name": "a", "description": "b", "env": "c", "policy": "d", "n_episodes": 0, "split": "tset"},
            r"(?s)field 'split': got 'tset'.*'train'.*field 'n_episodes': got 0",
        ),
    ],
)
def test_broken_other_cards(write, kind, data, message):
    with pytest.raises(CardError, match=message):
        LOADERS[kind](write(data))


# --- reward


def test_reward_by_hand():
    reward = RewardCard(cost_weight=0.25, cost_unit_usd=0.5)
    assert reward.reward(0.3, 0.1) == pytest.approx(0.3 - 0.25 * 0.1 / 0.5)
    gains, costs = np.array([0.0, 1.0]), np.array([0.2, 0.0])
    assert reward.reward(gains, costs) == pytest.approx([-0.1, 1.0])
    assert RewardCard(cost_weight=0.0, cost_unit_usd=1.0).reward(0.3, 1e9) == 0.3


# --- pool cards that extend others


@pytest.fixture
def extend(tmp_path):
    """Function (fields) -> path of a card that extends the corridor's pool by them."""

    def write(fields, *, name="mine", base="corridor-three"):
        path = tmp_path / f"{name}.yaml"
        data = {"name": name, "extends": base, "description": "a test"} | fields
        path.write_text(
            yaml.safe_dump({key: value for key, value in data.items() if value is not None}), encoding="utf-8"
        )
        return path

    return write


def test_a_card_that_extends_states_what_differs(extend):
    base = load_pool_card("corridor-three")
    fields = {
        "models": [{"name": "large", "prices": {"cached_input": 1.0}}],
        "backend": {"settings": {"models": {"small": {"skills": {"walk": 2.0}, "stuck": 0.5}}}},
    }
    card = load_pool_card(extend(fields))
    assert (card.name, card.description, card.model_names) == ("mine", "a test", base.model_names)
    assert card.model("large").prices == base.model("large").prices.model_copy(update={"cached_input": 1.0})
    assert card.model("small") == base.model("small")
    small = card.backend.settings["models"]["small"]
    assert small["skills"] == {"think": -3.0, "walk": 2.0}
    assert (small["stuck"], small["ability"]) == (0.5, 2.0)
    assert card.backend.settings["models"]["large"] == base.backend.settings["models"]["large"]


def test_a_card_may_extend_a_file_beside_it_that_extends_another(extend):
    extend({"prompt_cache": {"min_tokens": 7}}, name="first")
    card = load_pool_card(extend({"prompt_cache": {"ttl_s": 5}}, name="second", base="first.yaml"))
    assert (card.prompt_cache.ttl_s, card.prompt_cache.min_tokens) == (5, 7)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"description": None}, CardError, "extends 'corridor-three' and has no 'description'; .* add it"),
        ({"extends": 5}, CardError, "field 'extends': is 5, must be the name or path of a pool card"),
        ({"extends": "corridor-thre"}, UnknownNameError, "corridor-three"),
        ({"extends": "mine.yaml"}, CardError, "it extends itself, by way of 'mine.yaml'"),
        ({"models": [{"name": "larg"}]}, CardError, "field 'models': .*'larg'.*large.*told by the model's name"),
        ({"prompt_cach": {}}, CardError, "field 'prompt_cach'.*remove it or correct its spelling"),
        ({"models": [{"name": "large", "prices": {"cached": 1}}]}, CardError, "prices.cached"),
    ],
)
def test_cards_that_extend_badly(extend, fields, error, message):
    path = extend(fields)
    with pytest.raises(error, match=f"(?s){message}"):
        load_pool_card(path)


def test_the_cached_pool_differs_in_what_a_warm_prompt_costs():
    base, cached = load_pool_card("paper-scienceworld"), load_pool_card("paper-scienceworld-cached")
    assert cached.backend == base.backend
    assert cached.prompt_cache is not None
    for one, other in zip(base.models, cached.models, strict=True):
        assert other.prices.cached_input == pytest.approx(one.prices.input / 4)
        assert other.model_copy(update={"prices": one.prices}) == one


def test_the_shifted_pool_gives_every_model_the_strengths_of_the_next():
    base, shifted = load_pool_card("paper-scienceworld"), load_pool_card("paper-scienceworld-shifted")
    assert shifted.models == base.models
    names = base.model_names
    for name, following in zip(names, (*names[1:], names[0]), strict=True):
        mine, theirs = shifted.backend.settings["models"][name], base.backend.settings["models"][following]
        for kind in ("skills", "topics"):
            assert {key: value for key, value in mine[kind].items() if value} == theirs[kind]
        old = base.backend.settings["models"][name]
        assert {key: mine[key] for key in mine if key not in ("skills", "topics")} == {
            key: old[key] for key in old if key not in ("skills", "topics")
        }


def test_an_agent_card_may_extend_another_one(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("{name: mine, description: a test, extends: fitted-q, parameters: {dropout: 0.5}}")
    plain, made = load_agent_card("fitted-q"), load_agent_card(mine)
    assert made == plain.model_copy(
        update={"name": "mine", "description": "a test", "parameters": plain.parameters | {"dropout": 0.5}}
    )
    mine.write_text("{name: mine, description: a test, extends: fited-q}")
    with pytest.raises(UnknownNameError, match=r"unknown agent card 'fited-q'; did you mean 'fitted-q'"):
        load_agent_card(mine)
    mine.write_text("{name: mine, description: a test, extends: [fitted-q]}")
    with pytest.raises(
        CardError, match=r"field 'extends': is \['fitted-q'\], must be the name or path of an agent card"
    ):
        load_agent_card(mine)


@pytest.mark.parametrize(("old", "new"), [("study", "studies.quick"), ("full_study", "studies.full")])
def test_sections_of_studies_have_moved(tmp_path, old, new):
    text = find_card("envs", "corridor").read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(f"{text}\n{old}: {{}}\n", encoding="utf-8")
    with pytest.raises(CardError, match=f"'{old}' is now '{new}': write it there"):
        load_env_card(tmp_path / "mine.yaml")
