import gzip
import json
import time
import tracemalloc
import zipfile

import pyarrow as pa
import pytest

from mtrouter_rl.datasets.importers import json_rows
from mtrouter_rl.datasets.importers.base import ImportReport, UnusableEpisodeError
from mtrouter_rl.datasets.importers.json_rows import BROKEN_JSON, EMPTY_FILE, HALF_CHARACTERS, TOO_LONG, read_rows
from tests.cases.call_rows import call, read_paths, user

ROWS = [{"n": 1, "t": "a\u2028b\x85c"}, {"n": 2, "t": "ä"}]
LINES = [json.dumps(row, ensure_ascii=False) for row in ROWS]


def read(path, suffixes=(".jsonl",)):
    """(place, row or detail) of everything, and the report."""
    report = ImportReport(format="test")
    found = [
        (where, row.detail if isinstance(row, UnusableEpisodeError) else row)
        for where, row in read_rows(path, report, suffixes=suffixes)
    ]
    return found, report.to_json()


LAYOUTS = {
    "lines": "\n".join(LINES) + "\n",
    "no last line break": "\n".join(LINES),
    "Windows": "\r\n".join(LINES) + "\r\n",
    "old Mac": "\r".join(LINES),
    "byte order mark": "\ufeff" + "\n".join(LINES),
    "two files one after the other, each with its mark": f"\ufeff{LINES[0]}\n\ufeff{LINES[1]}\n",
    "one line": "".join(LINES),
    "empty lines": "\n\n" + "\n \n".join(LINES) + "\n\n",
    "array": json.dumps(ROWS),
    "array over lines": json.dumps(ROWS, indent=1),
    "array of lines": "[\n" + ",\n".join(LINES) + "\n]\n",
    "lines with commas": ",\n".join(LINES) + ",\n",
    "objects over lines": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "record separators": "".join(f"\x1e{line}\n" for line in LINES),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_rows(tmp_path, layout, encoding):
    if encoding != "utf-8" and layout.startswith(("byte", "two", "record", "empty")):
        pytest.skip("a mark of its own")
    (tmp_path / "a.jsonl").write_bytes(LAYOUTS[layout].encode(encoding))
    found, report = read(tmp_path / "a.jsonl")
    assert [row for _, row in found] == ROWS
    assert report["n_files"] == 1


def test_places_are_lines(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(["", LINES[0], "{", LINES[1]]), encoding="utf-8")
    assert [where for where, _ in read(tmp_path / "a.jsonl")[0]] == ["a.jsonl:2", "a.jsonl:3", "a.jsonl:4"]
    (tmp_path / "b.jsonl").write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
    assert [where for where, _ in read(tmp_path / "b.jsonl")[0]] == ["b.jsonl:2", "b.jsonl:6"]


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        (b"[" * 20_000, "nested deeper than"),
        (b'{"a":' * 20_000, "nested deeper than"),
        (b'{"a": ' + b"9" * 5000 + b"}", "more digits than any count"),
        (b'{"a": 1} {"b": ', "after 1 whole objects"),
        (b"{'a': 1}", "double quotes"),
        ('{"t": "Straße"}'.encode("latin-1"), "is not UTF-8: byte 0xdf at place 11 of the line"),
        (b'"text"', "is a str: 'text'"),
        (b"7", "is a int: 7"),
        (b"[1, 2]", "is a list"),
        (b"\x00\x01\x02", "begins with"),
    ],
)
def test_a_line_that_is_no_object_is_an_error_of_that_line(tmp_path, line, detail):
    good = LINES[0].encode()
    for content in (b"\n".join([good, line, good]), b"\n".join([line, good, good])):
        (tmp_path / "a.jsonl").write_bytes(content)
        found, _ = read(tmp_path / "a.jsonl")
        wrong = [row for _, row in found if isinstance(row, str)]
        assert len(wrong) == 1
        assert detail in wrong[0]
        assert [row for _, row in found if isinstance(row, dict)].count(ROWS[0]) >= 2


def test_deep_and_long_lines_take_linear_time(tmp_path):
    def seconds(n):
        (tmp_path / "a.jsonl").write_bytes((b"[" * n + b"\n") + b"{\n" * n)
        start = time.perf_counter()
        read(tmp_path / "a.jsonl")
        return time.perf_counter() - start

    seconds(100)
    assert seconds(80_000) < 30 * max(seconds(8_000), 0.02)


def test_a_document_that_is_cut_off_gives_what_is_whole(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS, indent=1)[:-30], encoding="utf-8")
    found, _ = read(tmp_path / "a.jsonl")
    assert found[0][1] == ROWS[0]
    assert "what follows is lost" in found[1][1]


def test_text_after_an_array_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS, indent=1) + json.dumps(ROWS, indent=1), encoding="utf-8")
    found, _ = read(tmp_path / "a.jsonl")
    assert [row for _, row in found][:2] == ROWS
    assert "text follows, which is lost" in found[2][1]


def test_a_line_that_is_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(json_rows, "MAX_LINE_BYTES", 100)
    (tmp_path / "a.jsonl").write_text(f'{LINES[0]}\n{{"t": "{"x" * 1000}"}}\n{LINES[1]}\n', encoding="utf-8")
    report = ImportReport(format="test")
    found = [row for _, row in read_rows(tmp_path / "a.jsonl", report, suffixes=())]
    assert [found[0], found[2]] == ROWS
    assert found[1].reason == TOO_LONG


def test_half_characters_are_replaced_and_noted(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"t": "ok \\ud83d", "u": "\\ud83d\\ude00"}\n', encoding="utf-8")
    found, report = read(tmp_path / "a.jsonl")
    assert found[0][1] == {"t": "ok \ufffd", "u": "\U0001f600"}
    assert report["notes"][HALF_CHARACTERS]["n"] == 1


def test_empty_and_broken_files_are_counted(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b" \n\n")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(LINES[0].encode() * 9999)[:60])
    (tmp_path / "c.jsonl").write_bytes("\ufeff{".encode("utf-16-le") + b"\xd8")
    report = read(tmp_path)[1]
    assert report["rejected"][EMPTY_FILE]["examples"][0]["source"] == "a.jsonl"
    assert report["rejected"]["archive that is cut off or broken"]["examples"][0]["source"] == "b.jsonl.gz"
    assert report["rejected"][BROKEN_JSON]["examples"][0]["source"] == "c.jsonl"


def test_names_packings_and_what_is_skipped(tmp_path):
    line = LINES[0].encode() + b"\n"
    files = {
        "A.JSONL": line,
        "b.jsonl.1": line,
        "b.jsonl.12.gz": gzip.compress(line),
        "b.jsonl": line,
        "c.jsonl-20250131": line,
        "d.jsonl.zst": pa.compress(line, codec="zstd", asbytes=True),
        "notes.txt": b"no log",
        "._a.jsonl": b"\0\5\x16\7",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("e.jsonl.gz", gzip.compress(line))
        archive.writestr("f.parquet", b"no log")
    found, report = read(tmp_path)
    assert [where for where, _ in found] == [
        *("A.JSONL:1", "b.jsonl.12.gz:1", "b.jsonl.1:1", "b.jsonl:1", "c.jsonl-20250131:1", "d.jsonl.zst:1"),
        "z.zip:e.jsonl.gz:1",
    ]
    skipped = report["notes"]["file of another kind, not read"]
    assert sorted(one["source"] for one in skipped["examples"]) == ["._a.jsonl", "notes.txt", "z.zip:f.parquet"]


def test_memory_does_not_grow_with_the_sessions(tmp_path):
    def peak(n):
        path = tmp_path / "log.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for index in range(n):
                file.write(json.dumps(call(f"s{index}", [user("word " * 2000)], "a" * 1000, score=1.0)) + "\n")
        report = ImportReport(format="test")
        from mtrouter_rl.datasets.importers.base import ImportSource
        from mtrouter_rl.datasets.importers.openai_jsonl import OpenAIJsonlImporter, OpenAIJsonlOptions
        from tests.cases.call_rows import POOL

        tracemalloc.start()
        source = ImportSource(paths=(path,), pool=POOL, report=report)
        for _ in OpenAIJsonlImporter(OpenAIJsonlOptions()).episodes(source):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10)
    assert peak(400) < 2 * peak(40) + 400 * 500


def test_a_field_that_is_nested_too_deeply_is_an_error_of_its_line(tmp_path):
    deep = "[" * 700 + "]" * 700
    bad = json.dumps(call("bad", [user("x")], "y", score=1.0)).replace(
        '"y"', f'{{"role": "assistant", "content": {deep}}}'
    )
    good = json.dumps(call("ok", [user("x")], "y", score=1.0))
    (tmp_path / "a.jsonl").write_text(f"{bad}\n{good}\n", encoding="utf-8")
    episodes, report = read_paths(tmp_path / "a.jsonl")
    assert "ok" in episodes
    assert report["n_rejected"] + len(episodes) == 2
