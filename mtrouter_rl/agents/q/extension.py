"""Brings a saved router to a pool that models have joined or left, without training."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor

from mtrouter_rl.agents.extrapolation import Extrapolation, extrapolations
from mtrouter_rl.agents.loading import ROUTER_KINDS
from mtrouter_rl.agents.q.constrained_router import ConstrainedQRouter
from mtrouter_rl.agents.q.networks import StateDict
from mtrouter_rl.agents.q.q_router import QNetworkSettings, QRouter
from mtrouter_rl.agents.saving import (
    RECORD_FILE,
    MakeFeatures,
    Provenance,
    RouterRecord,
    SavedRouter,
    read_record,
    write_router,
)
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.embeddings.models import MODEL_FEATURE_NAMES, model_features
from mtrouter_rl.errors import InvalidConfigError, PoolMismatchError, RouterError, UnknownNameError
from mtrouter_rl.records import FloatArray

_FEATURES, _RESIDUAL = "model_features", "residual"
"""Tensors of a joint Q-network with one row for every model; all others are the same for any pool."""
_SAME = 1e-4
"""Features that differ by less are of the same card."""


@dataclass(frozen=True, kw_only=True)
class Extended:
    """A router that was brought to another pool.

    Attributes:
        folder: Where it is.
        added: Models that joined, known by their cards alone.
        removed: Models that left.
        extrapolated: Every model that no logged turn stands behind: those that joined, and those that had done so before.
    """

    folder: Path
    added: tuple[str, ...]
    removed: tuple[str, ...]
    extrapolated: tuple[Extrapolation, ...]


def extend_router(
    folder: Path, pool: PoolCard, *, out: Path, name: str | None = None, overwrite: bool = False
) -> Extended:
    """Save a router for another pool: models that joined are taken in by the features of their cards, others leave.

    The joint Q-function reads a model's features and a learned residual. A model that joined gets the residual 0, where every
    model started from; nothing else changes, so the values of the models that stay do not either. Nothing is trained, and the
    text encoder is not needed.

    Args:
        folder: The saved router, which stays as it is.
        pool: The pool that it is to act on, in any order.
        out: Folder of the new router.
        name: Its name in tables; None keeps the old one.
        overwrite: Whether a router that lies in `out` is replaced.

    Raises:
        RouterError: If the router cannot be read, knows its models by more than their features, or `out` holds a router.
        PoolMismatchError: If no model that it learned from is left, or one of them has other prices, limits or dates.
        InvalidConfigError: If the pool has its models in their order already, or `out` is the router's own folder.
    """
    record = read_record(folder)
    kind = _check(folder, record, pool)
    if out.resolve() == folder.resolve():
        raise InvalidConfigError(
            f"--out {out} is the folder of the router itself, must be another one; the old router is kept"
        )
    if (out / RECORD_FILE).is_file() and not overwrite:
        raise RouterError(f"{out} holds a router already; choose another --out, or give --overwrite")
    saved = SavedRouter(folder=folder, record=record, pool=pool, make_features=_NO_FEATURES)
    settings = cast(QNetworkSettings, saved.settings(kind.SETTINGS))
    weights = saved.weights()
    kind.check_weights(saved, settings, weights)
    rows = _feature_rows(record, settings, pool)
    provenance = _provenance(record, rows, pool)
    changed = record.model_copy(
        update={
            "name": name or record.name,
            "model_names": pool.model_names,
            "settings": record.settings | {_FEATURES: rows.tolist()},
            "features": _features(record) | {"model_names": list(pool.model_names)},
            "provenance": provenance,
        }
    )
    write_router(out, changed, weights=_weights(weights, rows, theirs=record.model_names, ours=pool.model_names))
    return Extended(
        folder=out,
        added=tuple(model for model in pool.model_names if model not in record.model_names),
        removed=tuple(model for model in record.model_names if model not in pool.model_names),
        extrapolated=provenance.extrapolated,
    )


def _no_features(config: dict[str, JsonValue]) -> None:
    raise AssertionError(config)


_NO_FEATURES = cast(MakeFeatures, _no_features)
"""Stands where a router would be made: only its files are changed."""


_KNOWN_BY_NAME = ("residual", "none")
"""Values of `model_embedding` that tell models apart by name."""


def _check(folder: Path, record: RouterRecord, pool: PoolCard) -> type[QRouter]:
    """The class of a router that can be brought to another pool."""
    try:
        kind = ROUTER_KINDS.load(record.kind)
    except UnknownNameError as error:
        raise RouterError(f"router {folder}: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, QRouter)):
        raise RouterError(
            f"router {folder} is of kind '{record.kind}', which knows models by their names or by an output of their own, so "
            "its pool cannot change; only routers with the joint Q-function can take a model in by its features: train "
            "fitted-q, fitted-q-frontier, monte-carlo-q or myopic, or train this one on a log of the new pool"
        )
    if record.provenance is None:
        raise RouterError(
            f"router {folder / RECORD_FILE}: provenance is null, so nobody knows which models it learned from; train it again"
        )
    theirs = _features(record).get("model_feature_names")
    if theirs != list(MODEL_FEATURE_NAMES):
        raise RouterError(
            f"router {folder / RECORD_FILE}: features.model_feature_names is {theirs}, must be {list(MODEL_FEATURE_NAMES)}; "
            "train it again with this version"
        )
    if record.model_names == pool.model_names:
        raise InvalidConfigError(
            f"pool '{pool.name}' has the models of router {folder} already; there is nothing to change"
        )
    known_by = record.settings.get("model_embedding", "metadata")
    if known_by in _KNOWN_BY_NAME or issubclass(kind, ConstrainedQRouter):
        why = (
            "an imitator with an output for every model"
            if known_by not in _KNOWN_BY_NAME
            else f"model_embedding {known_by}"
        )
        raise RouterError(
            f"router {folder} has {why}, so it knows models by their names and its pool cannot change; train with "
            "model_embedding metadata or metadata+residual and without an imitator, or train it on a log of the new pool"
        )
    guessed = {one.model for one in record.provenance.extrapolated}
    if not (set(record.model_names) - guessed) & set(pool.model_names):
        raise PoolMismatchError(
            f"pool '{pool.name}' has none of the models that router {folder} learned from "
            f"({', '.join(name for name in record.model_names if name not in guessed)}); train a router for this pool"
        )
    return kind


def _features(record: RouterRecord) -> dict[str, JsonValue]:
    return {} if record.features is None else record.features


def _feature_rows(record: RouterRecord, settings: QNetworkSettings, pool: PoolCard) -> FloatArray:
    """Features of the pool's models, shape (M, F): as they were in the training where a model stays, else of its card."""
    rows = model_features(pool)
    for index, model in enumerate(pool.model_names):
        if model not in record.model_names:
            continue
        trained = np.array(settings.model_features[record.model_names.index(model)], dtype=np.float32)
        changed = np.flatnonzero(np.abs(trained - rows[index]) > _SAME)
        if changed.size:
            what = "; ".join(f"{MODEL_FEATURE_NAMES[i]} was {trained[i]:.4g}, is {rows[index][i]:.4g}" for i in changed)
            raise PoolMismatchError(
                f"model '{model}' of pool '{pool.name}' has other features than when router '{record.name}' was trained: "
                f"{what}; give the card of the training for models that stay, or bring the log to the new prices with "
                "'mtrouter-rl reprice' and train again"
            )
        rows[index] = trained
    return rows


def _weights(
    weights: StateDict, rows: FloatArray, *, theirs: tuple[str, ...], ours: tuple[str, ...]
) -> dict[str, Tensor]:
    """Weights of the K members with the new models' rows."""
    old = weights[_RESIDUAL]  # (K, M, residual size)
    residual = torch.zeros(old.shape[0], len(ours), old.shape[2], dtype=old.dtype)
    for index, model in enumerate(ours):
        if model in theirs:
            residual[:, index] = old[:, theirs.index(model)]
    features = torch.from_numpy(rows).to(weights[_FEATURES].dtype).expand(old.shape[0], -1, -1).contiguous()
    return {**weights, _RESIDUAL: residual, _FEATURES: features}


def _provenance(record: RouterRecord, rows: FloatArray, pool: PoolCard) -> Provenance:
    before = record.provenance
    assert before is not None  # checked
    guessed = {one.model for one in before.extrapolated}
    unknown = {model for model in pool.model_names if model in guessed or model not in record.model_names}
    left = [model for model in record.model_names if model not in pool.model_names and model not in guessed]
    return before.model_copy(
        update={
            "extrapolated": extrapolations(rows.tolist(), pool.model_names, unknown=unknown),
            "removed_models": tuple(dict.fromkeys((*before.removed_models, *left))),
        }
    )
