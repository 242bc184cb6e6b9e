"""Estimated propensities, for logs that do not hold any: a calibrated classifier of the logged model.

What the classifier cannot see (a person who chose by a reason that is not in the conversation) stays in the estimates as
bias; numbers that rest on it are marked as estimated wherever they appear.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import BoolArray, FloatArray

FLOOR = 0.01
"""Least estimated propensity of a logged model; one that is below it is raised to it, and counted."""
_N_FOLDS = 4
_N_COMPONENTS = 64
_N_BINS = 10


class _Classifier(Protocol):
    """What is used of scikit-learn's classifiers."""

    classes_: npt.NDArray[np.int64]

    def predict_proba(self, features: FloatArray) -> FloatArray:
        """Probability of every class."""


@dataclass(frozen=True, kw_only=True)
class BehaviorModel:
    """Estimated behaviour policy at the logged states.

    Attributes:
        probabilities: Estimated probability of every model, 0 for masked ones, shape (N, M).
        propensities: That of the logged model, in [`FLOOR`, 1], by a classifier that did not see the turn's
            cluster, shape (N,).
        n_raised: Turns whose propensity was raised to the floor.
        log_loss: Mean negative log-likelihood of the logged models, nats, out of fold.
        log_loss_of_shares: The same of a model that knows the shares of the models alone.
        calibration_error: Mean distance between the estimated probability of a model and the share of turns in which it
            was called, over bins of the estimate.
    """

    probabilities: FloatArray
    propensities: npt.NDArray[np.float64]
    n_raised: int
    log_loss: float
    log_loss_of_shares: float
    calibration_error: float


def estimate_propensities(
    features: FloatArray,
    actions: npt.NDArray[np.int64],
    masks: BoolArray,
    clusters: npt.NDArray[np.int64],
    *,
    seed: int,
    model_names: Sequence[str],
) -> BehaviorModel:
    """Fit a multinomial logistic regression, calibrated and cross-fitted by cluster.

    Args:
        features: History features of every turn, shape (N, D).
        actions: Logged model of every turn, shape (N,).
        masks: Allowed models, shape (N, M).
        clusters: Turns of one cluster are predicted by a classifier that saw none of them, shape (N,).
        seed: Seed of the folds and of the reduction of the features.
        model_names: Names of the M models, for messages.

    Raises:
        InvalidConfigError: If there is no turn, a feature is not finite, a logged model was masked, all turns have one model,
            there are fewer than 8 clusters, or a model was called in fewer than 8 of them.

    Source: calibration by a held-out sigmoid per class, Platt (1999), as scikit-learn's `CalibratedClassifierCV` has it.
    """
    _check(features, actions, masks, model_names)
    n_clusters, n_models = len(np.unique(clusters)), masks.shape[1]
    if n_clusters < 2 * _N_FOLDS:
        raise InvalidConfigError(
            f"the log has {n_clusters} (task, variation) clusters, must have at least {2 * _N_FOLDS} to estimate "
            "propensities; log more, or use the direct method alone (dm)"
        )
    probabilities = np.zeros((len(actions), n_models))
    n_clusters_of = {model: len(np.unique(clusters[actions == model])) for model in np.unique(actions).tolist()}
    rare = {model: n for model, n in n_clusters_of.items() if n < 2 * _N_FOLDS}
    if rare:
        told = ", ".join(f"'{model_names[model]}' in {n}" for model, n in sorted(rare.items()))
        raise InvalidConfigError(
            f"models were called in too few (task, variation) clusters ({told}), must be in "
            f"at least {2 * _N_FOLDS} each to estimate how often; log more, or use the direct method alone (dm)"
        )
    for train, test in _folds(actions, clusters, seed):
        classifier = _fit(features[train], actions[train], clusters[train], seed)
        probabilities[np.ix_(test, classifier.classes_)] = classifier.predict_proba(features[test])
    allowed = np.where(masks, probabilities, 0.0)
    allowed /= np.maximum(allowed.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    raw = allowed[np.arange(len(actions)), actions]
    shares = np.bincount(actions, minlength=n_models) / len(actions)
    return BehaviorModel(
        probabilities=allowed,
        propensities=np.clip(raw, FLOOR, 1.0),
        n_raised=int((raw < FLOOR).sum()),
        log_loss=float(-np.log(np.maximum(raw, 1e-12)).mean()),
        log_loss_of_shares=float(-np.log(shares[actions]).mean()),
        calibration_error=_calibration_error(allowed, actions),
    )


def _check(features: FloatArray, actions: npt.NDArray[np.int64], masks: BoolArray, names: Sequence[str]) -> None:
    if not len(actions):
        raise InvalidConfigError("the log has no turn; give at least one episode, such as by another split")
    wrong = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if wrong.size:
        raise InvalidConfigError(f"turn {wrong[0]}: a history feature is not finite; encode the log anew")
    masked = np.flatnonzero(~masks[np.arange(len(actions)), actions])
    if masked.size:
        raise InvalidConfigError(
            f"turn {masked[0]}: logged model '{names[actions[masked[0]]]}' is masked there, must be allowed; the log and its "
            "masks do not belong together"
        )
    if len(np.unique(actions)) < 2:
        raise InvalidConfigError(
            f"all {len(actions)} turns were played by one model ('{names[actions[0]]}'), so the log cannot tell what another "
            "choice would have earned; log with at least two"
        )


def _folds(
    actions: npt.NDArray[np.int64], clusters: npt.NDArray[np.int64], seed: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """(training, test) turns of every fold."""
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(n_splits=_N_FOLDS, shuffle=True, random_state=seed)
    yield from splitter.split(np.zeros((len(clusters), 1)), actions, groups=clusters)


def _fit(
    features: FloatArray, actions: npt.NDArray[np.int64], clusters: npt.NDArray[np.int64], seed: int
) -> _Classifier:
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    n_components = min(_N_COMPONENTS, features.shape[1], len(features) // 2)
    pipeline = make_pipeline(
        PCA(n_components=n_components, random_state=seed), StandardScaler(), LogisticRegression(max_iter=1000)
    )
    classifier = CalibratedClassifierCV(
        pipeline, method="sigmoid", cv=list(_folds(actions, clusters, seed)), ensemble=False
    )
    return cast(_Classifier, classifier.fit(features, actions))


def _calibration_error(probabilities: FloatArray, actions: npt.NDArray[np.int64]) -> float:
    """Expected calibration error over (turn, model) pairs. Source: Naeini, Cooper and Hauskrecht (2015)."""
    guesses = probabilities.ravel()
    called = np.zeros_like(probabilities)
    called[np.arange(len(actions)), actions] = 1
    bins = np.minimum((guesses * _N_BINS).astype(int), _N_BINS - 1)
    gaps = np.bincount(bins, weights=guesses - called.ravel(), minlength=_N_BINS)
    return float(np.abs(gaps).sum() / len(guesses))
