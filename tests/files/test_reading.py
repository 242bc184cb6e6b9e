import pytest

from mtrouter_rl.files import MAX_JSON_DEPTH, check_depth, parse_json, read_json, visible


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested deeper than"),
        ('{"a":' * 900 + "1" + "}" * 900, "nested deeper than"),
        ("[" * (MAX_JSON_DEPTH + 1) + "]" * (MAX_JSON_DEPTH + 1), "nested deeper than"),
        ("9" * 5000, "more digits than any count"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "key 'c' stands twice in one object"),
        ("{", "Expecting"),
        (b"\xff\xfe\xfd", "codec can't decode"),
        ("", "Expecting value"),
    ],
)
def test_what_is_no_json_is_a_value_error(text, message):
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_what_is_json_is_read(tmp_path):
    deep = "[" * MAX_JSON_DEPTH + "]" * MAX_JSON_DEPTH
    assert parse_json(deep) is not None
    assert parse_json('{"a": 1, "a": 2}', is_unique=False) == {"a": 2}
    (tmp_path / "a.json").write_text('{"a": [1]}')
    assert read_json(tmp_path / "a.json") == {"a": [1]}
    with pytest.raises(ValueError, match="larger than 5 bytes"):
        read_json(tmp_path / "a.json", max_bytes=5)


def test_depth_of_wide_values_is_found():
    check_depth({"a": [[1, 2], {"b": [3]}], "c": 4})
    with pytest.raises(ValueError, match="nested deeper than 3"):
        check_depth({"a": [1, {"b": [2]}]}, max_depth=3)


def test_control_characters_are_written_out():
    assert visible("a\x1b]0;owned\x07b\r\n\tc\x9b") == "a\\x1b]0;owned\\x07b\\x0d\n\tc\\x9b"
    assert visible("x\u202egnp.exe\u2066\ufeff\ud800") == "x\\u202egnp.exe\\u2066\\ufeff\\ud800"
    assert visible("naïve – 日本 €5 🙂 \u00a0") == "naïve – 日本 €5 🙂 \u00a0"
