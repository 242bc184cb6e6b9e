"""Tables of (kind, model) that are shrunk as far as the log says, so that rare pairs are not taken at their word."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mtrouter_rl.records import FloatArray

_ROUNDS = 40
_ROWS_PER_BLOCK = 16384
_FIRST_SPREAD = 0.05
_SMALLEST_VARIANCE = 1e-8
_NEWTON_STEPS = 10
_MAIN_SD, _PAIR_SD, _KIND_SD, _LEVEL_SD = 0.5, 0.4, 2.0, 10.0
"""Prior standard deviations of `SuccessTable`, logits."""


@dataclass(frozen=True, kw_only=True)
class EffectTable:
    """What a model adds where a kind is due: `main` of every model, shape (M,), plus `pairs`, shape (K, M)."""

    main: FloatArray
    pairs: FloatArray

    def __call__(self, due: FloatArray) -> FloatArray:
        """Effects of all models where kinds are due with these probabilities, shape (..., K) -> (..., M)."""
        return self.main + due @ self.pairs


def effect_table(due: FloatArray, centred: FloatArray, outcomes: FloatArray) -> EffectTable:
    """Fit effects of models on an outcome whose mean given the history has been taken off.

    A Bayesian linear regression whose prior variances, one for the models' main effects and one for every kind, are those
    under which the outcomes are likeliest. A kind at which models do not differ gets effects near 0, and one at which they
    differ much keeps them.

    Source: MacKay, Bayesian Interpolation (1992); the updates are those of Tipping, Sparse Bayesian Learning (2001),
    section 2.3, in their form for expectation maximisation, with one variance for a group.

    Args:
        due: Probability of every kind, shape (N, K).
        centred: 1 for the model that was called minus the probability of the call, shape (N, M).
        outcomes: Shape (N,).
    """
    n_kinds, n_models = due.shape[1], centred.shape[1]
    noise = max(float(outcomes.var()), _SMALLEST_VARIANCE)
    size = n_models * (1 + n_kinds)
    gram, target = np.zeros((size, size)), np.zeros(size)
    for some in _blocks(len(due)):
        columns = pair_columns(due[some], centred[some])
        gram += columns.T @ columns / noise
        target += columns.T @ outcomes[some] / noise
    variances = np.full(1 + n_kinds, _FIRST_SPREAD**2)
    effects = np.zeros(len(target))
    for _ in range(_ROUNDS):
        spread = np.concatenate([np.full(n_models, variances[0]), np.repeat(variances[1:], n_models)])
        covariance = np.linalg.inv(gram + np.diag(1 / spread))
        effects = covariance @ target
        moments = effects**2 + np.diag(covariance)
        variances = np.concatenate([[moments[:n_models].mean()], moments[n_models:].reshape(n_kinds, n_models).mean(1)])
        variances = np.maximum(variances, _SMALLEST_VARIANCE)
    return EffectTable(main=effects[:n_models], pairs=effects[n_models:].reshape(n_kinds, n_models))


@dataclass(frozen=True, kw_only=True)
class SuccessTable:
    """How often models do what is due: a logistic model of kind and model.

    Attributes:
        level: Logit that all share, shape (1,).
        kinds: By kind, shape (K,).
        main: By model, shape (M,).
        pairs: By kind and model, shape (K, M).
    """

    level: FloatArray
    kinds: FloatArray
    main: FloatArray
    pairs: FloatArray

    @classmethod
    def of_logits(cls, logits: FloatArray, *, n_models: int) -> "SuccessTable":
        """From all numbers in one array: models, pairs, kinds, level."""
        n_kinds = (len(logits) - n_models - 1) // (n_models + 1)
        main, pairs, kinds, level = np.split(logits, np.cumsum([n_models, n_kinds * n_models, n_kinds]))
        return cls(level=level, kinds=kinds, main=main, pairs=pairs.reshape(n_kinds, n_models))

    @property
    def logits(self) -> FloatArray:
        """All numbers in one array, in the order of `of_logits`."""
        return np.concatenate([self.main, self.pairs.ravel(), self.kinds, self.level])

    def __call__(self, due: FloatArray) -> FloatArray:
        """Probability of every model, shape (..., K) -> (..., M)."""
        logits = self.level + (due @ self.kinds)[..., None] + self.main + due @ self.pairs
        probabilities: FloatArray = 1 / (1 + np.exp(-logits))
        return probabilities


def success_table(due: FloatArray, actions: npt.NDArray[np.int64], use: FloatArray, *, n_models: int) -> SuccessTable:
    """Fit by penalised likelihood, with the use of a turn, in [0, 1], as a soft label.

    Args:
        due: Probability of every kind, shape (N, K).
        actions: Who was called, shape (N,).
        use: Shape (N,).
        n_models: M.
    """
    penalty = _penalty(n_kinds=due.shape[1], n_models=n_models)
    logits = np.zeros(len(penalty))
    for _ in range(_NEWTON_STEPS):
        curvature, gradient = _curvature(due, actions, use, logits, n_models=n_models)
        logits = logits + np.linalg.solve(np.diag(penalty) + curvature, gradient - penalty * logits)
    return SuccessTable.of_logits(logits, n_models=n_models)


def success_tables_without(
    table: SuccessTable,
    due: FloatArray,
    actions: npt.NDArray[np.int64],
    use: FloatArray,
    groups: npt.NDArray[np.int64],
) -> list[SuccessTable]:
    """What a fitted table would be without each group of turns in its turn, by one Newton step from the whole.

    Args:
        table: Fitted to all turns.
        due: As of `success_table`, with which it was fitted.
        actions: Likewise.
        use: Likewise.
        groups: Group of every turn, from 0, shape (N,).

    Source: Pregibon, Logistic Regression Diagnostics (1981), section 4.
    """
    n_models, logits = len(table.main), table.logits
    parts = [
        _curvature(due[groups == group], actions[groups == group], use[groups == group], logits, n_models=n_models)
        for group in range(int(groups.max()) + 1)
    ]
    whole = np.diag(_penalty(n_kinds=due.shape[1], n_models=n_models)) + sum(curvature for curvature, _ in parts)
    return [
        SuccessTable.of_logits(logits - np.linalg.solve(whole - curvature, gradient), n_models=n_models)
        for curvature, gradient in parts
    ]


def _penalty(*, n_kinds: int, n_models: int) -> FloatArray:
    """Inverse prior variances of the logits of a `SuccessTable`."""
    deviations = np.repeat([_MAIN_SD, _PAIR_SD, _KIND_SD, _LEVEL_SD], [n_models, n_kinds * n_models, n_kinds, 1])
    penalty: FloatArray = deviations**-2.0
    return penalty


def _curvature(
    due: FloatArray, actions: npt.NDArray[np.int64], use: FloatArray, logits: FloatArray, *, n_models: int
) -> tuple[FloatArray, FloatArray]:
    """Curvature and gradient of the likelihood of some turns."""
    curvature, gradient = np.zeros((len(logits), len(logits))), np.zeros(len(logits))
    called = np.eye(n_models)[actions]
    for some in _blocks(len(due)):
        ones = np.ones((len(due[some]), 1))
        columns = np.concatenate([pair_columns(due[some], called[some]), due[some], ones], axis=1)
        expected = 1 / (1 + np.exp(-columns @ logits))
        curvature += (columns * (expected * (1 - expected) + _SMALLEST_VARIANCE)[:, None]).T @ columns
        gradient += columns.T @ (use[some] - expected)
    return curvature, gradient


def pair_columns(due: FloatArray, models: FloatArray) -> FloatArray:
    """Columns of models and of (kind, model), shapes (N, K) and (N, M) -> (N, M + K M)."""
    pairs = (due[:, :, None] * models[:, None, :]).reshape(len(due), -1)
    return np.concatenate([models, pairs], axis=1)


def ridge(columns: FloatArray, outcomes: FloatArray, penalty: float) -> FloatArray:
    """Ridge regression without an intercept, shape (C,). Center columns and outcomes where there is one.

    Source: Hoerl and Kennard, Ridge Regression (1970).
    """
    gram = columns.T @ columns
    gram[np.diag_indices_from(gram)] += penalty
    weights: FloatArray = np.linalg.solve(gram, columns.T @ outcomes)
    return weights


def _blocks(n_rows: int) -> list[slice]:
    """Rows in blocks, so that columns of pairs are never laid out for a whole log."""
    return [slice(start, start + _ROWS_PER_BLOCK) for start in range(0, n_rows, _ROWS_PER_BLOCK)]
