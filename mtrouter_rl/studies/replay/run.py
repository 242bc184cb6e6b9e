"""The study: single models, what knows the outcomes, families of routers cross-validated, and how much hangs on what."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mtrouter_rl import __version__
from mtrouter_rl.datasets.importers.suites.build import SuiteRequest, build_suite
from mtrouter_rl.embeddings.encoders import make_hashing
from mtrouter_rl.envs.replay.layout import SHAPES, Shape
from mtrouter_rl.envs.replay.suite import Suite
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import SCORE_PER_UTILITY
from mtrouter_rl.statistics.hull import hull_gain
from mtrouter_rl.studies.replay.compare import (
    answers_of,
    compare,
    frontier,
    judge,
    mean_estimates,
    resamples_of,
)
from mtrouter_rl.studies.replay.crossval import (
    GOALS,
    N_FOLDS,
    PRICES,
    Fold,
    HeldOut,
    Scheme,
    cross_validate,
    group_folds,
    time_folds,
    weights_of,
)
from mtrouter_rl.studies.replay.exact import (
    NO_LIMIT,
    ExactSuite,
    Legs,
    Outcome,
    oracle_legs,
    restart_oracle_legs,
)
from mtrouter_rl.studies.replay.families import (
    Budgets,
    ConformalCascade,
    Family,
    Known,
    Restarts,
    Singles,
    TextRouter,
    hindsight_rule,
    pareto,
)
from mtrouter_rl.studies.replay.learned import LearnedRestart, RunTexts
from mtrouter_rl.studies.replay.record import (
    RESULTS_FILE,
    FamilyRow,
    Held,
    LayoutRow,
    ModelRow,
    OverlapRow,
    ReferenceRow,
    ReplayResults,
    TransferRow,
)

FEWEST_TASKS = 12
"""With fewer there is nothing to learn from and hold out at the same time."""
MIDDLE_PRICE = PRICES.index(0.2)
"""Price at which unseen models are studied."""
LAYOUT_FAMILIES = ("restart, turns", "restart, USD", "restart, learned")


@dataclass(frozen=True, kw_only=True)
class ReplayRequest:
    """What `mtrouter-rl lab replay` is asked for.

    Attributes:
        suite: What the suite is made of.
        out: Folder of results and report.
        seed: Of folds and bootstrap.
    """

    suite: SuiteRequest
    out: Path
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Study:
    """A suite with all that is shared by the parts of its study.

    Attributes:
        known: All tasks.
        folds: Scheme -> its folds.
        families: What is studied.
        left_out: What is not, and why.
        seed: Of folds and bootstrap.
        say: Told what goes on.
    """

    known: Known
    folds: dict[Scheme, list[Fold]]
    families: tuple[Family, ...]
    left_out: tuple[str, ...]
    seed: int
    say: Callable[[str], None]

    @property
    def suite(self) -> Suite:
        """The suite."""
        return self.known.exact.suite


def run_replay(request: ReplayRequest, *, say: Callable[[str], None] = lambda _: None) -> ReplayResults:
    """Read the suite, study it and write `results.json`.

    Args:
        request: What is studied.
        say: Told what goes on.

    Raises:
        DatasetError: As `build_suite`.
        InvalidConfigError: If there are fewer than 12 tasks or two models.
    """
    suite = build_suite(request.suite)
    say(
        f"suite '{suite.head.name}': {suite.n_tasks} tasks, {len(suite.models)} models, {len(suite.turns)} runs turn by turn"
    )
    for note in suite.head.notes:
        say(note)
    results = study_suite(suite, seed=request.seed, say=say)
    results.write(request.out / RESULTS_FILE)
    return results


def study_suite(suite: Suite, *, seed: int = 0, say: Callable[[str], None] = lambda _: None) -> ReplayResults:
    """Study a suite. Raises as `run_replay`."""
    if suite.n_tasks < FEWEST_TASKS or len(suite.models) < 2:
        raise InvalidConfigError(
            f"suite '{suite.head.name}' has {suite.n_tasks} tasks and {len(suite.models)} models, must have at least "
            f"{FEWEST_TASKS} "
            "tasks and 2 models to learn from some and hold out others: run more"
        )
    study = prepare(suite, seed=seed, say=say)
    held = {scheme: _held(study, folds) for scheme, folds in study.folds.items()}
    exact = study.known.exact
    found = []
    families: list[FamilyRow] = []
    for scheme, by_family in held.items():
        singles = by_family["single"]
        others = {name: one for name, one in by_family.items() if name != "single"}
        found += compare(exact, others, singles, scheme=scheme, seed=seed)
        families += [frontier(exact, name, one, scheme) for name, one in by_family.items()]
    comparisons = judge(found)
    best = int(suite.scores.mean(axis=0).argmax())
    return ReplayResults(
        env=suite.head.name,
        pool=suite.head.name,
        package_version=__version__,
        fingerprint=suite.fingerprint,
        n_tasks=suite.n_tasks,
        n_groups=len(suite.groups),
        layout=suite.head.layout,
        layout_source=suite.head.layout_source,
        layout_error=suite.head.layout_error,
        notes=suite.head.notes,
        left_out=study.left_out,
        seed=seed,
        models=_models(study),
        references=_references(study),
        best_model=suite.models[best],
        overlap=_overlap(suite, best),
        held=tuple(
            Held(
                scheme=scheme,
                n_tasks=sum(len(fold.test) for fold in folds),
                fold_sizes=tuple(len(fold.test) for fold in folds),
            )
            for scheme, folds in study.folds.items()
        ),
        families=tuple(families),
        comparisons=comparisons,
        layouts=_layouts(study),
        transfer=_transfer(study),
        answers=answers_of(comparisons, exact),
    )


def prepare(suite: Suite, *, seed: int, say: Callable[[str], None]) -> Study:
    """Folds, texts as vectors, and the families that the suite has the data for."""
    left_out: list[str] = []
    groups = [task.group for task in suite.tasks]
    folds: dict[Scheme, list[Fold]] = {"groups": group_folds(groups, N_FOLDS, seed=seed)}
    by_time = time_folds(groups, [task.order for task in suite.tasks])
    if by_time:
        folds["time"] = by_time
    else:
        left_out.append("Nothing is held out by time: the order of the tasks is not known, or there are too few.")
    if len(suite.groups) < 2:
        left_out.append("Tasks are held out one by one, not by group: there is one group alone.")
    vectors = make_hashing().encode([task.text for task in suite.tasks]).astype(np.float64)
    known = Known(exact=ExactSuite(suite), vectors=vectors, tasks=np.arange(suite.n_tasks))
    families: list[Family] = [Singles()]
    if any(task.text for task in suite.tasks):
        families += [TextRouter("linear", "task text, ridge"), TextRouter("neighbors", "task text, neighbors")]
    else:
        left_out.append("No router reads task texts: none are given.")
    if suite.n_turns.max() > 1:
        families += _restarts(suite, left_out)
    else:
        left_out.append("No restart is studied: every run has one turn.")
    return Study(known=known, folds=folds, families=tuple(families), left_out=tuple(left_out), seed=seed, say=say)


def _restarts(suite: Suite, left_out: list[str]) -> list[Family]:
    families: list[Family] = [Restarts("turns", "restart, turns"), Restarts("usd", "restart, USD")]
    if any(turn.error for run in suite.turns.values() for turn in run):
        families.append(Restarts("errors", "restart, errors"))
    else:
        left_out.append("No rule counts errors: no run is known turn by turn with its errors.")
    families += [ConformalCascade(), Budgets(), LearnedRestart()]
    if suite.turns:
        families.append(LearnedRestart(name="restart, learned, reads runs", texts=RunTexts.of(suite)))
    else:
        left_out.append("No router reads what was written in a run: no run is known turn by turn.")
    return families


def _held(study: Study, folds: Sequence[Fold]) -> dict[str, HeldOut]:
    found = {}
    for family in study.families:
        start = time.monotonic()
        found[family.name] = cross_validate(family, study.known, folds, seed=study.seed)
        study.say(f"{family.name}: {len(folds)} folds in {time.monotonic() - start:.0f} s")
    return found


def _models(study: Study) -> tuple[ModelRow, ...]:
    suite = study.suite
    resamples = resamples_of(study.known.exact, {}, seed=study.seed)
    rows = []
    for m, model in enumerate(suite.models):
        score, cost = mean_estimates(resamples, str(m))
        n_known = sum(cell[1] == m for cell in suite.turns)
        rows.append(
            ModelRow(
                model=model, score=score, cost_usd=cost, n_turns=float(suite.n_turns[:, m].mean()), n_known=n_known
            )
        )
    return tuple(sorted(rows, key=lambda row: -row.score.value))


def _references(study: Study) -> tuple[ReferenceRow, ...]:
    """Oracles: per task, and of restarts from the best and from the cheapest sensible model."""
    exact, suite = study.known.exact, study.suite
    best = int(suite.scores.mean(axis=0).argmax())
    cheap = pareto(suite.costs_usd.mean(axis=0), suite.scores.mean(axis=0))
    outcomes: dict[str, tuple[Outcome, str]] = {
        "oracle per task": (
            exact.value(oracle_legs(suite.scores, suite.costs_usd, 1e-9)),
            "the model that scores best on the task, of several the cheapest",
        )
    }
    for name, first in (("best model", best), ("cheap model", _middle(suite, cheap))):
        for after in sorted({1, int(np.median(suite.n_turns[:, first]))}):
            told = (
                f"starts {suite.models[first]}, knows everything after {after} turn(s): goes on, starts whoever solves it "
                "for least, "
                "or gives up"
            )
            outcomes[f"oracle of restarts, {name}, turn {after}"] = (
                exact.value(restart_oracle_legs(exact, first, after)),
                told,
            )
    if suite.n_turns.max() > 1:
        rule = hindsight_rule(study.known, "turns")
        told = (
            f"{rule.told}; the rule that gains most over blind mixing on these very tasks, of all: what searching finds"
        )
        outcomes["best restart rule in hindsight"] = (exact.value(rule.legs(study.known)), told)
    resamples = resamples_of(exact, {name: one for name, (one, _) in outcomes.items()}, seed=study.seed)
    rows = []
    for name, (_, told) in outcomes.items():
        score, cost = mean_estimates(resamples, name)
        rows.append(ReferenceRow(name=name, score=score, cost_usd=cost, told=told))
    return tuple(rows)


def _middle(suite: Suite, front: Sequence[int]) -> int:
    """The model of the front with the most score for its money."""
    scores, costs = suite.scores.mean(axis=0), suite.costs_usd.mean(axis=0)
    unit = costs[scores.argmax()]
    return max(front, key=lambda m: scores[m] - costs[m] / max(unit, 1e-12) * 0.5)


def _overlap(suite: Suite, best: int) -> tuple[OverlapRow, ...]:
    solved = suite.scores >= 1.0
    own = solved[:, best]
    return tuple(
        OverlapRow(
            model=model,
            of_failed=float(solved[~own, m].mean()) if (~own).any() else None,
            of_solved=float(solved[own, m].mean()) if own.any() else None,
        )
        for m, model in enumerate(suite.models)
        if m != best
    )


def _layouts(study: Study) -> tuple[LayoutRow, ...]:
    """Families whose money hangs on the layout, under every rule, on held-out groups."""
    rows = []
    chosen = [family for family in study.families if family.name in LAYOUT_FAMILIES]
    for shape in SHAPES if chosen else ():
        suite = study.suite.with_layout(study.suite.head.layout.model_copy(update={"shape": shape}))
        known = replace(study.known, exact=ExactSuite(suite))
        for family in chosen:
            held = cross_validate(family, known, study.folds["groups"], seed=study.seed)
            rows += _layout_rows(known, family.name, held, shape)
        study.say(f"costs laid out by the rule '{shape}'")
    return tuple(rows)


def _layout_rows(known: Known, family: str, held: HeldOut, shape: Shape) -> list[LayoutRow]:
    part = known.exact.part(held.tasks)
    singles = list(
        zip(
            part.suite.costs_usd.mean(axis=0).tolist(),
            (SCORE_PER_UTILITY * part.suite.scores.mean(axis=0)).tolist(),
            strict=True,
        )
    )
    rows = []
    for goal in GOALS:
        outcome = part.value(held.of_goal(goal))
        score, cost = SCORE_PER_UTILITY * float(outcome.scores.mean()), float(outcome.costs_usd.mean())
        gain = hull_gain(score, cost, points=singles)
        rows.append(LayoutRow(shape=shape, family=family, goal=goal, score=score, cost_usd=cost, hull_gain=gain))
    return rows


def _transfer(study: Study) -> tuple[TransferRow, ...]:
    """Every model left out of the regressions in turn, and out of the pool, on held-out groups."""
    suite = study.suite
    if suite.n_turns.max() == 1 or len(suite.models) < 3:
        return ()
    n_models = len(suite.models)
    folds = study.folds["groups"]
    seen, _ = _at_middle(study.known, folds, LearnedRestart())
    rows = []
    for m, model in enumerate(suite.models):
        unseen, legs = _at_middle(study.known, folds, LearnedRestart(unseen=(m,)))
        others = [k for k in range(n_models) if k != m]
        exact = ExactSuite(suite.part(models=others))
        without, _ = _at_middle(replace(study.known, exact=exact), folds, LearnedRestart(), study.known)
        called = (legs.models == m).any(axis=1)
        rows.append(
            TransferRow(model=model, unseen=unseen, seen=seen, without=without, share_started=float(called.mean()))
        )
    study.say("unseen models")
    return tuple(rows)


def _at_middle(
    known: Known, folds: Sequence[Fold], family: LearnedRestart, priced: Known | None = None
) -> tuple[float, Legs]:
    """Mean return at the middle price over held-out groups, and what was done; `priced` says what money is worth."""
    returns, models, limits = [], [], []
    for fold in folds:
        weight = weights_of((priced or known).part(fold.train))[MIDDLE_PRICE]
        policy = family.fit(known.part(fold.train), [weight])[0]
        test = known.part(fold.test)
        legs = policy.legs(test)
        outcome = test.exact.value(legs)
        returns.append(outcome.scores - weight * outcome.costs_usd)
        models.append(legs.models)
        limits.append(np.minimum(legs.limits, NO_LIMIT))
    return float(np.concatenate(returns).mean()), Legs(models=np.concatenate(models), limits=np.concatenate(limits))
