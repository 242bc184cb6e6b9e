"""Minari: the field's format for offline reinforcement learning, written so that nothing is lost.

`OUT` is a Minari root: with MINARI_DATASETS_PATH=OUT, `minari.load_dataset(ID)` finds the dataset. Rows follow
Gymnasium: row 0 of observations and infos is what `reset` gave, row t + 1 what `step` t gave. What Minari has no place
for (the info, and episodes that failed or have no turn) lies in a file of its own beside its data.
"""

import copy
import importlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from pydantic import Field

from mtrouter_rl.datasets.columns import name_parents
from mtrouter_rl.datasets.info import DatasetInfo
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.exporters.base import Exporter, Loaded, RewardOptions, missing_package
from mtrouter_rl.exporters.jsonl import (
    EpisodeFields,
    EpisodeLine,
    Line,
    dump_line,
    episode_fields,
    episode_value,
    header_line,
    parse_header,
    parse_line,
)
from mtrouter_rl.files import parse_json
from mtrouter_rl.records import Episode, JsonValue, TokenUsage, TracedEpisode, Turn

if TYPE_CHECKING:
    from minari import EpisodeData, MinariDataset
    from minari.data_collector import EpisodeBuffer

    from mtrouter_rl.embeddings.history import HistoryFeatures

ANY_ENVIRONMENT = "mtrouter_rl/Routing-v0"
ASIDE_FILE = "mtrouter_rl.jsonl"
"""Beside Minari's own files: the header as in JSON Lines, then the episodes that Minari has no place for."""
ESCAPE = "\u241b"
"""Sign that stands for "escape" in texts. HDF5 ends a text at its first NUL character, so NUL is written as this sign
and a 0, and the sign itself as two of it; every other text stays as it is."""
_TEXTS = ("task_text", "action_text", "observation_text", "error")
_COUNTS = ("n_fresh", "n_cached", "n_written", "n_output")
_FLOATS = ("cost_usd", "utility_gain", "propensity", "latency_s", "router_cost_usd")
_NULLABLE = ("propensity", "latency_s")
_FLAGS = ("action_mask", "warm")
_Array = npt.NDArray[np.generic]


class MinariOptions(RewardOptions):
    """Options of the format.

    Attributes:
        encoder: Registered name of a text encoder; the embedded history is then observed as well. None leaves it out.
    """

    encoder: Annotated[
        str | None, Field(description="text encoder (hashing, minilm): adds the embedded history; none if left out")
    ] = None


class AsideLine(Line):
    """An episode that Minari has no place for.

    Attributes:
        position: Its index among all episodes of the dataset.
        episode: The episode, as in JSON Lines.
    """

    position: int
    episode: EpisodeLine


def escape(text: str) -> str:
    r"""Text without NUL characters. Inverse: `unescape`.

    Example:
        >>> unescape(escape("a\x00b")) == "a\x00b", "\x00" in escape("a\x00b")
        (True, False)
    """
    return text.replace(ESCAPE, ESCAPE * 2).replace("\x00", f"{ESCAPE}0")


def unescape(text: str) -> str:
    """Inverse of `escape`."""
    return re.sub(f"{ESCAPE}([{ESCAPE}0])", lambda match: ESCAPE if match[1] == ESCAPE else "\x00", text)


def minari_id(info: DatasetInfo) -> str:
    """Id of a dataset in Minari, whose ids may not hold a dot."""
    return info.dataset_id.replace(".", "_")


def _fits(episode: Episode) -> bool:
    # Minari cannot store an episode without steps, and cannot say that one broke for outside reasons.
    return bool(episode.turns) and episode.status == "completed"


def _require_packages() -> None:
    # Minari installs without h5py as well, and asks for it only when it opens a file.
    for package in ("minari", "h5py"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise missing_package(package) from error


def _check(options: MinariOptions) -> None:
    _require_packages()
    if options.encoder is not None:
        from mtrouter_rl.embeddings.encoders import make_encoder

        make_encoder(options.encoder, None)


def _write(loaded: Loaded, out: Path, options: MinariOptions) -> None:
    import minari
    from minari.dataset.minari_storage import MinariStorage

    features = _features(loaded.info, options.encoder)
    data = out / minari_id(loaded.info) / "data"
    data.mkdir(parents=True)
    storage = MinariStorage.new(
        data,
        observation_space=_observation_space(loaded, features),
        action_space=spaces.Discrete(len(loaded.info.models)),
        data_format="hdf5",
        jpeg_encoding=False,
    )
    storage.update_metadata(
        {
            "dataset_id": minari_id(loaded.info),
            "minari_version": minari.__version__,
            "algorithm_name": loaded.info.behavior_policy,
            "description": _description(loaded.info, options),
            **_environment(loaded.info),
        }
    )
    kept = [traced for traced in loaded.traced if _fits(traced.episode)]
    storage.update_episodes(_buffer(traced, loaded.info, options, features) for traced in kept)
    with (data / ASIDE_FILE).open("w", encoding="utf-8", newline="\n") as file:
        file.write(header_line(loaded.info, len(loaded.traced)))
        for position, traced in enumerate(loaded.traced):
            if not _fits(traced.episode):
                line = {"position": position, "episode": episode_value(traced)}
                file.write(dump_line(line, what=f"episode '{traced.episode.episode_id}'"))


def _environment(info: DatasetInfo) -> dict[str, str]:
    """What `recover_environment` needs: the environment that the log was collected in. An imported log has none."""
    import gymnasium

    if info.origin == "imported":
        return {}
    spec = copy.deepcopy(gymnasium.spec(ANY_ENVIRONMENT))
    spec.kwargs = {"env": info.env, "pool": info.pool_name, "split": info.split}
    return {"env_spec": spec.to_json()}


def _features(info: DatasetInfo, encoder: str | None) -> "HistoryFeatures | None":
    if encoder is None:
        return None
    from mtrouter_rl.datasets.logged import logged_pool
    from mtrouter_rl.embeddings.encoders import make_encoder
    from mtrouter_rl.embeddings.history import HistoryFeatures

    return HistoryFeatures(encoder=make_encoder(encoder, None), pool=logged_pool(info), n_states=0)


def _description(info: DatasetInfo, options: MinariOptions) -> str:
    assumed = "".join(f" Assumed: {text}" for text in info.assumptions)
    return (
        f"Routing log '{info.dataset_id}' of environment '{info.env}'; the action is an index into "
        f"{list(info.model_names)}. Reward: utility gain - {options.cost_weight} * cost in USD / "
        f"{options.cost_unit_usd}. Encoder of `features`: {options.encoder or 'none'}. "
        f"Simulated models: {'yes' if info.is_simulated else 'no'}.{assumed}"
    )


def _observation_space(loaded: Loaded, features: "HistoryFeatures | None") -> spaces.Dict:
    characters, longest = {" "}, 1
    for episode in (traced.episode for traced in loaded.traced if _fits(traced.episode)):
        for text in (text for texts in _observed_texts(episode).values() for text in texts):
            characters.update(text)
            longest = max(longest, len(text))
    # One space for all texts, its characters in order, so that equal datasets give equal files.
    charset = "".join(sorted(characters))
    n_models = len(loaded.info.models)
    parts: dict[str, spaces.Space[object]] = {
        name: cast("spaces.Space[object]", spaces.Text(max_length=longest, min_length=0, charset=charset))
        for name in _TEXTS
    }
    for name in _FLAGS:
        parts[name] = cast("spaces.Space[object]", spaces.MultiBinary(n_models))
    if features is not None:
        box = spaces.Box(-np.inf, np.inf, shape=(features.dim,), dtype=np.float32)
        parts["features"] = cast("spaces.Space[object]", box)
    return spaces.Dict(parts)


def _observed_texts(episode: Episode) -> dict[str, list[str]]:
    """What is new to the router at every row, T+1 each: at the reset, and after every turn."""
    turns = episode.turns
    texts = {
        "task_text": [episode.task_text, *([""] * len(turns))],
        "action_text": ["", *(turn.action_text for turn in turns)],
        "observation_text": [episode.first_observation, *(turn.observation_text for turn in turns)],
        "error": ["", *(turn.error for turn in turns)],
    }
    return {name: [escape(text) for text in column] for name, column in texts.items()}


def _buffer(
    traced: TracedEpisode, info: DatasetInfo, options: MinariOptions, features: "HistoryFeatures | None"
) -> "EpisodeBuffer":
    from minari.data_collector import EpisodeBuffer

    episode = traced.episode
    turns, no_model = episode.turns, (False,) * len(info.models)
    observations: dict[str, object] = dict(_observed_texts(episode))
    for name in _FLAGS:
        observations[name] = np.array([*(getattr(turn, name) for turn in turns), no_model], dtype=np.int8)
    if features is not None:
        observations["features"] = features.of_episode(episode)
    return EpisodeBuffer(
        seed=episode.seed,
        observations=observations,
        actions=[info.model_names.index(turn.model) for turn in turns],
        rewards=[options.reward.reward(turn.utility_gain, turn.cost_usd) for turn in turns],
        terminations=[turn.terminated for turn in turns],
        truncations=[turn.truncated for turn in turns],
        infos=_infos(traced),
    )


def _infos(traced: TracedEpisode) -> dict[str, object]:
    """Rows of infos, T+1 each; row 0 is what reset gives: the episode's own fields, and nothing of a call."""
    turns, unknown = traced.episode.turns, float("nan")
    fields = dump_line(episode_fields(traced.episode), what=f"episode '{traced.episode.episode_id}'")
    infos: dict[str, object] = {
        "episode": [escape(fields), *([""] * len(turns))],
        "served_model": ["", *(escape(turn.served_model) for turn in turns)],
    }
    for name in _COUNTS:
        infos[name] = np.array([0, *(getattr(turn.usage, name) for turn in turns)], dtype=np.int64)
    for name in _FLOATS:
        values = [getattr(turn, name) for turn in turns]
        first = unknown if name in _NULLABLE else 0.0
        infos[name] = np.array([first, *(unknown if value is None else value for value in values)], dtype=np.float64)
    if name_parents([traced.episode]):
        infos["parents"] = ["", *(json.dumps(turn.parents) for turn in turns)]
    if traced.hidden:
        what = f"hidden information of episode '{traced.episode.episode_id}'"
        infos["hidden"] = ["", *(escape(dump_line(dict(row), what=what)) for row in traced.hidden)]
    return infos


def restore_minari(path: Path) -> tuple[DatasetInfo, Iterator[TracedEpisode]]:
    """Read what `export_minari` wrote.

    Args:
        path: The exported folder, or Minari's own folder of the dataset in it.

    Returns:
        What the dataset is, and its episodes in their order; an episode is read when it is asked for.

    Raises:
        MissingDependencyError: If minari, or h5py that it reads HDF5 with, is not installed.
        DatasetError: If the folder holds no export of ours or more than one, or the export breaks a rule. Of an episode
            it is raised when that episode is reached.
    """
    _require_packages()
    from minari import MinariDataset

    data = _data_folder(path)
    aside = data / ASIDE_FILE
    try:
        lines = aside.read_bytes().splitlines(keepends=True)
        dataset = MinariDataset(data)
    except (OSError, ValueError, KeyError, AssertionError) as error:
        raise _unreadable(data, error) from error
    info, n_episodes = parse_header(lines[0] if lines else b"", f"{aside}, line 1")
    parsed = [parse_line(AsideLine, line, f"{aside}, line {n}") for n, line in enumerate(lines[1:], start=2)]
    n_found = len(parsed) + dataset.total_episodes
    if n_found != n_episodes:
        raise DatasetError(
            f"{data} holds {n_found} episodes ({len(parsed)} of them in {ASIDE_FILE}), must hold {n_episodes}, as line 1 "
            "of that file says; export the dataset anew"
        )
    return info, _merged(dataset, info, {line.position: line.episode.to_traced() for line in parsed}, data)


def _data_folder(path: Path) -> Path:
    found = sorted(file.parent for file in path.rglob(ASIDE_FILE)) if path.is_dir() else []
    if len(found) != 1:
        raise DatasetError(
            f"{path} holds {len(found)} Minari datasets with a file {ASIDE_FILE}, must hold one; give the folder that "
            "'mtrouter-rl export minari' wrote (other Minari datasets lack tokens, costs and propensities)"
        )
    return found[0]


def _unreadable(data: Path, error: Exception) -> DatasetError:
    return DatasetError(
        f"{data} is not a readable Minari dataset: {type(error).__name__}: {error}; export the dataset anew"
    )


def _merged(
    dataset: "MinariDataset", info: DatasetInfo, aside: dict[int, TracedEpisode], data: Path
) -> Iterator[TracedEpisode]:
    stored = iter(dataset.iterate_episodes())
    for position in range(len(aside) + dataset.total_episodes):
        if position in aside:
            yield aside[position]
            continue
        try:
            yield _traced(next(stored), info, where=f"{data}, episode at position {position}")
        except (OSError, ValueError, KeyError, IndexError, StopIteration) as error:
            raise _unreadable(data, error) from error


def _traced(data: "EpisodeData", info: DatasetInfo, *, where: str) -> TracedEpisode:
    infos = {name: _column(values) for name, values in data.infos.items()}
    observed = {name: _column(values) for name, values in data.observations.items()}
    fields = parse_line(EpisodeFields, str(infos["episode"][0]), where)
    turns = tuple(_turn(index, info, data, infos=infos, observed=observed) for index in range(len(data)))
    hidden: list[dict[str, JsonValue]] = [
        cast("dict[str, JsonValue]", parse_json(str(row))) for row in infos.get("hidden", [])[1:]
    ]
    return TracedEpisode(episode=fields.to_record(turns), hidden=tuple(hidden))


def _column(values: "Sequence[object] | _Array") -> list[object]:
    """Values of a column as plain Python ones; HDF5 gives texts of infos back as bytes."""
    plain = cast(list[object], values.tolist() if isinstance(values, np.ndarray) else list(values))
    texts = [value.decode() if isinstance(value, bytes) else value for value in plain]
    return [unescape(value) if isinstance(value, str) else value for value in texts]


def _turn(
    index: int,
    info: DatasetInfo,
    data: "EpisodeData",
    *,
    infos: dict[str, list[object]],
    observed: dict[str, list[object]],
) -> Turn:
    after = index + 1
    counts = {name: cast(int, infos[name][after]) for name in _COUNTS}
    fields: dict[str, object] = {name: infos[name][after] for name in ("served_model", *_FLOATS)}
    fields |= {name: None for name in _NULLABLE if np.isnan(cast(float, fields[name]))}
    fields |= {name: observed[name][after] for name in ("action_text", "observation_text", "error")}
    fields |= {name: tuple(map(bool, cast(list[int], observed[name][index]))) for name in _FLAGS}
    if "parents" in infos:
        named = cast("list[int] | None", json.loads(str(infos["parents"][after])))
        fields["parents"] = None if named is None else tuple(named)
    return Turn(
        model=info.model_names[int(data.actions[index])],
        usage=TokenUsage(**counts),
        terminated=bool(data.terminations[index]),
        truncated=bool(data.truncations[index]),
        **fields,  # type: ignore[arg-type]  # columns were written from the fields of the same names
    )


export_minari = Exporter(
    format="minari",
    description="Minari (HDF5): texts and, with an encoder, features; loses nothing and can be imported again.",
    options_model=MinariOptions,
    write=_write,
    check=_check,
)
