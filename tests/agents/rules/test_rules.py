"""Rules over cheap and strong models: which model they name at every turn, with every model allowed and with masks."""

import json

import pytest

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.loading import load_router
from mtrouter_rl.agents.resolve import resolve_router
from mtrouter_rl.errors import CardError, InvalidConfigError, RouterError, UnknownNameError
from mtrouter_rl.registry import ALGORITHMS
from tests.cases.routing_toy import POOL, REWARD, make_card, make_context, make_observation

NAMED = {"cheap": "small", "strong": "large"}
WITHOUT_VALIDATION = TrainingContext(pool=POOL, reward=REWARD, seed=0)


def train(algorithm, context=WITHOUT_VALIDATION, **parameters):
    return ALGORITHMS.load(algorithm).from_card(make_card(algorithm, **parameters)).train(context)


def observe(errors, mask=(1, 1, 1)):
    """Before the turn that follows turns which were errors (x) or not (.)."""
    history = tuple(
        {"model": 0, "action": "act", "observation": "state 0", "error": "unknown_action" if one == "x" else ""}
        for one in errors
    )
    return make_observation(mask=mask) | {"history": history, "turn": len(history)}


def names(router, observations):
    return [POOL.model_names[index] for index in router.action_probabilities(observations).argmax(axis=1)]


@pytest.mark.parametrize(
    ("algorithm", "parameters", "expected"),
    [
        ("strong_first", {"n_turns": 2}, "SS....."),
        ("cheap_first", {"n_turns": 3}, "...SSSS"),
        ("interleave", {"period": 3}, "..S..S."),
        ("interleave", {"period": 1}, "SSSSSSS"),
    ],
)
def test_turns_of_the_strong_model(algorithm, parameters, expected):
    router = train(algorithm, **NAMED, **parameters)
    chosen = names(router, [observe("." * turn) for turn in range(7)])
    assert chosen == ["large" if one == "S" else "small" for one in expected]


@pytest.mark.parametrize(
    ("errors", "expected", "n_clean"),
    [
        ("", "small", 0),
        ("x", "small", 0),
        ("x.....x", "middle", 0),
        ("xx", "middle", 0),
        ("xxx", "middle", 0),
        ("xx.x.x", "large", 0),
        ("xxxxxxxxx", "large", 0),
        ("xx....", "middle", 0),
        ("xx..", "middle", 3),
        ("xx...", "small", 3),
        ("xx...x", "small", 3),
        ("xx.x..", "middle", 3),
        ("xxxx...", "middle", 3),
        ("xxxx......", "small", 3),
        (".......", "small", 3),
    ],
)
def test_rungs_after_two_errors_each(errors, expected, n_clean):
    router = train("escalate_on_error", ladder=["small", "middle", "large"], n_errors=2, n_clean=n_clean)
    assert names(router, [observe(errors)]) == [expected]


@pytest.mark.parametrize(
    ("mask", "at_small", "at_middle"),
    [
        ((1, 1, 1), "small", "middle"),
        ((0, 1, 1), "middle", "middle"),
        ((1, 0, 1), "small", "large"),
        ((0, 0, 1), "large", "large"),
        ((1, 0, 0), "small", "small"),
    ],
)
def test_a_masked_rung_gives_way_to_the_next_above_then_below(mask, at_small, at_middle):
    router = train("escalate_on_error", ladder=["small", "middle", "large"], n_errors=1)
    assert names(router, [observe("", mask), observe("x", mask)]) == [at_small, at_middle]


def test_models_off_the_ladder_are_called_only_where_no_rung_is_allowed():
    router = train("strong_first", cheap="middle", strong="large", n_turns=1)
    assert router.settings.others == ("small",)
    assert names(router, [observe(".", (1, 0, 1)), observe(".", (1, 0, 0))]) == ["large", "small"]


def test_cheap_goes_by_price_and_strong_by_validation(tmp_path):
    utilities = {"small": 0.1, "middle": 0.7, "large": 0.6}
    context = TrainingContext(
        pool=POOL,
        reward=REWARD,
        seed=0,
        validate=lambda routers: [utilities[router.settings.order[0]] for router in routers],
    )
    router = train("interleave", context)
    assert router.settings.roles.rungs == ("small", "middle")
    router.save(tmp_path)
    saved = json.loads((tmp_path / "router.json").read_text())["settings"]
    assert saved["roles"]["validation_utilities"] == utilities
    assert train("escalate_on_error", context).settings.roles == router.settings.roles
    assert train("cheap_first", context, cheap="large").settings.roles.rungs == ("large", "middle")


def test_where_the_cheapest_is_the_strongest_it_is_called_throughout():
    context = make_context(None)
    object.__setattr__(context, "validate", lambda routers: [1.0, 0.5, 0.5])
    for algorithm in ("interleave", "strong_first", "cheap_first", "escalate_on_error"):
        router = train(algorithm, context)
        assert router.settings.roles.rungs == ("small",)
        assert set(names(router, [observe("x" * turn) for turn in range(8)])) == {"small"}


def test_validation_is_needed_only_where_the_card_leaves_the_strong_model_open(tmp_path):
    make = ALGORITHMS.load("interleave").from_card
    assert make(make_card("interleave")).needs_validation
    assert not make(make_card("interleave", strong="large")).needs_validation
    with pytest.raises(InvalidConfigError, match=r"'test-interleave': the training context has no validate.*name the"):
        train("interleave")
    card = tmp_path / "mine.yaml"
    card.write_text("name: mine\ndescription: d\nalgorithm: interleave\nparameters: { strong: large, period: 2 }\n")
    assert names(resolve_router(str(card), POOL), [observe(""), observe(".")]) == ["small", "large"]


@pytest.mark.parametrize(
    ("algorithm", "parameters", "error", "message"),
    [
        ("interleave", {"cheap": "smal", "strong": "large"}, UnknownNameError, r"'smal'; did you mean 'small'"),
        ("escalate_on_error", {"ladder": ["small", "larg"]}, UnknownNameError, r"'larg'; did you mean 'large'"),
        ("escalate_on_error", {"ladder": ["small"]}, CardError, r"ladder is small, must be two or more different"),
        ("cascade", {"ladder": ["small", "small"]}, CardError, r"ladder is small, small, must be two or more"),
        ("interleave", {"period": 0}, CardError, r"parameter 'period' got 0"),
        ("escalate_on_error", {"n_clean": -1}, CardError, r"parameter 'n_clean' got -1"),
    ],
)
def test_bad_parameters(algorithm, parameters, error, message):
    with pytest.raises(error, match=message):
        train(algorithm, **parameters)


def test_a_record_that_lacks_a_model_is_refused(tmp_path):
    train("interleave", **NAMED).save(tmp_path)
    path = tmp_path / "router.json"
    record = json.loads(path.read_text())
    record["settings"]["others"] = []
    path.write_text(json.dumps(record))
    with pytest.raises(RouterError, match=r"rungs and others are small, large, must hold every model of its pool once"):
        load_router(tmp_path, pool=POOL, make_features=lambda _: None)
