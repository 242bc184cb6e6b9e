"""Prices looked up by the names that logs have."""

import importlib.util
import json

import pytest

from mtrouter_rl.errors import MissingDependencyError
from mtrouter_rl.pools.price_list import TABLE_FILE, PriceList, bare_name, load_price_list

ROWS = {
    "swift-2": {"mode": "chat", "input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6, "max_input_tokens": 1000},
    "swift-2-2025-08-07": {"mode": "chat", "input_cost_per_token": 3e-6, "output_cost_per_token": 4e-6},
    "cloud/heron": {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6, "max_tokens": 10},
    "river/heron": {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6, "max_tokens": 10},
    "cloud/owl": {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6},
    "river/owl": {"input_cost_per_token": 9e-6, "output_cost_per_token": 2e-6},
    "swift-embed": {"mode": "embedding", "input_cost_per_token": 1e-6, "output_cost_per_token": 0},
    "half": {"mode": "chat", "input_cost_per_token": 1e-6},
    "cached": {
        "mode": "chat",
        "input_cost_per_token": 2e-6,
        "output_cost_per_token": 4e-6,
        "cache_read_input_token_cost": 2e-7,
        "cache_creation_input_token_cost": 2.5e-6,
        "max_input_tokens": 200,
        "max_output_tokens": 20,
    },
}


@pytest.fixture
def prices():
    return PriceList(ROWS, "a list")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("swift-2", "swift-2"),
        ("Vendor/Swift-2", "swift-2"),
        ("swift-2-2025-08-07", "swift-2-2025-08-07"),
        ("gateway/vendor/swift-2-2025-08-07", "swift-2-2025-08-07"),
        ("swift-2@20250101", "swift-2"),
        ("swift-2-latest", "swift-2"),
        ("heron", "cloud/heron"),
        ("owl", None),
        ("swift-embed", None),
        ("half", None),
        ("swift-20", None),
        ("wren", None),
    ],
)
def test_names_of_logs_are_found_or_left_open(prices, name, key):
    found = prices.find(name)
    assert (found and found.key) == key


def test_numbers_are_those_of_the_table_per_million_tokens(prices):
    row = prices.find("cached")
    assert (row.input, row.cached_input, row.cache_write, row.output) == (2.0, 0.2, 2.5, 4.0)
    assert (row.context_tokens, row.max_output_tokens) == (200, 20)
    assert prices.find("swift-2").cached_input is None


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("openrouter/openai/GPT-5-2025-08-07", "gpt-5"),
        ("claude-sonnet-4-5@20250929", "claude-sonnet-4-5"),
        ("gpt-4o", "gpt-4o"),
        ("kimi-k2-0905", "kimi-k2-0905"),
        ("model:free", "model"),
    ],
)
def test_plain_names(name, plain):
    assert bare_name(name) == plain


def test_the_table_is_read_from_the_installed_package_without_importing_it(tmp_path, monkeypatch):
    (tmp_path / "litellm").mkdir()
    (tmp_path / "litellm" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "litellm" / TABLE_FILE).write_text(json.dumps(ROWS))
    monkeypatch.setattr("mtrouter_rl.pools.price_list.importlib.metadata.version", lambda name: "9.9")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        "mtrouter_rl.pools.price_list.importlib.util.find_spec",
        lambda name: importlib.util.spec_from_file_location(
            name, tmp_path / name / "__init__.py", submodule_search_locations=[str(tmp_path / name)]
        ),
    )
    loaded = load_price_list()
    assert loaded.find("swift-2").output == 2.0
    assert loaded.source.startswith("the price list of LiteLLM 9.9, looked up on 20")


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("mtrouter_rl.pools.price_list.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'mtrouter-rl\[prices\]'"):
        load_price_list()
