import pytest

from mtrouter_rl.datasets.info import read_info
from mtrouter_rl.datasets.subsets import nested_draw, write_subsets
from mtrouter_rl.errors import DatasetError, InvalidConfigError

NAMES = [f"episode-{number}" for number in range(40)]


def test_draws_are_nested_whatever_is_asked_for_and_depend_on_the_seed_alone():
    drawn = nested_draw(NAMES, [50, 10, 25], seed=3)
    assert {percent: len(names) for percent, names in drawn.items()} == {50: 20, 10: 4, 25: 10}
    assert drawn[10] < drawn[25] < drawn[50] < set(NAMES)
    assert nested_draw(NAMES[::-1], [25], seed=3)[25] == drawn[25]
    assert nested_draw(NAMES, [25], seed=4)[25] != drawn[25]


@pytest.mark.parametrize(
    ("percents", "message"),
    [
        ([100], r"percents of the log are \[100\], must be whole numbers from 1 to 99"),
        ([5, 5], r"percents of the log are \[5, 5\], must be .* each once"),
        ([1], r"40 completed episodes, of which 1% are 0; every share must hold at least one"),
        ([50, 51], r"50% are 20, 51% are 20; every share must hold at least one episode and another number"),
        ([99], r"99% are 40; every share"),
    ],
)
def test_shares_that_are_none_are_refused(percents, message):
    with pytest.raises(InvalidConfigError, match=message):
        nested_draw(NAMES, percents, seed=0)


def test_subsets_say_where_they_come_from_and_are_not_written_twice(corridor_log, tmp_path):
    folder = write_subsets(corridor_log, tmp_path, [10], seed=1)[10]
    info, whole = read_info(folder), read_info(corridor_log)
    assert info.n_episodes_planned == 15
    assert info.dataset_id == "corridor-uniform-10percent-s1-v1"
    assert (info.created_by["dataset_fingerprint"], info.created_by["percent"]) == (whole.fingerprint, 10)
    assert (info.split, info.models, info.max_turns) == (whole.split, whole.models, whole.max_turns)
    written = (folder / "episodes-00000.parquet").stat().st_mtime_ns
    assert write_subsets(corridor_log, tmp_path, [10], seed=1) == {10: folder}
    assert (folder / "episodes-00000.parquet").stat().st_mtime_ns == written
    with pytest.raises(DatasetError, match=r"holds dataset 'corridor-uniform-10percent-s1-v1', must be .*-s2-v1'"):
        write_subsets(corridor_log, tmp_path, [10], seed=2)
