"""Command line: parses, calls the package, prints. No logic of its own."""

import argparse
import json
import logging
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mtrouter_rl import __version__
from mtrouter_rl.cli.commands import ADDERS
from mtrouter_rl.cli.cost_weights import add_cost_weights, at_cost_weights
from mtrouter_rl.datasets.logged import LOG_ONLY
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.errors import InvalidConfigError, MTRouterError
from mtrouter_rl.options.environment import DEFAULT_ENV
from mtrouter_rl.options.environment import add_environment as _add_env
from mtrouter_rl.options.environment import environment_config as _config
from mtrouter_rl.registry import DEFAULT_ENCODER
from mtrouter_rl.studies.full.command import add_full_study, run_full

if TYPE_CHECKING:
    from mtrouter_rl.workflows import EvaluateRequest
    from mtrouter_rl.workflows.training_logs import LogSource

_GENERAL = """\
Learn from logs which LLM to call at every turn of a long task.

The usual order:
  mtrouter-rl study                      everything below, in order, with sensible sizes
  mtrouter-rl collect ... --out LOG      run episodes, keep them as a dataset
  mtrouter-rl inspect LOG                see what a dataset holds, and whether it is sound
  mtrouter-rl train --agent fitted-q --dataset LOG --out ROUTER
  mtrouter-rl evaluate --router ROUTER random --split test --out RUN
  mtrouter-rl frontier ROUTER --against ROUTER... --out RUN
                                         one router at many cost weights beside one trained for each
  mtrouter-rl report RUN... [--out FILE] table, plots and report of a run; a page that compares several
  mtrouter-rl study-cross                one router for several environments against one for each
  mtrouter-rl headroom --out RUN         what could be gained at all: a reference that sees the hidden state
  mtrouter-rl leave-one-out --dataset LOG --out RUN
                                         a model leaves the pool, joins by its card alone, or with few episodes
  mtrouter-rl extend ROUTER --pool CARD --out ROUTER
                                         bring a trained router to a pool that has changed
  mtrouter-rl behavior RUN               how the policies route: switches, errors, what they depend on
  mtrouter-rl overestimation RUN         whether the routers' Q-values come true

With logs of your own:
  mtrouter-rl import FORMAT PATH... --pool CARD --out LOG
                                         turn another program's log into a dataset
  mtrouter-rl validate | split | reprice | export
                                         check it, part it, price it anew, hand it on
  mtrouter-rl study-log LOG              compare single-turn routers on a log that cannot be run again
  mtrouter-rl one-turn LOG               the metrics of query x model tables
  mtrouter-rl ope ROUTER... --dataset LOG
                                         what routers would have earned, estimated from the log

With an environment of your own:
  mtrouter-rl new-env NAME               a plug-in package that works, to be made your own
  mtrouter-rl check-env NAME             every rule that an environment has to keep
"""


def _formatter(prog: str) -> argparse.RawDescriptionHelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=32, width=110)


def _add_study(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "study",
        formatter_class=_formatter,
        help="the main job, end to end: collect, train, evaluate, report",
        description=(
            "Takes or collects a log of uniform random routing, finds the strongest single model on validation, trains\n"
            "every router, evaluates all of them closed-loop on test and held-out (OOD) tasks, and draws tables, plots\n"
            "and TensorBoard. Steps that are done are skipped; a killed study goes on where it stopped.\n\n"
            "example: mtrouter-rl study --out runs/quick"
        ),
    )
    _add_env(parser)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the run (default: runs/quick, with --full runs/full)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of collection, training and bootstrap (default: 0)")
    parser.add_argument(
        "--workers", type=int, default=2, help="worker processes, each with its own simulator (default: 2)"
    )
    parser.add_argument(
        "--encoder", default=DEFAULT_ENCODER, help=f"text encoder: hashing or minilm (default: {DEFAULT_ENCODER})"
    )
    parser.add_argument(
        "--episodes",
        type=int,
        metavar="N",
        help="collect a log of N episodes (default: the log that ships, else 600 or what the card says)",
    )
    parser.add_argument(
        "--collect", action="store_true", help="collect a log even if a fitting one travels with the cards"
    )
    parser.add_argument(
        "--test-seeds", type=int, metavar="K", help="seeds per test variation (default: 2, or what the card says)"
    )
    parser.add_argument(
        "--agents",
        nargs="+",
        metavar="AGENT",
        help="agent cards to train, or sets of them: default, single-turn, per-turn, rules, learners, all (default: default)",
    )
    parser.add_argument(
        "--reference", action="store_true", help="show the reference that sees the simulator's hidden state as well"
    )
    add_full_study(parser)
    parser.set_defaults(run=_study)


def _study(args: argparse.Namespace) -> None:
    if args.full:
        run_full(args, config=_config(args), say=_say)
        return
    if args.parts:
        raise InvalidConfigError("--parts names parts of the full study; add --full, or leave it out")
    import dataclasses

    from mtrouter_rl.reporting.tables import format_table
    from mtrouter_rl.workflows.quick_study import StudyRequest, expand_agents, quick_size, run_study

    changes = {"n_episodes": args.episodes, "n_test_seeds": args.test_seeds}
    out = args.out or Path("runs/quick")
    config = _config(args)
    size = dataclasses.replace(
        quick_size(config.card), **{name: value for name, value in changes.items() if value is not None}
    )
    request = StudyRequest(
        config=config,
        out=out,
        size=size,
        seed=args.seed,
        n_workers=args.workers,
        encoder=args.encoder,
        collects=args.collect or args.episodes is not None,
        shows_reference=args.reference,
    )
    if args.agents:
        request = dataclasses.replace(request, agents=expand_agents(args.agents))
    results = run_study(request, say=_say)
    for split in results.splits:
        print(f"\n{format_table(results, split)}")
    print(
        f"\nEverything lies in {out}:\n"
        f"  {out / 'report.html'}   the report, for a browser\n"
        f"  {out / 'results.json'}  every number\n"
        f"  {out / 'routers'}       the trained routers\n"
        f"Open TensorBoard with:\n  tensorboard --logdir {out}"
    )


def _add_collect(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "collect",
        formatter_class=_formatter,
        help="run episodes under a behaviour policy and keep them as a dataset",
        description=(
            "Policies: uniform | sticky:P (changes model with probability P) | single:MODEL | mixed:S (a share S of\n"
            "the episodes has one model each, the others are uniform) | epsilon-greedy:E:FOLDER (a trained router, with\n"
            "probability E a uniform draw). The propensity of every logged action is exact. Run the same command again\n"
            "after a kill: it goes on where it stopped.\n\n"
            "example: mtrouter-rl collect --env scienceworld --policy uniform --episodes 1000 --out logs/uniform"
        ),
    )
    _add_env(parser)
    parser.add_argument("--policy", metavar="POLICY", help="behaviour policy, see above")
    parser.add_argument("--episodes", type=int, metavar="N", help="how many episodes")
    parser.add_argument(
        "--dataset", metavar="NAME|PATH", help="dataset card; gives env, pool, policy, episodes and seed"
    )
    parser.add_argument("--split", default=None, choices=["train", "validation", "test", "ood"], help="default: train")
    parser.add_argument("--seed", type=int, help="seed of the draw of episodes (default: 0)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: 2)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the dataset")
    parser.add_argument("--overwrite", action="store_true", help="replace another dataset that lies there")
    parser.set_defaults(run=_collect)


def _collect(args: argparse.Namespace) -> None:
    from mtrouter_rl.cards import DatasetCard, load_dataset_card
    from mtrouter_rl.datasets.summary import format_summary, summarize
    from mtrouter_rl.errors import InvalidConfigError
    from mtrouter_rl.rollout import RolloutPool
    from mtrouter_rl.workflows import CollectRequest, collect_dataset

    card: DatasetCard | None = load_dataset_card(args.dataset) if args.dataset else None
    if card is not None:
        args.env, args.pool = card.env, args.pool or card.pool
    policy = args.policy or (card.policy if card else None)
    n_episodes = args.episodes or (card.n_episodes if card else None)
    if policy is None or n_episodes is None:
        raise InvalidConfigError("give --policy and --episodes, or a dataset card with --dataset")
    request = CollectRequest(
        policy=policy,
        n_episodes=n_episodes,
        seed=args.seed if args.seed is not None else (card.seed if card else 0),
        out=args.out,
        split=args.split or (card.split if card else "train"),
        dataset_id=f"{card.name}-v{card.version}" if card else None,
        cache=args.out.parent / "embeddings",
        overwrite=args.overwrite,
    )
    with RolloutPool(_config(args), n_workers=args.workers) as pool:
        dataset = collect_dataset(pool, request)
    print(format_summary(summarize(dataset)))


def _add_inspect(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "inspect",
        formatter_class=_formatter,
        help="validate a dataset and say what it holds",
        description=(
            "Loads a dataset, checks every rule (a violation is named by file, episode, turn and field) and prints\n"
            "episodes, turns, spend, scores per task and model, propensities and error kinds.\n\n"
            "example: mtrouter-rl inspect logs/uniform --json"
        ),
    )
    parser.add_argument("dataset", type=Path, metavar="DIR", help="folder of the dataset")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=_inspect)


def _inspect(args: argparse.Namespace) -> None:
    from mtrouter_rl.datasets.store import Dataset
    from mtrouter_rl.datasets.summary import format_summary, summarize

    summary = summarize(Dataset.load(args.dataset))
    print(json.dumps(summary, indent=2) if args.json else format_summary(summary))


def _add_train(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from mtrouter_rl.cards import list_cards

    agents = ", ".join(list_cards("agents"))
    parser = commands.add_parser(
        "train",
        formatter_class=_formatter,
        help="train a router from a dataset",
        description=(
            f"{textwrap.fill(f'Agents: {agents}, single:MODEL, or the path of a card.', 110, break_on_hyphens=False)}\n"
            "A killed training goes on from its last checkpoint when the same command is run again, and ends with the\n"
            "same weights. Curves: tensorboard --logdir OUT\n\n"
            "Several datasets, of one or several environments with the same models, train one router; each is rewarded by the\n"
            "cost weight and unit of its own environment.\n\n"
            "example: mtrouter-rl train --agent fitted-q --dataset logs/uniform --seed 0 --out routers/fitted-q"
        ),
    )
    _add_env(parser, of_logs=True)
    parser.add_argument(
        "--cost-unit-usd", type=float, metavar="USD", help="a cost unit; needed for an imported log, which has no card"
    )
    parser.add_argument("--agent", required=True, metavar="NAME|PATH", help="agent card")
    parser.add_argument("--dataset", type=Path, nargs="+", default=[], metavar="DIR", help="the logs to learn from")
    parser.add_argument(
        "--log-shares",
        choices=["equal", "by-turns"],
        default="equal",
        help="with several environments: mini-batches hold the same share of each, or every turn counts the same "
        "(default: equal)",
    )
    parser.add_argument(
        "--encoder", default=DEFAULT_ENCODER, help=f"text encoder: hashing or minilm (default: {DEFAULT_ENCODER})"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the training (default: 0)")
    parser.add_argument(
        "--workers", type=int, default=2, help="worker processes of closed-loop validation (default: 2)"
    )
    parser.add_argument(
        "--evaluate-every",
        type=int,
        metavar="N",
        help="run the router on validation episodes (of the first dataset's environment) after every N iterations, for its "
        "curve (default: never)",
    )
    parser.add_argument(
        "--evaluate-episodes",
        type=int,
        metavar="K",
        help="episodes of such a run, the same ones each time (default: 20)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the router")
    parser.add_argument("--overwrite", action="store_true", help="replace another router that lies there")
    parser.set_defaults(run=_train)


def _train_logs(args: argparse.Namespace) -> "tuple[LogSource, ...]":
    """The logs, each with the card of its environment; of an imported log, which has none, with what the log itself says."""
    from mtrouter_rl.workflows.training_logs import EnvChoice, find_sources

    choice = EnvChoice(
        envs=tuple(args.env),
        resolve=lambda env: _config(args, env=env),
        cost_weight=args.cost_weight,
        cost_unit_usd=args.cost_unit_usd,
    )
    return find_sources(args.dataset, choice)


def _train(args: argparse.Namespace) -> None:
    from mtrouter_rl.errors import InvalidConfigError
    from mtrouter_rl.rollout import RolloutPool
    from mtrouter_rl.workflows import EVALUATE_EPISODES, TrainRequest, load_agent, train_router

    if args.evaluate_episodes is not None and args.evaluate_every is None:
        raise InvalidConfigError(
            "--evaluate-episodes is for --evaluate-every N, which is missing; give both or neither"
        )
    sources = _train_logs(args)
    config = sources[0].config if sources else _config(args, env=(args.env or [DEFAULT_ENV])[0])
    request = TrainRequest(
        # Parameters of one environment are not those of several.
        agent=load_agent(args.agent, None if len(sources) > 1 else config.card),
        config=config,
        seed=args.seed,
        out=args.out,
        dataset=args.dataset[0] if args.dataset else None,
        encoder=args.encoder,
        cache=args.out.parent / "embeddings",
        overwrite=args.overwrite,
        evaluate_every=args.evaluate_every,
        evaluate_episodes=EVALUATE_EPISODES if args.evaluate_episodes is None else args.evaluate_episodes,
        more_logs=sources[1:],
        log_shares=args.log_shares,
    )
    with RolloutPool(config, n_workers=args.workers) as pool:
        folder = train_router(request, pool=pool)
    if config.card.family == LOG_ONLY:
        print(f"router saved in {folder}; it was trained on a log that cannot be run: see mtrouter-rl study-log --help")
        return
    print(
        f"router saved in {folder}; evaluate it with:\n"
        f"mtrouter-rl evaluate --env {config.card.name} --router {folder} random --split test --out RUN"
    )


def _add_evaluate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "evaluate",
        formatter_class=_formatter,
        help="run routers closed-loop on a split and compare them",
        description=(
            "Routers: folders of trained ones, or uniform | random | cheapest | sticky:P | mixed:S | single:MODEL; where\n"
            "models are simulated also reference:hidden, which sees the simulator's hidden state and is no router. All run\n"
            "the same episodes on common random numbers; rows are added to OUT/results.json, and what is there is not run\n"
            "again. "
            "FOLDER@W is a router that was trained for many cost weights at the weight W; see docs/cost-and-budget.md.\n\n"
            "example: mtrouter-rl evaluate --router routers/fitted-q random single:gpt-5 --split test --seeds 2 --out runs/mine"
        ),
    )
    _add_env(parser)
    parser.add_argument("--router", nargs="+", required=True, metavar="DIR|NAME", help="routers to run")
    parser.add_argument("--split", default="test", choices=["train", "validation", "test", "ood"], help="default: test")
    parser.add_argument("--seeds", type=int, default=1, metavar="K", help="seeds per variation (default: 1)")
    parser.add_argument("--per-task", type=int, metavar="N", help="at most N variations of a task (default: all)")
    add_cost_weights(parser)
    parser.add_argument(
        "--budgets",
        nargs="+",
        metavar="USD|0.1x",
        help="run everything under each of these budgets, in USD or times the environment's",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: 0)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: 2)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--overwrite", action="store_true", help="replace results of other routers that lie there")
    parser.set_defaults(run=_evaluate)


def _evaluate(args: argparse.Namespace) -> None:
    from mtrouter_rl.reporting.tables import format_table
    from mtrouter_rl.rollout import RolloutPool
    from mtrouter_rl.workflows import EvaluateRequest, evaluate_routers, present

    config = _config(args)
    request = EvaluateRequest(
        routers=tuple(args.router),
        split=args.split,
        n_seeds=args.seeds,
        out=args.out,
        per_task=args.per_task,
        seed=args.seed,
        cache=args.out / "embeddings",
        overwrite=args.overwrite,
    )
    with RolloutPool(config, n_workers=args.workers) as pool:
        request = at_cost_weights(pool, request, args)
        if args.budgets:
            _evaluate_budgets(config, request, args)
            return
        results = evaluate_routers(pool, request)
    page = present(args.out, config, routers=request.routers, cache=request.cache)
    notes = "".join(f"note: {note}\n" for note in results.notes)
    print(f"{format_table(results, args.split)}\n\n{notes}report: {page}\nTensorBoard: tensorboard --logdir {args.out}")


def _evaluate_budgets(config: EnvConfig, request: "EvaluateRequest", args: argparse.Namespace) -> None:
    from mtrouter_rl.reporting.tables import to_plain
    from mtrouter_rl.studies.budgets.run import evaluate_budgets, parse_budgets
    from mtrouter_rl.workflows import present

    budgets_usd = parse_budgets(args.budgets, config.limits.budget_usd)
    _, swept = evaluate_budgets(config, request, budgets_usd, n_workers=args.workers)
    page = present(args.out, config)
    print(f"{to_plain(swept.table())}\n\nreport: {page}\nTensorBoard: tensorboard --logdir {args.out}")


def _say(text: str) -> None:
    print(text, flush=True)


def build_parser() -> argparse.ArgumentParser:
    """Parser of `mtrouter-rl`, with every command."""
    parser = argparse.ArgumentParser(prog="mtrouter-rl", description=_GENERAL, formatter_class=_formatter)
    parser.add_argument("--version", action="version", version=f"mtrouter-rl {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    adders: tuple[Callable[[argparse._SubParsersAction[argparse.ArgumentParser]], None], ...] = (
        _add_study,
        _add_collect,
        _add_inspect,
        _add_train,
        _add_evaluate,
        *ADDERS,
    )
    for add in adders:
        add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Words after the program's name; None takes those of the process.

    Returns:
        Exit status: 0, or 1 after an error that has been explained on stderr, or 130 after Ctrl-C.
    """
    args = build_parser().parse_args(arguments)
    # More threads than free cores are many times slower than one a process; torch reads this when it is loaded.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        args.run(args)
    except MTRouterError as error:
        print(f"mtrouter-rl {args.command}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print(f"\nmtrouter-rl {args.command}: stopped; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
