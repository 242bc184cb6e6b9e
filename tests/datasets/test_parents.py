"""Turns that say which turns they come from: kept, checked, and nothing at all where nobody says so."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtrouter_rl.datasets.columns import TURN_SCHEMA
from mtrouter_rl.datasets.store import Dataset, DatasetWriter
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.records import TracedEpisode


def with_parents(episode, *parents):
    turns = (replace(turn, parents=own) for turn, own in zip(episode.turns, parents, strict=True))
    return replace(episode, turns=tuple(turns))


def put(folder, row, value, kind=None):
    """Write the column of parents into shard 0: nulls, and one value."""
    path = folder / "turns-00000.parquet"
    table = pq.ParquetFile(path).read()
    values = [value if index == row else None for index in range(table.num_rows)]
    pq.write_table(table.append_column("parents", pa.array(values, kind or pa.list_(pa.int64()))), path)


def test_a_turn_that_does_not_say_comes_from_the_turn_before(make_episode):
    assert make_episode(1, 3).parents == ((), (0,), (1,))


def test_parents_come_back_as_they_were_written(tmp_path, info, make_episode):
    episode = with_parents(make_episode(1, 3), None, (), (0, 1))
    DatasetWriter(tmp_path / "log", info).write_shard(0, [TracedEpisode(episode=episode)])
    (read,) = Dataset.load(tmp_path / "log").episodes
    assert read == episode
    assert read.parents == ((), (), (0, 1))


def test_a_shard_without_parents_has_no_column_for_them(tmp_path, info, make_episode):
    writer = DatasetWriter(tmp_path / "log", info)
    writer.write_shard(0, [TracedEpisode(episode=make_episode(1, 3))])
    writer.write_shard(1, [TracedEpisode(episode=with_parents(make_episode(2, 3), (), (), (0,)))])
    plain, named = (pq.read_schema(tmp_path / "log" / f"turns-0000{index}.parquet") for index in range(2))
    assert plain.names == TURN_SCHEMA.names
    assert named.names == [*TURN_SCHEMA.names, "parents"]
    assert [one.turns[1].parents for one in Dataset.load(tmp_path / "log").episodes] == [None, ()]


AT = r"turns-00000\.parquet, episode 'boil-v0-s1', turn 1: parents is "
FIX = "; name earlier turns of the episode by their index"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([3], r"\[3\], 3 is no turn of the episode, whose turns are 0 to 2" + FIX),
        ([-1], r"\[-1\], -1 is no turn of the episode, whose turns are 0 to 2" + FIX),
        ([0, None], r"\[0, None\], None is no turn of the episode, whose turns are 0 to 2" + FIX),
        ([1], r"\[1\], a turn must not come from itself" + FIX),
        ([0, 2], r"\[0, 2\], 2 is a later turn; a turn comes from earlier ones" + FIX),
        ([0, 0], r"\[0, 0\], must name every turn once, the smallest first" + FIX),
    ],
)
def test_what_is_no_earlier_turn_is_refused_when_it_is_read(folder, value, message):
    put(folder, 1, value)
    with pytest.raises(DatasetError, match=AT + message):
        Dataset.load(folder)


@pytest.mark.parametrize(("value", "message"), [((7,), "7 is no turn"), ((1,), "itself"), ((2,), "2 is a later turn")])
def test_what_is_no_earlier_turn_is_not_written(tmp_path, info, make_episode, value, message):
    broken = TracedEpisode(episode=with_parents(make_episode(1, 3), None, value, None))
    with pytest.raises(DatasetError, match=AT + rf".*{message}"):
        DatasetWriter(tmp_path / "log", info).write_shard(0, [broken])


def test_a_column_of_another_type_is_refused(folder):
    put(folder, 1, "0", kind=pa.string())
    with pytest.raises(DatasetError, match=r"column 'parents' is of type string, must be one column of type list<"):
        Dataset.load(folder)
