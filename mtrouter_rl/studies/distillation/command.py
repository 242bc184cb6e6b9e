"""`mtrouter-rl lab distill`: the card of a simulated pool whose cheap model has learned from its escalation failures."""

import argparse
from pathlib import Path

from mtrouter_rl.options import Command, Option, Output, given, shared, values
from mtrouter_rl.options.environment import POOL, env


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.envs.factory import resolve_env
    from mtrouter_rl.studies.distillation.card import DistillationRequest, distill, format_distilled

    request = DistillationRequest(
        folder=args.folder,
        config=resolve_env(args.env, args.pool),
        **values(args, "pool", "learnt", "price_factor"),
        **given(args, least_examples="least_examples"),
    )
    found = distill(request, args.out)
    output.show(f"{format_distilled(found)}\n\ncard: {args.out}", found)


COMMAND = Command(
    name="distill",
    summary="the pool card after distillation: the cheap model has learned, by assumption, from its failures",
    description=(
        "Reads the folder that `mtrouter-rl export distillation` wrote, and the simulated pool that its log was collected "
        "with. Writes the card of a pool in which the cheap model has gained a share of the dearer models' edge, at the kinds "
        "of action of which there are examples. Nothing is trained: the share and the price are assumptions, which you give, "
        "and the card says so. Collect, train and evaluate with the new card to see what routing would be worth then: "
        "docs/distill-the-cheap-model.md."
    ),
    examples=("exports/distillation --env corridor --learnt 0.5 --price-factor 1 --out pools/distilled.yaml",),
    options=(
        Option("folder", "folder of a distillation set", Path, "FOLDER"),
        env(required=True),
        POOL,
        Option(
            "--learnt",
            "share of the dearer models' edge (logit) that the cheap model gains, above 0, at most 1",
            shared.share,
            "SHARE",
            required=True,
        ),
        Option(
            "--price-factor",
            "prices of the cheap model after distillation over those before; 1 if it costs the same",
            float,
            "FACTOR",
            required=True,
        ),
        Option("--least-examples", "with fewer of a kind of action, nothing is learned of it (default: 5)", int, "N"),
        Option("--out", "file of the card; its name is that of the file", Path, "CARD.yaml", required=True),
    ),
    run=_run,
)
