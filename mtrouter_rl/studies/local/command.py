"""`mtrouter-rl lab local`: the whole loop over the protocol on this machine, without a key."""

import argparse
from pathlib import Path

from mtrouter_rl.options import Command, Option, Output, shared, values


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.studies.local.run import LocalRequest, format_local, run_local

    request = LocalRequest(
        **values(args, "out", "seed", agent="agent_card", n_episodes="episodes", n_served="served", n_threads="threads")
    )
    result = run_local(request, say=output.say)
    output.show(f"\n{format_local(result)}", result)
    output.say(f"everything lies in {args.out}")


COMMAND = Command(
    name="local",
    summary="the whole loop over the protocol with a real small model, without a key",
    description=(
        "Starts SmolLM2 (real) and two simulated doubles as one pool over HTTP, collects episodes of the corridor, trains a "
        "router, serves it, lets an agent play against it by base URL, imports what was served, and trains again. It says "
        "which replies are real. It needs the extras local-llm and serve, and the weights; ./scripts/study-local sets all up. "
        "Run it again after a stop: it goes on."
    ),
    examples=("--out runs/local",),
    options=(
        Option("--episodes", "episodes that are collected", int, "N", default=40),
        Option("--served", "episodes that the agent plays", int, "N", default=12),
        Option("--agent", "agent card (default: a short fitted-q)", metavar="NAME|PATH", dest="agent_card"),
        shared.seed("collection, training and service"),
        Option(
            "--threads", "threads of the real model; more than there are free cores are slower", int, "N", default=1
        ),
        shared.out("folder of everything", required=False, default=Path("runs/local")),
    ),
    run=_run,
)
