"""The ledger of spending: limits that hold over processes, and no money that is forgotten."""

import json
import os
import subprocess
import sys

import pytest

from mtrouter_rl.errors import InvalidConfigError, SpendLimitError
from mtrouter_rl.pools.spend import NO_LEDGER, SPEND_VARIABLE, SpendLedger, SpendPlan, open_spending, summary_of

DAY_S = 86_400.0


@pytest.fixture
def plan(tmp_path):
    def make(run="one", **limits):
        return SpendPlan(file=str(tmp_path / "spend.sqlite"), run=run, **limits)

    return make


def test_what_is_reserved_counts_until_it_is_settled(plan):
    ledger = SpendLedger(plan(run_usd=1.0))
    ledger.reserve("a", model="m", most_usd=0.6)
    with pytest.raises(
        SpendLimitError, match=r"limit of the run, 1 USD.*0\.600000 USD are booked.*'m' may cost 0\.5.*--max-usd"
    ):
        ledger.reserve("b", model="m", most_usd=0.5)
    ledger.settle("a", 0.1)
    ledger.reserve("b", model="m", most_usd=0.5)
    ledger.settle("b", 0.2, is_estimate=True)
    ledger.reserve("c", model="m", most_usd=0.7)
    ledger.settle("c", None)
    with pytest.raises(SpendLimitError):
        ledger.reserve("d", model="m", most_usd=0.01)
    found = ledger.summary()
    assert (found.n_tries, found.known_usd, found.estimated_usd, found.n_unknown, found.unknown_most_usd) == (
        *(3, pytest.approx(0.1), pytest.approx(0.2)),
        *(1, pytest.approx(0.7)),
    )
    told = found.told(in_dataset_usd=0.1)
    for words in (
        "0.300000 USD in 3 tries",
        "0.200000 USD of it estimated",
        "not in the dataset",
        "at most 0.700000 USD",
    ):
        assert words in told


def test_the_limit_of_the_day_is_that_of_all_runs_and_begins_anew_at_midnight(plan):
    now = [10 * DAY_S - 1]
    one = SpendLedger(plan("one", day_usd=1.0), clock=lambda: now[0])
    other = SpendLedger(plan("other", day_usd=1.0), clock=lambda: now[0])
    one.reserve("a", model="m", most_usd=0.9)
    with pytest.raises(SpendLimitError, match=r"limit of the day.*--max-usd-per-day"):
        other.reserve("b", model="m", most_usd=0.2)
    now[0] += 1
    other.reserve("b", model="m", most_usd=0.2)
    assert (one.summary().n_tries, other.summary().n_tries) == (1, 1)


def test_processes_share_a_limit_and_one_that_is_killed_leaves_its_reservation(plan, tmp_path):
    code = (
        "import os, signal, sys\n"
        "from mtrouter_rl.errors import SpendLimitError\n"
        "from mtrouter_rl.pools.spend import open_spending\n"
        "ledger, n = open_spending(), 0\n"
        "try:\n"
        "    while True:\n"
        "        ledger.reserve(f'{sys.argv[1]}-{n}', model='m', most_usd=0.01)\n"
        "        n += 1\n"
        "        if n < 5: ledger.settle(f'{sys.argv[1]}-{n - 1}', 0.01)\n"
        "except SpendLimitError: print(n, flush=True); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with plan(run_usd=1.0).in_force():
        running = [subprocess.Popen([sys.executable, "-c", code, name], stdout=subprocess.PIPE) for name in "abc"]
        made = [int(one.communicate(timeout=60)[0]) for one in running]
        assert sum(made) == 100
        found = summary_of(plan())
    assert found.n_tries == 100
    assert found.booked_usd + found.unknown_most_usd == pytest.approx(1.0)
    assert found.n_unknown == sum(max(n - 4, 0) for n in made)


def test_without_a_plan_nothing_is_kept_and_with_one_it_is_found(plan, monkeypatch):
    monkeypatch.delenv(SPEND_VARIABLE, raising=False)
    assert open_spending() is NO_LEDGER
    with plan("here").in_force():
        assert json.loads(os.environ[SPEND_VARIABLE])["run"] == "here"
        assert isinstance(open_spending(), SpendLedger)
    assert open_spending() is NO_LEDGER


@pytest.mark.parametrize("limit", [-1.0, float("nan"), float("inf")])
def test_limits_that_limit_nothing_are_refused(plan, limit):
    with pytest.raises(InvalidConfigError, match=r"--max-usd-per-day is .*, must be a finite number"):
        plan(day_usd=limit)


def test_a_file_that_is_no_ledger_is_told(tmp_path):
    (tmp_path / "notes").write_text("x" * 200)
    with pytest.raises(InvalidConfigError, match=r"ledger of spending .*notes cannot be used: .*--spend-ledger"):
        SpendLedger(SpendPlan(file=str(tmp_path / "notes"), run="one"))
