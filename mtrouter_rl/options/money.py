"""Options of commands that may cost money, and the question that is asked before any is spent."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.files import state_folder
from mtrouter_rl.options.command import Option, switch
from mtrouter_rl.options.output import Output
from mtrouter_rl.pools.spend import SpendPlan, SpendSummary, costs_money, summary_of

_SECTION = "money, for models that are paid (docs/call-real-models.md)"
_LEDGER_FILE = "spend.sqlite"

MONEY = tuple(
    replace(one, section=_SECTION)
    for one in (
        Option("--max-usd", "most that this run may spend, with what was spent for its folder before", float, "USD"),
        Option("--max-usd-per-day", "most that all runs together may spend a day, from midnight UTC", float, "USD"),
        switch("--dry-run", "say what it would cost, and call nothing"),
        Option("--like", "dataset whose episodes say what one costs (default: rough, by the cards)", Path, "DATASET"),
        switch("--yes", "spend without being asked"),
        Option(
            "--spend-ledger",
            f"ledger of spending (default: {_LEDGER_FILE} in ~/.local/state/mtrouter_rl)",
            Path,
            "FILE",
        ),
    )
)


def is_allowed(
    args: argparse.Namespace,
    config: EnvConfig,
    n_episodes: int,
    output: Output,
    *,
    ask: Callable[[str], str] | None = None,
) -> bool:
    """Whether a command may go on; False after a dry run, or if the user says no.

    Args:
        args: Options of `MONEY`.
        config: Environment and pool.
        n_episodes: Episodes that are run.
        output: Shows the estimate.
        ask: Asks on the terminal.

    Raises:
        InvalidConfigError: If money would be spent, nobody has allowed it and there is no terminal to ask on; or if a limit is
            given that the backend does not keep.
    """
    from mtrouter_rl.workflows.cost_estimate import estimate_cost

    is_paid = costs_money(config.pool)
    if not (is_paid or args.dry_run):
        return True
    estimate = estimate_cost(config, n_episodes, like=args.like)
    note = "" if is_paid else f"; pool '{config.pool.name}' is simulated or free: nothing is paid to anybody"
    if args.dry_run:
        output.show(f"{estimate}{note}", {"is_paid": is_paid, "estimate": estimate})
        return False
    has_limit = args.max_usd is not None or args.max_usd_per_day is not None
    if has_limit and config.pool.backend.kind != "openai_compatible":
        raise InvalidConfigError(
            f"backend '{config.pool.backend.kind}' of pool '{config.pool.name}' books nothing in the ledger of spending, so "
            "--max-usd and --max-usd-per-day limit nothing there; leave them out, and give --yes"
        )
    if args.yes or has_limit:
        output.aside(str(estimate))
        return True
    if not sys.stdin.isatty():
        raise InvalidConfigError(
            f"pool '{config.pool.name}' costs money: {estimate}; nobody can be asked here, so give --max-usd USD, or --yes"
        )
    answer = (ask or input)(f"Pool '{config.pool.name}' costs money: {estimate}.\nSpend it? [y/N] ")
    return answer.strip().lower() in ("y", "yes")


@contextmanager
def booked(args: argparse.Namespace, config: EnvConfig, output: Output) -> Iterator[Callable[[], SpendSummary | None]]:
    """Whatever is called meanwhile is booked in the ledger, within the limits of the options; an end by error tells the sum.

    Yields:
        Gives what the ledger says of the run; None where nothing costs money.
    """
    if not costs_money(config.pool):
        if args.max_usd is not None or args.max_usd_per_day is not None:
            output.aside(
                f"pool '{config.pool.name}' costs nobody money, so --max-usd and --max-usd-per-day limit nothing"
            )
        yield lambda: None
        return
    plan = SpendPlan(
        file=str(args.spend_ledger or state_folder() / _LEDGER_FILE),
        run=str(args.out.resolve()),
        run_usd=args.max_usd,
        day_usd=args.max_usd_per_day,
    )
    summary_of(plan)  # a ledger that cannot be used is told before anything is called
    try:
        with plan.in_force():
            yield lambda: summary_of(plan)
    except BaseException:
        output.aside(summary_of(plan).told())
        raise
