"""One row per rule: what is done to a valid dataset, and what the error must say."""

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtrouter_rl.datasets.columns import EPISODE_SCHEMA, HIDDEN_SCHEMA, TURN_SCHEMA
from mtrouter_rl.datasets.store import Dataset, load_hidden
from mtrouter_rl.errors import DatasetError

SCHEMAS = {"episodes": EPISODE_SCHEMA, "turns": TURN_SCHEMA, "hidden": HIDDEN_SCHEMA}


def rewrite(folder, kind, change):
    """Read shard 0's rows of one kind as dictionaries, change the list in place, and write it back."""
    path = folder / f"{kind}-00000.parquet"
    table = pq.ParquetFile(path).read()
    rows = table.to_pylist()
    change(rows)
    nullable = pa.schema([pa.field(field.name, field.type) for field in SCHEMAS[kind]], metadata=table.schema.metadata)
    pq.write_table(pa.Table.from_pylist(rows, schema=nullable), path)


def put(row, **values):
    return lambda rows: rows[row].update(values)


def drop(row):
    return lambda rows: rows.pop(row)


AT = r"turns-00000\.parquet, episode 'boil-v0-s1', turn 1: "
OF = r"episodes-00000\.parquet, episode 'boil-v0-s1': "
VALUE_RULES = [
    (
        "turns",
        put(1, model="strongg"),
        AT + r"model is 'strongg', must be a model of info\.json.*did you mean 'strong'",
    ),
    ("turns", put(1, served_model="gpt"), AT + r"served_model is 'gpt', must be a model.*Valid: cheap, strong"),
    ("turns", put(1, propensity=0.0), AT + r"propensity is 0\.0, must be in \(0, 1\]; log the behaviour policy's prob"),
    ("turns", put(1, propensity=1.0001), AT + r"propensity is 1\.0001, must be in"),
    ("turns", put(1, propensity=math.nan), AT + r"propensity is nan, must be in"),
    (
        "turns",
        put(1, propensity=None),
        AT + r"propensity is None, must be in \(0, 1\].*where nobody knows it, info\.json",
    ),
    ("turns", put(1, latency_s=None), AT + r"latency_s is None, must be finite and >= 0; log the duration"),
    ("turns", put(1, cost_usd=None), AT + r"cost_usd is null \(first of 1 rows\), must have a value"),
    ("turns", put(1, n_output=None), AT + r"n_output is null \(first of 1 rows\), must have a value"),
    ("turns", put(1, model=None), AT + r"model is null"),
    ("turns", put(1, action_mask=[True, None]), AT + r"action_mask is null"),
    ("turns", put(1, warm=None), AT + r"warm is null"),
    ("turns", put(1, cost_usd=0.0), AT + r"cost_usd is 0\.0, must be .*tokens times the prices of 'strong' in info"),
    ("turns", put(1, cost_usd=math.nan), AT + r"cost_usd is nan"),
    ("turns", put(1, cost_usd=0.0003142001), AT + r"cost_usd is 0\.0003142001, must be 0\.00032"),
    ("turns", put(1, n_fresh=-1), AT + r"n_fresh is -1, must be >= 0; log the tokens"),
    ("turns", put(1, n_cached=-1), AT + r"n_cached is -1, must be >= 0"),
    ("turns", put(1, n_written=-1), AT + r"n_written is -1, must be >= 0"),
    ("turns", put(1, n_output=-1), AT + r"n_output is -1, must be >= 0"),
    ("turns", put(1, turn=2), r"turn 2: turn is 2, must be 1: the turns of an episode are 0\.\.T-1, in order"),
    ("turns", drop(0), r"episode 'boil-v0-s1', turn 1: turn is 1, must be 0"),
    ("turns", put(1, terminated=True), AT + r"\(terminated, truncated\) is \(True, False\), .*before the last turn, 2"),
    ("turns", put(1, truncated=True), AT + r"\(terminated, truncated\) is \(False, True\), must be \(False, False\)"),
    ("turns", put(2, terminated=False), r"s1', turn 2: .* is \(False, False\), must have one of them True on the last"),
    ("turns", put(1, action_mask=[True, False]), AT + r"action_mask is \(True, False\), must allow the chosen model"),
    ("turns", put(1, action_mask=[True]), AT + r"action_mask is \(True,\), must have one entry per model"),
    ("turns", put(1, warm=[True, True, True]), AT + r"warm is \(True, True, True\), must have one entry per model"),
    ("turns", put(1, utility_gain=math.inf), AT + r"utility_gain is inf, must be finite"),
    ("turns", put(1, utility_gain=1.2), AT + r"cumulative utility_gain is 1\.\d+, must be in \[-1, 1\]"),
    ("turns", put(1, utility_gain=-1.0), AT + r"cumulative utility_gain is -1\.1, must be in \[-1, 1\]"),
    ("turns", put(1, latency_s=-0.1), AT + r"latency_s is -0\.1, must be finite and >= 0"),
    ("turns", put(1, latency_s=math.inf), AT + r"latency_s is inf, must be finite"),
    ("turns", put(1, episode_id="x"), r"episode 'x', turn 1: episode_id is 'x', must be an episode of episodes-00000"),
    ("turns", lambda rows: rows.clear(), r"number of rows is 0, must be 9, as episodes-00000\.parquet says"),
    ("episodes", put(0, max_turns=2), OF + r"number of turns is 3, must be <= max_turns, 2"),
    ("episodes", put(0, max_turns=0), OF + r"max_turns is 0, must be > 0"),
    ("episodes", put(0, budget_usd=0.0001), OF + r"total cost_usd is 0\.\d+, must be <= budget_usd, 0\.0001"),
    ("episodes", put(0, budget_usd=math.nan), OF + r"budget_usd is nan, must be finite"),
    ("episodes", put(0, variation=-1), OF + r"variation is -1, must be >= 0"),
    ("episodes", put(0, seed=-1), OF + r"seed is -1, must be >= 0"),
    ("episodes", put(0, status="broken"), OF + r"status is 'broken', must be one of completed, failed"),
    ("episodes", put(0, status="failed"), OF + r"status_detail is '', must say why a failed episode failed"),
    ("episodes", put(0, split="test"), OF + r"split is 'test', must be the split of info\.json"),
    ("episodes", put(0, episode_id=""), r"episode '': episode_id is '', must not be empty"),
    (
        "episodes",
        put(3, episode_id="boil-v0-s2"),
        r"'boil-v0-s2': episode_id is used before in episodes-00000\.parquet",
    ),
    ("episodes", put(3, episode_id="boil-v0-s6"), r"episodes-00001\.parquet, .*used before in episodes-00000\.parquet"),
    ("episodes", put(0, task=None), OF + r"task is null"),
    (
        "episodes",
        put(0, usage_source="guessed"),
        OF + r"usage_source is 'guessed', must be one of logged, reconstructed",
    ),
    ("episodes", put(0, usage_source=None), OF + r"usage_source is null"),
    (
        "episodes",
        put(0, usage_source="cost_only"),
        OF + r"usage_source is 'cost_only', must not be .* where a turn has tokens",
    ),
    (
        "episodes",
        put(0, extra="[1]"),
        OF + r"extra is \[1\], must be a mapping of names to JSON values, NaN and .*; write a JSON",
    ),
    (
        "episodes",
        put(0, extra='{"x": NaN}'),
        OF + r"extra is \{'x': nan\}, must be a mapping of names to JSON values, NaN",
    ),
    ("episodes", put(0, behavior_policy=""), OF + r"behavior_policy is '', must not be empty"),
    ("episodes", put(0, extra="{"), r"episode 'boil-v0-s1': column 'extra' holds text that is not JSON"),
    ("episodes", put(0, extra=None), OF + r"extra is null"),
    ("episodes", put(0, episode_id=None), r"episode '\(null\)': episode_id is null"),
]


@pytest.mark.parametrize(("kind", "change", "message"), VALUE_RULES)
def test_every_rule_says_where_what_and_why(folder, kind, change, message):
    rewrite(folder, kind, change)
    with pytest.raises(DatasetError, match=message):
        Dataset.load(folder)


def say(folder, **changes):
    path = folder / "info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"origin": "imported"}, "propensity", AT + r"propensity is None"),
        ({"origin": "imported", "propensities": "estimated"}, "propensity", AT + r"propensity is None"),
        ({"propensities": "unknown"}, "latency_s", AT + r"latency_s is None"),
    ],
)
def test_a_null_needs_its_own_permission(folder, changes, field, message):
    say(folder, **changes)
    rewrite(folder, "turns", put(1, **{field: None}))
    with pytest.raises(DatasetError, match=message):
        Dataset.load(folder)


def test_an_imported_log_may_lack_propensities_and_latencies(folder):
    say(folder, origin="imported", propensities="unknown")
    rewrite(folder, "turns", put(1, propensity=None, latency_s=None))
    turn = Dataset.load(folder).episodes[0].turns[1]
    assert (turn.propensity, turn.latency_s) == (None, None)


@pytest.mark.parametrize("value", [0.0, 1.5, math.nan])
def test_a_known_propensity_of_an_imported_log_keeps_its_rule(folder, value):
    say(folder, origin="imported", propensities="unknown")
    rewrite(folder, "turns", put(1, propensity=value))
    with pytest.raises(DatasetError, match=AT + "propensity is"):
        Dataset.load(folder)


def test_tolerances(folder, info):
    def nudge(rows):
        rows[1]["cost_usd"] *= 1 + 1e-10

    rewrite(folder, "turns", nudge)
    assert Dataset.load(folder).info == info


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (
            "turns",
            lambda table: table.drop_columns("propensity"),
            r"turns-00000\.parquet: column 'propensity' is missing",
        ),
        *(
            (
                "episodes",
                lambda table, name=name: table.drop_columns(name),
                rf"episodes-00000\.parquet: column '{name}' is missing, must be there, of type string",
            )
            for name in ("usage_source", "extra")
        ),
        ("episodes", lambda table: table.drop_columns("task"), r"episodes-00000\.parquet: column 'task' is missing"),
        (
            "turns",
            lambda table: table.set_column(1, "turn", table["turn"].cast(pa.float64())),
            r"column 'turn' is of type double, must be one column of type int64; write the shard",
        ),
        (
            "turns",
            lambda table: table.append_column("reward", table["cost_usd"]),
            r"column 'reward' is there, must not be: the schema does not know it; remove it",
        ),
        (
            "turns",
            lambda table: table.append_column("turn", table["turn"]),
            r"column 'turn' is of type int64 and int64, must be one column",
        ),
    ],
)
def test_columns(folder, kind, change, message):
    path = folder / f"{kind}-00000.parquet"
    pq.write_table(change(pq.ParquetFile(path).read()), path)
    with pytest.raises(DatasetError, match=message):
        Dataset.load(folder)


@pytest.mark.parametrize("kind", ["episodes", "turns"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated_file(folder, kind, share):
    path = folder / f"{kind}-00000.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        DatasetError, match=rf"{kind}-00000\.parquet is not a readable Parquet file: .*restore the file"
    ):
        Dataset.load(folder)


def test_flipped_bits_are_noticed_or_change_nothing(folder):
    """Every value has a checksum; what is left out of it, such as statistics that nobody asks for, changes no value."""
    path, sound = folder / "turns-00000.parquet", Dataset.load(folder)
    before = path.read_bytes()
    named: list[bool] = []
    places = range(4, len(before), 97)
    for place in places:
        content = bytearray(before)
        content[place] ^= 0xFF
        path.write_bytes(content)
        try:
            assert Dataset.load(folder) == sound
        except DatasetError as error:
            named.append("turns-00000.parquet" in str(error))
    assert len(named) > len(places) / 2
    assert all(named)


def test_missing_turns_file(folder):
    (folder / "turns-00001.parquet").unlink()
    with pytest.raises(DatasetError, match=r"turns-00001\.parquet is missing, though .*; restore"):
        Dataset.load(folder)


def test_many_violations_are_counted(folder):
    def spoil(rows):
        for row in rows:
            row |= {"propensity": 0.0, "latency_s": -1.0, "n_output": -1}

    rewrite(folder, "turns", spoil)
    with pytest.raises(DatasetError, match=r"36 violations(.*\n){21}  \.\.\. and 16 more$") as caught:
        Dataset.load(folder)
    assert len(str(caught.value).splitlines()) == 22


def test_violations_of_all_shards_come_at_once(folder):
    rewrite(folder, "episodes", put(0, seed=-1))
    rewrite(folder, "turns", put(1, propensity=2.0))
    with pytest.raises(DatasetError, match=r"(?s)toy-v1.*2 violations.*seed is -1.*propensity is 2\.0"):
        Dataset.load(folder)


def test_hidden_must_be_json(folder):
    rewrite(folder, "hidden", put(0, hidden="{"))
    with pytest.raises(DatasetError, match=r"hidden-00000\.parquet: column 'hidden' holds text that is not JSON"):
        load_hidden(folder)
    rewrite(folder, "hidden", put(0, hidden=None))
    with pytest.raises(DatasetError, match=r"hidden-00000\.parquet, episode 'boil-v0-s1', turn 0: hidden is null"):
        load_hidden(folder)


def test_prices_of_info_are_what_counts(folder):
    path = folder / "info.json"
    data = json.loads(path.read_text())
    data["models"][0]["prices"]["output"] = 5.0
    path.write_text(json.dumps(data))
    with pytest.raises(DatasetError, match="turn 0: cost_usd is"):
        Dataset.load(folder)
