"""`mtrouter-rl ope`: what routers would earn, estimated from a log alone."""

import argparse
from pathlib import Path

from mtrouter_rl.options import shared
from mtrouter_rl.options.command import Command, Group, Option
from mtrouter_rl.options.environment import COST_WEIGHT, POOL, env
from mtrouter_rl.options.output import Output


def run(args: argparse.Namespace, output: Output) -> None:
    """Run the command."""
    from mtrouter_rl.ope.fqe import FqeParameters
    from mtrouter_rl.ope.inputs import OpeRequest, log_setting
    from mtrouter_rl.ope.run import run_ope
    from mtrouter_rl.ope.sequential import ESTIMATORS
    from mtrouter_rl.reporting.ope_report import format_report

    pool, reward = log_setting(
        args.dataset,
        env=args.env,
        pool=args.pool,
        cost_weight=args.cost_weight,
        cost_unit_usd=args.cost_unit_usd,
    )
    changes = {"n_repeats": args.repeats, "n_iterations": args.iterations}
    request = OpeRequest(
        routers=tuple(args.routers),
        dataset=args.dataset,
        pool=pool,
        reward=reward,
        seed=args.seed,
        encoder=args.encoder,
        estimators=tuple(args.estimators or ESTIMATORS),
        cache=None if args.out is None else args.out / "embeddings",
        fqe=FqeParameters(**{name: value for name, value in changes.items() if value is not None}),
        truth=args.truth,
        truth_split=args.truth_split,
    )
    report = run_ope(request, say=output.say)
    output.show(format_report(report), report)
    if args.out is not None:
        output.say(f"every number: {report.save(args.out)}")


COMMAND = Command(
    name="ope",
    group=Group.LOGS,
    summary="estimate from a log what routers would earn, without running them",
    description=(
        "Off-policy evaluation: importance sampling (is, wis, pdis, wpdis), fitted Q evaluation (dm) and doubly robust "
        "estimates (dr, wdr) of score, cost and return, with intervals. Where the log cannot tell, it says so, and why. "
        "Routers: folders of trained ones, or uniform | random | cheapest | sticky:P | mixed:S | single:MODEL. See "
        "docs/off-policy-evaluation.md."
    ),
    examples=(
        "random single:small --dataset logs/corridor --estimators wis wpdis",
        "routers/fitted-q random --dataset logs/corridor --out runs/ope",
    ),
    options=(
        Option("routers", "folders or names of routers", nargs="+", metavar="ROUTER"),
        shared.given_dataset("folder of the log"),
        env("environment card, for the reward and the pool (default: that of the log)"),
        POOL,
        COST_WEIGHT,
        shared.COST_UNIT,
        Option("--estimators", "is wis pdis wpdis dm dr wdr (default: all of them)", nargs="+", metavar="NAME"),
        shared.encoder(),
        shared.seed("training and bootstrap"),
        Option("--repeats", "how often the log is halved for dm (default: 2)", type=int, metavar="R"),
        Option("--iterations", "iterations of the fitted values (default: 100)", type=int, metavar="K"),
        Option(
            "--truth", "results.json of the same policies run closed-loop, to compare with", type=Path, metavar="FILE"
        ),
        Option("--truth-split", "split of --truth", default="test", metavar="SPLIT"),
        shared.out("write ope.json there", required=False),
    ),
    run=run,
)
