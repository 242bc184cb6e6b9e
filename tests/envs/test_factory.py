import gymnasium
import pytest

import mtrouter_rl  # noqa: F401 - registers the environments
from mtrouter_rl.cards import find_card
from mtrouter_rl.envs.factory import build_env, resolve_env
from mtrouter_rl.envs.routing import RoutingEnv
from mtrouter_rl.errors import CardError, InvalidConfigError, UnknownNameError


def test_overrides_and_defaults():
    config = resolve_env("corridor")
    assert (config.limits.max_turns, config.limits.budget_usd, config.cost_weight) == (20, 0.5, 0.5)
    assert config.pool.name == "corridor-three"
    config = resolve_env("corridor", cost_weight=0.0, budget_usd=0.01, max_turns=3)
    assert (config.limits.max_turns, config.limits.budget_usd, config.cost_weight) == (3, 0.01, 0.0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"cost_weight": -0.1}, "cost_weight is -0.1, must be a finite number of at least 0"),
        ({"cost_weight": float("nan")}, "cost_weight is nan"),
        ({"cost_weight": float("inf")}, "cost_weight is inf"),
        ({"budget_usd": 0.0}, "budget_usd is 0.0, must be a finite number above 0"),
        ({"budget_usd": float("nan")}, "budget_usd is nan"),
        ({"budget_usd": float("inf")}, "budget_usd is inf"),
        ({"max_turns": 0}, "max_turns is 0, must be at least 1"),
    ],
)
def test_wrong_overrides(override, message):
    with pytest.raises(InvalidConfigError, match=message):
        resolve_env("corridor", **override)


def test_gymnasium_make_passes_options_on():
    env = gymnasium.make("mtrouter_rl/Corridor-v0", split="ood", cost_weight=0.0, budget_usd=0.3, max_turns=4)
    inner = env.unwrapped
    assert isinstance(inner, RoutingEnv)
    assert (inner.limits.budget_usd, inner.limits.max_turns, inner.reward_card.cost_weight) == (0.3, 4, 0.0)
    _, info = env.reset(seed=0)
    assert (info["spec"].task, info["spec"].split) == ("long", "ood")


def test_each_split_draws_its_own_variations():
    seen = {}
    for split in ("train", "validation", "test"):
        env = build_env(resolve_env("corridor"), split=split)
        specs = [env.reset(seed=seed)[1]["spec"] for seed in range(200)]
        assert {spec.split for spec in specs} == {split}
        seen[split] = {(spec.task, spec.variation) for spec in specs}
    assert [len(seen[split]) for split in ("train", "validation", "test")] == [24, 8, 8]
    assert len(set.union(*seen.values())) == 40


def test_unknown_names():
    with pytest.raises(UnknownNameError, match=r"unknown split 'tset'; did you mean 'test'\?"):
        build_env(resolve_env("corridor"), split="tset")
    with pytest.raises(UnknownNameError, match=r"unknown env card 'coridor'; did you mean 'corridor'\?"):
        resolve_env("coridor")
    card = resolve_env("corridor")
    bad = card.card.model_copy(update={"family": "scienceword"})
    with pytest.raises(UnknownNameError, match="unknown environment family 'scienceword'; did you mean 'scienceworld'"):
        build_env(type(card)(card=bad, pool=card.pool, limits=card.limits, reward=card.reward))


def test_a_pool_for_another_environment_is_refused():
    with pytest.raises(CardError, match="environment 'corridor': unknown skill"):
        build_env(resolve_env("corridor", "paper-scienceworld"))


def test_a_split_without_tasks_is_refused():
    config = resolve_env("corridor")
    bare = config.card.model_copy(update={"ood_tasks": {}})
    with pytest.raises(InvalidConfigError, match="specs is empty, must hold at least one episode"):
        build_env(type(config)(card=bare, pool=config.pool, limits=config.limits, reward=config.reward), split="ood")


def test_a_relative_pool_is_looked_up_beside_the_card(tmp_path, monkeypatch):
    card = find_card("envs", "corridor").read_text(encoding="utf-8")
    pool = find_card("pools", "corridor-three").read_text(encoding="utf-8")
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "mine.yaml").write_text(
        card.replace("pool: corridor-three", "pool: my-pool.yaml"), encoding="utf-8"
    )
    (tmp_path / "cards" / "my-pool.yaml").write_text(
        pool.replace("name: corridor-three", "name: my-pool", 1), encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    assert resolve_env("cards/mine.yaml").pool.name == "my-pool"
    assert resolve_env("cards/mine.yaml", "corridor-three").pool.name == "corridor-three"
