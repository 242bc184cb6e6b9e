import numpy as np
import pytest

from mtrouter_rl.cli.program import main
from mtrouter_rl.envs.factory import resolve_env
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.studies.pool_calibration.complementarity import GapRequest, gap_of_log, gaps_of_pool, matching
from mtrouter_rl.studies.pool_calibration.oracle_gap import HindsightGap, ModelScores, hindsight_gap, played_alone
from mtrouter_rl.workflows import CollectRequest, collect_dataset


def rows_of(means, *, n_variations, seed=0, is_shared=True):
    """Bernoulli episodes of every model on every task; variations are shared by the models or not."""
    rng = np.random.default_rng(seed)
    return [
        (f"task{t}", v if is_shared else (v, m), f"model{m}", float(rng.random() < mean))
        for t, row in enumerate(means)
        for m, mean in enumerate(row)
        for v in range(n_variations)
    ]


def gap_of(rows, *, seed=0):
    return hindsight_gap(ModelScores.of(rows), seed=seed, n_splits=40)


def test_a_gap_by_hand():
    """Without noise: each model is perfect at one of two tasks, so the best per task has 1 and each single model 0.5."""
    gap = gap_of(rows_of([[1.0, 0.0], [0.0, 1.0]], n_variations=4))
    assert (gap.raw, gap.split_half) == (0.5, 0.5)
    assert (gap.best_single_utility, gap.n_tasks, gap.n_clusters, gap.n_episodes) == (0.5, 2, 8, 16)


def test_equal_models_show_a_raw_gap_and_no_split_half_gap():
    """The bias that the correction is for: six models with one success probability on thirteen tasks."""
    gaps = [gap_of(rows_of(np.full((13, 6), 0.5), n_variations=12, seed=seed), seed=seed) for seed in range(12)]
    raw, split_half = np.array([gap.raw for gap in gaps]), np.array([gap.split_half for gap in gaps])
    assert raw.min() > 0.05
    assert split_half.mean() == pytest.approx(0.0, abs=4 * split_half.std() / np.sqrt(len(gaps)) + 0.01)


def test_the_truth_lies_between_the_two():
    truth = np.random.default_rng(3).uniform(0.2, 0.8, size=(13, 4))
    wanted = truth.max(axis=1).mean() - truth.mean(axis=0).max()
    gaps = [gap_of(rows_of(truth, n_variations=20, seed=seed), seed=seed) for seed in range(8)]
    assert np.mean([gap.split_half for gap in gaps]) < wanted < np.mean([gap.raw for gap in gaps])
    low, high = gaps[0].split_half_ci95
    assert low < gaps[0].split_half < high


def test_models_that_played_different_instances_are_split_each_for_itself():
    """Three instances a model and task, none shared: every half holds every model."""
    gap = gap_of(rows_of([[1.0, 0.0], [0.0, 1.0]], n_variations=3, is_shared=False))
    assert (gap.raw, gap.split_half, gap.n_clusters) == (0.5, 0.5, 12)


def test_a_task_that_a_model_did_not_play_is_not_given_to_it():
    rows = rows_of([[1.0, 0.0], [0.0, 1.0]], n_variations=4)
    kept = [row for row in rows if row[:1] + row[2:3] != ("task1", "model1")]
    gap = gap_of(kept)
    assert (gap.raw, gap.best_single) == (0.0, "model0")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", 0, "one", 1.0), ("a", 1, "one", 0.0)], r"1 model\(s\) played alone"),
        ([("a", 0, "one", 1.0), ("b", 0, "two", 0.0)], "two variations of a task"),
        (
            [(t, v, m, 1.0) for t, m in (("a", "one"), ("b", "two")) for v in range(4)],
            "no model played all of the 2 tasks",
        ),
    ],
)
def test_logs_that_cannot_tell(rows, message):
    with pytest.raises(InvalidConfigError, match=message):
        gap_of(rows)


# --- a log and a pool


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs") / "mixed"
    with RolloutPool(resolve_env("corridor"), n_workers=1) as pool:
        request = CollectRequest(policy="sticky:0.02", n_episodes=120, seed=0, out=folder)
        dataset = collect_dataset(pool, request, show_progress=False)
    return folder, dataset


def test_only_what_one_model_played_counts(log):
    folder, dataset = log
    rows, n_left_out = played_alone(dataset.episodes)
    assert 0 < n_left_out == sum(len(set(one.models)) > 1 for one in dataset.episodes)
    gap, left_out = gap_of_log(folder, seed=0)
    assert (gap.n_episodes, left_out) == (len(rows), n_left_out)


def test_many_tasks_can_be_taken_for_one(log):
    _, dataset = log
    rows, _ = played_alone(dataset.episodes, kind="[a-z]")
    assert {row[0] for row in rows} == {"s", "m"}
    with pytest.raises(InvalidConfigError, match="kind is 'x', which matches nothing of task"):
        played_alone(dataset.episodes, kind="x")


def test_the_single_models_of_a_pool_are_played_at_every_complementarity_and_kept(tmp_path):
    request = GapRequest(
        config=resolve_env("corridor"), complementarities=(0.0, 1.0), n_seeds=2, folder=tmp_path, n_workers=1
    )
    found = dict(gaps_of_pool(request))
    assert found[0.0].n_episodes == 3 * 2 * 24
    n_files = len(list(tmp_path.glob("*.json")))
    assert dict(gaps_of_pool(request)) == found
    assert n_files == len(list(tmp_path.glob("*.json"))) == 2 * 3 * 6


def gap_at(split_half):
    return HindsightGap(
        n_episodes=4,
        n_tasks=2,
        n_clusters=4,
        best_single="one",
        best_single_utility=0.5,
        raw=0.5,
        raw_ci95=None,
        split_half=split_half,
        split_half_ci95=None,
    )


def test_the_matching_complementarity_is_interpolated():
    gaps = {0.0: gap_at(0.0), 2.0: gap_at(0.1), 1.0: gap_at(0.02)}
    assert matching(gaps, 0.06) == pytest.approx(1.5)
    assert matching(gaps, 0.02) == pytest.approx(1.0)
    assert matching(gaps, 0.2) is None


def test_the_command_says_what_it_finds(log, capsys):
    folder, _ = log
    assert main(["hindsight-gap", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "split-half gap [95%]" in out
    assert "failed or mixed episodes left out" in out
    assert main(["hindsight-gap"]) == 1
    assert "give folders of datasets, or --env" in capsys.readouterr().err
