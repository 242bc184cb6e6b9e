import csv
import gzip
import io
import json
import pickle
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtrouter_rl.cards import load_pool_card
from mtrouter_rl.cards.pool import PoolCard, Prices, TokenCounter
from mtrouter_rl.datasets.importers import query_table, routerbench
from mtrouter_rl.datasets.importers.base import ImportReport, ImportSource, UnusableEpisodeError
from mtrouter_rl.datasets.importers.query_table import stable_variation
from mtrouter_rl.datasets.importers.routerbench import (
    RouterBenchImporter,
    RouterBenchOptions,
    n_paid_tokens,
    n_text_tokens,
    read_parts,
)
from mtrouter_rl.datasets.importers.run import ImportRequest, import_log
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import DatasetError, InvalidConfigError
from mtrouter_rl.studies.query_tables.table import OneTurnTable

CARD = load_pool_card("corridor-three")
PRICES = {"input": 1.0, "cached_input": 1.0, "output": 2.0}
POOL = PoolCard.model_validate(
    CARD.model_dump()
    | {
        "name": "two",
        "token_counter": {"kind": "characters", "characters_per_token": 1.0, "tokens_per_message": 0},
        "models": [
            CARD.models[0].model_dump() | {"name": "small", "aliases": ("lab/small-7b",), "prices": PRICES},
            CARD.models[2].model_dump() | {"name": "gpt-4-1106-preview", "aliases": (), "prices": PRICES},
        ],
    }
)


def row(index, **changes):
    """A row in the published layout; prompts and responses are lists written as text."""
    fields = {
        "sample_id": f"mbpp.dev.{index}",
        "prompt": f"['Write function {index}.']",
        "eval_name": "mbpp",
        "lab/small-7b": 0.0,
        "gpt-4-1106-preview": 1.0,
        "lab/small-7b|model_response": "['pass']",
        "gpt-4-1106-preview|model_response": "['def f(): ...']",
        "lab/small-7b|total_cost": 2e-5,
        "gpt-4-1106-preview|total_cost": 7e-5,
        "oracle_model_to_route_to": "gpt-4-1106-preview",
    }
    return fields | changes


ROWS = [row(1), row(2, prompt="['You code.', 'Write it.']", eval_name="mtbench", **{"lab/small-7b": 0.75})]


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        text = "".join(json.dumps(one) + "\n" for one in rows)
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def load(path, out, **options):
    request = ImportRequest(format="routerbench", paths=(path,), pool=POOL, out=out, options=options)
    report = import_log(request, show_progress=False)
    return Dataset.load(out), report.to_json()


def reasons(findings):
    return {reason: finding["n"] for reason, finding in findings.items()}


@pytest.mark.parametrize("name", ["rb.parquet", "rb.csv", "rb.jsonl", "rb.jsonl.gz"])
def test_every_form_of_the_table_gives_the_same(tmp_path, name):
    dataset, report = load(write(tmp_path / name, ROWS), tmp_path / "out")
    assert (report["n_files"], report["n_episodes"], report["rejected"]) == (1, 4, {})
    table = OneTurnTable.of(dataset)
    assert table.queries == (("mbpp", stable_variation("mbpp.dev.1")), ("mtbench", stable_variation("mbpp.dev.2")))
    assert table.scores.tolist() == [[0.0, 1.0], [0.75, 1.0]]
    assert table.examples[1].task_text == "You code.\n\nWrite it."
    episode = dataset.episodes[1]
    assert (episode.episode_id, episode.usage_source) == ("mbpp/mbpp.dev.1/gpt-4-1106-preview", "reconstructed")
    assert episode.turns[0].action_text == "def f(): ..."
    assert episode.extra == {"query_id": "mbpp.dev.1", "logged_cost_usd": 7e-5}
    assert dataset.info.propensities == "exact"
    assert reasons(report["notes"])[routerbench.PARTS_NOTE] == 1


def test_lists_in_parquet(tmp_path):
    changes = {"prompt": ["You code.", "Write it."], "lab/small-7b|model_response": ["pass"]}
    dataset, _ = load(write(tmp_path / "rb.parquet", [row(2, **changes)]), tmp_path / "out")
    assert dataset.episodes[0].task_text == "You code.\n\nWrite it."
    assert dataset.episodes[0].turns[0].action_text == "pass"


def test_tokens_from_text(tmp_path):
    # One character is one token: prompt "Write function 1." has 17, the responses 4 and 12.
    dataset, report = load(write(tmp_path / "rb.csv", [row(1)]), tmp_path / "out")
    assert [(e.turns[0].usage.n_fresh, e.turns[0].usage.n_output) for e in dataset.episodes] == [(17, 4), (17, 12)]
    assert dataset.episodes[0].cost_usd == pytest.approx((17 * 1 + 4 * 2) / 1e6)
    assert "counted with the pool's token counter" in dataset.info.assumptions[0]
    details = {example["source"]: example["detail"] for example in report["notes"][query_table.COST_NOTE]["examples"]}
    assert details["small"] == "computed 2.5e-05 USD, logged 2e-05 USD: +25.0%"


def test_tokens_from_cost(tmp_path):
    # 2e-5 USD pay 17 prompt tokens at 1 and 1.5 output tokens at 2 USD per million; 7e-5 pay 26.5. Halves go to even.
    rows = [row(1), row(3, **{"lab/small-7b|total_cost": 1e-6, "gpt-4-1106-preview|total_cost": 8.3e-5})]
    dataset, report = load(write(tmp_path / "rb.parquet", rows), tmp_path / "out", tokens_from="cost")
    usages = [episode.turns[0].usage for episode in dataset.episodes]
    assert [(usage.n_fresh, usage.n_output) for usage in usages] == [(17, 2), (17, 26), (17, 0), (17, 33)]
    assert "what the rest of the logged cost pays for" in dataset.info.assumptions[0]
    details = {example["source"]: example["detail"] for example in report["notes"][query_table.COST_NOTE]["examples"]}
    # gpt: 17 + 52 and 17 + 66 against 70 and 83; small: 21 and 17 against 20 and 1.
    assert details["gpt-4-1106-preview"].endswith(": -0.7%")
    assert details["small"].endswith(": +81.0%")


@pytest.mark.parametrize(("text", "n"), [("", 0), ("abc", 3)])
def test_output_has_no_frame(text, n):
    counter = TokenCounter(kind="characters", characters_per_token=1.0, tokens_per_message=4)
    assert n_text_tokens(text, counter) == n


def test_free_output_tells_nothing():
    with pytest.raises(UnusableEpisodeError, match="output is free in the pool"):
        n_paid_tokens(1.0, n_prompt=1, prices=Prices(input=1.0, cached_input=1.0, output=0.0))


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("plain", ("plain",)),
        ("['a']", ("a",)),
        ('["it\'s", "b"]', ("it's", "b")),
        ("[1, 2]", ("[1, 2]",)),
        ("[a] or [b]", ("[a] or [b]",)),
        ("[" * 10_000 + "]", ("[" * 10_000 + "]",)),
        (["a", "b"], ("a", "b")),
        ("", ("",)),
        ("[]", ()),
    ],
)
def test_parts(value, parts):
    assert read_parts(value) == parts


@pytest.mark.parametrize("value", [None, 3.5, [1], {"a": 1}])
def test_parts_that_are_refused(value):
    with pytest.raises(UnusableEpisodeError, match="must be text or a list of texts"):
        read_parts(value)


@pytest.mark.parametrize(
    ("changes", "reason", "n_left"),
    [
        ({"lab/small-7b": None}, query_table.BAD_SCORE, 3),
        ({"lab/small-7b": float("nan")}, query_table.BAD_SCORE, 3),
        ({"lab/small-7b": 7.5}, query_table.BAD_SCORE, 3),
        ({"lab/small-7b|total_cost": -1.0}, query_table.BAD_COST, 3),
        ({"lab/small-7b|model_response": None}, query_table.BAD_COUNT, 3),
        ({"sample_id": None}, query_table.BAD_TEXT, 2),
        ({"prompt": None}, query_table.BAD_TEXT, 2),
        ({"prompt": "[]"}, query_table.BAD_TEXT, 2),
        ({"eval_name": ""}, query_table.BAD_TEXT, 2),
    ],
)
@pytest.mark.parametrize("name", ["rb.parquet", "rb.csv", "rb.jsonl"])
def test_cells_that_are_rejected(tmp_path, name, changes, reason, n_left):
    dataset, report = load(write(tmp_path / name, [row(1), row(2, **changes)]), tmp_path / "out")
    assert len(dataset.episodes) == n_left
    assert reasons(report["rejected"]) == {reason: 1}
    assert report["n_rejected_turns"] == 4 - n_left


def test_responses_that_were_not_published(tmp_path):
    without = {name: value for name, value in row(1).items() if not name.endswith("|model_response")}
    path = write(tmp_path / "rb.parquet", [without])
    dataset, report = load(path, tmp_path / "out", tokens_from="cost")
    assert [episode.turns[0].action_text for episode in dataset.episodes] == ["", ""]
    assert reasons(report["notes"])[routerbench.NO_RESPONSE] == 2
    with pytest.raises(DatasetError, match=r"nothing could be imported.*(?s:.*)option tokens_from=cost"):
        load(path, tmp_path / "other")


def test_an_empty_response_is_one(tmp_path):
    quoted = io.StringIO()
    csv.writer(quoted, quoting=csv.QUOTE_ALL).writerows(
        [list(row(1)), row(1, **{"lab/small-7b|model_response": ""}).values()]
    )
    (tmp_path / "rb.csv").write_text(quoted.getvalue(), newline="")
    dataset, report = load(tmp_path / "rb.csv", tmp_path / "out")
    assert dataset.episodes[0].turns[0].usage.n_output == 0
    assert report["rejected"] == {}


def test_costs_that_were_not_published(tmp_path):
    without = {name: value for name, value in row(1).items() if not name.endswith("|total_cost")}
    path = write(tmp_path / "rb.jsonl", [without])
    dataset, report = load(path, tmp_path / "out")
    assert [episode.extra["logged_cost_usd"] for episode in dataset.episodes] == [None, None]
    assert reasons(report["notes"]) == {query_table.NO_LOGGED_COST: 2}
    with pytest.raises(DatasetError, match="no logged cost to work tokens out from"):
        load(path, tmp_path / "other", tokens_from="cost")


@pytest.mark.parametrize(
    ("column", "n_left", "detail"),
    [
        ("prompt", 0, "missing: prompt"),
        ("sample_id", 0, "missing: sample_id"),
        ("eval_name", 0, "missing: eval_name"),
        ("gpt-4-1106-preview", 2, "missing: gpt-4-1106-preview, the score"),
    ],
)
def test_columns_that_are_missing(tmp_path, column, n_left, detail):
    good, bad = tmp_path / "a.csv", tmp_path / "b.csv"
    write(good, [row(5)])
    write(bad, [{name: value for name, value in row(index).items() if name != column} for index in (1, 2)])
    dataset, report = load(tmp_path, tmp_path / "out")
    assert len(dataset.episodes) == 2 + n_left
    assert reasons(report["rejected"]) == {routerbench.MISSING_COLUMN: 2}
    assert report["rejected"][routerbench.MISSING_COLUMN]["examples"][0]["detail"] == detail


def test_a_table_of_something_else(tmp_path):
    write(tmp_path / "rb.csv", [{"sample_id": "a", "prompt": "b", "eval_name": "c", "gpt-4-1106-preview": 1}])
    with pytest.raises(DatasetError, match=r"missing: one that ends in \|model_response or \|total_cost"):
        load(tmp_path / "rb.csv", tmp_path / "out")


def test_columns_that_are_not_read_are_named(tmp_path):
    _, report = load(write(tmp_path / "rb.csv", [row(1, **{"Unnamed: 0": 3})]), tmp_path / "out")
    assert report["notes"][routerbench.UNREAD_COLUMN]["examples"][0]["detail"] == "Unnamed: 0"


def test_models_that_the_pool_does_not_have(tmp_path):
    unknown = {"claude-v9": 1.0, "claude-v9|model_response": "['x']", "claude-v9|total_cost": 1e-5}
    dataset, report = load(write(tmp_path / "rb.parquet", [row(1, **unknown), row(2, **unknown)]), tmp_path / "out")
    assert len(dataset.episodes) == 4
    assert reasons(report["rejected"]) == {query_table.UNKNOWN_MODEL: 2}
    assert "unknown model of pool 'two' 'claude-v9'" in str(report["rejected"][query_table.UNKNOWN_MODEL])


def test_rows_that_are_there_twice(tmp_path):
    _, report = load(write(tmp_path / "rb.parquet", [row(1), row(1), row(1, prompt="another")]), tmp_path / "out")
    assert reasons(report["rejected"]) == {"episode that is there twice": 2, query_table.OTHER_QUERY: 1}
    assert (report["n_episodes"], report["n_rejected_turns"]) == (2, 4)


def test_the_order_and_choice_of_rows_change_no_episode(tmp_path):
    rows = [row(index) for index in range(1, 6)]
    every, _ = load(write(tmp_path / "a.parquet", rows), tmp_path / "one")
    some, _ = load(write(tmp_path / "b.parquet", rows[4:1:-1]), tmp_path / "two")
    assert {episode.episode_id for episode in some.episodes} < {episode.episode_id for episode in every.episodes}
    assert set(map(repr, some.episodes)) < set(map(repr, every.episodes))


@pytest.mark.parametrize(
    ("name", "n_cut", "n_rows", "rejected", "note"),
    [
        ("rb.parquet", 50, 0, routerbench.BROKEN, None),
        ("rb.csv", 60, 2, routerbench.BROKEN_LINE, routerbench.OPEN_END),
        ("rb.csv", 10, 3, None, routerbench.OPEN_END),  # nothing is lost that is read, but nobody can tell
        ("rb.jsonl", 20, 2, routerbench.BROKEN_LINE, None),
        ("rb.jsonl.gz", 4, 3, routerbench.BROKEN, None),  # all rows are there, the check sum is not
    ],
)
def test_tables_that_are_cut_off(tmp_path, name, n_cut, n_rows, rejected, note):
    write(tmp_path / "a.parquet", [row(9)])
    whole = write(tmp_path / name, [row(1), row(2), row(3)]).read_bytes()
    (tmp_path / name).write_bytes(whole[:-n_cut])
    dataset, report = load(tmp_path, tmp_path / "out")
    kept = {episode.extra["query_id"] for episode in dataset.episodes}
    assert kept == {f"mbpp.dev.{index}" for index in (9, *range(1, n_rows + 1))}
    assert reasons(report["rejected"]) == ({rejected: 1} if rejected else {})
    assert (routerbench.OPEN_END in report["notes"]) is (note is not None)


def test_a_row_of_another_length_loses_itself_only(tmp_path):
    write(tmp_path / "rb.csv", [row(1), row(2), row(3)])
    lines = (tmp_path / "rb.csv").read_text().splitlines()
    lines[2] = "mbpp.dev.2,only two"
    (tmp_path / "rb.csv").write_text("\n".join(lines) + "\n")
    dataset, report = load(tmp_path / "rb.csv", tmp_path / "out")
    assert len(dataset.episodes) == 4
    example = report["rejected"][routerbench.BROKEN_LINE]["examples"][0]
    assert example["detail"].startswith("2 cells, must be 10; begins with 'mbpp.dev.2,only two")


@pytest.mark.parametrize("name", ["rb.parquet", "rb.csv", "rb.jsonl"])
def test_empty_tables(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DatasetError, match="table that is cut off or broken"):
        load(tmp_path / name, tmp_path / "out")


def test_columns_that_are_there_twice(tmp_path):
    write(tmp_path / "rb.csv", [row(1)])
    text = (tmp_path / "rb.csv").read_text().replace("oracle_model_to_route_to", "eval_name")
    (tmp_path / "rb.csv").write_text(text)
    with pytest.raises(DatasetError, match=r"column\(s\) \['eval_name'\] appear more than once"):
        load(tmp_path / "rb.csv", tmp_path / "out")


class Bomb:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


def test_pickles_are_refused_unopened(tmp_path):
    mark = tmp_path / "mark"
    for name in ("routerbench_0shot.pkl", "renamed.parquet"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(DatasetError, match=r"routerbench_0shot.pkl is refused: .*read_pickle.*to_parquet"):
        load(tmp_path / "routerbench_0shot.pkl", tmp_path / "out")
    with pytest.raises(DatasetError, match="table that is cut off or broken"):
        load(tmp_path / "renamed.parquet", tmp_path / "out")
    assert not mark.exists()


def test_a_pickle_beside_its_conversion_is_reported(tmp_path):
    (tmp_path / "routerbench_0shot.pkl").write_bytes(b"\x80\x04.")
    write(tmp_path / "routerbench_0shot.parquet", [row(1)])
    dataset, report = load(tmp_path, tmp_path / "out")
    assert len(dataset.episodes) == 2
    assert reasons(report["rejected"]) == {routerbench.PICKLE: 1}


@pytest.mark.parametrize(("name", "message"), [("none", "no such file or folder"), ("", "no table of RouterBench")])
def test_no_table(tmp_path, name, message):
    with pytest.raises(DatasetError, match=message):
        load(tmp_path / name, tmp_path / "out" / "deep")


def test_an_option_that_is_unknown(tmp_path):
    with pytest.raises(InvalidConfigError, match="option 'tokens_from'"):
        load(tmp_path, tmp_path / "out", tokens_from="guess")


def peak_bytes(path):
    source = ImportSource(paths=(path,), pool=POOL, report=ImportReport(format="routerbench"))
    tracemalloc.start()
    pa_before = pa.default_memory_pool().bytes_allocated()
    pa_peak, n = 0, 0
    for _ in RouterBenchImporter(RouterBenchOptions()).episodes(source):
        n += 1
        pa_peak = max(pa_peak, pa.default_memory_pool().bytes_allocated() - pa_before)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return n, peak + pa_peak


def test_memory_does_not_grow_with_the_rows(tmp_path):
    def table(n_rows):
        texts = {"lab/small-7b|model_response": "x" * 2000}
        return write(tmp_path / f"{n_rows}.parquet", [row(index, **texts) for index in range(n_rows)])

    few, few_bytes = peak_bytes(table(500))
    many, many_bytes = peak_bytes(table(4000))
    assert (few, many) == (1000, 8000)
    assert many_bytes < few_bytes + 2 * 2**20  # 3,500 rows more hold 7 MB of text
