"""`mtrouter-rl ope`: what routers would earn, estimated from a log alone."""

import argparse
import os
from pathlib import Path

from mtrouter_rl.options import Command, Group, Option, Output, given, shared, values
from mtrouter_rl.options.environment import COST_WEIGHT, POOL, env


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.ope.fqe import FqeParameters
    from mtrouter_rl.ope.inputs import OpeRequest, log_setting
    from mtrouter_rl.ope.run import run_ope, write_transcripts
    from mtrouter_rl.ope.sequential import ALL_ESTIMATORS
    from mtrouter_rl.reporting.ope_report import format_report

    pool, reward = log_setting(args.dataset, **values(args, "env", "pool", "cost_weight", "cost_unit_usd"))
    request = OpeRequest(
        routers=tuple(args.routers),
        pool=pool,
        reward=reward,
        estimators=tuple(args.estimators or ALL_ESTIMATORS),
        cache=None if args.out is None else args.out / "embeddings",
        n_threads=len(os.sched_getaffinity(0)),
        fqe=FqeParameters(**given(args, n_repeats="repeats", n_iterations="iterations", max_passes="passes")),
        **values(args, "dataset", "seed", "encoder", "truth", "truth_split"),
    )
    report = run_ope(request, say=output.aside)
    output.show(format_report(report), report)
    if args.out is not None:
        output.aside(f"every number: {report.save(args.out)}")
        write_transcripts(request, args.out)
        output.aside(f"as a page: mtrouter-rl report {args.out}")


COMMAND = Command(
    name="ope",
    group=Group.LOGS,
    summary="estimate from a log what routers would earn, without running them",
    description=(
        "Off-policy evaluation: importance sampling (is, wis, pdis, wpdis), fitted Q evaluation (dm), doubly robust "
        "estimates (dr, wdr) and roll-outs in an approximate model of the log (am: quick, and can tell single models) of "
        "score, cost and return, with intervals. Where the log cannot tell, it says so, and why. "
        "Routers: folders of trained ones, or uniform | random | cheapest | sticky:P | mixed:S | single:MODEL. See "
        "docs/off-policy-evaluation.md."
    ),
    examples=(
        "random single:small --dataset logs/corridor --estimators wis wpdis",
        "random single:small single:large --dataset logs/corridor --estimators am",
        "routers/fitted-q random --dataset logs/corridor --out runs/ope",
    ),
    options=(
        Option("routers", "folders or names of routers", nargs="+", metavar="ROUTER"),
        shared.given_dataset("folder of the log"),
        env("environment card, for the reward and the pool (default: that of the log)"),
        POOL,
        COST_WEIGHT,
        shared.COST_UNIT,
        Option("--estimators", "is wis pdis wpdis dm dr wdr am (default: all of them)", nargs="+", metavar="NAME"),
        shared.encoder(),
        shared.seed("training and bootstrap"),
        Option("--repeats", "how often the log is halved for dm (default: 2)", int, "R"),
        Option("--iterations", "iterations of the fitted values (default: 100)", int, "K"),
        Option("--passes", "passes over the log of an iteration, at most (default: 40)", float, "P"),
        Option("--truth", "results.json of the same policies run closed-loop, to compare with", Path, "FILE"),
        Option("--truth-split", "split of --truth", default="test", metavar="SPLIT"),
        shared.out("write ope.json there", required=False),
    ),
    run=_run,
)
