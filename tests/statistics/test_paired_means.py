import numpy as np
import pytest

from mtrouter_rl.errors import InvalidConfigError, ResultsError, UnknownNameError
from mtrouter_rl.statistics.cluster_bootstrap import episode_means, paired_differences
from mtrouter_rl.statistics.estimate import percentile_ends
from mtrouter_rl.statistics.paired_means import PairedMeans, Resamples
from tests.cases.evaluation_cases import REWARD
from tests.cases.frontier_cases import episodes_of, flat, resamples_of, spread


def drawn(seed, *, n_variations=12, n_seeds=2, shift=0.0):
    rng = np.random.default_rng(seed)
    keys = [
        (task, variation, s) for task in ("boil", "melt") for variation in range(n_variations) for s in range(n_seeds)
    ]
    return {key: (float(rng.normal(40 + shift, 20)), float(rng.lognormal())) for key in keys}


def test_a_variation_counts_once_however_many_seeds_it_has():
    many = {("boil", 0, seed): (10.0 * seed, 1.0) for seed in range(4)} | {("boil", 1, 0): (60.0, 3.0)}
    means = PairedMeans.of({"many": episodes_of(many), "few": flat(50, 1, n_variations=2)})
    assert means.clusters == (("boil", 0), ("boil", 1))
    assert means.scores.tolist() == pytest.approx(np.array([[15, 50], [60, 50]]))
    assert means.n_episodes == {"many": 5, "few": 2}
    resamples = Resamples.of(means, seed=0, n_resamples=100)
    assert resamples.scores(["many", "few"])[0].tolist() == pytest.approx([37.5, 50])
    assert resamples.costs_usd(["many"])[0].tolist() == pytest.approx([2.0])
    assert resamples.returns(["many"], REWARD)[0].tolist() == pytest.approx([0.375 - 0.5 * 2.0 / 2.0])


def test_differences_have_the_ends_of_the_rows_of_results():
    first, second = drawn(0), drawn(1, shift=8)
    resamples = resamples_of({"first": episodes_of(first), "second": episodes_of(second)}, seed=7, n_resamples=4000)
    found = resamples.score_difference("second", "first")
    expected = paired_differences(
        [{key: score for key, (score, _) in second.items()}],
        [{key: score for key, (score, _) in first.items()}],
        seed=7,
    ).estimate()
    assert found.value == pytest.approx(expected.value)
    assert found.ends == pytest.approx(expected.ends)
    assert (found.n_episodes, found.n_clusters) == (48, 24)
    scores = resamples.scores(["first", "second"])
    percentile = resamples.estimate(scores[:, 1] - scores[:, 0], ["first", "second"])
    assert percentile.value == found.value
    assert percentile.ends == pytest.approx(found.ends, abs=1.5)


def test_coverage_of_a_mean_difference():
    rng, n_held = np.random.default_rng(3), 0
    for trial in range(200):
        common = rng.normal(0, 20, 30)
        values = {
            name: episodes_of(
                {("boil", v, s): (true + common[v] + rng.normal(0, 8), 1.0) for v in range(30) for s in range(n_seeds)}
            )
            for name, true, n_seeds in (("better", 50.0, 1), ("worse", 45.0, 2))
        }
        resamples = resamples_of(values, seed=trial)
        estimate = resamples.score_difference("better", "worse")
        n_held += estimate.low <= 5.0 <= estimate.high
        assert estimate.half_width < 6  # pairing: the spread of 20 that both share is no part of it
    assert 180 <= n_held <= 199


def test_order_changes_nothing():
    values = {name: episodes_of(drawn(seed)) for seed, name in enumerate(("a", "b", "c"))}
    turned = {name: values[name][::-1] for name in ("c", "a", "b")}
    one, other = resamples_of(values), resamples_of(turned)
    assert one.scores(["a", "b", "c"]).tolist() == other.scores(["a", "b", "c"]).tolist()
    assert one.costs_usd(["b"]).tolist() == other.costs_usd(["b"]).tolist()


def test_one_cluster_gives_no_interval():
    resamples = resamples_of({"only": flat(50, 1, n_variations=1, n_seeds=5)})
    estimate = resamples.estimate(resamples.scores(["only"])[:, 0], ["only"])
    assert (estimate.value, estimate.low, estimate.high) == (pytest.approx(50), None, None)


def test_a_number_of_every_draw_has_percentile_ends():
    resamples = resamples_of({"only": spread(50, 1)}, n_resamples=201)
    draws = np.append(1.5, np.linspace(1, 3, 201))
    assert resamples.estimate(draws, ["only"]).ends == percentile_ends(1.5, draws[1:])


@pytest.mark.parametrize("n_others", [0, 1, 20])
def test_company_changes_no_digit(n_others):
    alone = resamples_of({name: episodes_of(drawn(seed)) for seed, name in enumerate(("a", "b"))})
    others = {f"other{i}": episodes_of(drawn(10 + i)) for i in range(n_others)}
    among = resamples_of(others | {name: episodes_of(drawn(seed)) for seed, name in enumerate(("a", "b"))})
    for draws in (Resamples.scores, Resamples.costs_usd):
        assert (draws(among, ["a", "b"]) == draws(alone, ["a", "b"])).all()
    assert among.score_difference("a", "b") == alone.score_difference("a", "b")
    assert among.return_difference("a", "b", REWARD) == alone.return_difference("a", "b", REWARD)


def test_failed_variations_are_left_out_for_all_and_counted():
    broken = episodes_of({("boil", 0, 0): (0.0, 9.0)}, status="failed")
    means = PairedMeans.of({"whole": flat(50, 1), "broken": broken + flat(40, 1)[1:]})
    assert means.left_out == (("boil", 0),)
    assert means.n_episodes == {"whole": 3, "broken": 3}
    assert means.scores.tolist() == pytest.approx(np.array([[50, 40]] * 3))


def test_a_mean_is_that_of_the_results_file_where_seeds_are_even():
    values = drawn(5)
    resamples = resamples_of({"one": episodes_of(values)})
    expected = episode_means([{key: score for key, (score, _) in values.items()}], seed=0).values
    assert resamples.scores(["one"])[0, 0] == pytest.approx(expected[0])


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        (
            {"a": flat(1, 1), "b": flat(1, 1, n_variations=3)},
            r"policy 'b': has no episode of 1 .* such as \('boil', 3\)",
        ),
        ({"a": flat(1, 1) * 2}, r"policy 'a': .*\('boil', 0, 0\) appears more than once"),
        ({"a": []}, "policy 'a': has no episode; run it, or leave it out"),
        ({"a": flat(1, 1, status="failed")}, "in none of which each completed"),
    ],
    ids=["other variations", "repeated", "none", "all failed"],
)
def test_bad_episodes(episodes, message):
    with pytest.raises(ResultsError, match=message):
        PairedMeans.of(episodes)


def test_unknown_policies_and_too_few_resamples():
    with pytest.raises(UnknownNameError, match="unknown policy 'b'"):
        resamples_of({"a": flat(1, 1)}).scores(["b"])
    with pytest.raises(InvalidConfigError, match="n_resamples is 99, must be at least 100"):
        resamples_of({"a": flat(1, 1)}, n_resamples=99)
