import numpy as np
import pytest

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.statistics import resamples
from mtrouter_rl.statistics.resamples import (
    all_counts,
    check_resamples,
    cluster_numbers,
    enough_resamples,
    resample_counts,
)


def test_clusters_are_numbered_by_their_order_and_not_by_that_of_the_episodes():
    clusters = [("melt", 1), ("boil", 10), ("melt", 1), ("boil", 9)]
    assert cluster_numbers(clusters).tolist() == [2, 1, 2, 0]
    assert cluster_numbers(clusters[::-1]).tolist() == [0, 2, 1, 2]
    assert cluster_numbers(range(3)).tolist() == [0, 1, 2]


def test_counts_hang_on_seed_and_number_of_clusters_alone():
    counts = all_counts(7, seed=3, n_resamples=450)
    assert counts.shape == (450, 7)
    assert (counts.sum(axis=1) == 7).all()
    assert (counts == all_counts(7, seed=3, n_resamples=450)).all()
    assert (counts != all_counts(7, seed=4, n_resamples=450)).any()
    assert (counts[:, :6] != all_counts(6, seed=3, n_resamples=450)).any()


def test_fewer_resamples_are_the_first_of_more():
    assert (all_counts(5, seed=0, n_resamples=130) == all_counts(5, seed=0, n_resamples=1000)[:130]).all()


def test_kept_counts_are_those_that_are_drawn_again(monkeypatch):
    kept = all_counts(9, seed=1, n_resamples=300)
    monkeypatch.setattr(resamples, "_MAX_KEPT_CELLS", 0)
    assert (all_counts(9, seed=1, n_resamples=300) == kept).all()


@pytest.mark.parametrize("cells", [1, 90, 10_000])
def test_blocks_change_no_draw(monkeypatch, cells):
    whole = all_counts(9, seed=1, n_resamples=300)
    monkeypatch.setattr(resamples, "_MAX_KEPT_CELLS", 0)
    monkeypatch.setattr(resamples, "_MAX_BLOCK_CELLS", cells)
    assert (all_counts(9, seed=1, n_resamples=300) == whole).all()


def test_kept_counts_cannot_be_written_to():
    block = next(resample_counts(4, seed=0, n_resamples=100))
    with pytest.raises(ValueError, match="read-only"):
        block[0, 0] = 5.0


def test_every_cluster_is_drawn_once_on_average():
    assert all_counts(6, seed=0).mean(axis=0) == pytest.approx(np.ones(6), abs=0.05)


def test_too_few_resamples():
    check_resamples(100)
    with pytest.raises(InvalidConfigError, match="n_resamples is 99, must be at least 100"):
        check_resamples(99)


@pytest.mark.parametrize("n_comparisons", [0, 1, 99, 100, 101, 276, 2500])
def test_holms_correction_can_find_something_however_many_comparisons_there_are(n_comparisons):
    n_resamples = enough_resamples(n_comparisons)
    assert n_comparisons * 2 / (n_resamples + 1) < 0.05
    assert n_resamples % 4000 == 0
    assert (n_resamples == 4000) == (n_comparisons <= 100)
