"""Policies and rows of a made-up evaluation."""

import pytest

from tests.cases.evaluation_cases import make_results, make_traced, rows_of


@pytest.fixture(scope="session")
def traced():
    """Split -> policy -> episodes, drawn once."""
    return {
        "test": make_traced(split="test"),
        "ood": make_traced(split="ood", tasks=("freeze", "grow"), n_variations=2),
    }


@pytest.fixture(scope="session")
def results(traced):
    return make_results([row for split, policies in traced.items() for row in rows_of(policies, split=split)])
