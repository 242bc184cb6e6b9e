"""`mtrouter-rl collect`: episodes under a behaviour policy, kept as a dataset."""

import argparse

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.options import Command, Group, Option, Output, shared
from mtrouter_rl.options.environment import environment, environment_config
from mtrouter_rl.options.money import MONEY, booked, is_allowed, tell_spent


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.cards import DatasetCard, load_dataset_card
    from mtrouter_rl.datasets.summary import format_summary, summarize
    from mtrouter_rl.rollout import RolloutPool
    from mtrouter_rl.workflows import CollectRequest, collect_dataset
    from mtrouter_rl.workflows.cost_estimate import costs_anything

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
    config = environment_config(args)
    is_paid = costs_anything(config, [policy], cache=request.cache)
    if not is_allowed(args, config, n_episodes, output, is_paid=is_paid):
        return
    with booked(args, config, output) as spent, RolloutPool(config, n_workers=args.workers) as pool:
        dataset = collect_dataset(pool, request)
    summary, paid = summarize(dataset), spent()
    output.show(format_summary(summary), summary)
    tell_spent(paid, output, in_dataset_usd=sum(episode.cost_usd for episode in dataset.episodes))


COMMAND = Command(
    name="collect",
    group=Group.STUDY,
    summary="run episodes under a behaviour policy and keep them as a dataset",
    description=(
        "Policies: uniform | sticky:P (changes model with probability P) | single:MODEL | mixed:S (a share S of the "
        "episodes has one model each, the others are uniform) | epsilon-greedy:E:FOLDER (a trained router, with probability "
        "E a uniform draw). The propensity of every logged action is exact. Run the same command again after a kill: it "
        "goes on where it stopped.\n"
        "Models that cost money are called once you have answered what may be spent, on the terminal, by --yes or by a limit. "
        "What is booked, also for calls in vain, is in a ledger that all runs share."
    ),
    examples=("--env corridor --policy uniform --episodes 200 --out logs/corridor",),
    options=(
        *environment(),
        Option("--policy", "behaviour policy, see above", metavar="POLICY"),
        shared.episodes("how many episodes"),
        Option("--dataset", "dataset card; gives env, pool, policy, episodes and seed", metavar="NAME|PATH"),
        Option("--split", "whose variations are played (default: train)", choices=shared.SPLITS),
        shared.seed("the draw of episodes (default: 0)", default=None),
        shared.workers(),
        shared.out("folder of the dataset"),
        shared.overwrite("another dataset"),
        *MONEY,
    ),
    run=_run,
)
