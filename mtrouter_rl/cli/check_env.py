"""`mtrouter-rl check-env`: whether an environment keeps every rule of its contract."""

import argparse
import json

from mtrouter_rl.errors import ContractError


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "check-env",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="check every rule of an environment, with a fix for each that it breaks",
        description=(
            "Plays a sample of episodes and checks types, texts, scores, endings, seeds, the expert and its re-planning,\n"
            "Gymnasium's check_env, limits and budget. A line per check: passed, failed (with what was done, what was seen,\n"
            "the rule and the fix) or skipped (with the reason). No model is called over the network.\n\n"
            "example: mtrouter-rl check-env corridor"
        ),
    )
    parser.add_argument("env", metavar="NAME|PATH", help="environment card")
    parser.add_argument("--pool", metavar="NAME|PATH", help="model-pool card (default: the one the environment names)")
    parser.add_argument("--episodes", type=int, default=20, metavar="N", help="episodes of the sample (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample (default: 0)")
    parser.add_argument(
        "--expert-threshold",
        type=float,
        metavar="P",
        help="share the expert must solve (default: what the card says, else 0.95)",
    )
    parser.add_argument(
        "--replan-threshold", type=float, default=0.8, metavar="P", help="share after mistakes (default: 0.8)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
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
    print(json.dumps(report.as_json(), indent=2) if args.json else report)
    if not report.is_passed:
        names = ", ".join(result.name for result in report.failures)
        raise ContractError(f"environment '{report.env}' breaks its contract: {names}")
