"""The books of both sides compared, try by try: what the double billed, and what the client booked."""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass

from mtrouter_rl.pools.spend import BookedTry, SpendLedger, SpendPlan
from mtrouter_rl.testing.fake_llm.ledger import LedgerEntry

_TOLERANCE_USD = 1e-9


@dataclass(frozen=True, kw_only=True)
class Reconciliation:
    """What the comparison found.

    Attributes:
        n_requests: Requests that the double has seen.
        billed_usd: What it billed for them.
        known_usd: Bills that the client knows.
        n_estimated: Tries that the client estimated.
        estimated_usd: Their estimates.
        estimated_billed_usd: What they were billed.
        n_unknown: Tries whose bill the client cannot know.
        unknown_most_usd: Most that they can have cost, as the client says.
        unknown_billed_usd: What they were billed.
        problems: Every try that one side lacks, and every bill that was booked wrong.
    """

    n_requests: int
    billed_usd: float
    known_usd: float
    n_estimated: int
    estimated_usd: float
    estimated_billed_usd: float
    n_unknown: int
    unknown_most_usd: float
    unknown_billed_usd: float
    problems: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.n_requests} requests billed {self.billed_usd:.6f} USD: known {self.known_usd:.6f}; {self.n_estimated} "
            f"estimated {self.estimated_usd:.6f} (billed {self.estimated_billed_usd:.6f}); {self.n_unknown} unknown, at most "
            f"{self.unknown_most_usd:.6f} (billed {self.unknown_billed_usd:.6f}); {len(self.problems)} problems"
        )


def reconcile(entries: Iterable[LedgerEntry], plan: SpendPlan) -> Reconciliation:
    """Compare the ledger of the double with that of a run, by the ids of the requests.

    Args:
        entries: Requests of that run alone.
        plan: Where the run booked.
    """
    with closing(SpendLedger(plan)) as ledger:
        booked = {one.ident: one for one in ledger.tries()}
    seen = {entry.request_id: entry for entry in entries}
    pairs = [(booked[ident], entry) for ident, entry in seen.items() if ident in booked]
    problems = [
        f"{ident}: billed {one.cost_usd:.6f} USD, not booked" for ident, one in seen.items() if ident not in booked
    ]
    problems += [
        f"{ident}: booked as {one.state}, and no request came"
        for ident, one in booked.items()
        if ident not in seen and one.cost_usd
    ]
    problems += [text for one, entry in pairs if (text := _difference(one, entry))]
    groups = {name: [(b, e) for b, e in pairs if b.state == name] for name in ("known", "estimated", "unknown", "open")}
    unknown = [*groups["unknown"], *groups["open"]]
    return Reconciliation(
        n_requests=len(seen),
        billed_usd=sum(entry.cost_usd for entry in seen.values()),
        known_usd=sum(one.cost_usd or 0.0 for one, _ in groups["known"]),
        n_estimated=len(groups["estimated"]),
        estimated_usd=sum(one.cost_usd or 0.0 for one, _ in groups["estimated"]),
        estimated_billed_usd=sum(entry.cost_usd for _, entry in groups["estimated"]),
        n_unknown=len(unknown),
        unknown_most_usd=sum(one.most_usd for one, _ in unknown),
        unknown_billed_usd=sum(entry.cost_usd for _, entry in unknown),
        problems=tuple(problems),
    )


def _difference(one: BookedTry, entry: LedgerEntry) -> str:
    """What is wrong with how a bill was booked; empty for nothing."""
    if one.cost_usd is None:
        is_wrong = entry.cost_usd > one.most_usd + _TOLERANCE_USD
    elif one.state == "estimated":
        is_wrong = entry.cost_usd > one.cost_usd + _TOLERANCE_USD
    else:
        is_wrong = abs(entry.cost_usd - one.cost_usd) > _TOLERANCE_USD
    booked_usd = one.most_usd if one.cost_usd is None else one.cost_usd
    return (
        f"{one.ident}: {one.state} {booked_usd:.9f} USD, billed {entry.cost_usd:.9f} ({entry.fault})"
        if is_wrong
        else ""
    )
