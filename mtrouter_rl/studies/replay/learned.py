"""A learned stopping rule: fitted Q over a joint description of task, partial run and models.

Before a run's next turn, at some checkpoints, the router may let the model go on or start another one. Two values decide, each
score minus price times what is still to be paid:

* staying, Q(task, a, k): run a goes on from checkpoint k, and the router goes on deciding;
* leaving, Q(task, a, k, b): run a is left at checkpoint k for a fresh run of model b, which runs to its end.

Both are known for every training task, whatever was decided there, since every model ran every task. A value is the mean
over the training tasks whose run of a is that long (drawn to that of the checkpoint before where few are left), plus a ridge
regression, one for all models, of what task text and partial run say beyond it. That a run is still going at k tells of the
task, too: b is valued on the tasks on which a is that slow, not on all of them.

Staying is fitted by iteration: the first round values going to the end; each further round values the rule of the round
before, as worked out on tasks that its values were not fitted on. A rule leaves, and starts with another model than the best
single one, only where the gain is more than one standard error: with hundreds of candidates, the best looks better than it is.

Source: fitted policy iteration, Lagoudakis and Parr, Least-Squares Policy Iteration (2003), with returns that are worked out
exactly in place of temporal differences; one standard error as in Breiman et al., Classification and Regression Trees (1984).
Tables and text regressions are cross-fitted: those of a training task are of other tasks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mtrouter_rl.agents.factored.shrinkage import ridge
from mtrouter_rl.embeddings.encoders import make_hashing
from mtrouter_rl.envs.replay.suite import Suite
from mtrouter_rl.records import FloatArray
from mtrouter_rl.studies.replay.exact import NO_LIMIT, NOBODY, ExactSuite, IntArray, Legs
from mtrouter_rl.studies.replay.families import Known, Policy

N_CHECKPOINTS = 12
N_ROUNDS = 3
N_FOLDS = 4
_PENALTY, _TEXT_PENALTY, _PRIOR = 30.0, 10.0, 8.0
_N_LEAVING_ROWS = 40_000
_SLACK = 0.05
"""Score by which a cheaper model has to be better for a model to be left out."""
_LAST_TURNS = 5
_MAX_CHARACTERS = 1500


@dataclass(frozen=True, kw_only=True)
class RunTexts:
    """Partial runs whose turns are known, as vectors: the last turns as text, and how many errors there were.

    Attributes:
        vectors: Encoded text before every checkpoint, (task, model) -> shape (K, E).
        errors: Errors by then, (task, model) -> shape (K,).
        checkpoints: Turns at which it was looked at, shape (K,).
    """

    vectors: dict[tuple[int, int], npt.NDArray[np.float32]]
    errors: dict[tuple[int, int], FloatArray]
    checkpoints: IntArray

    @classmethod
    def of(cls, suite: Suite) -> "RunTexts":
        """Encode what a suite knows turn by turn."""
        checkpoints = checkpoints_of(suite.n_turns)
        encoder = make_hashing()
        vectors, errors = {}, {}
        for cell, run in sorted(suite.turns.items()):
            texts = [
                "\n".join(
                    f"{one.action[-_MAX_CHARACTERS:]}\n{one.observation[-_MAX_CHARACTERS:]}"
                    for one in run[max(k - _LAST_TURNS, 0) : k]
                )
                for k in checkpoints.tolist()
                if k < len(run)
            ]
            vectors[cell] = encoder.encode(texts)
            failed = np.cumsum([0.0, *(bool(turn.error) for turn in run)])
            errors[cell] = failed[np.minimum(checkpoints, len(run))]
        return cls(vectors=vectors, errors=errors, checkpoints=checkpoints)


def checkpoints_of(n_turns: IntArray) -> IntArray:
    """Turns at which a router looks up: 0, then spread evenly in the logarithm up to the longest run."""
    longest = max(int(np.quantile(n_turns, 0.98)), 2)
    return np.unique(np.concatenate([[0], np.geomspace(1, longest, N_CHECKPOINTS).round()])).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Means over tasks by model and checkpoint.

    Attributes:
        leave_scores: Mean score of model b on tasks whose run of a is longer than checkpoint k, shape (M, K, B).
        leave_costs: The same of its cost, USD.
        stay_scores: Mean score still to come of staying there, shape (M, K).
        stay_costs: The same of cost.
    """

    leave_scores: FloatArray
    leave_costs: FloatArray
    stay_scores: FloatArray
    stay_costs: FloatArray


def mean_of_alive(values: FloatArray, is_alive: npt.NDArray[np.bool_]) -> FloatArray:
    """Mean over tasks whose run is still going, drawn to that of the checkpoint before.

    Args:
        values: Shape (N, M, K), or (N, B) for values of other models, which every run may be left for.
        is_alive: Shape (N, M, K); all runs are at the first checkpoint.

    Returns:
        Shape (M, K), or (M, K, B).
    """
    counts = is_alive.sum(axis=0).astype(np.float64)
    if values.ndim == 2:
        sums = np.tensordot(is_alive.astype(np.float64), values, axes=(0, 0))
        counts = counts[..., None]
    else:
        sums = (is_alive * values).sum(axis=0)
    means: FloatArray = np.empty_like(sums)
    means[:, 0] = sums[:, 0] / np.maximum(counts[:, 0], 1)
    for k in range(1, sums.shape[1]):
        means[:, k] = (sums[:, k] + _PRIOR * means[:, k - 1]) / (counts[:, k] + _PRIOR)
    return means


@dataclass(frozen=True)
class LearnedRestart:
    """The family of learned stopping rules.

    Attributes:
        name: Name in tables.
        texts: Partial runs as vectors, where the router reads what was written; None reads no text of runs.
        sees_spent: Whether the router sees what was spent so far. Where costs of turns are laid out from a total, that tells it
            something of the total, which a router would not know.
        unseen: Models of which no regression sees a row; their tables are known.
        caution: Standard errors that a gain has to be above.
    """

    name: str = "restart, learned"
    texts: RunTexts | None = None
    sees_spent: bool = False
    unseen: tuple[int, ...] = ()
    caution: float = 1.0

    def fit(self, train: Known, weights: Sequence[float]) -> list[Policy]:
        """See `Family`."""
        fitting = _Fitting(family=self, train=train)
        return [fitting.policy(weight) for weight in weights]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Turns tasks and partial runs into numbers.

    Attributes:
        family: What the router sees.
        checkpoints: Turns, shape (K,).
        mean_vector: Mean of the task texts that it learned from, shape (E,).
        task_text: Predicts how far every model's score on a task lies from its mean, shape (E, M).
        run_text: Predicts how far a run's score lies from its model's mean; None without texts.
        mean_run: Mean of what that reads.
        usual_usd: Mean cost of the runs that go on at a checkpoint, spent by then, shape (M, K).
    """

    family: LearnedRestart
    checkpoints: IntArray
    mean_vector: FloatArray
    task_text: FloatArray
    run_text: FloatArray | None
    mean_run: FloatArray
    usual_usd: FloatArray

    @classmethod
    def of(cls, family: LearnedRestart, known: Known, checkpoints: IntArray) -> "Reader":
        """Learn from some tasks."""
        suite = known.exact.suite
        centered = known.vectors - known.vectors.mean(axis=0)
        run_text, mean_run = cls._run_text(family, known, checkpoints)
        spent = _spent(known.exact, checkpoints)
        return cls(
            family=family,
            checkpoints=checkpoints,
            mean_vector=known.vectors.mean(axis=0),
            task_text=ridge(centered, suite.scores - suite.scores.mean(axis=0), _TEXT_PENALTY),
            run_text=run_text,
            mean_run=mean_run,
            usual_usd=mean_of_alive(spent, _is_alive(known.exact, checkpoints)),
        )

    @staticmethod
    def _run_text(family: LearnedRestart, known: Known, checkpoints: IntArray) -> tuple[FloatArray | None, FloatArray]:
        x, y = [], []
        if family.texts is not None:
            means = known.exact.suite.scores.mean(axis=0)
            for (n, m), read in _runs(family.texts, known, checkpoints):
                x.append(read)
                y.append(np.full(len(read), known.exact.suite.scores[n, m] - means[m]))
        if not x:
            return None, np.zeros(0)
        rows, targets = np.concatenate(x), np.concatenate(y)
        return ridge(rows - rows.mean(axis=0), targets - targets.mean(), _TEXT_PENALTY), rows.mean(axis=0)

    def of_tasks(self, known: Known) -> FloatArray:
        """What the text of a task says of every model's score, shape (N, M)."""
        return np.asarray((known.vectors - self.mean_vector) @ self.task_text)

    def of_runs(self, known: Known) -> FloatArray:
        """What partial runs say: score read off the last turns, share of errors, money spent; 0 where nothing is known.

        Returns:
            Shape (N, M, K, 3).
        """
        found = np.zeros((*known.exact.suite.scores.shape, len(self.checkpoints), 3))
        if self.family.texts is not None and self.run_text is not None:
            for (n, m), read in _runs(self.family.texts, known, self.checkpoints):
                centered = read - self.mean_run
                found[n, m, : len(read), 0] = centered @ self.run_text
                found[n, m, : len(read), 1] = centered[:, -1]
        if self.family.sees_spent:
            found[..., 2] = np.log((_spent(known.exact, self.checkpoints) + 1e-6) / (self.usual_usd + 1e-6))
        return found


def _is_alive(exact: ExactSuite, checkpoints: IntArray) -> npt.NDArray[np.bool_]:
    """Whether a run goes on after a checkpoint, shape (N, M, K)."""
    return np.asarray(exact.suite.n_turns[..., None] > checkpoints)


def _spent(exact: ExactSuite, checkpoints: IntArray) -> FloatArray:
    """What a run has cost at the checkpoints, USD, shape (N, M, K)."""
    return exact.spent[:, :, np.minimum(checkpoints, exact.spent.shape[2] - 1)]


def _runs(texts: RunTexts, known: Known, checkpoints: IntArray) -> "Iterator[tuple[tuple[int, int], FloatArray]]":
    """Every run that can be read: its place, and its text and share of errors at its checkpoints, shape (k, E + 1)."""
    for n, task in enumerate(known.tasks.tolist()):
        for m in range(len(known.exact.suite.models)):
            vectors = texts.vectors.get((task, m))
            if vectors is not None and len(vectors):
                share = texts.errors[task, m][: len(vectors)] / np.maximum(checkpoints[: len(vectors)], 1)
                yield (n, m), np.concatenate([vectors.astype(np.float64), share[:, None]], axis=1)


@dataclass(frozen=True, kw_only=True)
class _Half:
    """Some tasks, read with what other tasks taught.

    Attributes:
        rows: Which training tasks they are.
        others: Which ones taught.
        text: Shape (n, M).
        runs: Shape (n, M, K, 3).
    """

    rows: IntArray
    others: IntArray
    text: FloatArray
    runs: FloatArray


@dataclass(frozen=True, kw_only=True)
class _Fitting:
    """Everything that does not depend on the price.

    Attributes:
        family: What is fitted.
        train: Training tasks.
    """

    family: LearnedRestart
    train: Known

    @cached_property
    def checkpoints(self) -> IntArray:
        """Shape (K,)."""
        texts = self.family.texts
        return checkpoints_of(self.train.exact.suite.n_turns) if texts is None else texts.checkpoints

    @cached_property
    def seconds(self) -> IntArray:
        """Models that a run may be left for, shape (B,)."""
        suite = self.train.exact.suite
        return worth_starting(suite.costs_usd.mean(axis=0), suite.scores.mean(axis=0))

    @cached_property
    def reader(self) -> Reader:
        """Reads new tasks."""
        return Reader.of(self.family, self.train, self.checkpoints)

    @cached_property
    def halves(self) -> tuple[_Half, ...]:
        """The training tasks in parts, each read with what the others taught."""
        numbers = np.arange(self.train.n_tasks) % N_FOLDS
        made = []
        for k in range(min(N_FOLDS, self.train.n_tasks)):
            rows, others = np.flatnonzero(numbers == k), np.flatnonzero(numbers != k)
            part, reader = self.train.part(rows), Reader.of(self.family, self.train.part(others), self.checkpoints)
            made.append(_Half(rows=rows, others=others, text=reader.of_tasks(part), runs=reader.of_runs(part)))
        return tuple(made)

    @cached_property
    def text(self) -> FloatArray:
        """Cross-fitted, shape (N, M)."""
        text = np.zeros(self.train.exact.suite.scores.shape)
        for half in self.halves:
            text[half.rows] = half.text
        return text

    @cached_property
    def runs(self) -> FloatArray:
        """Cross-fitted, shape (N, M, K, 3)."""
        runs = np.zeros((*self.text.shape, len(self.checkpoints), 3))
        for half in self.halves:
            runs[half.rows] = half.runs
        return runs

    @cached_property
    def is_alive(self) -> npt.NDArray[np.bool_]:
        """Shape (N, M, K)."""
        return _is_alive(self.train.exact, self.checkpoints)

    @cached_property
    def is_learned(self) -> npt.NDArray[np.bool_]:
        """Rows of staying that the regressions see, shape (N, M, K)."""
        learned = self.is_alive.copy()
        learned[:, list(self.family.unseen)] = False
        return learned

    @cached_property
    def stay_rows(self) -> FloatArray:
        """What a regression of staying reads, shape (N, M, K, 5)."""
        return stay_rows(self.text, self.runs)

    @cached_property
    def leave_tables(self) -> tuple[FloatArray, FloatArray]:
        """Cross-fitted means of leaving, shape (N, M, K, B) scores and (M, K, B) costs of all tasks."""
        second_scores, second_costs = self._of_seconds
        scores = np.zeros((*self.is_alive.shape, len(self.seconds)))
        for half in self.halves:
            scores[half.rows] = mean_of_alive(second_scores[half.others], self.is_alive[half.others])
        return scores, mean_of_alive(second_costs, self.is_alive)

    @property
    def _of_seconds(self) -> tuple[FloatArray, FloatArray]:
        """Scores and costs of the models that a run may be left for, shape (N, B) each."""
        suite = self.train.exact.suite
        return suite.scores[:, self.seconds], suite.costs_usd[:, self.seconds]

    @cached_property
    def leave_coefficients(self) -> FloatArray:
        """Regression of what leaving scores beyond its table, shape (5,)."""
        second_scores, _ = self._of_seconds
        seen = [b for b, m in enumerate(self.seconds.tolist()) if m not in self.family.unseen]
        n, a, k = np.nonzero(self.is_learned)
        rng = np.random.default_rng(0)
        rows = rng.integers(len(n), size=min(_N_LEAVING_ROWS, len(n) * len(seen)))
        b = rng.choice(seen, size=len(rows))
        n, a, k = n[rows], a[rows], k[rows]
        own = self.text[:, self.seconds]
        x = np.stack([own[n, b], self.text[n].mean(axis=1), *self.runs[n, a, k].T], axis=1)
        y = second_scores[n, b] - self.leave_tables[0][n, a, k, b]
        return ridge(x, y, _PENALTY)

    def stay_values(self, scores: FloatArray, costs: FloatArray) -> "tuple[FloatArray, FloatArray, Tables, FloatArray]":
        """Values of staying, cross-fitted, from what came of it on every training task.

        Args:
            scores: Score that came, shape (N, M, K).
            costs: Cost that came, USD, shape (N, M, K).

        Returns:
            Scores and costs of shape (N, M, K), the tables of all tasks, and the coefficients of the score's regression.
        """
        table_scores, table_costs = np.zeros(scores.shape), np.zeros(costs.shape)
        for half in self.halves:
            table_scores[half.rows] = mean_of_alive(scores[half.others], self.is_alive[half.others])
            table_costs[half.rows] = mean_of_alive(costs[half.others], self.is_alive[half.others])
        x = self.stay_rows[self.is_learned]
        coefficients = ridge(x, (scores - table_scores)[self.is_learned], _PENALTY)
        tables = Tables(
            leave_scores=mean_of_alive(self._of_seconds[0], self.is_alive),
            leave_costs=self.leave_tables[1],
            stay_scores=mean_of_alive(scores, self.is_alive),
            stay_costs=mean_of_alive(costs, self.is_alive),
        )
        return table_scores + self.stay_rows @ coefficients, table_costs, tables, coefficients

    def policy(self, weight: float) -> Policy:
        """Fitted policy iteration at a price."""
        suite, exact = self.train.exact.suite, self.train.exact
        spent = _spent(exact, self.checkpoints)
        scores: FloatArray = np.broadcast_to(suite.scores[..., None], spent.shape).copy()
        costs: FloatArray = suite.costs_usd[..., None] - spent
        leaving = leave_values(self.leave_tables[0], self.text, self.seconds, self.runs, self.leave_coefficients)
        for number in range(N_ROUNDS):
            stay_scores, stay_costs, tables, coefficients = self.stay_values(scores, costs)
            margins = self._margins(scores, costs, weight)
            stay = stay_scores - weight * stay_costs
            leave = leaving - weight * tables.leave_costs
            choice, leaves = decide(stay, leave, self.family.caution * margins, self.seconds)
            if number < N_ROUNDS - 1:
                scores, costs = self._returns(choice, leaves, spent)
        returns = scores[:, :, 0] - weight * costs[:, :, 0]
        best = int((suite.scores - weight * suite.costs_usd).mean(axis=0).argmax())
        differences = returns - (suite.scores - weight * suite.costs_usd)[:, [best]]
        return LearnedPolicy(
            reader=self.reader,
            tables=tables,
            stay=coefficients,
            leave=self.leave_coefficients,
            seconds=self.seconds,
            margins=self.family.caution * margins,
            start_margins=self.family.caution * differences.std(axis=0) / np.sqrt(suite.n_tasks),
            fallback=best,
            weight=weight,
            told=f"Q-values at {weight:.2f} a USD, {len(self.checkpoints)} checkpoints",
        )

    def _margins(self, scores: FloatArray, costs: FloatArray, weight: float) -> FloatArray:
        """Standard error of leaving minus staying, over the tasks that are still running, shape (M, K, B)."""
        second_scores, second_costs = self._of_seconds
        stay = np.where(self.is_alive, scores - weight * costs, 0.0)
        leave = second_scores - weight * second_costs
        alive = self.is_alive.astype(np.float64)
        n = np.maximum(alive.sum(axis=0), 1.0)[..., None]
        mean = np.tensordot(alive, leave, axes=(0, 0)) / n - (stay.sum(axis=0) / n[..., 0])[..., None]
        square = (
            np.tensordot(alive, leave**2, axes=(0, 0))
            - 2 * np.tensordot(stay, leave, axes=(0, 0))
            + ((stay**2).sum(axis=0))[..., None]
        ) / n
        return np.asarray(np.sqrt(np.maximum(square - mean**2, 0.0) / n) + 1.0 / (n + _PRIOR))

    def _returns(
        self, choice: IntArray, leaves: npt.NDArray[np.bool_], spent: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """What a rule earns and pays from every checkpoint on, if it stays there; shape (N, M, K) each."""
        suite = self.train.exact.suite
        rows = np.arange(suite.n_tasks)[:, None]
        scores = np.broadcast_to(suite.scores[..., None], spent.shape).copy()
        costs = suite.costs_usd[..., None] - spent
        for k in range(len(self.checkpoints) - 2, -1, -1):
            goes_on = self.is_alive[..., k + 1]
            is_left = goes_on & leaves[..., k + 1]
            then = choice[..., k + 1]
            step = spent[..., k + 1] - spent[..., k]
            next_scores = np.where(is_left, suite.scores[rows, then], scores[..., k + 1])
            next_costs = np.where(is_left, suite.costs_usd[rows, then], costs[..., k + 1])
            scores[..., k] = np.where(goes_on, next_scores, suite.scores)
            costs[..., k] = np.where(goes_on, step + next_costs, suite.costs_usd - spent[..., k])
        return scores, costs


def stay_rows(text: FloatArray, runs: FloatArray) -> FloatArray:
    """What a regression of staying reads: task text of this model and of all, and the partial run; shape (N, M, K, 5)."""
    shape = (*runs.shape[:3], 1)
    own = np.broadcast_to(text[:, :, None, None], shape)
    everyone = np.broadcast_to(text.mean(axis=1)[:, None, None, None], shape)
    return np.concatenate([own, everyone, runs], axis=-1)


def worth_starting(costs_usd: FloatArray, scores: FloatArray) -> IntArray:
    """Models that no cheaper model beats by more than `_SLACK`: the others are never started in place of another one."""
    cheaper = costs_usd[:, None] < costs_usd[None, :]
    best_cheaper = np.where(cheaper, scores[:, None], -np.inf).max(axis=0)
    return np.flatnonzero(scores >= best_cheaper - _SLACK)


def leave_values(
    tables: FloatArray, text: FloatArray, seconds: IntArray, runs: FloatArray, coefficients: FloatArray
) -> FloatArray:
    """Scores of leaving: tables, shape (N or 1, M, K, B), plus what task text and partial run say; shape (N, M, K, B)."""
    shared = text.mean(axis=1)[:, None, None] * coefficients[1] + runs @ coefficients[2:]
    own = coefficients[0] * text[:, seconds]
    return np.asarray(tables + shared[..., None] + own[:, None, None, :])


def decide(
    stay: FloatArray, leave: FloatArray, margins: FloatArray, seconds: IntArray
) -> tuple[IntArray, npt.NDArray[np.bool_]]:
    """For whom a run would be left, shape (N, M, K), and whether it is: where that gains more than the margin."""
    gains = leave - stay[..., None] - margins
    gains[:, seconds, :, np.arange(len(seconds))] = -np.inf  # no run is left for itself
    best = gains.argmax(axis=-1)
    leaves = np.take_along_axis(gains, best[..., None], axis=-1)[..., 0] > 0
    leaves[..., 0] = False  # nothing has run yet: there is nothing to leave
    return seconds[best], leaves


@dataclass(frozen=True, kw_only=True)
class LearnedPolicy:
    """Starts a model, and leaves its run at the first checkpoint where another one's fresh run is worth more.

    Attributes:
        reader: Reads tasks and partial runs.
        tables: Means by model and checkpoint.
        stay: Coefficients of staying, shape (5,).
        leave: Coefficients of leaving, shape (5,).
        seconds: Models that a run may be left for, shape (B,).
        margins: What leaving has to gain, shape (M, K, B).
        start_margins: What starting with each model has to gain over the fallback, shape (M,).
        fallback: The best single model at this price.
        weight: The price, score per USD.
        told: In words.
    """

    reader: Reader
    tables: Tables
    stay: FloatArray
    leave: FloatArray
    seconds: IntArray
    margins: FloatArray
    start_margins: FloatArray
    fallback: int
    weight: float
    told: str

    def legs(self, known: Known) -> Legs:
        """See `Policy`. Nothing is read of a run beyond its checkpoint; where a run ends earlier, its leg ends there."""
        text, runs = self.reader.of_tasks(known), self.reader.of_runs(known)
        tables = self.tables
        stay = tables.stay_scores - self.weight * tables.stay_costs + stay_rows(text, runs) @ self.stay
        leave = leave_values(tables.leave_scores[None], text, self.seconds, runs, self.leave)
        choice, leaves = decide(stay, leave - self.weight * tables.leave_costs, self.margins, self.seconds)
        gains = stay[:, :, 0] - stay[:, [self.fallback], 0] - self.start_margins
        gains[:, self.fallback] = 0.0
        first = gains.argmax(axis=1)
        rows = np.arange(known.n_tasks)
        own = leaves[rows, first]
        at = own.argmax(axis=1)
        is_left = own.any(axis=1)
        second = np.where(is_left, choice[rows, first, at], NOBODY)
        limits = np.where(is_left, self.reader.checkpoints[at], NO_LIMIT)
        return Legs(
            models=np.stack([first, second], axis=1).astype(np.int64),
            limits=np.stack([limits, np.full(len(rows), NO_LIMIT)], axis=1).astype(np.int64),
        )
