import math

import numpy as np
import pytest

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.statistics.mutual_information import LabelledEpisode, information_bits, mutual_information

FAST = {"n_resamples": 200, "n_shuffles": 99}


def information(episodes, shuffle="within episodes", seed=0, **rest):
    return mutual_information(episodes, shuffle=shuffle, seed=seed, **(FAST | rest))


def episode(models, labels, cluster=0):
    return LabelledEpisode(cluster=cluster, models=tuple(models), labels=tuple(labels))


def sticky(rng, n_turns, p_switch):
    models = [str(rng.integers(3))]
    while len(models) < n_turns:
        models.append(str(rng.integers(3)) if rng.random() < p_switch else models[-1])
    return models


def test_a_table_worked_by_hand():
    labels = "xxxxyyyy"
    found = information([episode("aaabbbba", labels), episode("aaabbbba", labels, cluster=1)])
    entropy = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert found.bits == pytest.approx(1 - entropy)
    assert found.bits_corrected == pytest.approx(1 - entropy - 1 / (2 * 16 * math.log(2)))
    assert (found.n_turns, found.n_labels) == (16, 2)


def test_a_deterministic_choice_has_the_entropy_of_the_label():
    labels = "x" * 4 + "y" * 2 + "z" * 2
    found = information([episode(labels, labels, cluster=i) for i in range(8)])
    assert found.bits == pytest.approx(1.5)
    assert found.p_value == pytest.approx(0.01)
    assert (found.low, found.high) == pytest.approx((1.5, found.bits_corrected))
    assert found.bits_shuffled < 1


def test_tables_are_worked_out_together_as_apart():
    tables = np.array([[[2, 0], [0, 2]], [[1, 1], [1, 1]], [[3, 1], [0, 0]]])
    np.testing.assert_allclose(information_bits(tables), [1, 0, 0])


@pytest.mark.parametrize("p_switch", [1.0, 0.2])
def test_no_dependence_is_none_after_correction_and_its_p_values_are_not_small(p_switch):
    """Also for a policy that seldom switches, which turns taken as independent would convict."""
    rng, found = np.random.default_rng(0), []
    for _ in range(40):
        episodes = [
            episode(sticky(rng, n, p_switch), [4 * turn // 20 for turn in range(n)], cluster=index)
            for index, n in enumerate(rng.integers(2, 20, size=40))
        ]
        found.append(information(episodes))
    assert np.mean([one.p_value <= 0.05 for one in found]) <= 0.1
    assert np.mean([one.low <= 0 <= one.high for one in found]) >= 0.9
    assert np.mean([one.bits for one in found]) > 0.005
    if p_switch == 1:
        assert np.mean([one.bits_corrected for one in found]) == pytest.approx(0, abs=0.002)


def test_shuffling_between_clusters_does_not_take_turns_of_one_episode_as_independent():
    """One model for a whole (task, variation), drawn without a look at the task."""
    rng, found = np.random.default_rng(1), []
    for _ in range(40):
        lengths = rng.integers(5, 15, size=12)
        episodes = [episode([str(rng.integers(2))] * n, ["xyz"[i % 3]] * n, cluster=i) for i, n in enumerate(lengths)]
        found.append(information(episodes, "between clusters"))
    assert np.mean([one.p_value <= 0.05 for one in found if one.p_value is not None]) <= 0.15
    assert np.mean([one.low <= 0 <= one.high for one in found]) >= 0.8


def test_dependence_between_episodes_does_not_count_within_them():
    """The model is that of the task throughout: label and model go together, but not turn by turn."""
    episodes = [episode("ab"[i % 2] * 6, "xy"[i % 2] * 6, cluster=i) for i in range(10)]
    within, between = information(episodes), information(episodes, "between clusters")
    assert within.bits == between.bits == pytest.approx(1)
    assert (within.p_value, within.bits_shuffled) == (None, None)
    assert between.p_value <= 0.05


def test_nothing_can_be_told_of():
    assert information([]) is None
    assert information([episode("", "")]) is None
    assert information([episode("ab", "xx")]) is None
    constant = information([episode("aaaa", "xxyy", cluster=i) for i in range(3)])
    assert (constant.bits, constant.p_value) == (0, None)
    one_variation_a_task = [episode("ab"[i] * 4, "xy"[i] * 4, cluster=i) for i in range(2)]
    assert information(one_variation_a_task, "between clusters").p_value is None
    one_cluster = information([episode("aabb", "xxyy")])
    assert (one_cluster.low, one_cluster.high) == (None, None)


def test_same_seed_same_numbers_and_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    episodes = [episode(sticky(rng, 8, 0.5), "xxyyzzww", cluster=i) for i in range(9)]
    first = information(episodes, seed=3)
    assert information(episodes, seed=3) == first
    assert information(episodes, seed=4) != first
    monkeypatch.setattr("mtrouter_rl.statistics.resamples._MAX_KEPT_CELLS", 0)
    assert information(episodes, seed=3) == first


def test_bad_input_is_refused():
    with pytest.raises(InvalidConfigError, match="episode 1 of cluster 'b' has 2 models and 1 labels"):
        information([episode("a", "x"), episode("ab", "x", cluster="b")])
    with pytest.raises(InvalidConfigError, match="must be one for all its turns"):
        information([episode("ab", "xy")], "between clusters")
