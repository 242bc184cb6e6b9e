"""`mtrouter-rl train`: a router from datasets."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mtrouter_rl.cards import list_cards
from mtrouter_rl.datasets.logged import LOG_ONLY
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.options import Command, Group, Option, Output, given, shared, switch, values
from mtrouter_rl.options.environment import DEFAULT_ENV, environment, environment_config
from mtrouter_rl.options.money import MONEY, booked, is_allowed, tell_spent
from mtrouter_rl.pools.spend import costs_money
from mtrouter_rl.workers.peers import Peers, joined, peers_of_torchrun

if TYPE_CHECKING:
    from mtrouter_rl.envs.factory import EnvConfig
    from mtrouter_rl.ope.verdict import Verdict
    from mtrouter_rl.rollout import RolloutPool
    from mtrouter_rl.workflows import TrainRequest
    from mtrouter_rl.workflows.training_logs import LogSource

NOT_COMPARED = (
    "it has not been compared with the best single model of the log: the same command with --verdict does that, and with "
    "--safe it follows the router only where that is better"
)


def _logs(args: argparse.Namespace) -> "tuple[LogSource, ...]":
    """The logs, each with the card of its environment; of an imported log, which has none, with what the log itself says."""
    from mtrouter_rl.workflows.training_logs import EnvChoice, find_sources

    choice = EnvChoice(
        envs=tuple(args.env),
        resolve=lambda env: environment_config(args, env=env),
        **values(args, "cost_weight", "cost_unit_usd"),
    )
    return find_sources(args.dataset, choice)


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.agents.resolve import load_algorithm
    from mtrouter_rl.rollout import RolloutPool
    from mtrouter_rl.workflows import EVALUATE_EPISODES, TrainRequest, load_agent

    if args.evaluate_episodes is not None and args.evaluate_every is None:
        raise InvalidConfigError(
            "--evaluate-episodes is for --evaluate-every N, which is missing; give both or neither"
        )
    sources = _logs(args)
    config = sources[0].config if sources else environment_config(args, env=(args.env or [DEFAULT_ENV])[0])
    request = TrainRequest(
        # Parameters of one environment are not those of several.
        agent=load_agent(args.agent, None if len(sources) > 1 else config.card),
        config=config,
        dataset=args.dataset[0] if args.dataset else None,
        cache=args.out.parent / "embeddings",
        evaluate_episodes=EVALUATE_EPISODES if args.evaluate_episodes is None else args.evaluate_episodes,
        more_logs=sources[1:],
        **values(args, "seed", "out", "encoder", "overwrite", "evaluate_every", "log_shares", "device"),
    )
    runs_episodes = args.evaluate_every is not None or load_algorithm(request.agent).needs_validation
    peers = peers_of_torchrun()
    if peers.n > 1:
        _check_torchrun(args, peers, runs_episodes=runs_episodes)
    if not is_allowed(args, config, None, output, is_paid=runs_episodes and costs_money(config.pool)):
        return
    with joined(peers), booked(args, config, output) as spent, RolloutPool(config, n_workers=args.workers) as pool:
        verdict = _train(args, request, pool, output, peers)
    if not peers.is_first:
        return
    tell_spent(spent(), output)
    output.show(
        f"router saved in {args.out}",
        {"router": args.out, "env": config.card.name, "agent": request.agent.name, "verdict": verdict},
    )
    output.say(_next_step(args, config))
    if verdict is not None:
        output.tell("verdict: " + "\n".join(verdict.lines))
    elif load_algorithm(request.agent).needs_dataset:
        output.say(NOT_COMPARED)


def _check_torchrun(args: argparse.Namespace, peers: Peers, *, runs_episodes: bool) -> None:
    """Refuse several processes for what each of them would do by itself."""
    if runs_episodes or args.verdict or args.safe:
        raise InvalidConfigError(
            f"torchrun started {peers.n} processes, which share the steps of one training from logs; --verdict, --safe, "
            "--evaluate-every and agents that are chosen by running episodes are for the same command without torchrun"
        )


def _train(
    args: argparse.Namespace, request: "TrainRequest", pool: "RolloutPool", output: Output, peers: Peers
) -> "Verdict | None":
    """Train as the options ask for; the verdict on the router, if one is asked for or was given before."""
    from mtrouter_rl.agents.saving import digest
    from mtrouter_rl.ope.verdict import load_verdict
    from mtrouter_rl.workflows import train_router
    from mtrouter_rl.workflows.verdicts import VerdictRequest, train_with_verdict

    chosen = given(args, n_folds="folds", caution="caution")
    if not (args.verdict or args.safe):
        if chosen:
            raise InvalidConfigError("--folds and --caution are for --verdict and --safe; give one of these as well")
        train_router(request, pool=pool, peers=peers)
        if not peers.is_first:
            return None
        return load_verdict(args.out, digest(args.out))
    if args.caution is not None and not args.safe:
        raise InvalidConfigError("--caution is for --safe, which is missing; give both or neither")
    return train_with_verdict(VerdictRequest(train=request, is_safe=args.safe, **chosen), pool=pool, say=output.aside)


def _next_step(args: argparse.Namespace, config: "EnvConfig") -> str:
    if config.card.family == LOG_ONLY:
        return (
            "it was trained on a log that cannot be run; estimate what it would earn, best on another part of the log, with:\n"
            f"mtrouter-rl ope {args.out} random --dataset {args.dataset[0]} --cost-weight {config.cost_weight:g} "
            f"--cost-unit-usd {config.reward.cost_unit_usd:g} --out OPE"
        )
    return (
        "evaluate it with:\n"
        f"mtrouter-rl evaluate --env {config.card.name} --router {args.out} random --split test --out RUN"
    )


COMMAND = Command(
    name="train",
    group=Group.LOGS,
    summary="train a router from a dataset",
    description=(
        f"Agents: {', '.join(list_cards('agents'))}, single:MODEL, or the path of a card.\n"
        "A killed training goes on from its last checkpoint when the same command is run again, and ends with the same "
        "weights. Curves: tensorboard --logdir OUT\n\n"
        "Several datasets, of one or several environments with the same models, train one router; each is rewarded by the "
        "cost weight and unit of its own environment.\n\n"
        "--verdict says whether the router is better than the best single model of the log. The agent is trained once more "
        "without each of K parts of the log, and that part judges; so it takes about K times as long. --safe does the same, "
        "and hands out a router that calls the best single model, and another one only where the log shows it to be better. "
        "See docs/train-on-my-logs.md.\n\n"
        "torchrun --nproc-per-node N -m mtrouter_rl.cli train ... lets N processes share every gradient step. See "
        "docs/past-one-machine.md."
    ),
    examples=(
        "--agent task-table --dataset logs/corridor --out routers/task-table",
        "--agent fitted-q --dataset logs/corridor --seed 0 --out routers/fitted-q",
        "--agent fitted-q --dataset logs/corridor --safe --out routers/fitted-q-safe",
    ),
    options=(
        *environment(of_logs=True),
        shared.COST_UNIT,
        shared.agent(None),
        Option("--dataset", "the logs to learn from", Path, "DIR", nargs="+", default=[]),
        shared.LOG_SHARES,
        shared.encoder(),
        shared.seed("the training"),
        Option(
            "--device", "cpu, cuda or cuda:N: where agents with gradient steps train", metavar="DEVICE", default="cpu"
        ),
        shared.workers(" of closed-loop validation"),
        Option("--evaluate-every", "run the router on validation every N iterations (default: never)", int, "N"),
        Option("--evaluate-episodes", "episodes of such a run, the same ones each time (default: 20)", int, "K"),
        switch("--verdict", "say whether it is better than the best single model of the log"),
        switch("--safe", "follow the router only where that is better than the best single model (with --verdict)"),
        Option("--folds", "parts of the log for --verdict and --safe (default: 3)", int, "K"),
        Option("--caution", "errors that an advantage has to be above for --safe (default: 2)", float, "Z"),
        shared.out("folder of the router"),
        shared.overwrite("another router"),
        *MONEY,
    ),
    run=_run,
    takes_torchrun=True,
)
