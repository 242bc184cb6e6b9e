"""Episodes whose scores and costs are given by hand, for the tests of frontiers and claims."""

from mtrouter_rl.statistics.paired_means import PairedMeans, Resamples
from tests.cases.evaluation_cases import make_episode, make_turn


def episodes_of(values, *, split="test", model="tiny", status="completed"):
    """One episode of one turn for every (task, variation, seed) -> (score, cost) of `values`."""
    return [
        make_episode(
            [make_turn(model, cost_usd=cost, gain=score / 100, end="both")],
            task=task,
            variation=variation,
            seed=seed,
            split=split,
            status=status,
        )
        for (task, variation, seed), (score, cost) in values.items()
    ]


def flat(score, cost, *, n_variations=4, n_seeds=1, **rest):
    """A policy with the same score and cost everywhere: its means have no spread."""
    keys = [("boil", variation, seed) for variation in range(n_variations) for seed in range(n_seeds)]
    return episodes_of(dict.fromkeys(keys, (score, cost)), **rest)


def spread(score, cost, *, shifts=(-10.0, -5.0, 5.0, 10.0), n_seeds=1, **rest):
    """The same with a score that is shifted from variation to variation, alike for every policy of equal shifts."""
    values = {
        ("boil", variation, seed): (score + shift, cost)
        for variation, shift in enumerate(shifts)
        for seed in range(n_seeds)
    }
    return episodes_of(values, **rest)


def resamples_of(episodes, *, seed=0, n_resamples=400):
    return Resamples.of(PairedMeans.of(episodes), seed=seed, n_resamples=n_resamples)
