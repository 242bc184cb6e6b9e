"""Embeddings for TensorBoard's projector: the models of a pool, and the histories of episodes."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.evaluation.query_router import STATE_COLUMNS, HistoryStates
from mtrouter_rl.records import FloatArray

MODEL_TAG = "model_embeddings"
HISTORY_TAG = "history_embeddings"
_CONFIG_FILE = "projector_config.pbtxt"
_STEP_FOLDER = "00000"
_DECIMALS = 5
"""The files are text; more digits would only make them larger."""


def clear_embeddings(run: Path) -> None:
    """Remove the embeddings that an earlier evaluation left in a run folder."""
    for tag in (MODEL_TAG, HISTORY_TAG):
        shutil.rmtree(run / _STEP_FOLDER / tag, ignore_errors=True)
    (run / _CONFIG_FILE).unlink(missing_ok=True)


def write_model_embeddings(writer: SummaryWriter, embeddings: FloatArray, pool: PoolCard) -> None:
    """Models, labelled with name and prices.

    Args:
        writer: Of a policy's run.
        embeddings: One row per model, in pool order, shape (M, d).
        pool: The models.
    """
    metadata = [(model.name, str(model.prices.input), str(model.prices.output)) for model in pool.models]
    header = ("model", "input_usd_per_million", "output_usd_per_million")
    _write(writer, MODEL_TAG, embeddings, header=header, metadata=metadata)


def write_history_embeddings(writer: SummaryWriter, states: HistoryStates) -> None:
    """States of a router's episodes, labelled with what was done in them."""
    _write(writer, HISTORY_TAG, states.embeddings, header=STATE_COLUMNS, metadata=states.metadata)


def _write(
    writer: SummaryWriter,
    tag: str,
    embeddings: FloatArray,
    *,
    header: Sequence[str],
    metadata: Sequence[Sequence[str]],
) -> None:
    writer.add_embedding(
        np.asarray(embeddings, dtype=np.float32).round(_DECIMALS),
        metadata=[list(row) for row in metadata],
        metadata_header=list(header),
        tag=tag,
    )
