"""Features of models, read off the pool card and scaled by fixed reference values.

No feature is relative to the pool, so adding a model changes no other's features, and a model that was never called has
features all the same.
"""

import datetime
import math

import numpy as np
import numpy.typing as npt

from mtrouter_rl.cards.pool import ModelCard, PoolCard
from mtrouter_rl.records import TokenUsage

REFERENCE_CALL = TokenUsage(n_fresh=3000, n_output=300)
"""The call that `log_reference_call_usd` prices: a prompt and an output of ordinary size, nothing cached."""

MODEL_FEATURE_NAMES: tuple[str, ...] = (
    "log_input_price",
    "log_cached_input_price",
    "log_output_price",
    "log_context",
    "log_max_output",
    "knowledge_cutoff",
    "log_output_input_ratio",
    "cached_discount",
    "log_reference_call_usd",
)
"""Meaning of every column of `model_features`, length F."""

_FLOOR_PRICE = 0.01  # USD per million tokens; keeps the ratio of two prices finite where they are 0
_REFERENCE_DATE = datetime.date(2024, 7, 1)
_DAYS_PER_YEAR = 365.25


def _log_price(price: float, reference: float) -> float:
    """Price on a log scale; a hundredth of the reference or less, down to nothing, is -2."""
    return math.log10(max(price / reference, 0.01))


def _features_of(card: ModelCard) -> list[float]:
    prices = card.prices
    ratio = max(prices.output, _FLOOR_PRICE) / max(prices.input, _FLOOR_PRICE)
    discount = 1 - prices.cached_input / prices.input if prices.input > 0 else 0.0
    return [
        _log_price(prices.input, 1.0),
        _log_price(prices.cached_input, 0.1),
        _log_price(prices.output, 5.0),
        math.log2(card.context_tokens / 131_072) / 2,
        math.log2(card.max_output_tokens / 16_384) / 3,
        # Where it is not stated, it is not stated of any model of the pool, so a constant tells nothing of one.
        0.0 if card.knowledge_cutoff is None else (card.knowledge_cutoff - _REFERENCE_DATE).days / _DAYS_PER_YEAR / 2,
        math.log2(ratio / 4) / 2,
        discount,
        _log_price(prices.cost_usd(REFERENCE_CALL), 5e-3),
    ]


def model_features(pool: PoolCard) -> npt.NDArray[np.float32]:
    """Features of every model of a pool.

    Args:
        pool: The pool; only prices, limits and knowledge cut-off of its models are read, never their names.

    Returns:
        One row per model in pool order, shape (M, F), columns as in `MODEL_FEATURE_NAMES`, roughly within [-2, 2].
    """
    return np.array([_features_of(card) for card in pool.models], dtype=np.float32)
