"""Options that name an environment, for every command that runs one."""

import argparse

from mtrouter_rl.envs.factory import EnvConfig, resolve_env


def add_environment(parser: argparse.ArgumentParser, *, default: str | None = "scienceworld") -> None:
    """Add the options; without a default the environment is that of a dataset."""
    group = parser.add_argument_group("environment")
    group.add_argument(
        "--env",
        default=default,
        metavar="NAME|PATH",
        help=f"environment card (default: {default or 'that of the dataset, else scienceworld'})",
    )
    group.add_argument("--pool", metavar="NAME|PATH", help="model-pool card (default: the one the environment names)")
    group.add_argument("--cost-weight", type=float, metavar="W", help="utility per cost unit (default: the card's)")
    group.add_argument("--budget-usd", type=float, metavar="USD", help="budget of an episode (default: the card's)")
    group.add_argument("--max-turns", type=int, metavar="T", help="turn limit (default: the card's)")


def environment_config(args: argparse.Namespace, *, env: str | None = None) -> EnvConfig:
    """Resolved cards of the options; `env` stands in where none was named."""
    return resolve_env(
        args.env or env or "scienceworld",
        args.pool,
        cost_weight=args.cost_weight,
        budget_usd=args.budget_usd,
        max_turns=args.max_turns,
    )
