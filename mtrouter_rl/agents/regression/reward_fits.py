"""Fits of the forms in `outcome_models` to a log. Single-turn routers and routers per turn use the same ones."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from mtrouter_rl.agents.q.networks import TEXT_BLOCKS
from mtrouter_rl.agents.regression.reward_models import Arrays, Projection
from mtrouter_rl.transitions.outcomes import OutcomeLog


def fit_ridge(log: OutcomeLog, *, penalty: float) -> Arrays:
    """One ridge regression of (utility, cost) for every model; the intercept is not penalised.

    Args:
        log: The rows.
        penalty: Weight of the squared coefficients (scikit-learn calls it alpha).

    Source: Hoerl and Kennard, Ridge Regression (1970); scikit-learn's implementation.
    """
    from sklearn.linear_model import Ridge

    weights = np.zeros((log.vectors.shape[1] + 1, log.n_models, 2))
    for model, rows in enumerate(log.by_model()):
        vectors = log.vectors[rows].astype(np.float64)
        fitted = Ridge(alpha=penalty).fit(vectors, log.outcomes[rows], sample_weight=log.weights[rows])
        weights[:-1, model] = fitted.coef_.T
        weights[-1, model] = fitted.intercept_
    return {"utility": weights[..., 0].copy(), "cost": weights[..., 1].copy()}


def fit_neighbors(log: OutcomeLog, *, rows: npt.NDArray[np.int64] | None = None) -> Arrays:
    """Keep the rows, or some of them."""
    kept = np.arange(len(log.models)) if rows is None else rows
    return {
        "vectors": log.vectors[kept].astype(np.float64),
        "model": log.models[kept].astype(np.float64),
        "utility": log.outcomes[kept, 0].copy(),
        "cost": log.outcomes[kept, 1].copy(),
    }


def fit_clusters(log: OutcomeLog, *, n_clusters: int, prior_weight: float, seed: int) -> Arrays:
    """Cluster the vectors by k-means, then average every model within every cluster.

    Args:
        log: The rows.
        n_clusters: How many clusters; fewer if there are fewer different vectors.
        prior_weight: How many observations the mean over all clusters counts for in every cell.
        seed: Of k-means.
    """
    from sklearn.cluster import KMeans

    n_kept = min(n_clusters, len(np.unique(log.vectors, axis=0)))
    clusters = KMeans(n_clusters=n_kept, n_init=4, random_state=seed).fit(log.vectors)
    overall = log.overall()
    cells = [log.means(clusters.labels_ == one, prior=overall, prior_weight=prior_weight) for one in range(n_kept)]
    table = np.stack(cells)
    return {
        "utility": table[..., 0].copy(),
        "cost": table[..., 1].copy(),
        "centroids": clusters.cluster_centers_.astype(np.float64),
    }


def fit_projection(
    vectors: npt.NDArray[np.floating], blocks: Mapping[str, slice], *, n_components: int, seed: int
) -> Projection:
    """Text blocks onto their joint principal components, every other block as it is; all blocks of equal weight.

    Every block is centered and scaled to a total variance of 1, so that distances are not decided by how many columns a
    block has (as in multiple factor analysis, Escofier and Pages, 1994, with the total variance in place of the largest
    eigenvalue).

    Args:
        vectors: Shape (N, D).
        blocks: Named parts of the columns.
        n_components: Components of the text; fewer if there are fewer rows or columns.
        seed: Of the randomised decomposition.
    """
    from sklearn.decomposition import PCA

    mean = vectors.mean(axis=0, dtype=np.float64)
    scales = np.zeros(vectors.shape[1])
    for part in blocks.values():
        total = vectors[:, part].var(axis=0, dtype=np.float64).sum()
        scales[part] = 0.0 if total < 1e-12 else total**-0.5
    is_text = np.zeros(vectors.shape[1], dtype=np.bool_)
    for name in TEXT_BLOCKS:
        if name in blocks:
            is_text[blocks[name]] = True
    columns = [np.diag(scales)[:, ~is_text]]
    if is_text.any():
        scaled = (vectors[:, is_text] - mean[is_text].astype(vectors.dtype)) * scales[is_text].astype(vectors.dtype)
        k = min(n_components, *scaled.shape)
        components = PCA(n_components=k, svd_solver="randomized", random_state=seed).fit(scaled).components_
        text = np.zeros((vectors.shape[1], k))
        text[is_text] = components.T * scales[is_text, None]
        columns.insert(0, text)
    return Projection(mean=mean, matrix=np.concatenate(columns, axis=1))


def project(log: OutcomeLog, projection: Projection) -> OutcomeLog:
    """The same rows, with projected vectors."""
    return OutcomeLog(
        vectors=projection(log.vectors),
        models=log.models,
        outcomes=log.outcomes,
        weights=log.weights,
        n_models=log.n_models,
    )
