"""`mtrouter-rl extend`: a trained router for a pool that models have joined or left."""

import argparse
from pathlib import Path


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "extend",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="bring a trained router to a pool that models have joined or left, without training",
        description=(
            "Takes models in by the features of their cards (prices, limits, dates) with a residual of 0, and lets models go.\n"
            "Values of models that joined are EXTRAPOLATED: the router's provenance says so, and so does every evaluation.\n"
            "Only routers with a joint Q-function can do this; others are refused. See docs/change-the-pool.md.\n\n"
            "example: mtrouter-rl extend routers/fitted-q --pool my-pool.yaml --out routers/fitted-q-new-pool"
        ),
    )
    parser.add_argument(
        "folder", type=Path, metavar="ROUTER", help="folder of the trained router, which stays as it is"
    )
    parser.add_argument("--pool", required=True, metavar="NAME|PATH", help="card of the new pool")
    parser.add_argument("--name", metavar="NAME", help="name of the new router in tables (default: the old one)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the new router")
    parser.add_argument("--overwrite", action="store_true", help="replace a router that lies there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from mtrouter_rl.agents.q.extension import extend_router
    from mtrouter_rl.cards import load_pool_card

    made = extend_router(args.folder, load_pool_card(args.pool), out=args.out, name=args.name, overwrite=args.overwrite)
    notes = "".join(f"note: {one.sentence}\n" for one in made.extrapolated)
    print(
        f"joined: {', '.join(made.added) or '(none)'}; left: {', '.join(made.removed) or '(none)'}\n"
        f"{notes}router saved in {made.folder}"
    )
