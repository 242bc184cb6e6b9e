"""`mtrouter-rl reprice`: a log under other prices, another prompt cache or another currency."""

import argparse
from pathlib import Path


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "reprice",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="recompute the costs of a log under other prices",
        description=(
            "Writes the log anew with the prices of a pool card that has the same models, by name or alias. If the card's\n"
            "prompt cache is another one than the log's, cache hits are worked out for the logged routing. What the log\n"
            "cannot tell about the new prices is printed, and what was assumed is written into info.json.\n\n"
            "example: mtrouter-rl reprice logs/mine --pool new-prices.yaml --out logs/mine-repriced"
        ),
    )
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="folder of the log")
    parser.add_argument("--pool", required=True, metavar="NAME|PATH", help="model-pool card with the new prices")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the new dataset")
    parser.add_argument(
        "--exchange-rate", type=float, default=1.0, metavar="X", help="USD per unit of the card's currency (default: 1)"
    )
    parser.add_argument(
        "--id", metavar="NAME-vN", help="id of the new dataset (default: the next version of the log's)"
    )
    parser.add_argument(
        "--unknown-hits",
        default="refuse",
        choices=["refuse", "lowest", "highest"],
        help="where cache hits cannot be known: refuse, or take the lowest or highest cost (default: refuse)",
    )
    parser.add_argument(
        "--lift-budget",
        action="store_true",
        help="make every budget unlimited; without it, an episode that becomes dearer than its budget is an error",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace another dataset that lies there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from mtrouter_rl.cards import load_pool_card
    from mtrouter_rl.datasets.reprice import RepriceRequest, reprice

    report = reprice(
        RepriceRequest(
            dataset=args.dataset,
            pool=load_pool_card(args.pool),
            out=args.out,
            usd_per_unit=args.exchange_rate,
            dataset_id=args.id,
            unknown_hits=args.unknown_hits,
            lifts_budget=args.lift_budget,
            overwrite=args.overwrite,
        )
    )
    print(f"{report}\ndataset: {args.out}")
