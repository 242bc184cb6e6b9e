"""The safe router: the best single model, and the learned one where its advantage is beyond its error."""

import dataclasses
import json

import numpy as np
import pytest

from mtrouter_rl.agents.loading import load_router, save_router
from mtrouter_rl.agents.safe import Advantage, SafeRouter, SafeSettings
from mtrouter_rl.errors import MaskedActionError, RouterError, UnknownNameError
from mtrouter_rl.protocols import ExplainingRouter, SavableRouter, ValueRouter
from mtrouter_rl.registry import ALGORITHMS
from mtrouter_rl.transitions.arrays import FORBIDDEN_Q
from tests.cases.routing_toy import POOL, StateFeatures, make_card, make_context, make_observation, uniform_log

NAMES = POOL.model_names
STATES = [make_observation(state) for state in range(3)]


@dataclasses.dataclass
class Table:
    """A router of given values, by the state that the observation shows."""

    values: list
    name: str = "table"
    model_names: tuple = NAMES

    def q_values(self, observations):
        masks = np.array([one["action_mask"] for one in observations])
        states = [int(one["first_observation"].removeprefix("state ")) for one in observations]
        return np.where(masks, np.array(self.values)[states], FORBIDDEN_Q)

    def action_probabilities(self, observations):
        return np.eye(3)[self.q_values(observations).argmax(axis=1)]


VALUES = np.array([[0.0, 0.5, 0.3], [0.0, 0.1, -0.2], [0.4, 0.2, 0.0]])
"""Against model 0: much better in state 0, a little in state 1, worse in state 2."""


def router(spread, **settings):
    """A router whose repeats see advantages of model 1 that differ by +-spread."""
    noise = np.zeros((3, 3))
    noise[:, 1] = 1.0
    repeats = [Table(VALUES + sign * spread * noise) for sign in (-1.0, 0.0, 1.0)]
    settings = {"baseline": "small", "caution": 2.0, "typical_error": 0.0} | settings
    return SafeRouter(name="safe", settings=SafeSettings(**settings), policy=Table(VALUES), repeats=repeats)


def called(one, observations=STATES):
    return one.action_probabilities(observations).argmax(axis=1).tolist()


def test_the_error_is_the_jackknife_of_groups():
    """By hand: advantages 0.1, 0.4, 0.7 without each of three folds; (3 - 1) / 3 * (0.09 + 0 + 0.09) = 0.12."""
    repeats = np.zeros((3, 1, 2))
    repeats[:, 0, 1] = [0.1, 0.4, 0.7]
    seen = Advantage.of(np.array([[0.0, 0.5]]), repeats, np.array([1]), 0)
    np.testing.assert_allclose(seen.spread, [np.sqrt(0.12)])
    np.testing.assert_allclose(seen.mean, [0.5])
    np.testing.assert_allclose(seen.errors(0.2), [np.sqrt((0.12 + 0.04) / 2)])
    assert seen.typical_error(0) == pytest.approx(np.sqrt(0.12))
    assert seen.typical_error(1) == 0.0, "the policy calls the baseline, so there is nothing to be wrong about"


@pytest.mark.parametrize(("caution", "most"), [(0.0, 0.170), (1.0, 0.033), (2.0, 0.0033)])
def test_what_caution_bounds_is_what_the_module_says(caution, most):
    """Mean loss of following a model that is worse by d errors, at its largest over d."""
    rng = np.random.default_rng(0)
    seen = rng.normal(size=400_000)
    losses = [d * (seen - d > caution).mean() for d in np.linspace(0.05, 2.0, 40)]
    assert max(losses) == pytest.approx(most, rel=0.1)


def test_it_follows_where_the_advantage_is_beyond_its_error():
    assert called(router(0.0)) == [1, 1, 0]
    assert called(router(0.1)) == [1, 0, 0], "errors of 0.115 / sqrt 2: 0.5 is above two of them, 0.1 is not"
    assert called(router(1.0)) == [0, 0, 0]
    assert called(router(1.0, caution=0.0)) == [1, 1, 0], "without caution it is the learned router"
    assert called(router(0.0, typical_error=1.0)) == [0, 0, 0], "repeats that agree by luck are not taken at their word"
    assert called(router(0.0, is_held=True)) == [0, 0, 0]
    assert called(router(1.0, is_whole=True)) == [1, 1, 0], (
        "as a whole it does no worse, so no turn is judged by itself"
    )
    assert router(0.1).follows(STATES).tolist() == [True, False, False]


def test_where_the_baseline_is_masked_the_learned_policy_acts():
    masked = [make_observation(state, mask=(0, 1, 1)) for state in range(3)]
    assert called(router(1.0), masked) == [1, 1, 1]
    assert called(router(1.0, is_held=True), masked) == [1, 1, 1]
    assert called(router(1.0), [make_observation(0, mask=(1, 0, 0))]) == [0]
    with pytest.raises(MaskedActionError):
        router(1.0).action_probabilities([make_observation(mask=(0, 0, 0))])


def test_it_explains_itself():
    told = router(1.0, is_whole=True).explain(STATES[0])
    assert (
        told
        == "the learned policy is followed throughout: on the log it does no worse than small, the best single model"
    )
    one = router(0.1)
    assert isinstance(one, ExplainingRouter)
    followed = one.explain(STATES[0])
    assert followed.startswith(
        "follows the learned policy: middle is worth +0.500 more than small, the best single model"
    )
    assert followed.endswith("with an error of 0.082 (above 2 of them)")
    assert one.explain(STATES[1]).startswith("keeps to small: middle is worth +0.100 more")
    assert one.explain(STATES[2]) == "the learned policy calls small, the best single model, as well"
    assert "may not be called" in one.explain(make_observation(0, mask=(0, 1, 1)))
    assert "called throughout" in router(0.1, is_held=True).explain(STATES[0])


def test_a_baseline_that_is_no_model_is_refused():
    with pytest.raises(UnknownNameError, match="smal"):
        router(0.1, baseline="smal")


@pytest.fixture(scope="module")
def trained():
    algorithm = ALGORITHMS.load("turn_ridge").from_card(make_card("turn_ridge"))
    policy, *repeats = (algorithm.train(make_context(uniform_log(n_episodes=60, seed=seed))) for seed in range(4))
    settings = SafeSettings(baseline="small", caution=0.5, typical_error=0.01)
    return SafeRouter(
        name="ridge-safe", settings=settings, policy=policy, repeats=repeats, provenance=policy.provenance
    )


def loaded(folder, made=None):
    def make_features(config):
        if made is not None:
            made.append(config)
        return StateFeatures(config["scripted"])

    return load_router(folder, pool=POOL, make_features=make_features)


def test_a_saved_router_acts_alike(trained, tmp_path):
    assert isinstance(trained, SavableRouter)
    save_router(trained, tmp_path)
    made = []
    back = loaded(tmp_path, made)
    assert isinstance(back, SafeRouter)
    assert isinstance(back, ValueRouter)
    assert (back.name, back.provenance) == (trained.name, trained.provenance)
    np.testing.assert_array_equal(back.action_probabilities(STATES), trained.action_probabilities(STATES))
    np.testing.assert_array_equal(back.q_values(STATES), trained.q_values(STATES))
    assert [back.explain(one) for one in STATES] == [trained.explain(one) for one in STATES]
    assert len(made) == 1, "one encoder for all of them, so that a text is encoded once"
    before = (tmp_path / "router.json").read_bytes()
    save_router(back, tmp_path)
    assert (tmp_path / "router.json").read_bytes() == before


def test_routers_that_do_not_belong_together_are_refused(trained, tmp_path):
    save_router(trained, tmp_path)
    save_router(trained.repeats[0], tmp_path / "folds" / "1")
    with pytest.raises(RouterError, match="1 is not the router that it was saved with; copy the whole folder"):
        loaded(tmp_path)
    record = json.loads((tmp_path / "router.json").read_text())
    record["settings"]["members"] = record["settings"]["members"][:2]
    (tmp_path / "router.json").write_text(json.dumps(record))
    with pytest.raises(RouterError, match="members has 2 digests"):
        loaded(tmp_path)
