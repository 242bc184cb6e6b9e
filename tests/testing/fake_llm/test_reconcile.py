"""Every way in which two ledgers can disagree is found."""

from contextlib import closing

import pytest

from mtrouter_rl.pools.spend import SpendLedger, SpendPlan
from mtrouter_rl.records import TokenUsage
from mtrouter_rl.testing.fake_llm import LedgerEntry
from mtrouter_rl.testing.fake_llm.reconcile import reconcile

NOTHING = TokenUsage(n_fresh=0, n_output=0)


def entry(ident, cost_usd):
    about = {"session": "", "turn": 0, "n_try": 0, "model": "m", "fault": "f", "status": 200, "is_billed": True}
    return LedgerEntry(request_id=ident, usage=NOTHING, cost_usd=cost_usd, **about)


@pytest.fixture
def books(tmp_path):
    def make(*rows):
        plan = SpendPlan(file=str(tmp_path / "spend"), run="r")
        with closing(SpendLedger(plan)) as ledger:
            for ident, cost_usd, is_estimate in rows:
                ledger.reserve(ident, model="m", most_usd=1.0)
                ledger.settle(ident, cost_usd, is_estimate=is_estimate)
        return plan

    return make


def test_books_that_agree(books):
    plan = books(("a", 0.1, False), ("b", 0.3, True), ("c", None, False), ("d", 0.0, False))
    found = reconcile([entry("a", 0.1), entry("b", 0.2), entry("c", 0.9), entry("d", 0.0)], plan)
    assert found.problems == ()
    assert (found.known_usd, found.n_estimated, found.estimated_usd, found.estimated_billed_usd) == (0.1, 1, 0.3, 0.2)
    assert (found.n_unknown, found.unknown_most_usd, found.unknown_billed_usd) == (1, 1.0, 0.9)
    assert "4 requests billed 1.200000 USD" in str(found)


@pytest.mark.parametrize(
    ("row", "billed", "problem"),
    [
        (("a", 0.1, False), entry("z", 0.1), "z: billed 0.100000 USD, not booked"),
        (("a", 0.1, False), entry("a", 0.2), "a: known 0.100000000 USD, billed 0.200000000"),
        (("a", 0.1, True), entry("a", 0.2), "a: estimated 0.1"),
        (("a", None, False), entry("a", 1.2), "a: unknown 1.0"),
    ],
)
def test_books_that_do_not(books, row, billed, problem):
    found = reconcile([billed], books(row))
    assert any(problem in one for one in found.problems)
