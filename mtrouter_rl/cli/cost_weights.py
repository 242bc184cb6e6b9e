"""Options of `evaluate` for routers that can be told a cost weight."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mtrouter_rl.rollout import RolloutPool
    from mtrouter_rl.workflows import EvaluateRequest


def add_cost_weights(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group(
        "cost weights, for routers that were trained to be told one (docs/cost-and-budget.md)"
    )
    group.add_argument(
        "--cost-weights", nargs="+", type=float, metavar="W", help="run them at each of these; one row for every weight"
    )
    group.add_argument(
        "--match-score-of",
        metavar="POLICY",
        help="choose the largest weight whose score on validation is not below this policy's, such as 'strongest'",
    )
    group.add_argument(
        "--score-tolerance", type=float, metavar="POINTS", help="how far below it may be (default: 0 points)"
    )
    group.add_argument(
        "--target-cost-usd",
        type=float,
        metavar="USD",
        help="choose the smallest weight whose mean cost on validation is at most this",
    )


def at_cost_weights(pool: "RolloutPool", request: "EvaluateRequest", args: argparse.Namespace) -> "EvaluateRequest":
    """The request with its routers at the cost weights that the options ask for; says what was chosen."""
    from mtrouter_rl.errors import InvalidConfigError
    from mtrouter_rl.evaluation.cost_weight_choice import ChoiceRule
    from mtrouter_rl.studies.frontier.run import choose_cost_weights, sweep

    if args.match_score_of is None and args.target_cost_usd is None:
        if args.score_tolerance is not None:
            raise InvalidConfigError(
                "--score-tolerance is for --match-score-of POLICY, which is missing; give both or neither"
            )
        return sweep(pool.config, request, args.cost_weights) if args.cost_weights else request
    rule = ChoiceRule(
        match_score_of=args.match_score_of, score_tolerance=args.score_tolerance, target_cost_usd=args.target_cost_usd
    )
    request, choices = choose_cost_weights(pool, request, rule, cost_weights=args.cost_weights)
    for choice in choices:
        print(choice)
    return request
