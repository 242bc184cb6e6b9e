"""Prices and limits of models, looked up in LiteLLM's table, which is read as data from the installed package."""

import datetime
import importlib.metadata
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from mtrouter_rl.errors import MissingDependencyError
from mtrouter_rl.files import read_json

TABLE_FILE = "model_prices_and_context_window_backup.json"
_MILLION = 1_000_000
_MODES = ("chat", "responses", "completion", None)
_DATE = re.compile(r"[-@](20\d{2}-\d{2}-\d{2}|20\d{6}|latest)$")


@dataclass(frozen=True, kw_only=True)
class ListedModel:
    """One row of the table.

    Attributes:
        key: Its name there.
        input: USD per million fresh prompt tokens.
        cached_input: The same of tokens read from a warm cache; None if the table has no price for them.
        cache_write: The same of tokens written to the cache; None likewise.
        output: USD per million generated tokens.
        context_tokens: Size of the context window; None if the table does not say.
        max_output_tokens: Longest output; None likewise.
    """

    key: str
    input: float
    cached_input: float | None
    cache_write: float | None
    output: float
    context_tokens: int | None
    max_output_tokens: int | None

    @property
    def terms(self) -> tuple[object, ...]:
        """All but the name: two rows with equal terms are one offer."""
        return (
            self.input,
            self.cached_input,
            self.cache_write,
            self.output,
            self.context_tokens,
            self.max_output_tokens,
        )


class PriceList:
    """The table, searched by the names that logs have.

    Attributes:
        source: Where it is from, with its version, for a card that quotes it.
    """

    def __init__(self, rows: Mapping[str, Mapping[str, object]], source: str) -> None:
        self.source = source
        listed = (_listed(key, row) for key, row in rows.items())
        self._rows = {row.key.lower(): row for row in listed if row is not None}

    def find(self, name: str) -> ListedModel | None:
        """The row of a model; None if there is none, or several vendors offer it at other terms.

        Looked for are, in this order: the name; the name without a gateway's or vendor's prefix; the same without a date at
        its end; every vendor's offer under that name, if all have equal terms.
        """
        for candidate in _candidates(name):
            if candidate in self._rows:
                return self._rows[candidate]
        last = _candidates(name)[-1]
        offers = self.offers(last)
        return offers[0] if len({offer.terms for offer in offers}) == 1 else None

    def offers(self, name: str) -> list[ListedModel]:
        """Rows whose name, without vendor and date, is that of a model."""
        bare = bare_name(name)
        return [row for key, row in self._rows.items() if bare_name(key) == bare]


def bare_name(name: str) -> str:
    """A model's name without vendor or gateway before it, and without a date after it; in lower case.

    Example:
        >>> bare_name("openrouter/openai/GPT-5-2025-08-07"), bare_name("claude-sonnet-4-5@20250929"), bare_name("gpt-4o")
        ('gpt-5', 'claude-sonnet-4-5', 'gpt-4o')
    """
    bare = name.lower().rsplit("/", 1)[-1].removesuffix(":free")
    shorter = _DATE.sub("", bare)
    while shorter != bare:
        bare, shorter = shorter, _DATE.sub("", shorter)
    return bare


def _candidates(name: str) -> list[str]:
    text = name.lower()
    parts = text.split("/")
    tails = ["/".join(parts[i:]) for i in range(len(parts))]
    return list(dict.fromkeys([*tails, *(_DATE.sub("", tail) for tail in tails), bare_name(name)]))


def _listed(key: str, row: Mapping[str, object]) -> ListedModel | None:
    def per_million(field: str) -> float | None:
        value = row.get(field)
        return round(value * _MILLION, 9) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def count(field: str) -> int | None:
        value = row.get(field)
        return int(value) if isinstance(value, int | float) and value > 0 else None

    price_in, price_out = per_million("input_cost_per_token"), per_million("output_cost_per_token")
    if row.get("mode") not in _MODES or price_in is None or price_out is None:
        return None
    n_input, n_output = count("max_input_tokens"), count("max_output_tokens")
    return ListedModel(
        key=key,
        input=price_in,
        cached_input=per_million("cache_read_input_token_cost"),
        cache_write=per_million("cache_creation_input_token_cost") or None,
        output=price_out,
        context_tokens=n_input or count("max_tokens"),
        max_output_tokens=n_output or count("max_tokens"),
    )


def load_price_list() -> PriceList:
    """The table of the installed `litellm`; the package itself is not imported.

    Raises:
        MissingDependencyError: If it is not installed, or has no such table.
    """
    spec = importlib.util.find_spec("litellm")
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    path = next((Path(place) / TABLE_FILE for place in places if (Path(place) / TABLE_FILE).is_file()), None)
    if path is None:
        raise MissingDependencyError(
            "no price list is installed; install it with: pip install 'mtrouter-rl[prices]', or write the prices into the card "
            "yourself"
        )
    rows = cast("dict[str, dict[str, object]]", read_json(path))
    version = importlib.metadata.version("litellm")
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    return PriceList(rows, f"the price list of LiteLLM {version}, looked up on {today}")
