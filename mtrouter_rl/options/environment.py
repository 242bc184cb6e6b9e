"""Options that name an environment, for every command that runs one."""

import argparse

from mtrouter_rl.envs.factory import EnvConfig, resolve_env

DEFAULT_ENV = "scienceworld"


def add_environment(parser: argparse.ArgumentParser, *, of_logs: bool = False, has_cost_weight: bool = True) -> None:
    """Add the options.

    Args:
        parser: Takes them.
        of_logs: Take several environments, and without any those of the datasets.
        has_cost_weight: Whether one cost weight is among them.
    """
    group = parser.add_argument_group("environment")
    if of_logs:
        group.add_argument(
            "--env",
            nargs="+",
            default=[],
            metavar="NAME|PATH",
            help=f"environment cards of the datasets (default: those that the datasets name, else {DEFAULT_ENV})",
        )
    else:
        group.add_argument(
            "--env", default=DEFAULT_ENV, metavar="NAME|PATH", help=f"environment card (default: {DEFAULT_ENV})"
        )
    group.add_argument("--pool", metavar="NAME|PATH", help="model-pool card (default: the one the environment names)")
    if has_cost_weight:
        group.add_argument("--cost-weight", type=float, metavar="W", help="utility per cost unit (default: the card's)")
    group.add_argument("--budget-usd", type=float, metavar="USD", help="budget of an episode (default: the card's)")
    group.add_argument("--max-turns", type=int, metavar="T", help="turn limit (default: the card's)")


def environment_config(args: argparse.Namespace, *, env: str | None = None) -> EnvConfig:
    """Resolved cards of the options; `env` stands in for `--env`."""
    return resolve_env(
        env or args.env,
        args.pool,
        cost_weight=args.cost_weight,
        budget_usd=args.budget_usd,
        max_turns=args.max_turns,
    )
