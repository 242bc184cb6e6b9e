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
    n_episodes: int | None,
    output: Output,
    *,
    is_paid: bool | None = None,
    ask: Callable[[str], str] | None = None,
) -> bool:
    """Whether a command may go on; False after a dry run, or if the user says no.

    Args:
        args: Options of `MONEY`.
        config: Environment and pool.
        n_episodes: Episodes that are run; None where nobody knows before.
        output: Shows the estimate.
        is_paid: Whether calls cost money; None goes by the pool.
        ask: Asks on the terminal.

    Raises:
        InvalidConfigError: If money would be spent, nobody has allowed it and there is no terminal to ask on; or if a limit is
            given that the backend does not keep.
    """
    is_paid = costs_money(config.pool) if is_paid is None else is_paid
    if not (is_paid or args.dry_run):
        return True
    told, estimate = _estimate(args, config, n_episodes)
    if args.dry_run:
        note = "" if is_paid else f"; pool '{config.pool.name}' is simulated or free: nothing is paid to anybody"
        output.show(f"{told}{note}", {"is_paid": is_paid, "n_episodes": n_episodes, "estimate": estimate})
        return False
    has_limit = args.max_usd is not None or args.max_usd_per_day is not None
    if has_limit and costs_money(config.pool) and config.pool.backend.kind != "openai_compatible":
        raise InvalidConfigError(
            f"backend '{config.pool.backend.kind}' of pool '{config.pool.name}' books nothing in the ledger of spending, so "
            "--max-usd and --max-usd-per-day limit nothing there; leave them out, and give --yes"
        )
    if args.yes or has_limit:
        output.aside(told)
        return True
    if not sys.stdin.isatty():
        raise InvalidConfigError(f"{told}; nobody can be asked here, so give --max-usd USD, or --yes")
    return (ask or input)(f"{told}.\nSpend it? [y/N] ").strip().lower() in ("y", "yes")


def refuse_paid(config: EnvConfig) -> None:
    """For commands that play many episodes and have no options of `MONEY`: nothing is spent unasked.

    Raises:
        InvalidConfigError: If the models of the pool cost money.
    """
    if costs_money(config.pool):
        raise InvalidConfigError(
            f"pool '{config.pool.name}' calls models that cost money, and this command plays many episodes and does not ask "
            "before it spends; train cards with 'mtrouter-rl train', and run the few that matter with 'mtrouter-rl evaluate'"
        )


def _estimate(args: argparse.Namespace, config: EnvConfig, n_episodes: int | None) -> tuple[str, object]:
    """(what it costs in words, the same as a record); of one episode where nobody knows how many there will be."""
    from mtrouter_rl.workflows.cost_estimate import estimate_cost

    estimate = estimate_cost(config, 1 if n_episodes is None else n_episodes, like=args.like)
    several = " (and how many are run shows only then)" if n_episodes is None else ""
    return f"pool '{config.pool.name}' costs money: {estimate}{several}", estimate


@contextmanager
def booked(
    args: argparse.Namespace, config: EnvConfig, output: Output, *, out: Path | None = None
) -> Iterator[Callable[[], SpendSummary | None]]:
    """Whatever is called meanwhile is booked in the ledger, within the limits of the options; an end by error tells the sum.

    Args:
        args: Options of `MONEY`.
        config: Environment and pool.
        output: Told what was spent.
        out: Place of the results, which names the run; None takes that of the options.

    Yields:
        Gives what the ledger says of the run; None where it knows of no call.
    """
    plan = SpendPlan(
        file=str(args.spend_ledger or state_folder() / _LEDGER_FILE),
        run=str((out or args.out).resolve()),
        run_usd=args.max_usd,
        day_usd=args.max_usd_per_day,
    )
    is_paid = costs_money(config.pool)
    if is_paid:
        summary_of(plan)  # a ledger that cannot be used is told before anything is called

    def spent() -> SpendSummary | None:
        found = summary_of(plan) if is_paid or Path(plan.file).is_file() else None
        return found if found and found.n_tries else None

    try:
        with plan.in_force():
            yield spent
    except BaseException:
        if (found := spent()) is not None:
            output.aside(found.told())
        raise


def tell_spent(spent: SpendSummary | None, output: Output, *, in_dataset_usd: float | None = None) -> None:
    """Say what was spent, if anything was."""
    if spent is not None:
        output.aside(spent.told(in_dataset_usd=in_dataset_usd))
