"""`mtrouter-rl ablate`: what is each part of a router worth?"""

import argparse
from pathlib import Path

from mtrouter_rl.options.environment import add_environment, environment_config
from mtrouter_rl.registry import DEFAULT_ENCODER


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "ablate",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="what is each part of a router worth: train it with one thing changed at a time, and compare",
        description=(
            "Trains an agent card from a log as it is (the full router) and with one thing changed at a time, runs all of\n"
            "them on the same episodes, and compares each with the full router: return, score and cost with 95% intervals.\n\n"
            "  embeddings      history-only: an output per model, no features of models; model-only: nothing of the history\n"
            "  context         task-only: the task text alone; last-turn: task, last turn, turns and money left\n"
            "  model-features  metadata-only: prices, limits and dates; residual-only: a learned vector per model\n"
            "  encoder         the other text encoders of the package\n"
            "  log-size        smaller logs, each inside every larger one; --compare adds a second agent\n\n"
            "Everything is kept under OUT: run the same command again after a kill, or with more variants, trainings or\n"
            "another split, and it only does what is missing. See docs/ablations.md.\n\n"
            "example: mtrouter-rl ablate --env corridor --dataset logs/corridor --out runs/ablations"
        ),
    )
    add_environment(parser)
    parser.add_argument("--dataset", type=Path, required=True, metavar="LOG", help="folder of the log")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of everything that comes of it")
    parser.add_argument(
        "--agent", default="fitted-q", metavar="NAME|PATH", help="agent card that is ablated (default: fitted-q)"
    )
    parser.add_argument("--which", nargs="+", metavar="GROUP", help="groups of variants, see above (default: all)")
    parser.add_argument(
        "--compare",
        metavar="NAME|PATH",
        help="a second agent card for log-size, such as monte-carlo-q: does the first with a part of the log beat it with all?",
    )
    parser.add_argument(
        "--percent",
        type=int,
        nargs="*",
        default=[10, 25, 50],
        metavar="P",
        help="shares of the log for log-size, beside the whole (default: 10 25 50); nothing behind it: the whole alone",
    )
    parser.add_argument(
        "--split", default="test", choices=["validation", "test", "ood"], help="split that is run (default: test)"
    )
    parser.add_argument("--seeds", type=int, default=1, metavar="K", help="episodes per variation (default: 1)")
    parser.add_argument("--per-task", type=int, metavar="N", help="at most N variations of a task (default: all)")
    parser.add_argument(
        "--trainings",
        type=int,
        default=1,
        metavar="N",
        help="train every variant N times, with seeds from --seed on, and average (default: 1)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the first training and of the bootstrap (default: 0)"
    )
    parser.add_argument(
        "--encoder", default=DEFAULT_ENCODER, help=f"text encoder of the full router (default: {DEFAULT_ENCODER})"
    )
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: 2)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from mtrouter_rl.studies.ablations.record import ABLATIONS_FILE
    from mtrouter_rl.studies.ablations.run import GROUPS, PLOTS_FOLDER, AblationRequest, run_ablations
    from mtrouter_rl.workflows import RESULTS_FILE

    request = AblationRequest(
        config=environment_config(args),
        dataset=args.dataset,
        out=args.out,
        agent=args.agent,
        which=GROUPS if args.which is None else tuple(args.which),
        compared=args.compare,
        percents=tuple(args.percent),
        split=args.split,
        n_seeds=args.seeds,
        n_trainings=args.trainings,
        per_task=args.per_task,
        seed=args.seed,
        n_workers=args.workers,
        encoder=args.encoder,
    )
    ablations = run_ablations(request, say=lambda text: print(text, flush=True))
    print(
        f"\n{ablations.to_text()}\n\n"
        f"Everything lies in {args.out}:\n"
        f"  {args.out / ABLATIONS_FILE}   every number of the comparison\n"
        f"  {args.out / RESULTS_FILE}   the rows of all routers\n"
        f"  {args.out / PLOTS_FOLDER}   the figures"
    )
