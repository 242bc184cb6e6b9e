"""`mtrouter-rl ope`: what routers would earn, estimated from a log alone."""

import argparse
from pathlib import Path

from mtrouter_rl.registry import DEFAULT_ENCODER


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "ope",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="estimate from a log what routers would earn, without running them (off-policy evaluation)",
        description=(
            "Importance sampling (is, wis, pdis, wpdis), fitted Q evaluation (dm) and doubly robust estimates (dr, wdr) of\n"
            "score, cost and return, with intervals. Where the log cannot tell, it says so, and why. Routers: folders of\n"
            "trained ones, or uniform | random | cheapest | sticky:P | mixed:S | single:MODEL.\n"
            "See docs/off-policy-evaluation.md.\n\n"
            "example: mtrouter-rl ope routers/fitted-q random single:gpt-5 --dataset logs/uniform --out runs/ope"
        ),
    )
    parser.add_argument("routers", nargs="+", metavar="ROUTER", help="folders or names of routers")
    parser.add_argument("--dataset", type=Path, required=True, metavar="DIR", help="folder of the log")
    parser.add_argument(
        "--env", metavar="NAME|PATH", help="environment card, for the reward and the pool (default: that of the log)"
    )
    parser.add_argument("--pool", metavar="NAME|PATH", help="model-pool card (default: the one the environment names)")
    parser.add_argument("--cost-weight", type=float, metavar="W", help="utility per cost unit (default: the card's)")
    parser.add_argument(
        "--cost-unit-usd", type=float, metavar="USD", help="a cost unit; needed for an imported log, which has no card"
    )
    parser.add_argument(
        "--estimators", nargs="+", metavar="NAME", help="is wis pdis wpdis dm dr wdr (default: all of them)"
    )
    parser.add_argument("--encoder", default=DEFAULT_ENCODER, help=f"text encoder (default: {DEFAULT_ENCODER})")
    parser.add_argument("--seed", type=int, default=0, help="seed of training and bootstrap (default: 0)")
    parser.add_argument("--repeats", type=int, metavar="R", help="how often the log is halved for dm (default: 2)")
    parser.add_argument("--iterations", type=int, metavar="K", help="iterations of the fitted values (default: 100)")
    parser.add_argument(
        "--truth", type=Path, metavar="FILE", help="results.json of the same policies run closed-loop, to compare with"
    )
    parser.add_argument("--truth-split", default="test", metavar="SPLIT", help="split of --truth (default: test)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write ope.json there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    import sys

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
    report = run_ope(request, say=lambda text: print(text, file=sys.stderr, flush=True))
    print(report.model_dump_json(indent=2) if args.json else format_report(report))
    if args.out is not None:
        print(f"every number: {report.save(args.out)}", file=sys.stderr)
