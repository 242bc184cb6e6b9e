"""`mtrouter-rl lab distill` writes the card of a pool whose cheap model has learned; `distill-worth` says what that brings."""

import argparse
from pathlib import Path

from mtrouter_rl.options import Command, Option, Output, given, shared, values
from mtrouter_rl.options.environment import COST_WEIGHT, POOL, env


def _distill(args: argparse.Namespace, output: Output) -> None:
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


DISTILL = Command(
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
    run=_distill,
)


def _worth(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.envs.factory import resolve_env
    from mtrouter_rl.studies.distillation.worth import WorthRequest, find_worth, format_worth

    request = WorthRequest(
        config=resolve_env(args.env, cost_weight=args.cost_weight),
        before=tuple(args.before),
        after=tuple(args.after),
        **values(args, "split", "cheap", "seed"),
    )
    found = find_worth(request)
    output.show(format_worth(found), found)


WORTH = Command(
    name="distill-worth",
    summary="return, cost and escalations of the same policies before and after distillation",
    description=(
        "Reads evaluations with the pool before distillation and with the one after it, and compares every policy with itself "
        "on the same episodes. Policies of one name in several runs are averaged, as trainings of one agent. Nothing is run."
    ),
    examples=("--env corridor --before runs/seed0 --after runs/seed1",),
    options=(
        env(required=True),
        COST_WEIGHT,
        Option("--before", "folders of evaluations before distillation", Path, "RUN", nargs="+", required=True),
        Option("--after", "folders of evaluations after it", Path, "RUN", nargs="+", required=True),
        shared.split(),
        Option("--cheap", "the model that learned (default: the cheapest one before)", metavar="MODEL"),
        shared.seed("the bootstrap"),
    ),
    run=_worth,
)
