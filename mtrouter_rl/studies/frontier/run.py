"""One router at many cost weights: run at each of them, at one chosen on validation, or beside routers trained for one."""

from collections.abc import Sequence
from dataclasses import replace

from mtrouter_rl.agents.resolve import RouterRef, split_cost_weight
from mtrouter_rl.cards.policy import AT, name_at
from mtrouter_rl.cards.splits import episode_specs
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.evaluation.closed_loop import Contestant
from mtrouter_rl.evaluation.cost_weight_choice import ChoiceRule, CostWeightChoice, CostWeightChoices
from mtrouter_rl.evaluation.result_rows import Comparison, build_rows
from mtrouter_rl.evaluation.results import PolicyRoles, ResultRow, Results, header
from mtrouter_rl.protocols import PricedRouter, Router
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.studies.frontier.record import FrontierComparison, FrontierPair
from mtrouter_rl.workflows import (
    EvaluateRequest,
    TrainRequest,
    episodes_of_run,
    evaluate_routers,
    load_agent,
    train_router,
)

CHOICE_FOLDER = "choice"
"""Folder of the validation run behind a choice, within that of the results."""
STRONGEST = "strongest"
N_GRID = 9
"""Weights above 0 that a choice tries, if it is told none."""


def sweep(config: EnvConfig, request: EvaluateRequest, cost_weights: Sequence[float]) -> EvaluateRequest:
    """The request with every router that can be told a cost weight at each of some; policies without training stay once.

    Raises:
        InvalidConfigError: If a trained router cannot be told a weight, none can, or a weight is outside a router's range.
    """
    priced = _priced(config, request)
    routers: list[str] = []
    for text in request.routers:
        router = priced.get(text)
        routers += [text] if router is None else [_at(text, router, weight) for weight in cost_weights]
    return replace(request, routers=tuple(routers))


def choose_cost_weights(
    pool: RolloutPool,
    request: EvaluateRequest,
    rule: ChoiceRule,
    *,
    cost_weights: Sequence[float] | None = None,
    show_progress: bool = True,
) -> tuple[EvaluateRequest, tuple[CostWeightChoice, ...]]:
    """Choose a cost weight on validation for every router that can be told one.

    The choice and what it rests on are written to `cost_weight_choice.json` in the folder of the results, the validation run
    itself to the folder `choice` there.

    Args:
        pool: Workers.
        request: What is to be evaluated afterwards; its seeds per variation and `per_task` hold on validation as well.
        rule: How to choose.
        cost_weights: The weights to choose from; None takes `PricedRouter.cost_weight_grid(N_GRID)`.
        show_progress: Whether to draw progress bars.

    Returns:
        The request with these routers at their weights, and the choices.

    Raises:
        InvalidConfigError: If there is no validation split, the request is of that split itself, no weight fits the rule, or
            as `sweep`.
    """
    config = pool.config
    _check_validation(config, request)
    priced = _priced(config, request)
    grids = {
        text: [(_at(text, router, weight), name_at(router.name, weight)) for weight in _grid(router, cost_weights)]
        for text, router in priced.items()
    }
    reference = None if rule.match_score_of is None else _reference(pool, request, rule.match_score_of, show_progress)
    texts = [text for grid in grids.values() for text, _ in grid]
    validation = replace(
        request,
        routers=(*texts, *([] if reference is None else [reference])),
        split="validation",
        out=request.out / CHOICE_FOLDER,
    )
    results = evaluate_routers(pool, validation, show_progress=show_progress)
    wanted = None if reference is None else _row(results, Contestant.of(reference, config, cache=request.cache).name)
    choices = {
        text: CostWeightChoice.of(rule, [_row(results, name) for _, name in grid], wanted)
        for text, grid in grids.items()
    }
    chosen = tuple(choices.values())
    CostWeightChoices(**header(config), choices=chosen).save(request.out)
    routers = [
        _at(text, priced[text], choices[text].cost_weight) if text in choices else text for text in request.routers
    ]
    return replace(request, routers=tuple(routers)), chosen


def compare_frontier(
    pool: RolloutPool, request: EvaluateRequest, against: Sequence[str], *, show_progress: bool = True
) -> FrontierComparison:
    """Run one router at the cost weights that others were trained for, and them, and compare each two at their weight.

    The rows go to `results.json` as those of any evaluation; the comparison, whose returns are at the weight of each pair,
    to `frontier.json` beside it.

    Args:
        pool: Workers.
        request: Its `routers` hold the one that can be told a weight.
        against: Folders of routers that were trained for one weight each.
        show_progress: Whether to draw progress bars.

    Raises:
        InvalidConfigError: If one of `against` was trained for no cost weight, or as `sweep`.
    """
    config = pool.config
    ((text, router),) = _priced(config, request).items()
    others = [Contestant.of(other, config, cache=request.cache) for other in against]
    weights = [_trained_weight(other) for other in others]
    texts = dict.fromkeys([_at(text, router, weight) for weight in weights])
    evaluate_routers(pool, replace(request, routers=(*texts, *against)), show_progress=show_progress)
    episodes = episodes_of_run(request.out)[request.split]
    pairs = []
    for other, weight in sorted(zip(others, weights, strict=True), key=lambda pair: pair[1]):
        names = (name_at(router.name, weight), other.name)
        comparison = Comparison(
            split=request.split,
            reward=config.reward.at(weight),
            model_names=config.pool.model_names,
            roles=PolicyRoles(learned=names[:1], baselines=names[1:]),
            cost_weight=weight,
        )
        one, single = build_rows({name: episodes[name] for name in names}, comparison, seed=request.seed)
        pairs.append(FrontierPair(cost_weight=weight, frontier=one, separate=single))
    made = FrontierComparison(
        **header(config),
        split=request.split,
        cost_unit_usd=config.reward.cost_unit_usd,
        pairs=tuple(pairs),
    )
    made.save(request.out)
    return made


def _priced(config: EnvConfig, request: EvaluateRequest) -> dict[str, PricedRouter]:
    """Text -> router of those that can be told a cost weight and are not yet."""
    priced: dict[str, PricedRouter] = {}
    for text in request.routers:
        if split_cost_weight(text)[1] is not None:
            continue
        router: Router = RouterRef.of(text, request.cache)(config)
        if isinstance(router, PricedRouter):
            priced[text] = router
        elif Contestant.of(text, config, cache=request.cache).dataset_ids:
            raise InvalidConfigError(
                f"router '{text}': '{router.name}' was not trained to be told a cost weight; evaluate it into the same --out "
                "without options of cost weights, or train an agent that can be told one, such as factored-q-recurrent or "
                "fitted-q-frontier"
            )
    if not priced:
        raise InvalidConfigError(
            f"none of the routers ({', '.join(request.routers)}) can be told a cost weight; give the folder of one that was "
            f"trained for it, such as with --agent factored-q-recurrent or fitted-q-frontier, without {AT}WEIGHT behind it"
        )
    return priced


def _at(text: str, router: PricedRouter, cost_weight: float) -> str:
    """Text of a router at a cost weight, which is checked."""
    router.at(cost_weight)
    return name_at(text, cost_weight)


def _grid(router: PricedRouter, cost_weights: Sequence[float] | None) -> tuple[float, ...]:
    return router.cost_weight_grid(N_GRID) if cost_weights is None else tuple(sorted(set(cost_weights)))


def _check_validation(config: EnvConfig, request: EvaluateRequest) -> None:
    if request.split == "validation":
        raise InvalidConfigError(
            "--split is validation, on which the cost weight is chosen: the chosen router would look better there than it is; "
            "evaluate on another split, the numbers on validation are written beside the results"
        )
    if not episode_specs(config.card, "validation"):
        raise InvalidConfigError(
            f"environment '{config.card.name}' has no validation split, so no cost weight can be chosen on it; raise "
            "splits.validation of its card, or give the weight yourself with --cost-weights"
        )


def _reference(pool: RolloutPool, request: EvaluateRequest, policy: str, show_progress: bool) -> str:
    """Text of the policy whose score is to be kept: one of the request by its name, or any other.

    "strongest" is found by running every single model on validation, if it is none of the request.
    """
    for text in request.routers:
        if Contestant.of(text, pool.config, cache=request.cache).name == policy:
            return text
    if policy != STRONGEST:
        return policy
    training = TrainRequest(
        agent=load_agent(STRONGEST),
        config=pool.config,
        seed=request.seed,
        out=request.out / CHOICE_FOLDER / STRONGEST,
        n_validation_seeds=request.n_seeds,
        validation_per_task=request.per_task,
        overwrite=request.overwrite,
    )
    return str(train_router(training, pool=pool, show_progress=show_progress))


def _row(results: Results, policy: str) -> ResultRow:
    row = results.row(policy, "validation")
    assert row is not None, policy
    return row


def _trained_weight(one: Contestant) -> float:
    reward = None if one.provenance is None else one.provenance.reward
    if reward is None or not one.dataset_ids:
        raise InvalidConfigError(
            f"router '{one.name}' was trained for no cost weight, so it cannot be compared at one; give the folder of a router "
            "that was trained from a log"
        )
    return reward.cost_weight
