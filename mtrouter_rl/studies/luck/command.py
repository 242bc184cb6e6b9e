"""`mtrouter-rl lab luck`: how large are differences between policies, once known luck is taken off?"""

import argparse
from pathlib import Path

from mtrouter_rl.options import Command, Option, Output, shared, values
from mtrouter_rl.options.environment import environment, environment_config


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.studies.luck.run import LuckRequest, find_luck, format_luck

    request = LuckRequest(
        config=environment_config(args), runs=tuple(args.runs), **values(args, "split", "against", "seed")
    )
    found = find_luck(request)
    output.show(f"{format_luck(found)}\n", found)


COMMAND = Command(
    name="luck",
    summary="how large differences are, once the luck that a simulator knows is taken off",
    description=(
        "Reads the episodes of evaluations or studies with simulated models. The simulator keeps what it drew: who was stuck, "
        "and which calls succeeded that could have failed. What was drawn above its expectation has mean 0 whatever the "
        "policy does, so a multiple of it is taken off the returns (control variates): their means stay, and their intervals "
        "get narrower. Policies of one name in several runs are averaged, as trainings of one agent. Nothing is run."
    ),
    examples=("runs/mine --env corridor --against random",),
    options=(
        Option("runs", "folders of evaluations", Path, "RUN", nargs="+"),
        *environment(),
        shared.split(),
        Option("--against", "policy to compare with (default: the best single model)", metavar="POLICY"),
        shared.seed("the bootstrap"),
    ),
    run=_run,
)
