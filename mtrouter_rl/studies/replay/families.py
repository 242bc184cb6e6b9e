"""Families of policies: each learns from training tasks one policy for every price of money.

A price is a weight: score minus weight times USD is what a policy is chosen by. `Family.fit` sees training tasks alone; a
policy sees of a test task its text, and of a run what a router would have seen by then.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mtrouter_rl.agents.regression.conformal import conformal_threshold
from mtrouter_rl.agents.regression.reward_fits import fit_neighbors, fit_ridge
from mtrouter_rl.agents.regression.reward_models import Form, make_predictor
from mtrouter_rl.envs.replay.suite import Suite
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import FloatArray
from mtrouter_rl.statistics.hull import Hulls
from mtrouter_rl.studies.replay.exact import NO_LIMIT, NOBODY, ExactSuite, IntArray, Legs
from mtrouter_rl.transitions.outcomes import OutcomeLog

N_LIMITS = 16
"""Turns, or amounts of money, after which a rule may restart: quantiles of the training runs."""
CAUTION = 1.0
"""Standard errors by which a rule has to beat the best single model on the training tasks."""
ALPHAS = (0.05, 0.1, 0.2, 0.3, 0.5)
BUDGET_QUANTILES = (0.3, 0.5, 0.7, 0.85, 0.95, 0.99)
HEAD_SHARES = (0.3, 0.6, 1.0)
_PENALTY = 10.0
_N_NEIGHBORS = 20


@dataclass(frozen=True, kw_only=True)
class Known:
    """What families learn from and are asked about.

    Attributes:
        exact: Tasks with all outcomes; of a test task a family reads no more than its policy would have seen by then.
        vectors: Task texts as vectors, shape (N, E).
        tasks: Index of each task in the whole suite, shape (N,).
    """

    exact: ExactSuite
    vectors: npt.NDArray[np.float64]
    tasks: IntArray

    def part(self, rows: IntArray) -> "Known":
        """Some tasks."""
        return Known(exact=self.exact.part(rows), vectors=self.vectors[rows], tasks=self.tasks[rows])

    @property
    def n_tasks(self) -> int:
        """N."""
        return self.exact.suite.n_tasks


class Policy(Protocol):
    """Says for every task what is run."""

    @property
    def told(self) -> str:
        """What it does, in words."""

    def legs(self, known: Known) -> Legs:
        """Legs on every task."""


class Family(Protocol):
    """Learns policies."""

    @property
    def name(self) -> str:
        """Name in tables."""

    def fit(self, train: Known, weights: Sequence[float]) -> list[Policy]:
        """A policy for every weight."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Run `first`; if it has not ended after the limit, start `second`.

    Attributes:
        first: Its model.
        second: Model that is started then; `NOBODY` gives the task up.
        kind: What is counted: "turns", "usd", "errors", or "never".
        after: How much of it.
        told: In words.
    """

    first: int
    second: int
    kind: str
    after: float
    told: str

    def legs(self, known: Known) -> Legs:
        """See `Policy`."""
        limits = turn_limits(known.exact, self.first, self.kind, self.after)
        n_tasks = len(limits)
        return Legs(
            models=np.stack([np.full(n_tasks, self.first), np.full(n_tasks, self.second)], axis=1).astype(np.int64),
            limits=np.stack([limits, np.full(n_tasks, NO_LIMIT)], axis=1).astype(np.int64),
        )


def turn_limits(exact: ExactSuite, model: int, kind: str, after: float) -> IntArray:
    """Turns of a model's run until a rule looks up, for every task, at least 1; shape (N,)."""
    suite = exact.suite
    if kind == "never":
        return np.full(suite.n_tasks, NO_LIMIT, dtype=np.int64)
    if kind == "turns":
        return np.full(suite.n_tasks, int(after), dtype=np.int64)
    if kind == "usd":
        # the first turn at which the amount is reached
        within = exact.turns_within(model, np.full(suite.n_tasks, after - 1e-9))
        return np.maximum(within + 1, 1)
    limits = np.full(suite.n_tasks, NO_LIMIT, dtype=np.int64)
    for n in range(suite.n_tasks):
        run = suite.turns.get((n, model))
        if run is not None:
            errors = np.cumsum([bool(turn.error) for turn in run])
            reached = np.flatnonzero(errors >= after)
            limits[n] = reached[0] + 1 if len(reached) else NO_LIMIT
    return limits


@dataclass(frozen=True)
class Singles:
    """The best single model at every price, chosen on the training tasks."""

    name: str = "single"

    def fit(self, train: Known, weights: Sequence[float]) -> list[Policy]:
        """See `Family`."""
        suite = train.exact.suite
        means = suite.scores.mean(axis=0), suite.costs_usd.mean(axis=0)
        best = [int((means[0] - weight * means[1]).argmax()) for weight in weights]
        return [single_rule(suite.models, model) for model in best]


def single_rule(models: Sequence[str], model: int) -> Rule:
    """One model from start to end."""
    return Rule(first=model, second=NOBODY, kind="never", after=0.0, told=models[model])


@dataclass(frozen=True)
class Restarts:
    """The best rule (first model, limit, second model or none) at every price; single models are among them.

    Attributes:
        kind: What the limit counts.
        name: Name in tables.
    """

    kind: str
    name: str

    def fit(self, train: Known, weights: Sequence[float]) -> list[Policy]:
        """See `Family`."""
        return best_rules(train, list(self.candidates(train.exact)), weights)

    def candidates(self, exact: ExactSuite) -> "list[tuple[int, str, float]]":
        """First legs: model, what is counted, and how much of it."""
        suite = exact.suite
        found = []
        for model in range(len(suite.models)):
            if self.kind == "errors":
                has_turns = any(cell[1] == model for cell in suite.turns)
                limits = np.arange(1.0, N_LIMITS + 1) if has_turns else np.array([])
            else:
                values = suite.n_turns[:, model] if self.kind == "turns" else suite.costs_usd[:, model]
                low = 0.0 if self.kind == "usd" else 1.0
                quantiles = np.quantile(values, np.linspace(0.02, 0.98, N_LIMITS))
                limits = np.unique(quantiles.round() if self.kind == "turns" else quantiles)
                limits = limits[limits > low] if self.kind == "usd" else limits[limits >= low]
            found += [(model, self.kind, float(limit)) for limit in limits]
        return found


@dataclass(frozen=True)
class ConformalCascade:
    """Restart after so many turns that all but a share alpha of the first model's failing runs are left before they end.

    The number of turns is the split-conformal quantile of the lengths of failing runs on half of the training tasks; which
    models and which alpha is chosen on the other half.
    """

    name: str = "cascade, conformal"

    def fit(self, train: Known, weights: Sequence[float]) -> list[Policy]:
        """See `Family`."""
        rows = np.arange(train.n_tasks)
        calibration, choice = train.part(rows[::2]), train.part(rows[1::2])
        suite = calibration.exact.suite
        candidates = []
        for model in range(len(suite.models)):
            failed = -suite.n_turns[suite.scores[:, model] < 1.0, model].astype(np.float64)
            for alpha in ALPHAS:
                try:
                    threshold = conformal_threshold(failed, alpha=alpha, what=suite.models[model])
                except InvalidConfigError:
                    continue  # too few failing runs for this alpha: no such rule can be calibrated
                candidates.append((model, "turns", max(-threshold - 1.0, 1.0)))
        return best_rules(choice, candidates, weights)


@dataclass(frozen=True)
class Budgets:
    """At every price a hard budget for each task: the first model up to an amount, then the second for what is left of it.

    The budget is the amount that is best at that price on the training tasks; no episode ever spends more.
    """

    name: str = "budget"

    def fit(self, train: Known, weights: Sequence[float]) -> list[Policy]:
        """See `Family`."""
        exact, suite = train.exact, train.exact.suite
        front = pareto(suite.costs_usd.mean(axis=0), suite.scores.mean(axis=0))
        found: list[tuple[FloatArray, FloatArray, Policy]] = []
        for total in np.quantile(suite.costs_usd[:, front], BUDGET_QUANTILES).tolist():
            for first in front:
                for share in HEAD_SHARES:
                    for second in [NOBODY] if share == 1.0 else [m for m in front if m != first]:
                        policy = BudgetPolicy(
                            first=first, second=second, head_usd=share * total, total_usd=total, names=suite.models
                        )
                        outcome = exact.value(policy.legs(train))
                        found.append((outcome.scores, outcome.costs_usd, policy))
        scores, costs = np.stack([one[0] for one in found]), np.stack([one[1] for one in found])
        return [self._best(suite, scores - weight * costs, weight, found) for weight in weights]

    @staticmethod
    def _best(
        suite: Suite, values: FloatArray, weight: float, found: "Sequence[tuple[FloatArray, FloatArray, Policy]]"
    ) -> Policy:
        singles = suite.scores - weight * suite.costs_usd
        single = int(singles.mean(axis=0).argmax())
        differences = values - singles[:, single]
        gains = differences.mean(axis=1) - CAUTION * differences.std(axis=1) / np.sqrt(suite.n_tasks)
        best = int(gains.argmax())
        return found[best][2] if gains[best] > 0 else single_rule(suite.models, single)


def pareto(costs_usd: FloatArray, scores: FloatArray) -> list[int]:
    """Models that no cheaper model scores as well as, the cheapest first."""
    found: list[int] = []
    for model in np.lexsort((-scores, costs_usd)).tolist():
        if not found or scores[model] > scores[found[-1]]:
            found.append(model)
    return found


@dataclass(frozen=True, kw_only=True)
class BudgetPolicy:
    """Two models under a budget.

    Attributes:
        first: The first model.
        second: The second; `NOBODY` for none.
        head_usd: What the first may spend.
        total_usd: What both may spend.
        names: Names of the models.
    """

    first: int
    second: int
    head_usd: float
    total_usd: float
    names: tuple[str, ...]

    @property
    def told(self) -> str:
        """In words."""
        then = "" if self.second == NOBODY else f", then {self.names[self.second]}"
        return f"{self.names[self.first]} up to {self.head_usd:.3f} USD{then}, {self.total_usd:.3f} USD at most"

    @staticmethod
    def head(exact: ExactSuite, first: int, usd: float) -> IntArray:
        """Turns of the first model, 0 where not even one is paid."""
        return exact.turns_within(first, np.full(exact.suite.n_tasks, usd))

    def legs(self, known: Known) -> Legs:
        """See `Policy`."""
        exact = known.exact
        rows = np.arange(exact.suite.n_tasks)
        head = self.head(exact, self.first, self.head_usd)
        spent = exact.spent[rows, self.first, np.minimum(head, exact.suite.n_turns[:, self.first])]
        first, second = np.full(len(rows), self.first), np.full(len(rows), self.second)
        tail = head * 0 if self.second == NOBODY else exact.turns_within(self.second, self.total_usd - spent)
        second = np.where(tail > 0, second, NOBODY)
        models = np.stack([np.where(head > 0, first, second), np.where(head > 0, second, NOBODY)], axis=1)
        limits = np.stack([np.where(head > 0, head, tail), np.where(head > 0, tail, 1)], axis=1)
        return Legs(models=models.astype(np.int64), limits=np.maximum(limits, 1).astype(np.int64))


def best_rules(
    train: Known, candidates: "Sequence[tuple[int, str, float]]", weights: Sequence[float], *, caution: float = CAUTION
) -> list[Policy]:
    """At every price the best of all rules with these first legs and any second model.

    A rule has to beat the best single model at that price by so many standard errors of their difference on the same tasks; of
    thousands of rules the best looks better than it is. Where none does, it is the single model.
    """
    suite = train.exact.suite
    rows = np.arange(suite.n_tasks)
    heads = []
    for model, kind, after in candidates:
        limits = np.minimum(turn_limits(train.exact, model, kind, after), suite.n_turns[:, model])
        goes_on = suite.n_turns[:, model] > limits
        done = np.where(goes_on, 0.0, suite.scores[:, model])
        heads.append((goes_on[:, None], done, train.exact.spent[rows, model, limits]))
    return [_best_rule(train, candidates, heads, weight, caution) for weight in weights]


def _best_rule(
    train: Known,
    candidates: "Sequence[tuple[int, str, float]]",
    heads: "Sequence[tuple[npt.NDArray[np.bool_], FloatArray, FloatArray]]",
    weight: float,
    caution: float,
) -> Policy:
    """The best rule at a price."""
    suite = train.exact.suite
    values = suite.scores - weight * suite.costs_usd
    then = np.concatenate([values, np.zeros((len(values), 1))], axis=1)  # the last column gives up
    single = int(values.mean(axis=0).argmax())
    best, chosen = 0.0, (single, "never", 0.0, NOBODY)
    for (model, kind, after), (goes_on, done, spent) in zip(candidates, heads, strict=True):
        differences = np.where(goes_on, then, 0.0) + (done - weight * spent - values[:, single])[:, None]
        gains = differences.mean(axis=0) - caution * differences.std(axis=0) / np.sqrt(len(values))
        gains[model] = -np.inf  # a run that is left is not started again
        second = int(gains.argmax())
        if gains[second] > best:
            best, chosen = float(gains[second]), (model, kind, after, second if second < len(suite.models) else NOBODY)
    return _rule(suite.models, *chosen)


def hindsight_rule(known: Known, kind: str) -> Rule:
    """The rule that gains most over blind mixing on the very tasks it is tried on: what searching finds, not what holds."""
    suite, rows = known.exact.suite, np.arange(known.n_tasks)
    costs, scores = suite.costs_usd.mean(axis=0), suite.scores.mean(axis=0)
    hull = Hulls.of(costs[None], scores[None])
    found: list[tuple[float, tuple[int, str, float, int]]] = []
    for model, _, after in Restarts(kind, kind).candidates(known.exact):
        limits = np.minimum(turn_limits(known.exact, model, kind, after), suite.n_turns[:, model])
        goes_on = suite.n_turns[:, model] > limits
        head = known.exact.spent[rows, model, limits].mean(), np.where(goes_on, 0.0, suite.scores[:, model]).mean()
        for second in [m for m in range(len(suite.models)) if m != model]:
            cost = head[0] + (goes_on * suite.costs_usd[:, second]).mean()
            score = head[1] + (goes_on * suite.scores[:, second]).mean()
            height = float(hull.scores_at(np.maximum(np.array([cost]), hull.costs_usd[:, 0]))[0])
            found.append((float(score) - height, (model, kind, after, second)))
    return _rule(suite.models, *max(found)[1])


def _rule(names: Sequence[str], model: int, kind: str, after: float, second: int) -> Rule:
    if kind == "never":
        return single_rule(names, model)
    amount = f"{after:.3f} USD" if kind == "usd" else f"{after:.0f} {kind}"
    then = "give up" if second == NOBODY else names[second]
    return Rule(first=model, second=second, kind=kind, after=after, told=f"{names[model]}, after {amount}: {then}")


@dataclass(frozen=True)
class TextRouter:
    """Single-turn routing: which model runs the whole task is decided on its text, by the regressions of the task agents.

    Attributes:
        form: Which of `mtrouter_rl.agents.regression.reward_models`.
        name: Name in tables.
    """

    form: Form
    name: str

    def fit(self, train: Known, weights: Sequence[float]) -> list[Policy]:
        """See `Family`."""
        suite = train.exact.suite
        n_models = len(suite.models)
        log = OutcomeLog(
            vectors=np.repeat(train.vectors, n_models, axis=0),
            models=np.tile(np.arange(n_models), suite.n_tasks),
            outcomes=np.stack([suite.scores.ravel(), suite.costs_usd.ravel()], axis=1),
            weights=np.ones(suite.scores.size),
            n_models=n_models,
        )
        arrays = fit_ridge(log, penalty=_PENALTY) if self.form == "linear" else fit_neighbors(log)
        predict = make_predictor(self.form, arrays, n_models=n_models, n_neighbors=_N_NEIGHBORS)
        return [
            TextPolicy(predict=predict, weight=weight, told=f"{self.name} at {weight:.2f} a USD") for weight in weights
        ]


@dataclass(frozen=True, kw_only=True)
class TextPolicy:
    """The model with the best predicted score minus weight times predicted cost."""

    predict: Callable[[npt.NDArray[np.float64]], FloatArray]
    weight: float
    told: str

    def legs(self, known: Known) -> Legs:
        """See `Policy`."""
        predicted = self.predict(known.vectors)
        choice = (predicted[..., 0] - self.weight * predicted[..., 1]).argmax(axis=1)
        return Legs(models=choice[:, None].astype(np.int64), limits=np.full((len(choice), 1), NO_LIMIT, dtype=np.int64))
