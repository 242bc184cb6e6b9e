"""`mtrouter-rl check-env`: whether an environment keeps every rule of its contract."""

import argparse

from mtrouter_rl.errors import ContractError
from mtrouter_rl.options import Command, Group, Option, Output, shared, values
from mtrouter_rl.options.environment import POOL


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.envs.factory import resolve_env
    from mtrouter_rl.testing.contract import check_environment

    report = check_environment(
        resolve_env(args.env, args.pool),
        **values(args, "seed", "expert_threshold", "replan_threshold", n_episodes="episodes"),
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
        Option("--expert-threshold", "share the expert must solve (default: the card's, else 0.95)", float, "P"),
        Option("--replan-threshold", "share after mistakes", float, "P", default=0.8),
    ),
    run=_run,
)
