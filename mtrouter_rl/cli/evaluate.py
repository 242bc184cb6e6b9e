"""`mtrouter-rl evaluate`: routers run closed-loop and compared; also at several cost weights or under several budgets."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.options import Command, Group, Option, Output, shared, values
from mtrouter_rl.options.environment import DEFAULT_ENV, environment, environment_config
from mtrouter_rl.options.money import MONEY, booked, is_allowed, tell_spent

if TYPE_CHECKING:
    from mtrouter_rl.rollout import RolloutPool
    from mtrouter_rl.workflows import EvaluateRequest


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.reporting.tables import format_table
    from mtrouter_rl.rollout import RolloutPool
    from mtrouter_rl.workflows import EvaluateRequest, evaluate_routers, present
    from mtrouter_rl.workflows.cost_estimate import costs_anything

    config = environment_config(args, env=args.env or _env_of_routers(args.router, output))
    request = EvaluateRequest(
        routers=tuple(args.router),
        cache=args.out / "embeddings",
        **values(args, "split", "out", "per_task", "seed", "overwrite", n_seeds="seeds"),
    )
    is_paid = costs_anything(config, request.routers, cache=request.cache)
    if not is_allowed(args, config, _n_episodes(args, config), output, is_paid=is_paid):
        return
    with booked(args, config, output) as spent, RolloutPool(config, n_workers=args.workers) as pool:
        request = _at_cost_weights(pool, request, args, output)
        if args.budgets:
            page = _under_budgets(config, request, args, output)
        else:
            results = evaluate_routers(pool, request)
            page = present(args.out, config, routers=request.routers, cache=request.cache)
            notes = "".join(f"\nnote: {note}" for note in results.notes)
            output.show(f"{format_table(results, args.split)}\n{notes}", results)
    tell_spent(spent(), output)
    output.say(f"report: {page}\nTensorBoard: tensorboard --logdir {args.out}")


def _n_episodes(args: argparse.Namespace, config: EnvConfig) -> int | None:
    """Episodes that are run; None where cost weights are looked for first, or the number is refused further on."""
    from mtrouter_rl.cards.splits import evaluation_specs

    is_refused = any(value is not None and value < 1 for value in (args.seeds, args.per_task))
    if is_refused or args.match_score_of is not None or args.target_cost_usd is not None:
        return None
    specs = evaluation_specs(config.card, args.split, args.seeds, per_task=args.per_task)
    return len(specs) * len(args.router) * len(args.cost_weights or (0,)) * len(args.budgets or (0,))


def _env_of_routers(routers: Sequence[str], output: Output) -> str:
    """Environment that the given routers were trained for; the default where none of them says.

    Raises:
        InvalidConfigError: If they are of several, or of an imported log, which cannot be run.
    """
    from mtrouter_rl.agents.resolve import envs_of_router
    from mtrouter_rl.cards import list_cards

    found = sorted({env for text in routers for env in envs_of_router(text)})
    if len(found) > 1:
        raise InvalidConfigError(f"the routers are of environments {', '.join(found)}; say which to run with --env")
    if not found:
        return DEFAULT_ENV
    if found[0] not in list_cards("envs"):
        raise InvalidConfigError(
            f"the routers were trained for '{found[0]}', of which there is no card: give it with --env. A log of other "
            "programs cannot be run: estimate routers from it with mtrouter-rl ope"
        )
    output.say(f"environment: {found[0]}, which the routers were trained for")
    return found[0]


def _at_cost_weights(
    pool: "RolloutPool", request: "EvaluateRequest", args: argparse.Namespace, output: Output
) -> "EvaluateRequest":
    """The request with its routers at the cost weights that the options ask for; says what was chosen."""
    from mtrouter_rl.evaluation.cost_weight_choice import ChoiceRule
    from mtrouter_rl.studies.frontier.run import choose_cost_weights, sweep

    if args.match_score_of is None and args.target_cost_usd is None:
        if args.score_tolerance is not None:
            raise InvalidConfigError(
                "--score-tolerance is for --match-score-of POLICY, which is missing; give both or neither"
            )
        return sweep(pool.config, request, args.cost_weights) if args.cost_weights else request
    rule = ChoiceRule(**values(args, "match_score_of", "score_tolerance", "target_cost_usd"))
    request, choices = choose_cost_weights(pool, request, rule, cost_weights=args.cost_weights)
    for choice in choices:
        output.tell(str(choice))
    return request


def _under_budgets(config: EnvConfig, request: "EvaluateRequest", args: argparse.Namespace, output: Output) -> object:
    """Run it under every budget, show that, and give the page of the report."""
    from mtrouter_rl.reporting.tables import to_plain
    from mtrouter_rl.studies.budgets.run import evaluate_budgets, parse_budgets
    from mtrouter_rl.workflows import present

    budgets_usd = parse_budgets(args.budgets, config.limits.budget_usd)
    _, swept = evaluate_budgets(config, request, budgets_usd, n_workers=args.workers)
    page = present(args.out, config)
    output.show(f"{to_plain(swept.table())}\n", swept)
    return page


_COST_WEIGHTS = tuple(
    replace(one, section="cost weights, for routers that can be told one (docs/cost-and-budget.md)")
    for one in (
        Option("--cost-weights", "run them at each of these; one row for every weight", float, "W", nargs="+"),
        Option(
            "--match-score-of",
            "the largest weight that does not score below this policy on validation",
            metavar="POLICY",
        ),
        Option("--score-tolerance", "how far below it may be (default: 0 points)", float, "POINTS"),
        Option("--target-cost-usd", "the smallest weight with a mean cost on validation of at most this", float, "USD"),
    )
)

COMMAND = Command(
    name="evaluate",
    group=Group.STUDY,
    summary="run routers closed-loop on a split and compare them",
    description=(
        "Routers: folders of trained ones, or uniform | random | cheapest | sticky:P | mixed:S | single:MODEL; where models "
        "are simulated also reference:hidden, which sees the simulator's hidden state and is no router. All run the same "
        "episodes on common random numbers; rows are added to OUT/results.json, and what is there is not run again. "
        "FOLDER@W is a router that can be told a cost weight at the weight W; see docs/cost-and-budget.md."
    ),
    examples=(
        "--env corridor --router routers/fitted-q random single:small --split test --out runs/mine",
        "--env corridor --router random cheapest --budgets 0.1x 0.5x --out runs/budgets",
    ),
    options=(
        *environment(of_routers=True),
        Option("--router", "routers to run", nargs="+", required=True, metavar="DIR|NAME"),
        *shared.EPISODES_OF_SPLIT,
        *_COST_WEIGHTS,
        Option(
            "--budgets", "run under each of these, in USD or times the environment's", metavar="USD|0.1x", nargs="+"
        ),
        shared.seed("the bootstrap"),
        shared.workers(),
        shared.out("folder of the results"),
        shared.overwrite("results of other routers"),
        *MONEY,
    ),
    run=_run,
)
