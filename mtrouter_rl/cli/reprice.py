"""`mtrouter-rl reprice`: a log under other prices, another prompt cache or another currency."""

import argparse

from mtrouter_rl.options import Command, Group, Option, Output, shared, switch, values


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.cards import load_pool_card
    from mtrouter_rl.datasets.reprice import RepriceRequest, reprice

    report = reprice(
        RepriceRequest(
            pool=load_pool_card(args.pool),
            **values(args, "dataset", "out", "unknown_hits", "overwrite"),
            **values(args, usd_per_unit="exchange_rate", dataset_id="id", lifts_budget="lift_budget"),
        )
    )
    output.show(report, {**vars(report), "dataset": args.out})
    output.say(f"dataset: {args.out}")


COMMAND = Command(
    name="reprice",
    group=Group.LOGS,
    summary="recompute the costs of a log under other prices",
    description=(
        "Writes the log anew with the prices of a pool card that has the same models, by name or alias. If the card's prompt "
        "cache is another one than the log's, cache hits are worked out for the logged routing. What the log cannot tell "
        "about the new prices is printed, and what was assumed is written into info.json."
    ),
    examples=("logs/corridor --pool my-pool.yaml --out logs/corridor-repriced",),
    options=(
        shared.LOG_FOLDER,
        Option("--pool", "model-pool card with the new prices", required=True, metavar="NAME|PATH"),
        shared.out("folder of the new dataset"),
        Option("--exchange-rate", "USD per unit of the card's currency", float, "X", default=1.0),
        shared.dataset_id("id of the new dataset (default: the next version of the log's)"),
        Option(
            "--unknown-hits",
            "refuse what cannot be known about cache hits, or take the lowest or highest cost",
            default="refuse",
            choices=("refuse", "lowest", "highest"),
        ),
        switch("--lift-budget", "make every budget unlimited; else an episode dearer than its budget is an error"),
        shared.overwrite("another dataset"),
    ),
    run=_run,
)
