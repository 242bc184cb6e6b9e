"""Features of models: fixed scales, nothing relative to the pool."""

import datetime

import numpy as np

from mtrouter_rl.cards.pool import ModelCard, Prices
from mtrouter_rl.embeddings.models import MODEL_FEATURE_NAMES, model_features


def feature(pool, name, row=0):
    return float(model_features(pool)[row, MODEL_FEATURE_NAMES.index(name)])


def test_known_values(pool_of):
    card = ModelCard(
        name="m",
        prices=Prices(input=10.0, cached_input=1.0, output=50.0),
        context_tokens=4 * 131_072,
        max_output_tokens=2 * 16_384,
        knowledge_cutoff=datetime.date(2025, 7, 1),
    )
    pool = pool_of(card)
    assert model_features(pool).shape == (1, len(MODEL_FEATURE_NAMES))
    assert model_features(pool).dtype == np.float32
    expected = {
        "log_input_price": 1.0,
        "log_cached_input_price": 1.0,
        "log_output_price": 1.0,
        "log_context": 1.0,
        "log_max_output": 1 / 3,
        "knowledge_cutoff": 365 / 365.25 / 2,
        "log_output_input_ratio": np.log2(5 / 4) / 2,
        "cached_discount": 0.9,
        "log_reference_call_usd": np.log10((3000 * 10 + 300 * 50) / 1e6 / 5e-3),
    }
    assert set(expected) == set(MODEL_FEATURE_NAMES)
    for name, value in expected.items():
        assert np.isclose(feature(pool, name), value, atol=1e-6), name


def test_adding_a_model_changes_no_other(pool, pool_of, model_of):
    larger = pool_of(model_of("huge", scale=9.0), *pool.models, model_of("tiny", scale=0.01))
    assert np.array_equal(model_features(larger)[1:-1], model_features(pool))


def test_names_are_not_read(pool_of, model_of):
    assert np.array_equal(model_features(pool_of(model_of("a"))), model_features(pool_of(model_of("b"))))


def test_values_stay_moderate_from_free_to_dear(pool_of):
    free = Prices(input=0, cached_input=0, output=0)
    dear = Prices(input=15, cached_input=1.5, output=75)
    cards = [
        ModelCard(
            name="free", prices=free, context_tokens=8_192, max_output_tokens=2_048, knowledge_cutoff="2021-09-01"
        ),
        ModelCard(
            name="dear", prices=dear, context_tokens=2**20, max_output_tokens=2**17, knowledge_cutoff="2026-01-01"
        ),
    ]
    values = model_features(pool_of(*cards))
    assert np.isfinite(values).all()
    assert np.abs(values).max() <= 2.0 + 1e-6
