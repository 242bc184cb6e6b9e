"""Options that name an environment, for every command that runs one."""

import argparse
from dataclasses import replace

from mtrouter_rl.envs.factory import EnvConfig, resolve_env
from mtrouter_rl.options.command import Option

DEFAULT_ENV = "scienceworld"
_SECTION = "environment"

POOL = Option("--pool", "model-pool card (default: the one the environment names)", metavar="NAME|PATH")
COST_WEIGHT = Option("--cost-weight", "utility per cost unit (default: the card's)", float, "W")
ENV_OF_LOGS = Option(
    "--env",
    f"environment cards of the datasets (default: those that the datasets name, else {DEFAULT_ENV})",
    nargs="+",
    default=[],
    metavar="NAME|PATH",
    section=_SECTION,
)


def env(help: str = "environment card", *, default: str | None = None, required: bool = False) -> Option:  # noqa: A002
    """`--env` alone."""
    return Option("--env", help, default=default, required=required, metavar="NAME|PATH")


def environment(*, of_logs: bool = False, of_routers: bool = False, has_cost_weight: bool = True) -> tuple[Option, ...]:
    """The options.

    Args:
        of_logs: Take several environments, and without any those of the datasets.
        of_routers: Without one, the command takes that of the routers.
        has_cost_weight: Whether one cost weight is among them.
    """
    options = (
        env(default=DEFAULT_ENV),
        POOL,
        *((COST_WEIGHT,) if has_cost_weight else ()),
        Option("--budget-usd", "budget of an episode (default: the card's)", float, "USD"),
        Option("--max-turns", "turn limit (default: the card's)", int, "T"),
    )
    first, *others = (replace(one, section=_SECTION) for one in options)
    if of_routers:
        first = replace(
            first, help=f"environment card (default: that of the routers, else {DEFAULT_ENV})", default=None
        )
    return (ENV_OF_LOGS if of_logs else first, *others)


def environment_config(args: argparse.Namespace, *, env: str | None = None) -> EnvConfig:
    """Resolved cards of the options; `env` stands in for `--env`."""
    return resolve_env(
        env or args.env,
        args.pool,
        cost_weight=getattr(args, "cost_weight", None),
        budget_usd=args.budget_usd,
        max_turns=args.max_turns,
    )
