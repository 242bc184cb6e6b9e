import json

import pytest

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.rules.heuristics import Cheapest, Single, Strongest, by_price, single_router
from mtrouter_rl.cards import RewardCard
from mtrouter_rl.errors import InvalidConfigError, UnknownNameError
from tests.cases.routing_toy import POOL, make_card, make_context, make_observation


def chosen(router, mask=(1, 1, 1)):
    return POOL.model_names[router.action_probabilities([make_observation(mask=mask)])[0].argmax()]


def test_single_falls_back_to_the_cheapest_allowed_model():
    router = Single.from_card(make_card("single", model="large")).train(make_context(None))
    assert [chosen(router, mask) for mask in [(1, 1, 1), (1, 1, 0), (0, 1, 0)]] == ["large", "small", "middle"]
    assert single_router("large", POOL).name == "single:large"


def test_an_unknown_model_is_named():
    with pytest.raises(UnknownNameError, match=r"'larg'; did you mean 'large'"):
        Single.from_card(make_card("single", model="larg")).train(make_context(None))


def test_cheapest_goes_by_price():
    router = Cheapest.from_card(make_card("cheapest")).train(make_context(None))
    assert by_price(POOL) == ("small", "middle", "large")
    assert [chosen(router, mask) for mask in [(1, 1, 1), (0, 1, 1)]] == ["small", "middle"]


def test_strongest_is_decided_by_validation_and_saved_with_the_numbers(tmp_path):
    utilities = {"small": 0.1, "middle": 0.7, "large": 0.7}
    context = TrainingContext(
        pool=POOL,
        reward=RewardCard(cost_weight=1, cost_unit_usd=1),
        seed=0,
        validate=lambda routers: [utilities[router.settings.order[0]] for router in routers],
    )
    router = Strongest.from_card(make_card("strongest")).train(context)
    assert router.settings.order == ("middle", "large", "small")
    router.save(tmp_path)
    assert json.loads((tmp_path / "router.json").read_text())["settings"]["validation_utilities"] == utilities


def test_strongest_needs_validation():
    context = TrainingContext(pool=POOL, reward=RewardCard(cost_weight=1, cost_unit_usd=1), seed=0)
    with pytest.raises(InvalidConfigError, match=r"'test-strongest': the training context has no validate"):
        Strongest.from_card(make_card("strongest")).train(context)
