import pytest

from mtrouter_rl.errors import ResultsError
from mtrouter_rl.files import load_record, save_record
from mtrouter_rl.records import Count, FiniteRecord


class Tally(FiniteRecord):
    n_turns: Count


def load(path, *, strict=False):
    return load_record(Tally, path, source="`count` writes it", fix="run `count` again", strict=strict)


def test_a_record_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "new" / "tally.json"
    save_record(Tally(n_turns=3), path)
    assert load(path, strict=True) == Tally(n_turns=3)
    assert path.read_text() == '{\n  "n_turns": 3\n}\n'


def test_only_a_strict_reader_refuses_another_type(tmp_path):
    path = tmp_path / "tally.json"
    path.write_text('{"n_turns": "3"}')
    assert load(path) == Tally(n_turns=3)
    with pytest.raises(
        ResultsError, match=r"(?s)tally\.json breaks the schema of Tally: .*n_turns.*; run `count` again"
    ):
        load(path, strict=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"tally\.json: no such file; `count` writes it"),
        (b"\xff", r"(?s)tally\.json breaks the schema of Tally: .*; run `count` again"),
        (b'{"n_turns": 3, "n_words": 1}', r"(?s)breaks the schema of Tally: .*n_words.*Extra"),
    ],
)
def test_a_bad_file_is_named_with_what_to_do(content, message, tmp_path):
    path = tmp_path / "tally.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ResultsError, match=message):
        load(path)


def test_a_folder_in_place_of_the_file_is_named(tmp_path):
    with pytest.raises(ResultsError, match=r"cannot be read \(.*\); run `count` again"):
        load(tmp_path)
