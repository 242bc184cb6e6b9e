"""`mtrouter-rl lab ablate`: what is each part of a router worth?"""

import argparse

from mtrouter_rl.options import Command, Option, Output, shared, values
from mtrouter_rl.options.environment import environment, environment_config
from mtrouter_rl.options.money import refuse_paid


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.studies.ablations.groups import groups_of
    from mtrouter_rl.studies.ablations.record import ABLATIONS_FILE
    from mtrouter_rl.studies.ablations.run import PLOTS_FOLDER, AblationRequest, run_ablations
    from mtrouter_rl.workflows import RESULTS_FILE

    config = environment_config(args)
    refuse_paid(config)
    request = AblationRequest(
        config=config,
        which=groups_of(args.agent, config) if args.which is None else tuple(args.which),
        percents=tuple(args.percent),
        **values(args, "dataset", "out", "agent", "split", "per_task", "seed", "encoder"),
        **values(args, compared="compare", n_seeds="seeds", n_trainings="trainings", n_workers="workers"),
    )
    ablations = run_ablations(request, say=output.say)
    output.show(f"\n{ablations.to_text()}\n", ablations)
    output.say(
        f"Everything lies in {args.out}:\n"
        f"  {args.out / ABLATIONS_FILE}   every number of the comparison\n"
        f"  {args.out / RESULTS_FILE}   the rows of all routers\n"
        f"  {args.out / PLOTS_FOLDER}   the figures"
    )


COMMAND = Command(
    name="ablate",
    summary="what each part of a router is worth: train it with one thing changed at a time",
    description=(
        "Trains an agent card from a log as it is (the full router) and with one thing changed at a time, runs all of "
        "them on the same episodes, and compares each with the full router: return, score and cost with 95% intervals.\n\n"
        "  embeddings      history-only: an output per model, no features of models;\n"
        "                  model-only: nothing of the history\n"
        "  context         task-only: the task text alone; last-turn: task, last turn, turns and money left\n"
        "  model-features  metadata-only: prices, limits and dates; residual-only: a learned vector per model\n"
        "  memory          factored-q-recurrent whose networks look at every turn by itself\n"
        "  factors         factored-q without one of its parts: what is due, who is stuck, that models\n"
        "                  are stuck together, what they lose and gain beside a useful turn\n"
        "  encoder         the other text encoders of the package\n"
        "  target          return-to-go, return-and-penalties, this-turn: other targets than planning,\n"
        "                  all else equal\n"
        "  log-size        smaller logs, each inside every larger one; --compare adds a second agent\n\n"
        "Everything is kept under OUT: run the same command again after a kill, or with more variants, trainings or "
        "another split, and it only does what is missing. See docs/ablations.md."
    ),
    examples=("--env corridor --dataset logs/corridor --out runs/ablations",),
    options=(
        *environment(),
        shared.given_dataset("folder of the log", metavar="LOG"),
        shared.out("folder of everything that comes of it"),
        shared.agent(),
        Option(
            "--which", "groups of variants, see above (default: all that the agent has)", nargs="+", metavar="GROUP"
        ),
        Option("--compare", "a second agent card for log-size, such as monte-carlo-q", metavar="NAME|PATH"),
        Option(
            "--percent", "shares of the log for log-size, beside the whole", int, "P", nargs="*", default=[10, 25, 50]
        ),
        shared.split(choices=("validation", "test", "ood")),
        shared.seeds(),
        shared.PER_TASK,
        Option("--trainings", "train every variant with N seeds, from --seed on, and average", int, "N", default=1),
        shared.seed("the first training and of the bootstrap"),
        shared.encoder(" of the full router"),
        shared.workers(),
    ),
    run=_run,
)
