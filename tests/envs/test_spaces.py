import copy
import pickle

import pytest
from gymnasium import spaces

from mtrouter_rl.envs.spaces import Unicode


@pytest.mark.parametrize("text", ["", "open door", "漢字 🙂 λ→\n\t\x00", "a" * 50])
def test_contains_any_text(text):
    assert Unicode(max_length=50).contains(text)
    assert text in Unicode(max_length=50)


@pytest.mark.parametrize("value", ["a" * 51, b"bytes", 3, None, ["a"]])
def test_contains_nothing_else(value):
    assert not Unicode(max_length=50).contains(value)


def test_samples_belong_to_the_space():
    space = Unicode(max_length=5, seed=0)
    samples = [space.sample() for _ in range(200)]
    assert all(space.contains(sample) for sample in samples)
    assert len(set(samples)) > 20
    assert max(map(len, samples)) == 5


def test_seeding():
    first, second, third = Unicode(seed=1), Unicode(seed=1), Unicode(seed=2)
    drawn = [[space.sample() for _ in range(20)] for space in (first, second, third)]
    assert drawn[0] == drawn[1] != drawn[2]
    first.seed(7)
    again = [first.sample() for _ in range(20)]
    first.seed(7)
    assert [first.sample() for _ in range(20)] == again


def test_equality():
    assert Unicode(max_length=5, seed=1) == Unicode(max_length=5, seed=2)
    assert hash(Unicode(max_length=5)) == hash(Unicode(max_length=5))
    assert Unicode(max_length=5) != Unicode(max_length=6)
    assert Unicode(max_length=5) != spaces.Text(5)
    assert repr(Unicode(max_length=5)) == "Unicode(max_length=5)"


def test_copies_and_pickles():
    space = Unicode(max_length=5, seed=3)
    assert copy.deepcopy(space) == space
    assert pickle.loads(pickle.dumps(space)) == space


def test_in_a_dictionary_space():
    space = spaces.Dict({"text": Unicode(), "n": spaces.Discrete(3)})
    space.seed(0)
    assert space.contains(space.sample())
    assert not space.is_np_flattenable


def test_max_length_is_checked():
    with pytest.raises(ValueError, match="max_length is 0, must be at least 1"):
        Unicode(max_length=0)
