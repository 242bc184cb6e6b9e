"""A pool card for a log: its models under one name each, prices looked up and marked, gaps that cannot be overlooked."""

import pytest

from mtrouter_rl.cards import load_pool_card
from mtrouter_rl.datasets.importers.new_pool import FILL_IN, propose_pool, scan_models, write_pool
from mtrouter_rl.errors import CardError, DatasetError
from mtrouter_rl.pools.price_list import PriceList
from tests.cases.call_rows import answer, call, grown, user, write

ROWS = {
    "small": {
        "input_cost_per_token": 1e-6,
        "output_cost_per_token": 2e-6,
        "cache_read_input_token_cost": 1e-7,
        "max_input_tokens": 1000,
        "max_output_tokens": 100,
    },
    "big": {
        "input_cost_per_token": 1e-5,
        "output_cost_per_token": 2e-5,
        "max_input_tokens": 50,
        "max_output_tokens": 5,
    },
}
PRICES = PriceList(ROWS, "a list of 2026")


@pytest.fixture
def log(tmp_path):
    rows = grown("a", 3)
    rows[1]["model"] = "vendor/small-2025-01-02"
    rows[2]["model"] = "big"
    rows += [call("b", [user("Go.")], answer("gone"), model="unheard-of", score=1.0)]
    return write(tmp_path / "a.jsonl", rows)


def propose(log, prices=PRICES):
    models, report = scan_models("openai-jsonl", [log], {}, show_progress=False)
    return propose_pool(models, report, prices)


def test_every_model_is_found_with_its_other_names(log):
    new = propose(log)
    found = {model.name: (model.names, model.n_calls, model.n_prompt, model.longest_output) for model in new.models}
    assert found == {
        "small": ({"small": 1, "vendor/small-2025-01-02": 1}, 2, 200, 10),
        "big": ({"big": 1}, 1, 100, 10),
        "unheard-of": ({"unheard-of": 1}, 1, 100, 10),
    }
    assert new.without_price == ("unheard-of",)


def test_a_gap_in_the_card_is_an_error_that_names_the_model(log, tmp_path):
    path = write_pool(propose(log), tmp_path / "pool.yaml")
    assert path.read_text().count(FILL_IN) == 5
    with pytest.raises(CardError, match=r"field 'models\.'unheard-of'\.prices\.input': got 'FILL_IN'"):
        load_pool_card(path)


def test_a_filled_card_loads_and_says_where_prices_are_from(log, tmp_path):
    path = write_pool(propose(log), tmp_path / "pool.yaml")
    text = path.read_text()
    assert "looked up under 'small'; confirm" in text
    path.write_text(text.replace(FILL_IN, "3"))
    card = load_pool_card(path)
    assert card.model_names == ("small", "big", "unheard-of")
    assert card.model("small").aliases == ("vendor/small-2025-01-02",)
    assert card.model("small").prices.cached_input == 0.1
    assert card.model("big").prices.cached_input == 10.0, "no price of its own and no cached token: the price of others"
    assert card.model("big").context_tokens == 100, "no smaller than the longest prompt"
    assert "a list of 2026" in card.description
    assert all(model.knowledge_cutoff is None for model in card.models)


def test_cached_tokens_without_a_price_are_a_gap(tmp_path):
    usage = {"prompt_tokens": 100, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 50}}
    log = write(tmp_path / "a.jsonl", [call("a", [user("Go.")], "gone", model="big", usage=usage, score=1.0)])
    path = write_pool(propose(log), tmp_path / "pool.yaml")
    assert f"cached_input: {FILL_IN}" in path.read_text()


def test_models_of_sessions_that_are_left_out_are_found_as_well(tmp_path):
    log = write(tmp_path / "a.jsonl", [call("a", [user("Go.")], "gone", model="big")])
    new = propose(log)
    assert [model.name for model in new.models] == ["big"]
    assert "session without the line that ends it" in new.skipped


def test_without_a_list_every_price_is_a_gap(log):
    assert set(propose(log, None).without_price) == {"small", "big", "unheard-of"}


def test_nothing_is_replaced_unasked(log, tmp_path):
    path = write_pool(propose(log), tmp_path / "pool.yaml")
    with pytest.raises(DatasetError, match=r"pool.yaml is there already; choose another --out, or give --overwrite"):
        write_pool(propose(log), path)
    write_pool(propose(log), path, overwrite=True)


def test_a_log_without_models(tmp_path):
    with pytest.raises(DatasetError):
        scan_models("openai-jsonl", [write(tmp_path / "a.jsonl", [{"hello": 1}])], {}, show_progress=False)
