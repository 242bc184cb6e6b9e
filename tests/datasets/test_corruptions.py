"""Whatever is done to a written dataset is either harmless or a DatasetError when it is loaded."""

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mtrouter_rl.datasets import columns
from mtrouter_rl.datasets.rewrite import write_dataset
from mtrouter_rl.datasets.store import Dataset, load_hidden
from mtrouter_rl.datasets.validation import ShardFiles
from mtrouter_rl.errors import DatasetError
from tests.datasets.strategies import datasets

FILES = ShardFiles.of(0)
repeatable = settings(derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
positions = st.floats(0, 1, exclude_max=True)


def is_refused_or_equal(folder, before):
    try:
        return (Dataset.load(folder), load_hidden(folder)) == before
    except DatasetError:
        return True


def written(dataset, folder):
    write_dataset(folder, *dataset, keeps_info=True)
    return folder


def changed(path, change):
    """Rewrite a Parquet file; `change` is a function of its columns as lists."""
    table = pq.read_table(path)
    values = table.to_pydict()
    change(values)
    fields = [table.schema.field(name).with_nullable(True) for name in values]
    schema = pa.schema(fields, metadata=table.schema.metadata)
    pq.write_table(pa.table(values, schema=schema), path)


@settings(repeatable, max_examples=60)
@given(
    dataset=datasets(), kind=st.sampled_from(["episodes", "turns", "hidden"]), where=positions, bit=st.integers(0, 7)
)
def test_flipped_bit_is_noticed_or_harmless(dataset, kind, where, bit):
    with tempfile.TemporaryDirectory() as temporary:
        folder = written(dataset, Path(temporary) / "log")
        before = Dataset.load(folder), load_hidden(folder)
        path = folder / getattr(FILES, kind)
        data = bytearray(path.read_bytes())
        data[int(where * len(data))] ^= 1 << bit
        path.write_bytes(data)
        assert is_refused_or_equal(folder, before)


@settings(repeatable, max_examples=15)
@given(dataset=datasets(), kind=st.sampled_from(["episodes", "turns"]), where=positions)
def test_cut_file_is_noticed(dataset, kind, where):
    with tempfile.TemporaryDirectory() as temporary:
        folder = written(dataset, Path(temporary) / "log")
        path = folder / getattr(FILES, kind)
        data = path.read_bytes()
        path.write_bytes(data[: int(where * len(data))])
        with pytest.raises(DatasetError, match=r"not a readable Parquet file"):
            Dataset.load(folder)


COLUMNS = [("episodes", name) for name in columns.EPISODE_SCHEMA.names] + [
    ("turns", name) for name in columns.TURN_SCHEMA.names
]


@settings(repeatable, max_examples=40)
@given(dataset=datasets(), column=st.sampled_from(COLUMNS))
def test_dropped_column_is_noticed(dataset, column):
    kind, name = column
    with tempfile.TemporaryDirectory() as temporary:
        folder = written(dataset, Path(temporary) / "log")
        changed(folder / getattr(FILES, kind), lambda values: values.pop(name))
        with pytest.raises(DatasetError, match=f"column '{name}' is missing"):
            Dataset.load(folder)


def put(name, value):
    return lambda values, row: values[name].__setitem__(row, value)


def grow(name):
    def change(values, row):
        values[name][row] = values[name][row] * 1.001 + 1e-6

    return change


def forbid_chosen(values, row):
    values["action_mask"][row] = [False] * len(values["action_mask"][row])


def lengthen_mask(values, row):
    values["warm"][row] = [*values["warm"][row], True]


def drop_row(values, row):
    for column in values.values():
        del column[row]


def repeat_row(values, row):
    for column in values.values():
        column.insert(row, column[row])


TURN_CHANGES = {
    "propensity above 1": (put("propensity", 2.0), "propensity is 2.0"),
    "propensity 0": (put("propensity", 0.0), "propensity is 0.0"),
    "propensity NaN": (put("propensity", float("nan")), "propensity is nan"),
    "cost": (grow("cost_usd"), "cost_usd is"),
    "cost NaN": (put("cost_usd", float("nan")), "cost_usd is nan"),
    "tokens": (put("n_output", -1), "n_output is -1"),
    "turn index": (put("turn", 7), "turn is 7"),
    "unknown model": (put("model", "no such model"), "must be a model of info.json"),
    "unknown served model": (put("served_model", "no such model"), "must be a model of info.json"),
    "mask without the chosen model": (forbid_chosen, "must allow the chosen model"),
    "length of warm": (lengthen_mask, "must have one entry per model"),
    "utility": (put("utility_gain", 3.0), "cumulative utility_gain"),
    "utility infinite": (put("utility_gain", float("inf")), "utility_gain is inf"),
    "latency": (put("latency_s", -1.0), "latency_s is -1.0"),
    "another episode": (put("episode_id", "no such episode"), "must be an episode of"),
    "lost row": (drop_row, "number of rows"),
    "repeated row": (repeat_row, "number of rows"),
} | {
    f"null {name}": (put(name, None), f"{name} is null")
    for name in columns.TURN_SCHEMA.names
    if name not in columns.NULLABLE_COLUMNS
}
EPISODE_CHANGES = {
    "empty id": (put("episode_id", ""), "episode_id is ''"),
    "variation": (put("variation", -1), "variation is -1"),
    "seed": (put("seed", -1), "seed is -1"),
    "split": (put("split", "other"), "split is 'other'"),
    "budget": (put("budget_usd", 0.0), "budget_usd is 0.0"),
    "budget infinite": (put("budget_usd", float("inf")), "budget_usd is inf"),
    "turn limit": (put("max_turns", 0), "max_turns is 0"),
    "status": (put("status", "fine"), "status is 'fine'"),
    "usage source": (put("usage_source", "guessed"), "usage_source is 'guessed'"),
    "extra that is no JSON": (put("extra", "{"), "not JSON"),
    "extra that is no object": (put("extra", "[]"), "must be a mapping"),
    "lost row": (drop_row, "must be an episode of"),
    "repeated row": (repeat_row, "must be unique"),
} | {f"null {name}": (put(name, None), f"{name} is null") for name in columns.EPISODE_SCHEMA.names}


def check_changed(dataset, kind, case, where):
    change, message = case
    with tempfile.TemporaryDirectory() as temporary:
        folder = written(dataset, Path(temporary) / "log")
        path = folder / getattr(FILES, kind)
        n_rows = pq.read_metadata(path).num_rows
        changed(path, lambda values: change(values, int(where * n_rows)))
        with pytest.raises(DatasetError) as raised:
            Dataset.load(folder)
        assert message in str(raised.value)


@pytest.mark.parametrize("name", TURN_CHANGES)
@settings(repeatable, max_examples=2)
@given(dataset=datasets(min_turns=1), where=positions)
def test_turn_that_breaks_a_rule_is_noticed(name, dataset, where):
    check_changed(dataset, "turns", TURN_CHANGES[name], where)


@pytest.mark.parametrize("name", EPISODE_CHANGES)
@settings(repeatable, max_examples=2)
@given(dataset=datasets(min_turns=1), where=positions)
def test_episode_that_breaks_a_rule_is_noticed(name, dataset, where):
    check_changed(dataset, "episodes", EPISODE_CHANGES[name], where)


@pytest.mark.parametrize("name", ["propensity", "latency_s"])
@settings(repeatable, max_examples=4)
@given(dataset=datasets(min_turns=1).filter(lambda dataset: dataset[0].origin == "collected"), where=positions)
def test_unknown_value_of_a_collected_log_is_noticed(name, dataset, where):
    check_changed(dataset, "turns", (put(name, None), f"{name} is None"), where)


@settings(repeatable, max_examples=20)
@given(dataset=datasets(min_turns=1), where=positions)
def test_end_in_the_wrong_place_is_noticed(dataset, where):
    turns = [
        (trace.episode.status == "completed", index + 1 == len(trace.episode.turns))
        for trace in dataset[1]
        for index in range(len(trace.episode.turns))
    ]
    # A failed episode may stop anywhere, so its last turn cannot be wrong.
    rows = [row for row, (is_completed, is_last) in enumerate(turns) if is_completed or not is_last]
    assume(rows)
    row = rows[int(where * len(rows))]

    def flip(values, _):
        for name in ("terminated", "truncated"):
            values[name][row] = not turns[row][1]

    check_changed(dataset, "turns", (flip, "(terminated, truncated)"), where)


def flip(path, position, bit):
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["episodes", "turns", "hidden"])
def test_any_flipped_bit_of_the_footer_is_noticed_or_harmless(kind, folder):
    # Page checksums do not cover the footer: names, numbers of rows, metadata.
    before = Dataset.load(folder), load_hidden(folder)
    path = folder / getattr(FILES, kind)
    end = path.stat().st_size
    start = end - 8 - int.from_bytes(path.read_bytes()[-8:-4], "little")
    for step, position in enumerate(range(start, end, 31)):
        flip(path, position, step % 8)
        assert is_refused_or_equal(folder, before), (position, step % 8)
        flip(path, position, step % 8)


def footer_position(path, text, offset=0):
    return path.read_bytes().rindex(text) + offset


def test_column_name_that_is_no_text_is_noticed(folder):
    path = folder / FILES.turns
    flip(path, path.read_bytes().index(b"served_model"), 7)  # the schema comes first in the footer
    with pytest.raises(DatasetError, match=r"turns-00000.parquet is not a readable Parquet file: 'utf-8' codec"):
        Dataset.load(folder)


def test_number_of_turns_that_is_no_text_is_noticed(folder):
    path = folder / FILES.episodes
    # The key is followed by the tag and the length of the value.
    flip(path, footer_position(path, columns.N_TURNS_KEY, len(columns.N_TURNS_KEY) + 2), 7)
    with pytest.raises(DatasetError, match=r"number of rows is 9, must be .*, as episodes-00000.parquet says"):
        Dataset.load(folder)


def test_fewer_rows_in_a_group_than_in_the_file_are_noticed(folder):
    path = folder / FILES.hidden
    n_rows = pq.read_metadata(path).num_rows
    # The last field of a row group before its offsets is its number of rows, a doubled number (zigzag).
    position = footer_position(path, b"\x16" + bytes([2 * n_rows]) + b"\x26", 1)
    flip(path, position, 1)
    with pytest.raises(DatasetError, match=rf"hidden-00000.parquet has \d+ rows, must have {n_rows}, as its footer"):
        load_hidden(folder)
