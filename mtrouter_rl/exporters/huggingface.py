"""Hugging Face: a folder of Parquet files with a dataset card, which `datasets.load_dataset(folder)` loads.

Two configurations: `turns`, a row a turn, and `episodes`, a row an episode. The layout of folder and card follows
https://huggingface.co/docs/hub/datasets-manual-configuration and
https://huggingface.co/docs/hub/datasets-cards.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import Field

from mtrouter_rl.datasets import columns
from mtrouter_rl.datasets.info import INFO_FILE, DatasetInfo
from mtrouter_rl.exporters.base import Exporter, Loaded
from mtrouter_rl.records import Episode, Frozen

EPISODES_PER_FILE = 1000
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
_LARGE = "10M<n<100M"
_TURNS_TEXT = {
    "episode_id": "the episode; its row is in `episodes`",
    "task": "task of the episode, repeated from the episode's row",
    "status": "status of the episode, repeated from the episode's row",
    "turn": "index of the turn, from 0",
    "model": "model that the behavior policy chose",
    "served_model": "model that really answered; differs if a fall-back took over",
    "action_text": "what the model wrote and the environment executed",
    "observation_text": "what the environment answered",
    "n_fresh, n_cached, n_written, n_output": "tokens as billed: plain prompt, read from and written to a cache, output",
    "cost_usd": "price of the call, USD",
    "utility_gain": "change of utility (score / maximal score) caused by the turn",
    "propensity": "probability with which the behavior policy chose `model`; null if nobody knows",
    "action_mask, warm": "which models were allowed, and held a warm prompt cache, in the order of the models below",
    "error": "kind of error that the action was, empty if none",
    "latency_s": "duration of the call in seconds; null if not logged",
    "router_cost_usd": "what the decision itself cost, USD; part of `cost_usd`",
    "terminated, truncated": "the task itself ended / a limit stopped the episode",
}
_PARENTS_TEXT = (
    "earlier turns that this one comes from, by index; null where the log does not say: then the turn before"
)


class HuggingFaceOptions(Frozen):
    """Options of the format.

    Attributes:
        license: Licence for the card, an identifier that the Hub knows. This package cannot know it, so it says
            "unknown" unless told.
    """

    license: Annotated[str, Field(min_length=1, description="licence identifier for the card, such as cc-by-4.0")] = (
        "unknown"
    )


def _write(loaded: Loaded, out: Path, options: HuggingFaceOptions) -> None:
    data = out / "data"
    data.mkdir(parents=True)
    episodes = [traced.episode for traced in loaded.traced]
    has_parents = columns.name_parents(episodes)
    for index, start in enumerate(range(0, len(episodes), EPISODES_PER_FILE)):
        shard = episodes[start : start + EPISODES_PER_FILE]
        pq.write_table(
            _turn_rows(shard, has_parents=has_parents), data / f"turns-{index:05d}.parquet", compression="zstd"
        )
        pq.write_table(_episode_rows(shard), data / f"episodes-{index:05d}.parquet", compression="zstd")
    (out / INFO_FILE).write_text(loaded.info.to_json(), encoding="utf-8")
    (out / "README.md").write_text(dataset_card(loaded.info, episodes, license_id=options.license), encoding="utf-8")


def _turn_rows(episodes: Sequence[Episode], *, has_parents: bool) -> pa.Table:
    table = columns.turns_to_table(episodes, has_parents=has_parents)
    for name in ("task", "status"):
        values = [getattr(episode, name) for episode in episodes for _ in episode.turns]
        table = table.append_column(name, pa.array(values, pa.string()))
    return table


def _episode_rows(episodes: Sequence[Episode]) -> pa.Table:
    table = columns.episodes_to_table(episodes).replace_schema_metadata(None)
    for name, kind, values in (
        ("n_turns", pa.int64(), [len(episode.turns) for episode in episodes]),
        ("utility", pa.float64(), [float(episode.utility) for episode in episodes]),
        ("cost_usd", pa.float64(), [float(episode.cost_usd) for episode in episodes]),
    ):
        table = table.append_column(name, pa.array(values, kind))
    return table


def dataset_card(info: DatasetInfo, episodes: Sequence[Episode], *, license_id: str) -> str:
    """Text of the card: what the Hub reads as YAML first, then what a person reads.

    Args:
        info: What the dataset is.
        episodes: Its episodes.
        license_id: Licence identifier.
    """
    n_turns = sum(len(episode.turns) for episode in episodes)
    front = yaml.safe_dump(_front_matter(info, n_turns, license_id), sort_keys=False, allow_unicode=True)
    models = "\n".join(
        f"| {_cell(model.name)} | {model.prices.input:g} | {model.prices.cached_input:g} | {model.prices.output:g} |"
        for model in info.models
    )
    texts = _TURNS_TEXT | ({"parents": _PARENTS_TEXT} if columns.name_parents(episodes) else {})
    fields = "\n".join(f"- `{name}`: {text}" for name, text in texts.items())
    assumed = "".join(f"- {text}\n" for text in info.assumptions) or "- nothing\n"
    simulated = "The models were **simulated**; no real LLM answered." if info.is_simulated else "The models were real."
    return f"""---
{front}---

# {info.dataset_id}

A log of multi-turn runs in environment `{info.env}`, in which the language model was chosen anew at every turn by
`{info.behavior_policy}`: {len(episodes)} episodes with {n_turns} turns, split `{info.split}`. {simulated}
Propensities are {info.propensities}. `info.json` says how it was made.

```python
turns = datasets.load_dataset("FOLDER", "turns", split="{info.split}")
episodes = datasets.load_dataset("FOLDER", "episodes", split="{info.split}")
```

## Fields of a turn

{fields}

An episode's row has its `episode_id`, task, texts, limits, status, `extra` (JSON text), `n_turns`, `utility` and `cost_usd`.
An episode whose status is `failed` broke for outside reasons and should not be scored.

## Models

| model | USD per million input tokens | cached | output |
|---|---|---|---|
{models}

## Assumed where the original log says nothing

{assumed}
## License

`{license_id}`: whoever publishes this has to know it; texts may come from the environment and from the models' vendors.
"""


def _front_matter(info: DatasetInfo, n_turns: int, license_id: str) -> dict[str, object]:
    kinds = ("turns", "episodes")
    return {
        "pretty_name": info.dataset_id,
        "license": license_id,
        "size_categories": [next((name for limit, name in _SIZES if n_turns < limit), _LARGE)],
        "tags": ["llm-routing", "offline-reinforcement-learning", *(["simulated"] if info.is_simulated else [])],
        "configs": [
            {
                "config_name": kind,
                **({"default": True} if kind == "turns" else {}),
                "data_files": [{"split": info.split, "path": f"data/{kind}-*.parquet"}],
            }
            for kind in kinds
        ],
    }


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


export_huggingface = Exporter(
    format="huggingface",
    description="Folder of Parquet files with a dataset card, for datasets.load_dataset and the Hugging Face Hub.",
    options_model=HuggingFaceOptions,
    write=_write,
)
