"""`mtrouter-rl study`: the main job, end to end; with --full the full study."""

import argparse
import dataclasses
from pathlib import Path

from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.options import Command, Group, Output, given, shared, switch, values
from mtrouter_rl.options.environment import environment, environment_config
from mtrouter_rl.options.money import MONEY, booked, is_allowed, tell_spent
from mtrouter_rl.studies.full.command import DEFAULT_OUT, FULL_STUDY, run_full


def _run(args: argparse.Namespace, output: Output) -> None:
    config = environment_config(args)
    out = args.out or (DEFAULT_OUT if args.full else Path("runs/quick"))
    if not is_allowed(args, config, None, output):
        return
    with booked(args, config, output, out=out) as spent:
        _study(args, output, config=config, out=out)
    tell_spent(spent(), output)


def _study(args: argparse.Namespace, output: Output, *, config: EnvConfig, out: Path) -> None:
    if args.full:
        run_full(args, output, config=config)
        return
    if args.parts:
        raise InvalidConfigError("--parts names parts of the full study; add --full, or leave it out")

    from mtrouter_rl.reporting.tables import format_table
    from mtrouter_rl.workflows.quick_study import StudyRequest, expand_agents, quick_size, run_study

    changes = given(args, n_episodes="episodes", n_test_seeds="test_seeds")
    request = StudyRequest(
        config=config,
        out=out,
        size=dataclasses.replace(quick_size(config.card), **changes),
        collects=args.collect or args.episodes is not None,
        shows_reference=args.reference,
        **values(args, "seed", "encoder", n_workers="workers"),
    )
    if args.agents:
        request = dataclasses.replace(request, agents=expand_agents(args.agents))
    results = run_study(request, say=output.say)
    output.show("".join(f"\n{format_table(results, split)}\n" for split in results.splits), results)
    output.say(
        f"Everything lies in {out}:\n"
        f"  {out / 'report.html'}   the report, for a browser\n"
        f"  {out / 'results.json'}  every number\n"
        f"  {out / 'routers'}       the trained routers\n"
        f"Open TensorBoard with:\n  tensorboard --logdir {out}"
    )


COMMAND = Command(
    name="study",
    group=Group.STUDY,
    summary="the main job, end to end: collect, train, evaluate, report",
    description=(
        "Takes or collects a log of uniform random routing, finds the strongest single model on validation, trains every "
        "router, evaluates all of them closed-loop on test and held-out (OOD) tasks, and draws tables, plots and "
        "TensorBoard. Steps that are done are skipped; a killed study goes on where it stopped."
    ),
    examples=("--env corridor --out runs/quick",),
    options=(
        *environment(),
        shared.out("folder of the run (default: runs/quick, with --full runs/full)", required=False),
        shared.seed("collection, training and bootstrap"),
        shared.workers(", each with its own simulator"),
        shared.encoder(),
        shared.episodes("collect a log of N episodes (default: the log that ships, else 600 or what the card says)"),
        switch("--collect", "collect a log even if a fitting one travels with the cards"),
        shared.TEST_SEEDS,
        shared.agents(
            "agent cards to train, or sets of them: default, single-turn, per-turn, rules, learners, all (default: default)"
        ),
        switch("--reference", "show the reference that sees the simulator's hidden state as well"),
        *FULL_STUDY,
        *MONEY,
    ),
    run=_run,
)
