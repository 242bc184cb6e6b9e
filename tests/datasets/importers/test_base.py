import pytest

from mtrouter_rl.datasets.importers.base import FIXES, Amount, ImportReport, ModelNames
from mtrouter_rl.records import TokenUsage
from tests.cases.call_rows import POOL


def amount(usd, n=1):
    return Amount(n_calls=n, n_prompt=100 * n, n_output=10 * n, usd=usd)


def test_sums_of_what_was_read_and_what_was_left_out():
    report = ImportReport(format="test")
    report.n_episodes, report.read = 3, amount(0.5, n=5)
    report.reject("no score", source="a:1", n_turns=2, amount=amount(0.25, n=2))
    report.reject("no tokens", source="a:2", n_turns=3)
    report.pass_over("older run", source="b", amount=amount(0.125))
    assert report.left_out == Amount(n_calls=6, n_unknown=3, n_prompt=300, n_output=30, usd=0.375)
    assert (report.n_rejected, report.n_rejected_turns, report.left_out_share) == (2, 5, 0.4)
    lines = str(report).splitlines()
    assert "  in the dataset: 5 calls, 500 prompt and 50 output tokens, 0.5 USD by the pool card" in lines
    assert "  left out: 1 x no score, 0.25 USD (first: a:1)" in lines
    assert "  passed over: 1 x older run, 0.125 USD (first: b)" in lines
    assert report.to_json()["passed_over"]["older run"]["usd"] == 0.125


def test_nothing_found_is_no_share():
    assert ImportReport(format="test").left_out_share == 0.0


def test_remedies_are_ordered_by_money_then_by_episodes():
    report = ImportReport(format="test")
    known = next(iter(FIXES))
    for reason, usd, n in (("few", 0.0, 1), ("many", 0.0, 3), (known, 0.5, 1)):
        for _ in range(n):
            report.reject(reason, source="x", amount=amount(usd), fix="do this" if reason == "many" else "")
    assert [(one["reason"], one["n"], one["fix"]) for one in report.remedies] == [
        (known, 1, FIXES[known]),
        ("many", 3, "do this"),
        ("few", 1, ""),
    ]


def test_amounts_of_calls():
    tokens = TokenUsage(n_fresh=5, n_cached=3, n_output=2)
    assert Amount.of_call(tokens, 0.5) == Amount(n_calls=1, n_prompt=8, n_output=2, usd=0.5)
    assert Amount.of_call(tokens, None) == Amount(n_calls=1, n_unknown=1, n_prompt=8, n_output=2)
    assert Amount.of_call(None, 0.25) == Amount(n_calls=1, n_unknown=1, usd=0.25)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("Vendor/Small", "vendor/small"),
        ("SMALL", "small"),
        ("smal", "small"),
        ("openrouter/vendor/small", "vendor/small"),
        ("small-2024-07-18", "small"),
        ("zzz", None),
    ],
)
def test_the_nearest_name_of_a_model_whatever_its_case_prefix_or_date(name, nearest):
    names = ModelNames(POOL)
    assert names.find(name) is None
    said = names.explain(name)
    assert f"'{name}'" in said
    assert (f"did you mean '{nearest}'?" in said) if nearest else ("did you mean" not in said)
    assert "Valid: big, small, vendor/big, vendor/small" in said
