"""`mtrouter-rl sweep`: parameters at several values, trained with several seeds, compared on validation."""

import argparse

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.options import Command, Group, Option, Output, shared, values
from mtrouter_rl.options.environment import environment, environment_config
from mtrouter_rl.options.money import refuse_paid


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.workflows.sweep import BEST_CARD_FILE, SWEEP_FILE, SweepRequest, parse_values, run_sweep

    settings: dict[str, tuple[object, ...]] = {}
    for text in args.set:
        try:
            name, found = parse_values(text)
        except ValueError as error:
            raise InvalidConfigError(f"--set: {error}; such as --set learning_rate=0.001,0.0003") from error
        if name in settings:
            raise InvalidConfigError(f"--set {name} is given twice; give all its values at once, with commas")
        settings[name] = found
    config = environment_config(args)
    refuse_paid(config)
    request = SweepRequest(
        config=config,
        agents=tuple(args.agent),
        values=settings,  # type: ignore[arg-type]
        **values(args, "dataset", "out", "per_task", "seed", "encoder"),
        **values(args, n_seeds="seeds", n_trainings="trainings", n_workers="workers"),
    )
    found_sweep = run_sweep(request, say=output.say)
    output.show(f"\n{found_sweep.to_text()}\n", found_sweep)
    output.say(
        f"Everything lies in {args.out}:\n"
        f"  {args.out / SWEEP_FILE}   every number\n"
        f"  {args.out / BEST_CARD_FILE}   the best card, for: mtrouter-rl train --agent {args.out / BEST_CARD_FILE}\n"
        f"HParams in TensorBoard: tensorboard --logdir {args.out}"
    )


COMMAND = Command(
    name="sweep",
    group=Group.LOGS,
    summary="compare values of an agent's parameters, with several seeds, on validation",
    description=(
        "Trains every agent card with every combination of values, with as many seeds as --trainings says, runs all routers "
        "on the same validation episodes, and prints one table, the best first. It never looks at test or OOD. Everything is "
        "kept: the same command again goes on after a kill, and with more values or trainings it does what is missing. "
        "With --workers ray the trainings and episodes run on a cluster. 'mtrouter-rl show AGENT' lists the parameters."
    ),
    examples=("--env corridor --dataset logs/corridor --agent turn-ridge --set penalty=1,10 --out runs/sweep",),
    options=(
        *environment(),
        shared.given_dataset("folder of the log", metavar="LOG"),
        Option("--agent", "agent cards", nargs="+", required=True, metavar="NAME|PATH"),
        Option(
            "--set", "a parameter and its values; may be given often", action="append", default=[], metavar="NAME=V,V"
        ),
        Option("--trainings", "train every combination with N seeds, from --seed on, and average", int, "N", default=1),
        shared.seeds(),
        shared.PER_TASK,
        shared.seed("the first training and of the bootstrap"),
        shared.encoder(),
        shared.workers(),
        shared.out("folder of everything that comes of it"),
    ),
    run=_run,
)
