"""`mtrouter-rl check-env`: whether an environment keeps every rule of its contract."""

import argparse

from mtrouter_rl.errors import ContractError
from mtrouter_rl.options import shared
from mtrouter_rl.options.command import Command, Group, Option
from mtrouter_rl.options.environment import POOL
from mtrouter_rl.options.output import Output


def run(args: argparse.Namespace, output: Output) -> None:
    """Run the command.

    Raises:
        ContractError: If a check failed; the report is printed before.
    """
    from mtrouter_rl.envs.factory import resolve_env
    from mtrouter_rl.testing.contract import check_environment

    report = check_environment(
        resolve_env(args.env, args.pool),
        n_episodes=args.episodes,
        seed=args.seed,
        expert_threshold=args.expert_threshold,
        replan_threshold=args.replan_threshold,
    )
    output.show(report, report.as_json())
    if not report.is_passed:
        names = ", ".join(result.name for result in report.failures)
        raise ContractError(f"environment '{report.env}' breaks its contract: {names}")


COMMAND = Command(
    name="check-env",
    group=Group.PLUG_IN,
    summary="check every rule of an environment, with a fix for each that it breaks",
    description=(
        "Plays a sample of episodes and checks types, texts, scores, endings, seeds, the expert and its re-planning, "
        "Gymnasium's check_env, limits and budget. A line per check: passed, failed (with what was done, what was seen, the "
        "rule and the fix) or skipped (with the reason). No model is called over the network."
    ),
    examples=("corridor",),
    options=(
        Option("env", "environment card", metavar="NAME|PATH"),
        POOL,
        shared.episodes("episodes of the sample", default=20),
        shared.seed("the sample"),
        Option(
            "--expert-threshold",
            "share the expert must solve (default: what the card says, else 0.95)",
            type=float,
            metavar="P",
        ),
        Option("--replan-threshold", "share after mistakes", type=float, default=0.8, metavar="P"),
    ),
    run=run,
)
