import dataclasses

import pytest

from mtrouter_rl.datasets.info import DatasetInfo
from mtrouter_rl.datasets.leaks import Leak, check_leaks, check_sibling_splits, find_leaks, telling_tasks
from mtrouter_rl.datasets.rewrite import write_dataset
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.records import TracedEpisode


@pytest.fixture
def make(make_episode):
    """Episode of a variation with its own texts, unless they are given."""

    def one(name, *, task="boil", variation, text=None, observation=None):
        return make_episode(
            1,
            1,
            episode_id=name,
            task=task,
            variation=variation,
            task_text=f"Boil sample {variation}." if text is None else text,
            first_observation=f"Room {variation}." if observation is None else observation,
        )

    return one


@pytest.fixture
def dataset(info):
    def of(*episodes, origin="imported"):
        return Dataset(info=DatasetInfo.model_validate(info.model_dump() | {"origin": origin}), episodes=episodes)

    return of


def told(leaks):
    return [(leak.kind, leak.train, leak.other, leak.is_certain) for leak in leaks]


def test_nothing_is_shared(dataset, make):
    # Same template, same number of another task, same text under another observation: no leak.
    train = dataset(make("a", variation=1), make("b", variation=2), make("c", variation=5, text="Go.", observation="X"))
    other = dataset(
        make("d", variation=3),
        make("e", task="melt", variation=1, text="Melt sample 1."),
        make("f", variation=6, text="Go.", observation="Y"),
    )
    assert find_leaks(train, other) == []


@pytest.mark.parametrize(
    ("train", "other", "expected"),
    [
        (
            {"name": "a", "variation": 1},
            {"name": "a", "variation": 2},
            [("episode id", ("a",), ("a",), True)],
        ),
        (
            {"name": "a", "variation": 1},
            {"name": "b", "variation": 1, "text": "Other words."},
            [("task and variation", ("a",), ("b",), True)],
        ),
        (  # the same instance is told once, not again for its texts
            {"name": "a", "variation": 1},
            {"name": "b", "variation": 1},
            [("task and variation", ("a",), ("b",), True)],
        ),
        (
            {"name": "a", "variation": 1, "text": "Boil  it.\n", "observation": "A\troom."},
            {"name": "b", "variation": 2, "text": " Boil it.", "observation": "A room."},
            [("task text and first observation", ("a",), ("b",), True)],
        ),
        (  # across tasks as well
            {"name": "a", "variation": 1, "text": "Go.", "observation": "A room."},
            {"name": "b", "task": "melt", "variation": 1, "text": "Go.", "observation": "A room."},
            [("task text and first observation", ("a",), ("b",), True)],
        ),
    ],
)
def test_every_kind(dataset, make, train, other, expected):
    assert told(find_leaks(dataset(make(**train)), dataset(make(**other)))) == expected


def test_a_variation_that_leaks_through_its_text_is_told_beside_a_shared_one(dataset, make):
    same = {"text": "Go.", "observation": "Room."}
    leaks = find_leaks(
        dataset(make("a", variation=1, **same)),
        dataset(make("b", variation=1, **same), make("c", variation=2, **same)),
    )
    assert told(leaks) == [
        ("task and variation", ("a",), ("b",), True),
        ("task text and first observation", ("a",), ("b", "c"), True),
    ]


@pytest.mark.parametrize(
    ("train", "other", "is_certain"),
    [("collected", "collected", False), ("collected", "imported", True), ("imported", "collected", True)],
)
def test_the_environment_vouches_for_variations_of_collected_logs(dataset, make, train, other, is_certain):
    same = {"text": "Find the oldest animal.", "observation": "A hallway."}
    leaks = find_leaks(
        dataset(make("a", variation=39, **same), origin=train), dataset(make("b", variation=46, **same), origin=other)
    )
    assert told(leaks) == [("task text and first observation", ("a",), ("b",), is_certain)]


@pytest.mark.parametrize(
    ("texts", "is_certain"),
    [
        (("Win.", "Win.", "Win.", "Win."), False),  # every text of the task is equal
        (("Go to the red ball.", "Go to the key.", "Go to the red ball.", "Go to the key."), False),  # two for four
        (("What is 1+1?", "What is 2+2?", "What is 1+1?", "What is 3+3?"), True),  # three for four
    ],
)
def test_text_alone_is_evidence_only_where_it_tells_variations_apart(dataset, make, texts, is_certain):
    one, two, three, four = (make(f"e{i}", variation=i, text=text, observation="") for i, text in enumerate(texts))
    leaks = find_leaks(dataset(one, two), dataset(three, four))
    assert leaks
    assert {(leak.kind, leak.is_certain) for leak in leaks} == {("task text", is_certain)}
    assert telling_tasks((one, two, three, four)) == ({"boil"} if is_certain else set())


def test_a_single_variation_tells_nothing_apart(dataset, make):
    train = make("a", variation=1, text="Win.", observation="")
    other = make("b", task="melt", variation=1, text="Win.", observation="")
    assert told(find_leaks(dataset(train), dataset(other))) == [("task text", ("a",), ("b",), False)]


def test_no_text_at_all_is_no_evidence(dataset, make):
    train, other = (dataset(make(str(i), variation=i, text=" ", observation="")) for i in range(2))
    assert find_leaks(train, other) == []


def test_failed_episodes_count(dataset, make):
    failed = dataclasses.replace(make("b", variation=1), status="failed", status_detail="503")
    assert len(find_leaks(dataset(make("a", variation=1)), dataset(failed))) == 1


def test_check_names_the_first_twenty_and_counts_the_rest(dataset, make):
    train = dataset(*(make(f"a{i}", variation=i) for i in range(25)))
    test = dataset(*(make(f"b{i}", variation=i) for i in range(25)))
    apart = dataset(make("c", variation=99))
    with pytest.raises(DatasetError) as caught:
        check_leaks({"train": train, "validation": apart, "test": test})
    lines = str(caught.value).splitlines()
    assert lines[0] == "25 leak(s) between train, validation, test:"
    assert lines[1] == (
        "  train and test: same task and variation, task 'boil', variation 0: 1 and 1 episode(s), such as 'a0' and 'b0'"
    )
    assert lines[21] == "  ... and 5 more"
    assert "split the log by variation or by task" in lines[22]


def test_check_looks_at_every_pair(dataset, make):
    parts = {"train": dataset(make("a", variation=1)), "validation": dataset(make("b", variation=2))}
    assert check_leaks(parts) == []
    with pytest.raises(DatasetError, match=r"1 leak.*\n  validation and test: same task and variation"):
        check_leaks(parts | {"test": dataset(make("c", variation=2))})


def test_check_gives_warnings_back(dataset, make):
    train, test = (
        dataset(*(make(f"{side}{i}", variation=10 * i + side, text="Win.", observation="") for i in range(2)))
        for side in (0, 1)
    )
    expected = Leak(kind="task text", value="'Win.'", train=("00", "01"), other=("10", "11"), is_certain=False)
    assert check_leaks({"train": train, "test": test}) == [expected]


def test_siblings(info, make, tmp_path):
    def write(split, *episodes):
        here = DatasetInfo.model_validate(info.model_dump() | {"split": split, "origin": "imported"})
        traced = [TracedEpisode(episode=dataclasses.replace(one, split=split)) for one in episodes]
        write_dataset(tmp_path / split, here, traced)

    def check(folder):
        return check_sibling_splits(folder, Dataset.load(folder))

    write("train", make("a", variation=1))
    assert check(tmp_path / "train") == []
    write("validation", make("b", variation=2))
    assert check(tmp_path / "train") == []
    write("test", make("c", variation=1))
    with pytest.raises(DatasetError, match="train and test: same task and variation"):
        check(tmp_path / "train")
    assert check(tmp_path / "validation") == []
    (tmp_path / "train").rename(tmp_path / "mine")
    assert check(tmp_path / "mine") == []
