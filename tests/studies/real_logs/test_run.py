"""The study on a log, on a small made-up one whose truth is known: model "small" is good at easy tasks alone."""

import dataclasses

import numpy as np
import pytest

from mtrouter_rl.cards import load_pool_card
from mtrouter_rl.cli.program import main
from mtrouter_rl.datasets.info import DatasetInfo
from mtrouter_rl.datasets.rewrite import write_dataset
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import InvalidConfigError, MTRouterError
from mtrouter_rl.evaluation.results import Results
from mtrouter_rl.records import UNLIMITED_BUDGET_USD, Episode, TokenUsage, TracedEpisode, Turn
from mtrouter_rl.studies.real_logs.run import LogStudyRequest, study_log

POOL = load_pool_card("corridor-three")
CHANCES = {"easy": (0.9, 0.9, 0.9), "hard": (0.1, 0.2, 0.9)}
TOKENS = (100, 1000, 10000)
AGENTS = ("task-table", "task-ridge")


def make_turn(model, gain, *, is_last, room):
    usage = TokenUsage(n_fresh=10, n_output=TOKENS[POOL.index(model)])
    return Turn(
        model=model,
        served_model=model,
        action_text="go",
        observation_text=f"-= {room} =-",
        usage=usage,
        cost_usd=POOL.model(model).prices.cost_usd(usage),
        utility_gain=gain,
        propensity=1.0,
        action_mask=(True,) * 3,
        warm=(False,) * 3,
        error="",
        latency_s=None,
        terminated=is_last,
        truncated=False,
    )


def make_episode(task, model, number, rng, *, room="hall"):
    gain = float(rng.random() < CHANCES[task][POOL.index(model)])
    turns = (make_turn(model, 0.0, is_last=False, room=room), make_turn(model, gain, is_last=True, room=room))
    return Episode(
        episode_id=f"{task}/{model}/{number}",
        task=task,
        variation=number * 3 + POOL.index(model),
        seed=0,
        split="train",
        task_text=f"game: toy\ntask: {task}",
        first_observation="",
        behavior_policy=f"single:{model}",
        budget_usd=UNLIMITED_BUDGET_USD,
        max_turns=2,
        turns=turns,
    )


def make_log(folder, *, n=30, rooms=None, drop=(), episodes=None, dataset_id="mine-v1"):
    rng = np.random.default_rng(0)
    episodes = episodes or [
        make_episode(task, model, number, rng, room=(rooms or {}).get((task, model), "hall"))
        for task in CHANCES
        for model in POOL.model_names
        for number in range(n)
        if (task, model) not in drop
    ]
    info = DatasetInfo(
        dataset_id=dataset_id,
        env="mine",
        pool_name=POOL.name,
        models=POOL.models,
        prompt_cache=None,
        behavior_policy="mixed",
        split="train",
        seed=0,
        n_episodes_planned=1,
        max_turns=1,
        budget_usd=1.0,
        is_simulated=False,
        package_version="0",
        created_by={},
        origin="imported",
        assumptions=("prices are made up",),
    )
    write_dataset(folder, info, (TracedEpisode(episode=episode) for episode in episodes))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    log = make_log(folder / "log", rooms={("hard", POOL.model_names[0]): "cellar"})
    request = LogStudyRequest(
        dataset=log, out=folder / "run", cost_weight=0.4, agents=AGENTS, instance_pattern="-= (.+?) =-"
    )
    said = []
    results = study_log(request, say=said.append, show_progress=False)
    return folder, request, results, said


def test_single_models_are_worth_their_own_means(run):
    folder, _, results, _ = run
    episodes = Dataset.load(folder / "log").episodes
    for model in POOL.model_names:
        row = results.row(f"single:{model}", "test")
        own = [episode for episode in episodes if episode.models[0] == model]
        assert row.utility_mean == pytest.approx(np.mean([episode.utility for episode in own]))
        assert row.cost_usd_mean == pytest.approx(np.mean([episode.cost_usd for episode in own]))
        assert row.model_share[model] == 1.0
        assert row.turns_mean == pytest.approx(2.0)
        low, high = row.score_ci95
        assert low <= row.score_mean <= high


def test_the_routers_learn_what_each_model_is_good_at(run):
    _, _, results, _ = run
    dearest = POOL.model_names[2]
    for name in ("task-table", "task-ridge"):
        row = results.row(name, "test")
        assert row.model_share_by_task["hard"][dearest] == 1.0
        assert row.model_share_by_task["easy"][dearest] == 0.0
        assert row.score_mean > results.row(f"single:{POOL.model_names[1]}", "test").score_mean
        assert row.cost_saved_share > 0.3
        assert row.paired["strongest"].return_.is_above_zero


def test_at_equal_score_the_promise_is_beside_what_came_of_it(run):
    _, _, results, _ = run
    kept = results.config["equal_score"]["task-table@equal-score"]
    low, high = kept["cost_saved_ci95"]
    assert (
        low - 1e-9 <= kept["cost_saved"] <= high + 1e-9
    )  # where all resamples agree, the ends are it but for rounding
    assert kept["promised_cost_saved"] == pytest.approx(
        0.5, abs=0.1
    )  # half of the tasks go to a model that costs little
    assert abs(kept["score_difference"]) < 10
    assert any(note.startswith("'task-table@equal-score': the training folds promise") for note in results.notes)


def test_the_frontier_gets_dearer_as_money_counts_less(run):
    _, _, results, _ = run
    costs = [results.row(f"task-table{suffix}", "test").cost_usd_mean for suffix in ("@0.8", "", "@0.2", "@0")]
    assert costs == sorted(costs)


def test_what_is_assumed_or_confounded_is_said_and_the_strongest_is_chosen_on_training_folds(run):
    folder, _, results, said = run
    assert "Assumed in the log: prices are made up." in results.notes
    confounded = [note for note in results.notes if note.startswith("Confounded")]
    assert len(confounded) == 1
    assert "'hard'" in confounded[0]
    assert results.config["chosen_by_fold"]["strongest"] == [POOL.model_names[2]] * 9
    assert results.estimator.startswith("estimated from a log, nothing was run")
    assert any(text.startswith("left out 0 of 180 episodes") for text in said)
    page = (folder / "run" / "report.html").read_text(encoding="utf-8")
    assert "Nothing was run" in page
    assert "closed-loop" not in page
    assert Results.load(folder / "run" / "results.json") == results


def test_same_seed_same_results(run, tmp_path):
    _, request, results, _ = run
    again = study_log(dataclasses.replace(request, out=tmp_path / "again"), say=lambda _: None, show_progress=False)
    assert again == results


def test_what_the_log_cannot_tell_is_refused(tmp_path):
    log = make_log(tmp_path / "log", drop={("easy", POOL.model_names[1])})
    request = LogStudyRequest(dataset=log, out=tmp_path / "run", cost_weight=0.4, agents=("task-table",))
    results = study_log(request, say=lambda _: None, show_progress=False)
    name = f"single:{POOL.model_names[1]}"
    assert all(row.policy != name for row in results.rows)
    assert "never played such an episode" in results.config["refused"][name][0]
    assert any(note.startswith(f"Policy '{name}': this log cannot tell") for note in results.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_folds": 2}, "folds is 2, must be at least 3"),
        ({"n_repeats": 0}, "repeats is 0, must be at least 1"),
        ({"cost_weight": -1.0}, "cost_weight is -1.0"),
        ({"cost_weight": float("nan")}, "cost_weight is nan"),
        ({"cost_unit_usd": 0.0}, "cost_unit_usd is 0.0, must be a finite number above 0"),
        ({"instance_pattern": "("}, "instance_pattern '\\(' is no regular expression"),
        ({"instance_pattern": "TYPO(.)"}, "instance_pattern .* matches no observation of the log"),
        ({"agents": ("task-tabel",)}, "did you mean 'task-table'"),
        ({"n": 1}, "no completed episode that was played throughout by"),
    ],
)
def test_bad_requests(tmp_path, change, message):
    log = make_log(tmp_path / "log", n=change.get("n", 6))
    settings = {"agents": ("task-table",)} | {name: value for name, value in change.items() if name != "n"}
    request = LogStudyRequest(**({"dataset": log, "out": tmp_path / "run", "cost_weight": 0.4} | settings))
    with pytest.raises(MTRouterError, match=message):
        study_log(request, say=lambda _: None, show_progress=False)


def test_results_of_another_log_are_not_overwritten(run, tmp_path):
    folder, request, _, _ = run
    other = make_log(tmp_path / "log", dataset_id="other-v1")
    with pytest.raises(InvalidConfigError, match=r"results of another log, 'mine-v1'; choose another --out"):
        study_log(dataclasses.replace(request, dataset=other), say=lambda _: None, show_progress=False)
    assert Results.load(folder / "run" / "results.json").dataset_id == "mine-v1"


def test_an_instance_that_several_models_played_is_in_one_fold(tmp_path):
    """Both models score alike on every instance, so every policy is worth the same; telling by the others would show."""
    rng = np.random.default_rng(3)
    episodes = []
    for number in range(90):
        gain = float(rng.random() < 0.5)
        for model in POOL.model_names:
            episode = make_episode("easy", model, number, rng)
            first, last = episode.turns
            last = dataclasses.replace(last, utility_gain=gain)
            text = f"game: toy\ntask: easy\nquestion: number {number}"
            episodes.append(dataclasses.replace(episode, variation=number, turns=(first, last), task_text=text))
    log = make_log(tmp_path / "log", episodes=episodes)
    agents = ("task-table", "task-ridge", "task-neighbors")
    request = LogStudyRequest(dataset=log, out=tmp_path / "run", cost_weight=0.0, agents=agents)
    results = study_log(request, say=lambda _: None, show_progress=False)
    true_score = results.row(f"single:{POOL.model_names[0]}", "test").score_mean
    for name in agents:
        row = results.row(name, "test")
        assert row.score_ci95[0] <= true_score <= row.score_ci95[1], name
        assert abs(row.score_mean - true_score) < 10, name


def test_a_model_that_lacks_a_task_is_neither_strongest_nor_cheapest(tmp_path):
    log = make_log(tmp_path / "log", drop={("easy", POOL.model_names[0])})
    request = LogStudyRequest(dataset=log, out=tmp_path / "run", cost_weight=0.4, agents=("task-table",))
    results = study_log(request, say=lambda _: None, show_progress=False)
    assert set(results.config["chosen_by_fold"]["cheapest"]) == {POOL.model_names[1]}
    assert results.roles.strongest == "strongest"


def test_commands(tmp_path, capsys):
    log = make_log(tmp_path / "log", n=12)
    arguments = [
        "study-log",
        str(log),
        "--cost-weight",
        "0.4",
        "--agents",
        "task-table",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "estimated from a log" in printed
    assert "note: Assumed in the log: prices are made up." in printed
    train = ["train", "--agent", "task-table", "--dataset", str(log), "--out", str(tmp_path / "router")]
    assert main(train) == 1
    assert "give --cost-weight and --cost-unit-usd" in capsys.readouterr().err
    assert main([*train, "--cost-weight", "0.4", "--cost-unit-usd", "0.01"]) == 0
    assert "trained on a log that cannot be run" in capsys.readouterr().out
    assert main([*train, "--env", "corridor", "--cost-unit-usd", "1"]) == 1
    assert "--cost-unit-usd is for imported logs" in capsys.readouterr().err
