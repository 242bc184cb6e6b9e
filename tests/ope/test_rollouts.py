"""Roll-outs in a model of a log: hand-made worlds whose values are known, and whole logs."""

import dataclasses

import numpy as np
import pytest

from mtrouter_rl.agents.factored.factored_q import FactoredQ
from mtrouter_rl.agents.factored.shrinkage import success_table, success_tables_without
from mtrouter_rl.agents.factored.stuck import Stuckness
from mtrouter_rl.cards import RewardCard, load_agent_card
from mtrouter_rl.datasets.rewrite import write_dataset
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.ope import logged_turns
from mtrouter_rl.ope.inputs import OpeRequest, log_setting
from mtrouter_rl.ope.logged_turns import WorldTurns
from mtrouter_rl.ope.logged_world import Ending, LoggedWorld, Paths, shrunken_rates
from mtrouter_rl.ope.record import load_report
from mtrouter_rl.ope.rollouts import Habits, Luck, joined, play, roll_out
from mtrouter_rl.ope.run import run_ope
from mtrouter_rl.records import TokenUsage, TracedEpisode

REWARD = RewardCard(cost_weight=1.0, cost_unit_usd=1.0)
PRICES = np.array([0.01, 0.1])
SINGLES = {"good": np.array([0.0, 1.0]), "bad": np.array([1.0, 0.0])}


def make_log(
    n_episodes=60, *, success=(0.3, 0.9), ending=(0.0, 0.0), loss=0.0, n_steps=3, n_turns=40, n_tasks=4, seed=0
):
    """Uniform episodes of two models: `n_steps` useful turns of two kinds that take turns, 1 / n_steps of utility each."""
    rng = np.random.default_rng(seed)
    columns: dict[str, list] = {
        name: [] for name in ("due", "kinds", "actions", "gains", "turns", "ended", "tasks", "clusters")
    }
    for episode in range(n_episodes):
        step, total, task = 0, 0.0, episode % n_tasks
        for turn in range(n_turns):
            model = int(rng.integers(2))
            is_over = rng.random() < ending[model]
            useful = not is_over and rng.random() < success[model]
            gain = (loss - total if loss else 0.0) if is_over else useful / n_steps
            columns["due"].append([0.95, 0.05] if step % 2 == 0 else [0.05, 0.95])
            columns["kinds"].append(step % 2 if useful else 1 - step % 2)
            step, total = step + useful, total + gain
            ended = is_over or step == n_steps
            for name, value in (("actions", model), ("gains", gain), ("turns", turn), ("ended", ended)):
                columns[name].append(value)
            columns["tasks"].append(task)
            columns["clusters"].append(task * 3 + episode // n_tasks % 3)
            if ended:
                break
    arrays = {name: np.array(values) for name, values in columns.items()}
    n = len(arrays["actions"])
    return WorldTurns.of(is_error=np.zeros(n, dtype=bool), costs=np.tile(PRICES, (n, 1)), **arrays)


def rolled(log, policies=SINGLES, *, n_turns=40, seed=0):
    n = len(log.actions)
    return roll_out(
        log,
        {name: np.tile(row, (n, 1)) for name, row in policies.items()},
        costs=PRICES[log.actions],
        reward=REWARD,
        n_turns=n_turns,
        seed=seed,
    )


def test_single_models_earn_what_they_earn_in_the_world_that_made_the_log():
    found = rolled(make_log(2000, n_tasks=4))
    assert found.of("good")[:2] == pytest.approx([1.0, 3 / 0.9 * 0.1], rel=0.05)
    assert found.of("bad")[:2] == pytest.approx([1.0, 3 / 0.3 * 0.01], rel=0.15)
    assert found.of("good")[2] == pytest.approx(found.of("good")[0] - found.of("good")[1])
    assert np.abs(found.gap) == pytest.approx(0, abs=0.03)


def test_an_ending_without_success_is_met_as_often_as_in_the_log():
    hazard = 0.15
    found = rolled(make_log(4000, ending=(hazard, 0.0), loss=-1.0))
    a_step = 0.85 * 0.3 / (1 - 0.85 * 0.7)  # useful before the end, at every turn 0.15 to end it
    assert found.of("bad")[0] == pytest.approx(a_step**3 - (1 - a_step**3), abs=0.08)
    assert found.of("good")[0] == pytest.approx(1.0, abs=0.1)


def test_what_an_ending_costs_is_a_level_or_a_change_whichever_is_more_alike():
    level = Ending.of(make_log(400, ending=(0.2, 0.2), loss=-1.0))
    assert level.utility == pytest.approx(-1.0)
    change = Ending.of(make_log(400, ending=(0.2, 0.2)))
    assert change.utility is None
    assert change.change == 0.0
    assert Ending.of(make_log(40)).rates.max() == 0.0


def test_rates_of_pairs_that_were_hardly_seen_are_those_of_kind_and_model():
    log = make_log(300, ending=(0.3, 0.0))
    happened = (log.ended & (log.gains == 0)).astype(float)
    rates = shrunken_rates(log, happened)
    assert rates[:, 0] == pytest.approx(0.3, abs=0.08)
    assert rates[:, 1].max() < 0.02
    once = dataclasses.replace(log, actions=np.where(np.arange(len(log.actions)) == 5, 1, 0))
    assert shrunken_rates(once, happened)[:, 1].max() <= 0.95


def test_the_path_of_a_task_is_its_best_episode_with_the_fewest_useful_turns():
    log = make_log(60)
    paths = Paths.of(log)
    assert paths.lengths.tolist() == [3] * 12
    assert paths.is_finished.all()
    assert paths.gains.sum(axis=1) == pytest.approx(1.0)
    assert paths.weights.sum() == pytest.approx(1.0)


def test_a_task_that_nobody_finished_costs_all_its_turns():
    found = rolled(make_log(200, success=(0.0, 0.0), n_turns=5), n_turns=5)
    assert found.of("good")[:2] == pytest.approx([0.0, 0.5])


def test_models_that_are_stuck_together_are_stuck_at_once():
    log = make_log(400)
    success = success_table(log.due, log.actions, log.use, n_models=2)
    both = {"both": np.tile([0.5, 0.5], (len(log.actions), 1))}
    costs = {}
    for together in (0.0, 1.0):
        world = LoggedWorld.of(log, success, Stuckness.of(0.3, together), n_turns=40)
        costs[together] = play(world, Habits.of(log, both["both"]), Luck.of(log, n_turns=40, seed=0)).value[1]
    assert costs[1.0] > 1.5 * costs[0.0]  # nobody else gets on, and all turns are paid


def test_a_router_does_in_the_model_what_it_does_in_such_states_of_the_log():
    log = make_log(400)
    second = log.wasted[:, 0] > 0
    follows = np.where(second[:, None], [0.0, 1.0], [1.0, 0.0])
    habits = Habits.of(log, follows)
    ask = {"tasks": np.array([1, 1]), "kinds": np.array([0, 0]), "last": np.array([0, 0])}
    assert habits.probabilities(**ask, wasted=np.array([[0, 0], [1, 0]])).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    unseen = habits.probabilities(
        np.array([99]), np.array([1]), wasted=np.array([[2, 2]]), last=np.array([1])
    )  # no such task: what it does elsewhere
    assert unseen.tolist() == [[0.0, 1.0]]


def test_equal_policies_have_no_difference_and_equal_seeds_the_same_numbers():
    log = make_log(120)
    found = rolled(log, {"one": SINGLES["good"], "other": SINGLES["good"]})
    difference = found.difference("one", "other", agreement=1.0, n_resamples=100, seed=0)
    assert not difference.draws.any()
    again = rolled(log, {"one": SINGLES["good"], "other": SINGLES["good"]})
    assert np.array_equal(found.values, again.values)
    assert np.array_equal(
        found.estimate("one", n_resamples=9, seed=3).draws, again.estimate("one", n_resamples=9, seed=3).draws
    )


def test_intervals_hold_the_value_and_their_sampling_part_shrinks_with_the_log():
    true = 1 - 3 / 0.9 * 0.1
    held, errors = 0, {}
    for n in (60, 480):
        found = [rolled(make_log(n, seed=seed), seed=seed) for seed in range(6)]
        ends = [one.estimate("good", n_resamples=400, seed=0).interval(2) for one in found]
        errors[n] = np.mean([np.linalg.norm(one.terms[:, 0, 2]) for one in found])
        held += sum(low <= true <= high for low, high in ends)
    assert held >= 10
    assert errors[480] < 0.6 * errors[60]


def test_a_log_of_one_variation_is_refused():
    log = make_log(20)
    with pytest.raises(InvalidConfigError, match=r"one \(task, variation\)"):
        rolled(dataclasses.replace(log, clusters=np.zeros_like(log.clusters)))


def test_parts_are_put_together_by_their_shares():
    log = make_log(240)
    half = log.clusters % 2 == 0
    parts = [rolled(log.where(half)), rolled(log.where(~half))]
    whole = joined(parts, [0.25, 0.75], {"good": ["good", "good"], "mixed": ["good", "bad"]})
    expected = 0.25 * parts[0].of("good") + 0.75 * parts[1].of("bad")
    assert whole.of("mixed") == pytest.approx(expected)
    assert len(whole.terms) == len(parts[0].terms) + len(parts[1].terms)


def test_a_table_without_a_group_is_what_a_fit_without_it_finds():
    log = make_log(300)
    whole = success_table(log.due, log.actions, log.use, n_models=2)
    groups = log.clusters % 3
    for group, table in enumerate(success_tables_without(whole, log.due, log.actions, log.use, groups)):
        keep = groups != group
        fitted = success_table(log.due[keep], log.actions[keep], log.use[keep], n_models=2)
        assert table(log.due[:9]) == pytest.approx(fitted(log.due[:9]), abs=0.005)
        assert not np.allclose(table(log.due[:9]), whole(log.due[:9]), atol=1e-6)


def request_of(dataset, **changes):
    pool, reward = log_setting(dataset)
    fields = {
        "routers": ("uniform", "single:small", "single:middle", "single:large"),
        "estimators": ("am",),
        "n_resamples": 400,
    }
    return OpeRequest(dataset=dataset, pool=pool, reward=reward, **(fields | changes))


def test_single_models_of_a_mixed_log_are_told_apart(corridor_log, tmp_path, monkeypatch):
    monkeypatch.setattr(logged_turns, "load_agent_card", load_agent_card)  # as a user has it
    report = run_ope(request_of(corridor_log), say=lambda text: None, show_progress=False)
    returns = {one.policy: one.estimates["am"]["return"] for one in report.policies}
    assert {one.headline for one in report.policies} == {"am"}
    assert returns["single:middle"].value == pytest.approx(
        0.922, abs=0.05
    )  # closed-loop on the same split, 240 episodes
    assert returns["single:large"].low < 0.654 < returns["single:large"].high
    assert returns["single:small"].low < -0.117 < returns["single:small"].high
    best = next(d for d in report.differences if {d.policy, d.other} == {"single:middle", "single:large"})
    assert best.estimator == "am"
    assert best.difference.low > 0
    assert report.approximate_model is not None
    assert abs(report.approximate_model["return"].gap) < 0.2
    assert load_report(report.save(tmp_path)) == report


def test_a_log_without_tokens_says_what_it_lacks_before_anything_is_trained(corridor_log, tmp_path, monkeypatch):
    monkeypatch.setattr(FactoredQ, "_train_network", None)
    log = Dataset.load(corridor_log)
    none = TokenUsage(n_fresh=0, n_output=0)
    episodes = [
        dataclasses.replace(
            one,
            usage_source="cost_only",
            turns=tuple(dataclasses.replace(turn, usage=none) for turn in one.turns),
        )
        for one in log.completed
    ]
    write_dataset(tmp_path / "log", log.info, [TracedEpisode(episode=one) for one in episodes])
    with pytest.raises(InvalidConfigError, match="no token counts"):
        run_ope(request_of(tmp_path / "log"), say=lambda text: None, show_progress=False)
