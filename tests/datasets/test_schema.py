"""The schema says of every field what the code does, and docs/dataset-schema.md says the same."""

import json
import re
from pathlib import Path

import pytest

from mtrouter_rl.datasets.columns import EPISODE_SCHEMA, HIDDEN_SCHEMA, turn_schema
from mtrouter_rl.datasets.info import SCHEMA_VERSION, DatasetInfo
from mtrouter_rl.datasets.schema import attribute_meanings, dataset_schema
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.datasets.validation import EPISODE_RULES, TURN_RULES
from mtrouter_rl.records import Episode, Turn

PAGE = Path(__file__).parents[2] / "docs" / "dataset-schema.md"
SCHEMA = dataset_schema()
FILES = {
    "episodes-NNNNN.parquet": EPISODE_SCHEMA,
    "turns-NNNNN.parquet": turn_schema(has_parents=True),
    "hidden-NNNNN.parquet": HIDDEN_SCHEMA,
}


def info_row(field):
    need = "" if field["required"] else " (optional)"
    return f"| `{field['name']}` | {field['type']}{need} | {field['meaning']} |"


def column_row(column):
    kind = f"`{column['type']}`" + (" or null" if column["nullable"] else "")
    return f"| `{column['name']}` | {kind} | {column['meaning']} | {'; '.join(column['rules'])} |"


def section(title):
    """Text of the page from one heading to the next."""
    page = PAGE.read_text(encoding="utf-8")
    sections = dict(part.split("\n", 1) for part in re.split(r"^## ", page, flags=re.MULTILINE)[1:])
    return sections[title]


def test_every_column_is_there_with_its_type():
    assert SCHEMA["schema_version"] == SCHEMA_VERSION
    for file, columns in FILES.items():
        described = [(one["name"], one["type"], one["nullable"]) for one in SCHEMA["files"][file]]
        assert described == [(column.name, str(column.type), column.nullable) for column in columns]


def test_every_rule_is_there():
    for file, rules in (("episodes-NNNNN.parquet", EPISODE_RULES), ("turns-NNNNN.parquet", TURN_RULES)):
        told = {(column["name"], rule) for column in SCHEMA["files"][file] for rule in column["rules"]}
        assert {(rule.field.rpartition(".")[2], rule.must) for rule in rules} <= told


def test_every_meaning_is_a_sentence_and_refers_to_nothing():
    meanings = [one["meaning"] for one in SCHEMA["info"]]
    meanings += [one["meaning"] for columns in SCHEMA["files"].values() for one in columns]
    assert all(len(meaning) > 10 and meaning.endswith(".") and "See `" not in meaning for meaning in meanings)


@pytest.mark.parametrize("record", [Turn, Episode, DatasetInfo])
def test_docstrings_are_read_to_their_end(record):
    fields = record.model_fields if record is DatasetInfo else record.__dataclass_fields__
    assert list(attribute_meanings(record)) == list(fields)


def test_a_class_without_attributes_has_no_meanings():
    assert attribute_meanings(int) == {}


def test_the_schema_is_json_and_names_the_fields_of_a_real_info(folder):
    schema = json.loads(json.dumps(SCHEMA, allow_nan=False))
    info = json.loads(Dataset.load(folder).info.to_json())
    assert {one["name"] for one in schema["info"] if "." not in one["name"]} == set(info)
    assert {one["name"] for one in schema["info"] if one["name"].count(".") == 1} == {
        *(f"models[].{name}" for name in info["models"][0]),
        *(f"prompt_cache.{name}" for name in info["prompt_cache"]),
    }
    assert set(schema["info_schema"]["properties"]) == set(info)
    assert schema["info_schema"]["additionalProperties"] is False
    assert set(schema["info_schema"]["required"]) == {
        one["name"] for one in schema["info"] if one["required"] and "." not in one["name"]
    }


@pytest.mark.parametrize("field", SCHEMA["info"], ids=lambda field: field["name"])
def test_every_field_of_info_is_documented(field):
    assert info_row(field) in section("info.json").splitlines()


@pytest.mark.parametrize(("file", "columns"), SCHEMA["files"].items())
def test_every_column_is_documented(file, columns):
    title = file.partition("-")[0]
    rows = [line for line in section(title).splitlines() if line.startswith("| `")]
    assert rows == [column_row(column) for column in columns]


def test_the_page_knows_the_present_version():
    assert f"present version is {SCHEMA_VERSION}" in PAGE.read_text(encoding="utf-8")


def test_the_example_of_the_page_runs(tmp_path, monkeypatch):
    code = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    for block in code:
        exec(compile(block, str(PAGE), "exec"), {})
    assert code
    (written,) = tmp_path.iterdir()
    dataset = Dataset.load(written)
    assert dataset.completed
    assert dataset.info.origin == "imported"
