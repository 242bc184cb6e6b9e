"""d3rlpy: transitions of embedded histories in d3rlpy's own file, with propensities, costs and masks beside them.

An episode of T turns gives T transitions, the last one with its reward included. Episodes that failed, or have no turn,
give none. Not everything of a dataset is in it, so it cannot be imported again.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from mtrouter_rl.agents.q.quiet import silence_gym_notice
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.exporters.base import Exporter, Loaded, RewardOptions
from mtrouter_rl.files import read_json
from mtrouter_rl.protocols import TextEncoder
from mtrouter_rl.registry import DEFAULT_ENCODER

if TYPE_CHECKING:
    from d3rlpy.dataset import Episode as D3Episode
    from d3rlpy.dataset import ReplayBuffer

    from mtrouter_rl.transitions.arrays import Transitions

BUFFER_FILE = "dataset.h5"
TRANSITIONS_FILE = "transitions.parquet"
ABOUT_FILE = "about.json"


class D3rlpyOptions(RewardOptions):
    """Options of the format.

    Attributes:
        encoder: Registered name of the text encoder.
        bootstrap_after_truncation: Whether a truncated episode has a value after its last turn; see `make_transitions`.
    """

    encoder: Annotated[str, Field(description="text encoder: hashing or minilm")] = DEFAULT_ENCODER
    bootstrap_after_truncation: Annotated[
        bool, Field(description="whether the value goes on after a limit stopped an episode, as in most of the field")
    ] = True


def _encoder(name: str) -> TextEncoder:
    from mtrouter_rl.embeddings.encoders import make_encoder

    return make_encoder(name, None)


def _write(loaded: Loaded, out: Path, options: D3rlpyOptions) -> None:
    silence_gym_notice()
    from d3rlpy.dataset import dump

    from mtrouter_rl.datasets.logged import logged_pool
    from mtrouter_rl.embeddings.history import HistoryFeatures
    from mtrouter_rl.transitions.arrays import make_transitions

    dataset = Dataset(info=loaded.info, episodes=tuple(traced.episode for traced in loaded.traced))
    transitions = make_transitions(
        dataset,
        HistoryFeatures(encoder=_encoder(options.encoder), pool=logged_pool(loaded.info), n_states=0),
        reward=options.reward,
        gamma=1.0,
        bootstrap_after_truncation=options.bootstrap_after_truncation,
    )
    out.mkdir()
    with (out / BUFFER_FILE).open("w+b") as file:
        dump(d3rlpy_episodes(transitions), file)
    pq.write_table(_transition_rows(dataset), out / TRANSITIONS_FILE)
    about = {
        "dataset_id": loaded.info.dataset_id,
        "models": list(loaded.info.model_names),
        "n_features": transitions.observations.shape[1] - transitions.n_models,
        "n_transitions": len(transitions),
        "options": options.model_dump(mode="json"),
        "is_simulated": loaded.info.is_simulated,
        "propensities": loaded.info.propensities,
        "assumptions": list(loaded.info.assumptions),
    }
    (out / ABOUT_FILE).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def d3rlpy_episodes(transitions: "Transitions") -> list["D3Episode"]:
    """Transitions as d3rlpy's episodes.

    d3rlpy takes the last row of an episode that did not terminate for a state only, so such an episode gets one row
    more: the state after its last turn, with action 0 and reward 0, which belong to no transition.
    """
    from d3rlpy.dataset import Episode

    episodes = []
    starts = np.flatnonzero(transitions.turns == 0)
    for start, end in zip(starts, [*starts[1:], len(transitions)], strict=True):
        is_terminated = bool(transitions.terminals[end - 1])
        n_rows = end - start + (not is_terminated)
        first_row = transitions.rows[start]
        episodes.append(
            Episode(
                observations=transitions.observations[first_row : first_row + n_rows],
                actions=_padded(transitions.actions[start:end], n_rows).astype(np.int64),
                rewards=_padded(transitions.rewards[start:end], n_rows).astype(np.float32),
                terminated=is_terminated,
            )
        )
    return episodes


def _padded(values: npt.NDArray[np.generic], n_rows: int) -> npt.NDArray[np.generic]:
    """Values as a column of `n_rows`, shape (n_rows, 1), filled up with 0."""
    column = np.zeros((n_rows, 1), dtype=values.dtype)
    column[: len(values), 0] = values
    return column


def _transition_rows(dataset: Dataset) -> pa.Table:
    """What d3rlpy has no place for, a row a transition in d3rlpy's order."""
    turns = [(episode, index, turn) for episode in dataset.completed for index, turn in enumerate(episode.turns)]
    return pa.table(
        {
            "episode_id": pa.array([episode.episode_id for episode, _, _ in turns], pa.string()),
            "turn": pa.array([index for _, index, _ in turns], pa.int64()),
            "propensity": pa.array([turn.propensity for _, _, turn in turns], pa.float64()),
            "utility_gain": pa.array([turn.utility_gain for _, _, turn in turns], pa.float64()),
            "cost_usd": pa.array([turn.cost_usd for _, _, turn in turns], pa.float64()),
            "action_mask": pa.array([turn.action_mask for _, _, turn in turns], pa.list_(pa.bool_())),
            "terminated": pa.array([turn.terminated for _, _, turn in turns], pa.bool_()),
            "truncated": pa.array([turn.truncated for _, _, turn in turns], pa.bool_()),
        }
    )


def load_d3rlpy(folder: Path) -> "ReplayBuffer":
    """Replay buffer of an export, with as many actions as there are models.

    d3rlpy's own `ReplayBuffer.load` takes the largest logged action for the last one.

    Raises:
        DatasetError: If the folder holds no such export.
    """
    silence_gym_notice()
    from d3rlpy.constants import ActionSpace
    from d3rlpy.dataset import Episode, InfiniteBuffer, ReplayBuffer, load

    try:
        models = cast("dict[str, list[str]]", read_json(folder / ABOUT_FILE))["models"]
        with (folder / BUFFER_FILE).open("rb") as file:
            episodes = load(Episode, file)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DatasetError(
            f"{folder} is not a readable export: {error}; give the folder that 'mtrouter-rl export d3rlpy' wrote"
        ) from error
    buffer = ReplayBuffer(
        InfiniteBuffer(), episodes=episodes, action_space=ActionSpace.DISCRETE, action_size=len(models)
    )
    return cast("ReplayBuffer", buffer)


export_d3rlpy = Exporter(
    format="d3rlpy",
    description="d3rlpy's replay buffer (HDF5) of features and allowed bits, with propensities and costs beside it.",
    options_model=D3rlpyOptions,
    write=_write,
    check=lambda options: _encoder(options.encoder),
)
