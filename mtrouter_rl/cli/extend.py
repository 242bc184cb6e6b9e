"""`mtrouter-rl extend`: a trained router for a pool that models have joined or left."""

import argparse
from pathlib import Path

from mtrouter_rl.options import Command, Group, Option, Output, shared, values


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.agents.q.extension import extend_router
    from mtrouter_rl.cards import load_pool_card

    made = extend_router(args.folder, load_pool_card(args.pool), **values(args, "out", "name", "overwrite"))
    notes = "".join(f"note: {one.sentence}\n" for one in made.extrapolated)
    output.show(
        f"joined: {', '.join(made.added) or '(none)'}; left: {', '.join(made.removed) or '(none)'}\n"
        f"{notes}router saved in {made.folder}",
        {**vars(made), "notes": [one.sentence for one in made.extrapolated]},
    )


COMMAND = Command(
    name="extend",
    group=Group.LOGS,
    summary="bring a trained router to a pool that models have joined or left, without training",
    description=(
        "Takes models in by the features of their cards (prices, limits, dates) with a residual of 0, and lets models go. "
        "Values of models that joined are EXTRAPOLATED: the router's provenance says so, and so does every evaluation. Only "
        "routers with a joint Q-function can do this; others are refused. See docs/change-the-pool.md."
    ),
    examples=("routers/fitted-q --pool new-pool.yaml --out routers/fitted-q-new-pool",),
    options=(
        Option("folder", "folder of the trained router, which stays as it is", Path, "ROUTER"),
        Option("--pool", "card of the new pool", required=True, metavar="NAME|PATH"),
        Option("--name", "name of the new router in tables (default: the old one)", metavar="NAME"),
        shared.out("folder of the new router"),
        shared.overwrite("a router"),
    ),
    run=_run,
)
