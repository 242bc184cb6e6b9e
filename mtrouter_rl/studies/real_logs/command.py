"""`mtrouter-rl study-log`: single-turn routers on a log of real models, trained and estimated out of sample."""

import argparse
from pathlib import Path

from mtrouter_rl.registry import DEFAULT_ENCODER


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "study-log",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="train and compare routers on a log that cannot be run again",
        description=(
            "For logs in which one model played each episode. Routers choose once per episode from the task text; they are\n"
            "trained on all folds but one and estimated on that one, by importance sampling stratified by task. What the\n"
            "log cannot tell is refused, with the reason.\n\n"
            "example: mtrouter-rl study-log logs/mine --cost-weight 0.4 --out runs/mine"
        ),
    )
    parser.add_argument("dataset", type=Path, metavar="DIR", help="folder of the log")
    parser.add_argument(
        "--cost-weight", type=float, required=True, metavar="W", help="utility that one cost unit is worth"
    )
    parser.add_argument(
        "--cost-unit-usd", type=float, metavar="USD", help="a cost unit (default: an episode of the strongest model)"
    )
    parser.add_argument("--agents", nargs="+", metavar="AGENT", help="agent cards (default: five single-turn ones)")
    parser.add_argument("--folds", type=int, default=3, metavar="K", help="folds (default: 3)")
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="R", help="divide into folds anew R times and average (default: 3)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of folds, training and bootstrap (default: 0)")
    parser.add_argument("--encoder", default=DEFAULT_ENCODER, help=f"text encoder (default: {DEFAULT_ENCODER})")
    parser.add_argument(
        "--instance-pattern",
        default="",
        metavar="REGEX",
        help="finds in an episode's observations which instance was played; tasks where models played different ones "
        "are flagged",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the run")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from mtrouter_rl.reporting.tables import format_table
    from mtrouter_rl.studies.real_logs.run import DEFAULT_AGENTS, LogStudyRequest, study_log

    request = LogStudyRequest(
        dataset=args.dataset,
        out=args.out,
        cost_weight=args.cost_weight,
        cost_unit_usd=args.cost_unit_usd,
        agents=tuple(args.agents or DEFAULT_AGENTS),
        n_folds=args.folds,
        n_repeats=args.repeats,
        seed=args.seed,
        encoder=args.encoder,
        instance_pattern=args.instance_pattern,
    )
    results = study_log(request, say=lambda text: print(text, flush=True))
    print(f"\n{format_table(results, 'test')}\n")
    for note in results.notes:
        print(f"note: {note}")
    print(f"report: {args.out / 'report.html'}")
