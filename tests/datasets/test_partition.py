import dataclasses
import random
from collections import Counter

import pytest

from mtrouter_rl.datasets.info import DatasetInfo
from mtrouter_rl.datasets.leaks import check_leaks
from mtrouter_rl.datasets.partition import PartitionRequest, partition
from mtrouter_rl.datasets.rewrite import write_dataset
from mtrouter_rl.datasets.store import Dataset, load_hidden
from mtrouter_rl.errors import DatasetError, InvalidConfigError, UnknownNameError
from mtrouter_rl.records import TracedEpisode

TASKS = {"boil": 10, "melt": 5, "freeze": 7, "paint": 2}


@pytest.fixture
def log(info, make_episode):
    """24 variations with two episodes each, in four tasks; day and user as extra fields."""
    pairs = [(task, variation) for task, n in TASKS.items() for variation in range(n)]
    return [
        make_episode(
            1,
            1 + index % 3,
            episode_id=f"{task}-{variation}-{run}",
            task=task,
            variation=variation,
            task_text=f"Do {task}.",
            first_observation=f"Room {task} {variation}.",
            extra={"day": 24 * run + index, "user": f"u{index % 8}", "when": f"2025-01-{1 + index:02d}T0{run}:00:00Z"},
        )
        for run in range(2)
        for index, (task, variation) in enumerate(pairs)
    ]


@pytest.fixture
def write(info, tmp_path):
    def to(episodes, name="log", **says):
        draft = DatasetInfo.model_validate(info.model_dump() | {"origin": "imported"} | says)
        traced = [TracedEpisode(episode=one, hidden=({"id": one.episode_id},) * len(one.turns)) for one in episodes]
        write_dataset(tmp_path / name, draft, traced)
        return tmp_path / name

    return to


@pytest.fixture
def split(tmp_path):
    """Runs a split and gives its report and its datasets."""

    def run(folder, by, name="split", **options):
        report = partition(PartitionRequest(dataset=folder, by=by, out=tmp_path / name, **options))
        return report, {path.name: Dataset.load(path) for path in sorted((tmp_path / name).iterdir())}

    return run


def groups_of(parts, key):
    """Split of every value of the key; fails if a value is on two sides."""
    where = {}
    for name, part in parts.items():
        for episode in part.episodes:
            assert where.setdefault(key(episode), name) == name
    return where


def same(episode, split):
    return dataclasses.replace(episode, split=split)


def test_nothing_is_lost_and_nothing_changes_but_the_split(log, write, split, tmp_path):
    folder = write(log)
    report, parts = split(folder, "variation")
    assert sum(report.n_episodes.values()) == len(log)
    assert {name: len(part.episodes) for name, part in parts.items()} == report.n_episodes
    before = {episode.episode_id: episode for episode in log}
    for name, part in parts.items():
        assert part.info.split == name
        for episode in part.episodes:
            assert episode == same(before.pop(episode.episode_id), name)
        hidden = load_hidden(tmp_path / "split" / name)
        assert {rows[0]["id"] for rows in hidden.values()} == {episode.episode_id for episode in part.episodes}
    assert not before
    assert check_leaks(parts) == []


def test_variations_are_shared_out_within_every_task(log, write, split):
    report, parts = split(write(log), "variation")
    where = groups_of(parts, lambda episode: (episode.task, episode.variation))
    counts = {task: Counter(name for (own, _), name in where.items() if own == task) for task in TASKS}
    for task, n in TASKS.items():
        for name, share in (("train", 0.6), ("validation", 0.2), ("test", 0.2)):
            assert abs(counts[task][name] - share * n) <= 1, (task, name)
    assert Counter(where.values()) == report.n_groups == {"train": 14, "validation": 5, "test": 5}


def test_whole_tasks(log, write, split):
    report, parts = split(write(log), "task")
    assert set(groups_of(parts, lambda episode: episode.task)) == set(TASKS)
    assert report.n_groups == {"train": 2, "validation": 1, "test": 1}


def test_few_groups_leave_no_split_empty(log, write, split):
    report, _ = split(write(log), "task", holdout=("paint",))
    assert report.n_groups == {"train": 1, "validation": 1, "test": 1, "ood": 1}


def test_tasks_that_begin_alike_are_not_joined(log, write, split):
    log = [
        dataclasses.replace(one, task_text="Go.", first_observation="Same.")
        if (one.task, one.variation) in {("boil", 0), ("melt", 0)}
        else one
        for one in log
    ]
    report, _ = split(write(log), "variation", allows_leaks=True)
    assert sum(report.n_groups.values()) == sum(TASKS.values())
    assert "kept together" not in str(report)


def test_whole_values_of_a_column(log, write, split):
    # A user has seen several instances, and an instance one user alone, so nothing leaks.
    _, parts = split(write(log), "column:user", shares=(0.5, 0.25, 0.25))
    where = groups_of(parts, lambda episode: episode.extra["user"])
    assert Counter(where.values()) == {"train": 4, "validation": 2, "test": 2}


@pytest.mark.parametrize("by", ["time:day", "time:when"])
def test_time_goes_forward(log, write, split, by):
    log = [episode for episode in log if episode.episode_id.endswith("-0")]
    _, parts = split(write(log), by, shares=(0.5, 0.25, 0.25))
    days = {name: [episode.extra["day"] for episode in part.episodes] for name, part in parts.items()}
    assert days == {"train": [*range(12)], "validation": [*range(12, 18)], "test": [*range(18, 24)]}


def test_a_moment_is_not_torn_apart(log, write, split):
    log = [dataclasses.replace(one, extra={"day": one.extra["day"] // 24}) for one in log]
    _, parts = split(write(log), "time:day", shares=(0.6, 0.0, 0.4), allows_leaks=True)
    assert groups_of(parts, lambda episode: episode.extra["day"]) == {0: "train", 1: "test"}


def test_held_out_tasks(log, write, split):
    report, parts = split(write(log), "variation", holdout=("paint", "melt"))
    assert {episode.task for episode in parts["ood"].episodes} == {"paint", "melt"}
    assert report.n_groups == {"train": 10, "validation": 4, "test": 3, "ood": 7}
    assert parts["ood"].info.dataset_id == "toy-ood-v1"
    assert all("melt" not in {one.task for one in parts[name].episodes} for name in ("train", "validation", "test"))


def test_a_share_of_zero_writes_no_folder(log, write, split):
    _, parts = split(write(log), "variation", shares=(0.5, 0.0, 0.5))
    assert sorted(parts) == ["test", "train"]


@pytest.mark.parametrize("by", ["task", "variation", "column:user", "time:day"])
def test_the_order_of_the_episodes_does_not_matter(log, write, split, by):
    shuffled = random.Random(0).sample(log, len(log))
    options = {"seed": 3, "allows_leaks": True}
    _, one = split(write(log), by, "one", **options)
    _, two = split(write(shuffled, "shuffled"), by, "two", **options)
    assert groups_of(one, lambda episode: episode.episode_id) == groups_of(two, lambda episode: episode.episode_id)


def test_the_seed_decides(log, write, split):
    folder = write(log)
    tests = []
    for index, seed in enumerate((0, 0, 1)):
        _, parts = split(folder, "variation", f"run{index}", seed=seed)
        tests.append({episode.episode_id for episode in parts["test"].episodes})
    assert tests[0] == tests[1] != tests[2]


def test_variations_that_look_alike_stay_together(log, write, split):
    # Variations 0, 3 and 7 of "boil" begin alike.
    log = [
        dataclasses.replace(one, first_observation="Same.")
        if one.task == "boil" and one.variation in {0, 3, 7}
        else one
        for one in log
    ]
    for seed in range(5):
        report, parts = split(write(log, f"log{seed}"), "variation", f"split{seed}", seed=seed)
        where = groups_of(parts, lambda episode: (episode.task, episode.variation))
        assert len({where["boil", variation] for variation in (0, 3, 7)}) == 1
        assert "2 variation(s) begin with the same texts as another" in str(report)


def test_missions_from_a_template_are_not_joined(log, write, split):
    bare = [dataclasses.replace(one, first_observation="") for one in log]
    report, parts = split(write(bare), "variation")
    assert len(groups_of(parts, lambda episode: (episode.task, episode.variation))) == sum(TASKS.values())
    assert "text(s) are on both sides, which is weak evidence" in str(report)


def test_a_leaking_split_is_refused_unless_allowed(log, write, split, tmp_path):
    folder = write(log)
    message = (
        r"(?s)24 leak\(s\) between train, validation, test:.*same task and variation.*... and 4 more.*--allow-leaks"
    )
    with pytest.raises(DatasetError, match=message):
        split(folder, "time:day", shares=(0.5, 0.2, 0.3))
    assert not (tmp_path / "split").exists()
    report, parts = split(folder, "time:day", shares=(0.5, 0.2, 0.3), allows_leaks=True)
    assert "24 leak(s) between train, validation, test" in str(report)
    assert all("24 leak(s)" in part.info.assumptions[-1] for part in parts.values())


def test_what_made_it_is_recorded(log, write, split):
    _, parts = split(write(log, assumptions=("Prices of May.",)), "variation", seed=5, holdout=("melt",))
    info = parts["test"].info
    assert info.created_by == {
        "command": "split",
        "dataset": "toy-v1",
        "by": "variation",
        "shares": [0.6, 0.2, 0.2],
        "seed": 5,
        "holdout": ["melt"],
        "allows_leaks": False,
        "source": {"command": "collect", "policies": ["uniform"]},
    }
    assert info.assumptions == ("Prices of May.",)
    assert (info.dataset_id, info.n_episodes_planned) == ("toy-test-v1", len(parts["test"].episodes))


@pytest.mark.parametrize(("origin", "is_told"), [("collected", True), ("imported", False)])
def test_a_collected_log_has_splits_already(log, write, split, origin, is_told):
    report, _ = split(write(log, origin=origin), "variation")
    assert ("has splits of its own" in str(report)) == is_told


def with_extra(log, index, **extra):
    return [dataclasses.replace(one, extra={**one.extra, **extra}) if i == index else one for i, one in enumerate(log)]


@pytest.mark.parametrize(
    ("by", "options", "error", "message"),
    [
        (
            "tasks",
            {},
            UnknownNameError,
            r"unknown way to split 'tasks'; did you mean 'task'\? Valid: column:NAME, task",
        ),
        ("time", {}, InvalidConfigError, r"--by time needs a column: time:NAME; columns of this log: day, user, when"),
        ("column:", {}, InvalidConfigError, "--by column needs a column"),
        ("column:usr", {}, UnknownNameError, r"'usr'; did you mean 'user'\? Valid: day, user, when"),
        ("time:dy", {}, UnknownNameError, "did you mean 'day'"),
        (
            "time:user",
            {},
            DatasetError,
            r"column 'user' is 'u0' in episode 'boil-0-0', must be a finite number in every",
        ),
        ("task", {"shares": (0.6, 0.2, 0.1)}, InvalidConfigError, r"shares are 0\.6, 0\.2, 0\.1 \(sum 0\.9\), must be"),
        ("task", {"shares": (1.2, -0.2, 0.0)}, InvalidConfigError, "three numbers from 0 to 1"),
        ("task", {"shares": (float("nan"), 0.5, 0.5)}, InvalidConfigError, "three numbers from 0 to 1"),
        ("task", {"seed": -1}, InvalidConfigError, "seed is -1, must be >= 0"),
        ("task", {"holdout": ("bol",)}, UnknownNameError, r"unknown task to hold out 'bol'; did you mean 'boil'\?"),
        (
            "task",
            {"holdout": ("boil", "melt")},
            DatasetError,
            r"split\(s\) test would be empty: there are 2 group\(s\)",
        ),
        ("task", {"holdout": tuple(TASKS)}, DatasetError, r"split\(s\) train, validation, test would be empty"),
        ("column:user", {"holdout": ("paint",)}, DatasetError, r'group\(s\), such as "u\d", hold episodes of held-out'),
    ],
)
def test_bad_requests(log, write, split, tmp_path, by, options, error, message):
    with pytest.raises(error, match=message):
        split(write(log), by, **options)
    assert not (tmp_path / "split").exists()


@pytest.mark.parametrize(
    ("by", "extra", "message"),
    [
        ("column:user", {"user": None}, r"column 'user' has no value in 1 of 48 episodes, such as 'boil-5-0'"),
        ("time:day", {"day": 10**400}, "column 'day' is 10*0 in episode 'boil-5-0', must be a finite number"),
        ("time:day", {"day": True}, "column 'day' is True in episode 'boil-5-0'"),
        ("time:day", {"day": "2025-01-01"}, r"column 'day' is .*all with a time zone or all without"),
        ("time:when", {"when": "2025-01-01T00:00:00"}, "column 'when' is .*all with a time zone or all without"),
        ("time:when", {"when": "last May"}, "column 'when' is 'last May' in episode 'boil-5-0'"),
    ],
)
def test_bad_columns(log, write, split, by, extra, message):
    with pytest.raises(DatasetError, match=message):
        split(write(with_extra(log, 5, **extra)), by)


def test_what_lies_there_is_kept(log, write, split, tmp_path):
    folder = write(log)
    split(folder, "variation", holdout=("melt",))
    with pytest.raises(DatasetError, match="train is there already; give another --out"):
        split(folder, "variation")
    with pytest.raises(DatasetError, match="ood is there already"):  # it would leak into the new ones
        split(folder, "variation", overwrite=True)
    _, parts = split(folder, "variation", holdout=("paint",), overwrite=True)
    assert {episode.task for episode in parts["ood"].episodes} == {"paint"}
    (tmp_path / "split" / "test" / "info.json").unlink()
    with pytest.raises(DatasetError, match="test is there already"):
        split(folder, "variation", holdout=("paint",), overwrite=True)
