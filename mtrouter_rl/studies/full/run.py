"""The full study: every router, the whole cost-score frontier, other markets and budgets, and what of it holds.

It is made of steps that are kept when they are done, so that a study that was killed goes on where it stopped. What is chosen
is chosen on validation; test and held-out tasks are run for the choices that were made before.
"""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mtrouter_rl.agents.resolve import RouterRef, load_algorithm
from mtrouter_rl.cards import load_pool_card
from mtrouter_rl.cards.policy import name_at, reference_policy, single_model, single_policy
from mtrouter_rl.datasets.info import INFO_FILE
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.embeddings.encoders import make_encoder
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.errors import InvalidConfigError, MissingDependencyError
from mtrouter_rl.evaluation.results import Results
from mtrouter_rl.protocols import PricedRouter
from mtrouter_rl.records import Split
from mtrouter_rl.registry import ENCODERS
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.studies.ablations.groups import ENCODER, GROUPS_OF_JOINT, TARGET
from mtrouter_rl.studies.ablations.run import AblationRequest, run_ablations
from mtrouter_rl.studies.budgets.run import evaluate_budgets
from mtrouter_rl.studies.full.claims_of_main import (
    CURVE_WEIGHTS,
    ESTIMATOR,
    FITTED,
    FRONTIER,
    QUARTER,
    STICKY,
    WEIGHTS,
    at_weight,
    judge,
)
from mtrouter_rl.studies.full.claims_of_parts import (
    BUDGETS_FOLDER,
    MARKETS_FOLDER,
    TOLD_BUDGET,
    claims_of_other_parts,
)
from mtrouter_rl.studies.full.compare import compare_all
from mtrouter_rl.studies.full.frontier_points import POINTS_FILE, FrontierPoints, choose_points
from mtrouter_rl.studies.full.request import FullStudyRequest, full_card
from mtrouter_rl.studies.headroom.run import HeadroomRequest, run_headroom
from mtrouter_rl.studies.leave_one_out.run import LeaveOneOutRequest, run_leave_one_out
from mtrouter_rl.workflows import (
    CONFIG_FILE,
    RESULTS_FILE,
    VALIDATION_FOLDER,
    EvaluateRequest,
    TrainRequest,
    encode_log,
    evaluate_routers,
    load_agent,
    present,
    save_config,
    train_router,
)
from mtrouter_rl.workflows.quick_study import (
    ROUTERS_FOLDER,
    STRONGEST,
    Clock,
    StudyRequest,
    StudySize,
    collect_log,
    run_study,
    train_side_by_side,
)
from mtrouter_rl.workflows.run_folder import read_setting

N_GRID = 9
"""Weights above 0 from which the points that are shown are chosen, on validation."""
BUDGET_SHARES = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
"""Budgets of an episode, as shares of what the strongest model spends on one on validation."""
REFERENCE = reference_policy("hidden")
MAIN_DONE = "main.done"
"""Empty file that tells that the main part was run to its end."""
HEADROOM_FOLDER, CHOICE_FOLDER = "headroom", "choice"
ABLATIONS_FOLDER, POOL_CHANGE_FOLDER = "ablations", "pool-change"
QUARTER_FOLDER = "quarter-of-the-log"
"""Of more episodes than the other ablations have, since a claim is about them."""


def run_full_study(
    request: FullStudyRequest, *, say: Callable[[str], None], show_progress: bool = True
) -> Results | None:
    """Run the study; what is done is skipped, what was killed goes on where it stopped.

    Args:
        request: What to run.
        say: Told, in a sentence, what begins and how long it took.
        show_progress: Whether to draw progress bars.

    Returns:
        The results of the main part, also in `out/results.json`; None if headroom alone was asked for.

    Raises:
        InvalidConfigError: If the main part is left out and was not run before.
        MissingDependencyError: If ablations are to compare encoders of which one is not installed.
    """
    clock = Clock(say)
    study = _FullStudy(request, say=say, show_progress=show_progress)
    _check_encoders(request)
    _claim(request)
    if "headroom" in request.parts:
        clock.step("headroom: what a reference that sees the hidden state reaches; no router is trained for it")
        study.headroom()
    if "main" in request.parts:
        _run_main(study, request, clock=clock, say=say, show_progress=show_progress)
    if request.parts == ("headroom",):
        clock.done()
        return None
    if not (request.out / MAIN_DONE).is_file():
        raise InvalidConfigError(
            f"{request.out}: the main part has not been run to its end, and the others rest on it; run it first, with "
            "--parts main"
        )
    if "ablations" in request.parts:
        clock.step("ablations: the same agent with one thing changed at a time, and with less of the log")
        study.ablate()
    if "markets" in request.parts:
        for market in full_card(request.config.card).markets:
            clock.step(f"market {market}: the same agents and parameters on another pool, from a log of its own")
            study.market(market)
    if "budgets" in request.parts:
        clock.step("budgets: one router for every budget beside others")
        study.budgets()
    if "pool-change" in request.parts:
        clock.step("pool change: the strongest model, and the best value for money, held out of the training")
        study.pool_change()
    clock.step("judge: what of it holds")
    study.judge()
    clock.done()
    return Results.load(request.out / RESULTS_FILE)


def _run_main(
    study: "_FullStudy", request: FullStudyRequest, *, clock: Clock, say: Callable[[str], None], show_progress: bool
) -> None:
    """Log, trainings, choices and evaluations; a file tells that all of it was done."""
    with RolloutPool(request.config, n_workers=request.n_workers) as pool:
        clock.step(f"log: {request.size.n_episodes} episodes of uniform per-turn random routing on the train split")
        collect_log(pool, request.as_study(), say=say, show_progress=show_progress)
        clock.step("train: every router, the one that is told the cost weight, and one for each cost weight")
        study.train(pool)
        clock.step("choose: points of the frontier, on validation")
        study.choose(pool)
        for split in _splits(request.config):
            clock.step(f"evaluate on {split}, closed-loop")
            study.evaluate(pool, split)
    clock.step("draw plots, TensorBoard and the report")
    study.present()
    (request.out / MAIN_DONE).touch()


def _splits(config: EnvConfig) -> tuple[Split, ...]:
    return ("test", "ood") if config.card.ood_tasks else ("test",)


def _check_encoders(request: FullStudyRequest) -> None:
    """Refuse at the start what the ablations would refuse hours later."""
    card = request.config.card
    if "ablations" not in request.parts or not full_card(card).compares_encoders:
        return
    for name in ENCODERS.builtin:
        try:
            make_encoder(name, None)
        except MissingDependencyError as error:
            raise MissingDependencyError(
                f"encoder '{name}', which the ablations compare: {error}; or leave ablations out of --parts, or set "
                f"studies.full.compares_encoders of card '{card.name}' to false"
            ) from error


def _claim(request: FullStudyRequest) -> None:
    """Write the configuration, unless the folder holds a study of another one that did anything before it failed."""
    path = request.out / CONFIG_FILE
    wanted = json.loads(json.dumps(request.describe()))
    there = read_setting(path) if path.is_file() else wanted
    differing = sorted(name for name in wanted if there.get(name) != wanted[name])
    if differing and any(request.out.glob("*/*")):
        raise InvalidConfigError(
            f"{request.out} holds a study of another setting (differs in: {', '.join(differing)}); choose another --out"
        )
    save_config(request.out, request.describe())


class _FullStudy:
    """The steps of a full study, each of which may be run again."""

    def __init__(self, request: FullStudyRequest, *, say: Callable[[str], None], show_progress: bool) -> None:
        self._request = request
        self._say = say
        self._show_progress = show_progress

    def headroom(self) -> None:
        """What there is to win, for every setting of complementarity."""
        request = self._request
        own = request.config.pool.name
        for name in (own, *full_card(request.config.card).complementarities):
            config = request.config if name == own else self._with_pool(name)
            asked = HeadroomRequest(
                split="test", n_seeds=request.size.n_headroom_seeds, out=request.out / HEADROOM_FOLDER / name
            )
            with RolloutPool(config, n_workers=request.n_workers) as pool:
                run_headroom(pool, asked, show_progress=self._show_progress)

    def train(self, pool: RolloutPool) -> None:
        """Train everything; those that validate first, then the others side by side."""
        request = self._request
        train_router(self._training(STRONGEST), pool=pool, show_progress=self._show_progress)
        encode_log(self._training(FITTED), show_progress=self._show_progress)
        trainings = [self._training(agent) for agent in (*request.agents, FRONTIER)]
        trainings += [self._training(agent, cost_weight=weight) for agent, weight in self._separate]
        alone = [one for one in trainings if load_algorithm(one.agent).needs_validation]
        for training in alone:
            train_router(training, pool=pool, show_progress=self._show_progress)
        # The longest first, so that none is left to run alone at the end.
        others = sorted(
            (one for one in trainings if one not in alone), key=lambda one: not one.agent.name.startswith(FITTED)
        )
        train_side_by_side(others, n_workers=request.n_workers, show_progress=self._show_progress)

    def choose(self, pool: RolloutPool) -> FrontierPoints:
        """The points of the frontier that are shown, chosen on validation."""
        request = self._request
        folder = request.router(FRONTIER)
        router = RouterRef.of(str(folder), request.cache)(request.config)
        assert isinstance(router, PricedRouter)
        grid = tuple(name_at(str(folder), weight) for weight in router.cost_weight_grid(N_GRID))
        asked = EvaluateRequest(
            routers=(*grid, str(request.router(STRONGEST))),
            split="validation",
            n_seeds=request.size.n_validation_seeds,
            out=request.out / CHOICE_FOLDER,
            seed=request.seed,
            cache=request.cache,
        )
        results = evaluate_routers(pool, asked, show_progress=self._show_progress)
        strongest = results.row(STRONGEST, "validation")
        assert strongest is not None
        points = choose_points([row for row in results.rows if row.family == FRONTIER], strongest)
        points.save(request.out)
        for point in points.points:
            missed = "" if point.is_met else "; no point is within the limit on cost, this is the cheapest"
            self._say(f"    {point.purpose}: {point.policy}{missed}")
        return points

    def evaluate(self, pool: RolloutPool, split: Split) -> None:
        """Run what the claims are about on many seeds, everything else on a few, and compare all of them."""
        request, size = self._request, self._request.size
        narrow, points = self._narrow_routers(), self._chosen_points()
        singles = [*(single_policy(name) for name in request.config.pool.model_names), REFERENCE]
        curves = [text for text in self._curves() if text not in (*narrow, *points)]
        others = [text for text in self._other_routers() if text not in (*narrow, *points)]
        is_test = split == "test"
        n_single_seeds, others_per_task = (size.n_other_seeds, None) if is_test else (1, size.ood_other_per_task)
        for routers, n_seeds, per_task in (
            (narrow, size.n_narrow_seeds if is_test else size.n_ood_narrow_seeds, None),
            (points, size.n_key_seeds if is_test else size.n_ood_key_seeds, None),
            (singles, n_single_seeds, None),
            (curves, size.n_curve_seeds if is_test else size.n_ood_other_seeds, others_per_task),
            (others, size.n_other_seeds if is_test else size.n_ood_other_seeds, others_per_task),
        ):
            asked = EvaluateRequest(
                routers=tuple(routers),
                split=split,
                n_seeds=n_seeds,
                out=request.out,
                per_task=per_task,
                seed=request.seed,
                cache=request.cache,
            )
            evaluate_routers(pool, asked, show_progress=self._show_progress)
        compare_all(request, (*narrow, *points, *singles, *curves, *others), split)

    def present(self) -> None:
        """Draw everything that people look at."""
        request = self._request
        trained = [str(request.router(agent)) for agent in request.agents]
        present(request.out, request.config, routers=trained, cache=request.cache)

    def market(self, name: str) -> None:
        """The quick study on another pool, with a log of its own."""
        request, size = self._request, self._request.size
        study = StudyRequest(
            config=self._with_pool(name),
            out=request.out / MARKETS_FOLDER / name,
            size=StudySize(
                n_episodes=size.n_market_episodes,
                n_validation_seeds=1,
                validation_per_task=None,
                n_test_seeds=size.n_market_seeds,
                n_ood_seeds=1,
                ood_per_task=size.ood_other_per_task,
            ),
            seed=request.seed,
            n_workers=request.n_workers,
            agents=(FITTED, ESTIMATOR),
            encoder=request.encoder,
            collects=True,
            shows_reference=True,
        )
        run_study(study, say=lambda text: self._say(f"  {text}"), show_progress=self._show_progress)

    def budgets(self) -> None:
        """Score under budgets that are shares of what the strongest model spends."""
        request = self._request
        train_router(self._training(TOLD_BUDGET), show_progress=self._show_progress)
        spent_usd = FrontierPoints.load(request.out / POINTS_FILE).strongest.cost_usd_mean
        names = (TOLD_BUDGET, FITTED, ESTIMATOR, STRONGEST, "strong-first", "cheap-first", "interleave")
        routers = [str(request.router(name)) for name in names if name in {*request.agents, STRONGEST, TOLD_BUDGET}]
        asked = EvaluateRequest(
            routers=(*routers, "cheapest", "random"),
            split="test",
            n_seeds=request.size.n_budget_seeds,
            out=request.out / BUDGETS_FOLDER,
            seed=request.seed,
            cache=request.cache,
        )
        evaluate_budgets(
            request.config,
            asked,
            [float(f"{share * spent_usd:.3g}") for share in BUDGET_SHARES],
            n_workers=request.n_workers,
            show_progress=self._show_progress,
        )

    def ablate(self) -> None:
        """What each part of the router is worth, and how much log it needs beside the paper's estimator."""
        request = self._request
        has_encoders = full_card(request.config.card).compares_encoders
        asked = AblationRequest(
            config=request.config,
            dataset=request.dataset,
            out=request.out / ABLATIONS_FOLDER,
            agent=FITTED,
            which=tuple(group for group in GROUPS_OF_JOINT if group != TARGET and (group != ENCODER or has_encoders)),
            compared=ESTIMATOR,
            n_seeds=request.size.n_ablation_seeds,
            seed=request.seed,
            n_workers=request.n_workers,
            encoder=request.encoder,
        )
        run_ablations(asked, say=lambda text: self._say(f"  {text}"), show_progress=self._show_progress)
        quarter = EvaluateRequest(
            routers=(str(asked.out / ROUTERS_FOLDER / QUARTER),),
            split="test",
            n_seeds=request.size.n_key_seeds,
            out=request.out / QUARTER_FOLDER,
            seed=request.seed,
            cache=request.cache,
        )
        with RolloutPool(request.config, n_workers=request.n_workers) as pool:
            evaluate_routers(pool, quarter, show_progress=self._show_progress)

    def judge(self) -> None:
        """Every claim with its interval and verdict."""
        request = self._request
        of_test = claims_of_other_parts(request.out, reward=request.config.reward, seed=request.seed)
        judge(
            request.out,
            request.config,
            agents=request.agents,
            quarter=request.out / QUARTER_FOLDER,
            seed=request.seed,
            of_test=of_test,
        )

    def pool_change(self) -> None:
        """The strongest model, and the one of the best return on validation, leave and join."""
        request = self._request
        asked = LeaveOneOutRequest(
            agent=load_agent(FITTED, request.config.card),
            dataset=request.dataset,
            out=request.out / POOL_CHANGE_FOLDER,
            models=self._models_to_hold_out(),
            n_seeds=request.size.n_pool_change_seeds,
            seed=request.seed,
            encoder=request.encoder,
        )
        with RolloutPool(request.config, n_workers=request.n_workers) as pool:
            run_leave_one_out(pool, asked, n_workers=request.n_workers, show_progress=self._show_progress)

    def _models_to_hold_out(self) -> tuple[str, ...]:
        request = self._request
        reward = request.config.reward
        folder = request.router(STRONGEST) / VALIDATION_FOLDER / "validation"
        found = [Dataset.load(path.parent) for path in sorted(folder.glob(f"*/{INFO_FILE}"))]
        utilities = {one.info.behavior_policy: np.mean([e.utility for e in one.completed]) for one in found}
        returns = {
            one.info.behavior_policy: np.mean([reward.reward(e.utility, e.cost_usd) for e in one.completed])
            for one in found
        }
        best = (max(values, key=lambda name: values[name]) for values in (utilities, returns))
        return tuple(dict.fromkeys((single_model(name) or name) for name in best))

    @property
    def _separate(self) -> tuple[tuple[str, float], ...]:
        """Agents and the weights that they are trained for once more; the environment's own weight they have already."""
        own = self._request.config.cost_weight
        return tuple((agent, weight) for agent in (FITTED, ESTIMATOR) for weight in WEIGHTS if weight != own)

    def _narrow_routers(self) -> tuple[str, ...]:
        """The three whose differences the claims want narrow intervals of."""
        return tuple(str(self._request.router(name)) for name in (STRONGEST, FITTED, ESTIMATOR))

    def _chosen_points(self) -> tuple[str, ...]:
        """The points of the frontier that were chosen on validation."""
        return tuple(self._text(policy) for policy in FrontierPoints.load(self._request.out / POINTS_FILE).policies)

    def _other_routers(self) -> tuple[str, ...]:
        request = self._request
        return ("random", STICKY, "cheapest", *(str(request.router(agent)) for agent in request.agents))

    def _curves(self) -> tuple[str, ...]:
        """Routers trained for one weight each, and the frontier told each of its weights."""
        request = self._request
        separate = [str(request.router(at_weight(agent, weight))) for agent, weight in self._separate]
        told = [name_at(str(request.router(FRONTIER)), weight) for weight in CURVE_WEIGHTS]
        return (*separate, *told)

    def _text(self, policy: str) -> str:
        """What names a point of the frontier where a router is asked for."""
        return str(self._request.out / ROUTERS_FOLDER / policy)

    def _training(self, agent: str, *, cost_weight: float | None = None) -> TrainRequest:
        request = self._request
        card = load_agent(agent, request.config.card)
        config = request.config
        if cost_weight is not None:
            card = card.model_copy(update={"name": at_weight(agent, cost_weight)})
            config = config.at_cost_weight(cost_weight)
        return TrainRequest(
            agent=card,
            config=config,
            seed=request.seed,
            out=request.router(card.name),
            dataset=None if agent == STRONGEST else request.dataset,
            encoder=request.encoder,
            cache=request.cache,
            n_validation_seeds=request.size.n_validation_seeds,
            validation_folder=request.router(STRONGEST) / VALIDATION_FOLDER,
        )

    def _with_pool(self, name: str) -> EnvConfig:
        return replace(self._request.config, pool=load_pool_card(name))
