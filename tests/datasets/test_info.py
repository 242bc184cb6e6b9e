import json

import pytest
from pydantic import ValidationError

from mtrouter_rl.datasets.info import INFO_FILE, DatasetInfo, parse_info, read_info
from mtrouter_rl.errors import DatasetError, PoolMismatchError


def changed(info, **changes):
    return DatasetInfo.model_validate(info.model_dump() | changes)


def test_round_trip(info, tmp_path):
    assert parse_info(info.to_json(), tmp_path) == info
    assert info.model_names == ("cheap", "strong")


def test_bytes_do_not_depend_on_the_order_of_the_call(info):
    one = changed(info, created_by={"a": 1, "b": [2]})
    assert one.to_json() == changed(info, created_by={"b": (2,), "a": 1}).to_json()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("schema_version", 1, "must be 3"),
        ("schema_version", 4, "must be 3"),
        ("dataset_id", "toy", "name-vN"),
        ("dataset_id", "toy-v0", "name-vN"),
        ("dataset_id", "a/b-v1", "name-vN"),
        ("models", (), "at least 1"),
        ("created_by", {"when": {1}}, "JSON values only"),
        ("created_by", {"x": float("nan")}, "JSON compliant"),
        ("seed", -1, "greater than or equal"),
        ("split", "dev", "Input should be"),
        ("budget_usd", float("inf"), "finite"),
        ("origin", "downloaded", "'collected' or 'imported'"),
        ("propensities", "none", "'exact', 'estimated' or 'unknown'"),
        ("assumptions", "one sentence", "valid tuple"),
    ],
)
def test_fields_are_checked(info, field, value, message):
    with pytest.raises(ValidationError, match=message):
        changed(info, **{field: value})


def test_models_are_unique(info):
    with pytest.raises(ValidationError, match=r"'cheap'.*more than once"):
        changed(info, models=(info.models[0], info.models[0]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"schema_version": 4},
            r"info\.json: schema_version is 4, must be 3 \(or an older one .*: 1, 2\); use the package",
        ),
        ({"schema_version": 0}, "schema_version is 0, must be 3"),
        ({"schema_version": None}, "schema_version is None, must be 3"),
        ({"schema_version": True}, "schema_version is True, must be 3"),
        ({"schema_version": "3"}, "schema_version is '3', must be 3"),
        ({"origin": "bought"}, r"field 'origin' is 'bought'"),
        ({"seed": "3"}, r"field 'seed' is '3'"),
        ({"encoder": "minilm"}, r"field 'encoder'.*Extra"),
    ],
)
def test_bad_file_is_named(info, folder, change, message):
    path = folder / INFO_FILE
    path.write_text(json.dumps(json.loads(info.to_json()) | change))
    with pytest.raises(DatasetError, match=message):
        read_info(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "not valid JSON"), (b"[]", "holds list, must be a JSON object"), (b"\xff", "cannot be read")],
)
def test_unreadable_file(folder, content, message):
    (folder / INFO_FILE).write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        read_info(folder)


def test_not_a_dataset(tmp_path):
    with pytest.raises(DatasetError, match=r"is not a dataset, it has no info\.json"):
        read_info(tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        read_info(tmp_path / "nowhere")


def test_what_an_imported_log_says_of_itself_survives(info, tmp_path):
    imported = changed(info, origin="imported", propensities="unknown", assumptions=("Prices are those of May.",))
    assert parse_info(imported.to_json(), tmp_path) == imported


def test_what_a_log_calls_a_model_does_not_matter(info, pool):
    renamed = pool.models[0].model_copy(update={"aliases": ("cheap-2025-05-01",)})
    info.check_pool(pool.model_copy(update={"models": (renamed, *pool.models[1:])}))


def test_same_pool_under_another_name_is_taken(info, pool):
    info.check_pool(pool)


def test_pool_mismatch_names_every_difference(info, pool):
    data = pool.model_dump()
    cheap, strong = data["models"]
    strong["prices"]["output"] = 9.0
    cheap["name"] = "tiny"
    data["prompt_cache"] = None
    with pytest.raises(PoolMismatchError) as caught:
        info.check_pool(type(pool).model_validate(data))
    for part in (
        "'toy-pool'",
        "'other-name'",
        "['cheap'] are in the dataset only",
        "['tiny'] are in the pool only",
        "model 'strong', prices.output: 8.0 in the dataset, 9.0 in the pool",
        "prompt_cache",
    ):
        assert part in str(caught.value)


def test_order_of_models_matters(info, pool):
    swapped = pool.model_copy(update={"models": pool.models[::-1]})
    with pytest.raises(PoolMismatchError, match="order of models"):
        info.check_pool(swapped)
