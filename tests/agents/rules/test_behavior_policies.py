from itertools import product

import numpy as np
import pytest

from mtrouter_rl.agents.loading import load_router
from mtrouter_rl.agents.rules.behavior_policies import EpsilonGreedy, Mixed, Sticky, parse_policy
from mtrouter_rl.agents.rules.heuristics import single_router
from mtrouter_rl.errors import InvalidConfigError, PoolMismatchError, UnknownNameError
from tests.cases.routing_toy import POOL, make_observation, make_pool

NAMES = POOL.model_names


def parse(text, router=None):
    return parse_policy(text, pool=POOL, load_router=lambda _: router or single_router("large", POOL))


@pytest.mark.parametrize(
    ("models", "mask", "expected"),
    [
        ((), (1, 1, 1), [1 / 3, 1 / 3, 1 / 3]),
        ((0, 2), (1, 1, 1), [0.1, 0.1, 0.8]),
        ((2,), (1, 0, 1), [0.15, 0, 0.85]),
        ((2,), (1, 1, 0), [0.5, 0.5, 0]),
        ((1,), (0, 1, 0), [0, 1, 0]),
    ],
)
def test_sticky_propensities_are_exact(models, mask, expected):
    found = Sticky(0.3, model_names=NAMES).action_probabilities([make_observation(mask=mask, models=models)])
    assert found[0] == pytest.approx(expected)


@pytest.mark.parametrize("share", [0.0, 0.375, 1.0])
def test_mixed_episodes_are_distributed_as_if_their_kind_were_drawn_first(share):
    router = Mixed(share, model_names=NAMES)
    for models in product(range(3), repeat=4):
        observations = [make_observation(models=models[:turn]) for turn in range(4)]
        found = router.action_probabilities(observations)[range(4), models].prod()
        assert found == pytest.approx((1 - share) / 3**4 + (share / 3 if len(set(models)) == 1 else 0))


@pytest.mark.parametrize(
    ("models", "mask", "expected"),
    [((0, 0), (0, 1, 1), [0, 0.5, 0.5]), ((0, 1, 1), (1, 1, 0), [0.5, 0.5, 0]), ((1,), (1, 1, 0), [0.25, 0.75, 0])],
)
def test_mixed_keeps_to_the_mask(models, mask, expected):
    found = Mixed(0.5, model_names=NAMES).action_probabilities([make_observation(mask=mask, models=models)])
    assert found[0] == pytest.approx(expected)


def test_mixed_never_rules_a_model_out_however_long_one_was_called():
    found = Mixed(0.375, model_names=NAMES).action_probabilities([make_observation(models=(0,) * 49)])
    assert (found > 0).all()
    assert found.sum() == pytest.approx(1)


def test_mixed_comes_back_from_its_folder(tmp_path):
    router = Mixed(0.375, model_names=NAMES, name="my-log")
    router.save(tmp_path)
    loaded = load_router(tmp_path, pool=POOL, make_features=None)
    assert (type(loaded), loaded.name, loaded.share_single) == (Mixed, "my-log", 0.375)


def test_epsilon_greedy_mixes_over_the_allowed_models():
    router = EpsilonGreedy(single_router("large", POOL), 0.3)
    observations = [make_observation(), make_observation(mask=(1, 0, 1)), make_observation(mask=(1, 1, 0))]
    expected = [[0.1, 0.1, 0.8], [0.15, 0, 0.85], [0.85, 0.15, 0]]
    np.testing.assert_allclose(router.action_probabilities(observations), expected)


@pytest.mark.parametrize(
    "text", ["uniform", "sticky:0.3", "single:middle", "mixed:0.375", "epsilon-greedy:0.2:runs/a:b"]
)
def test_policies_are_named_as_they_are_written(text):
    router = parse(text)
    assert router.name == text
    assert router.action_probabilities([make_observation()]).sum() == pytest.approx(1)


def test_the_router_of_an_epsilon_greedy_policy_is_loaded_by_the_rest_of_the_text():
    asked = []

    def load(text):
        asked.append(text)
        return single_router("large", POOL)

    parse_policy("epsilon-greedy:0.2:runs/a:b", pool=POOL, load_router=load)
    assert asked == ["runs/a:b"]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            "unifrm",
            UnknownNameError,
            r"unknown behaviour policy 'unifrm'; did you mean 'uniform'\?.*Forms: uniform; sticky",
        ),
        ("uniform:1", InvalidConfigError, r"'uniform:1': it takes no argument, got '1'; write it as uniform"),
        ("sticky", InvalidConfigError, r"P_SWITCH is '', must be a number in \[0, 1\]; write it as sticky:P_SWITCH"),
        ("sticky:1.5", InvalidConfigError, r"p_switch is 1\.5, must be in \[0, 1\]"),
        (
            "mixed:2",
            InvalidConfigError,
            r"share_single is 2\.0, must be in \[0, 1\]; it is the share of episodes of one",
        ),
        (
            "mixed",
            InvalidConfigError,
            r"SHARE_SINGLE is '', must be a number in \[0, 1\]; write it as mixed:SHARE_SINGLE",
        ),
        ("sticky:nan", InvalidConfigError, r"p_switch is nan"),
        ("single", InvalidConfigError, r"the model is missing \(models of pool 'toy': small, middle, large\)"),
        ("single:smal", UnknownNameError, r"'smal'; did you mean 'small'"),
        ("epsilon-greedy:0.2", InvalidConfigError, r"the router is missing; write it as epsilon-greedy:EPSILON:ROUTER"),
        ("epsilon-greedy:x:r", InvalidConfigError, r"EPSILON is 'x', must be a number"),
        ("epsilon-greedy:-1:r", InvalidConfigError, r"epsilon is -1\.0, must be in \[0, 1\]"),
    ],
)
def test_bad_policies(text, error, message):
    with pytest.raises(error, match=message):
        parse(text)


def test_the_router_of_another_pool_is_refused():
    other = make_pool(("a", "b", "c"))
    with pytest.raises(PoolMismatchError, match=r"was made for a, b, c, must be made for pool 'toy'"):
        parse("epsilon-greedy:0.1:r", single_router("a", other))
