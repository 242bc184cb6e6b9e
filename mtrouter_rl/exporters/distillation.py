"""Distillation set: what a dearer model did where the cheap one had just failed, as chat messages to teach the cheap one with.

The idea is the loop of RouteNLP (router, failures by cluster, distillation, router again); see docs/distill-the-cheap-model.md.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mtrouter_rl.embeddings.action_word import action_word
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.exporters.base import Exporter, Loaded
from mtrouter_rl.exporters.escalations import Escalation, cheap_model, escalations, reference_prices
from mtrouter_rl.exporters.secrets import scrub_secrets
from mtrouter_rl.files import SavedRecord
from mtrouter_rl.records import Count, FiniteRecord, Frozen, NonNegative
from mtrouter_rl.registry import DEFAULT_ENCODER

EXAMPLES_FILE = "examples.jsonl"
CLUSTERS_FILE = "clusters.json"
_RECENT_TURNS = 2
_WORDS_SHOWN = 3


class DistillationOptions(Frozen):
    """Options of the format.

    Attributes:
        cheap: Model to be taught; None takes the cheapest of the log.
        by: What examples are grouped by.
        clusters: Most clusters, where they are grouped by history.
        encoder: Registered name of the text encoder, where they are grouped by history.
        seed: Seed of the clustering.
    """

    cheap: Annotated[str | None, Field(description="model to be taught; the cheapest of the log unless named")] = None
    by: Annotated[
        Literal["history", "action"], Field(description="group by history or action: k-means, or its word")
    ] = "history"
    clusters: Annotated[int, Field(ge=1, le=1000, description="most clusters, where grouped by history")] = 8
    encoder: Annotated[str, Field(description="text encoder: hashing or minilm")] = DEFAULT_ENCODER
    seed: Annotated[int, Field(ge=0, description="seed of k-means")] = 0


class DistillationCluster(FiniteRecord):
    """One cluster of escalation failures.

    Attributes:
        cluster: Its number, from 0, the dearest first.
        words: Commonest kinds of action of the dearer models there.
        n: Examples.
        dearer_usd: Paid to the dearer models at these turns, USD.
        saved_usd: The same less what the cheap model was paid for the failed call just before: what would be saved, turn by
            turn, if it could do what the dearer one did at the same price. Below 0 where a "dearer" call was in fact cheaper.
    """

    cluster: Count
    words: tuple[str, ...]
    n: Count
    dearer_usd: NonNegative
    saved_usd: float


class DistillationTable(SavedRecord):
    """What a distillation set holds, `clusters.json`.

    Attributes:
        dataset_id: Log that it was made of.
        env: Its environment.
        pool: Its pool.
        cheap: Model to be taught.
        n_turns: Turns of the log's completed episodes.
        n_cheap_turns: Those of the cheap model.
        total_usd: Cost of all these turns, USD.
        n_failed_episodes: Episodes left out, which broke for outside reasons.
        n_scrubbed: Places at which what looks like a secret was taken out.
        clusters: The clusters.
    """

    SOURCE: ClassVar[str] = "`mtrouter-rl export distillation` writes it"
    FIX: ClassVar[str] = "export the log anew"

    dataset_id: str
    env: str
    pool: str
    cheap: str
    n_turns: Count
    n_cheap_turns: Count
    total_usd: NonNegative
    n_failed_episodes: Count
    n_scrubbed: Count
    clusters: tuple[DistillationCluster, ...]


def _write(loaded: Loaded, out: Path, options: DistillationOptions) -> None:
    _refuse_held_out(loaded)
    info = loaded.info
    cheap = cheap_model(info, options.cheap)
    episodes = [traced.episode for traced in loaded.traced]
    found = escalations(episodes, cheap=cheap, prices=reference_prices(info))
    if not found:
        raise DatasetError(
            f"dataset '{info.dataset_id}': nowhere did '{cheap}' fail and a dearer model make progress in the next turn, so "
            "there is nothing to learn from; give a log in which models follow each other, or another --option cheap=NAME"
        )
    labels = _numbered(found, _labels(found, options))
    lines, n_scrubbed = [], 0
    for one, cluster in zip(found, labels, strict=True):
        line, n = scrub_secrets_of(_row(one, cluster))
        lines.append(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        n_scrubbed += n
    completed = [episode for episode in episodes if episode.status == "completed"]
    turns = [turn for episode in completed for turn in episode.turns]
    table = DistillationTable(
        dataset_id=info.dataset_id,
        env=info.env,
        pool=info.pool_name,
        cheap=cheap,
        n_turns=len(turns),
        n_cheap_turns=sum(turn.served_model == cheap for turn in turns),
        total_usd=sum(turn.cost_usd for turn in turns),
        n_failed_episodes=len(episodes) - len(completed),
        n_scrubbed=n_scrubbed,
        clusters=_clusters(found, labels),
    )
    out.mkdir(parents=True)
    (out / EXAMPLES_FILE).write_text("".join(lines), encoding="utf-8")
    table.write(out / CLUSTERS_FILE)


def _refuse_held_out(loaded: Loaded) -> None:
    for split in (loaded.info.split, *(traced.episode.split for traced in loaded.traced)):
        if split != "train":
            raise DatasetError(
                f"dataset '{loaded.info.dataset_id}', field 'split': is '{split}', must be 'train'; a model that learned from "
                "held-out episodes could not be evaluated on them any more: export the log of the split 'train'"
            )


def _labels(found: Sequence[Escalation], options: DistillationOptions) -> list[int]:
    """Cluster of every example, numbered anyhow."""
    if options.by == "action":
        words = [action_word(one.action_text) for one in found]
        known = {word: number for number, word in enumerate(dict.fromkeys(words))}
        return [known[word] for word in words]
    from sklearn.cluster import KMeans

    from mtrouter_rl.embeddings.encoders import make_encoder

    texts = [_recent(one) for one in found]
    vectors = make_encoder(options.encoder, None).encode(texts)
    n_clusters = min(options.clusters, len(set(texts)))
    fitted = KMeans(n_clusters=n_clusters, random_state=options.seed, n_init=4).fit(vectors)
    return [int(label) for label in fitted.labels_]


def _recent(one: Escalation) -> str:
    """The task and the end of the history that the dearer model was called with."""
    turns = one.episode.turns[max(one.turn - _RECENT_TURNS, 0) : one.turn]
    return "\n".join([one.episode.task_text, *(text for t in turns for text in (t.action_text, t.observation_text))])


def _numbered(found: Sequence[Escalation], labels: Sequence[int]) -> list[int]:
    """The same clusters, those where most was paid to dearer models first."""
    paid = defaultdict[int, float](float)
    for one, label in zip(found, labels, strict=True):
        paid[label] += one.dearer_usd
    order = sorted(paid, key=lambda label: (-paid[label], labels.index(label)))
    return [order.index(label) for label in labels]


def _clusters(found: Sequence[Escalation], labels: Sequence[int]) -> tuple[DistillationCluster, ...]:
    clusters = []
    for number in range(max(labels) + 1):
        members = [one for one, label in zip(found, labels, strict=True) if label == number]
        words = Counter(scrub_secrets(action_word(one.action_text))[0] for one in members)
        clusters.append(
            DistillationCluster(
                cluster=number,
                words=tuple(word for word, _ in words.most_common(_WORDS_SHOWN)),
                n=len(members),
                dearer_usd=sum(one.dearer_usd for one in members),
                saved_usd=sum(one.dearer_usd - one.cheap_usd for one in members),
            )
        )
    return tuple(clusters)


def _row(one: Escalation, cluster: int) -> dict[str, object]:
    """An example: history and action as chat messages, of which the last one alone is to be learned."""
    episode, failed, turn = one.episode, one.episode.turns[one.turn - 1], one.episode.turns[one.turn]
    messages: list[dict[str, object]] = [
        {"role": "user", "content": f"{episode.task_text}\n\n{episode.first_observation}"}
    ]
    for past in episode.turns[: one.turn]:
        messages.append({"role": "assistant", "content": past.action_text, "weight": 0})
        messages.append({"role": "user", "content": past.observation_text})
    messages.append({"role": "assistant", "content": turn.action_text, "weight": 1})
    return {
        "messages": messages,
        "cluster": cluster,
        "episode_id": episode.episode_id,
        "task": episode.task,
        "variation": episode.variation,
        "turn": one.turn,
        "cheap_model": failed.served_model,
        "dearer_model": turn.served_model,
        "cheap_usd": one.cheap_usd,
        "dearer_usd": one.dearer_usd,
    }


def scrub_secrets_of(value: object) -> tuple[object, int]:
    """A JSON value whose texts hold nothing that looks like a secret, and how many places there were."""
    if isinstance(value, str):
        return scrub_secrets(value)
    if isinstance(value, list):
        parts = [scrub_secrets_of(part) for part in value]
        return [part for part, _ in parts], sum(n for _, n in parts)
    if isinstance(value, dict):
        named = {key: scrub_secrets_of(part) for key, part in value.items()}
        return {key: part for key, (part, _) in named.items()}, sum(n for _, n in named.values())
    return value, 0


def format_clusters(folder: Path) -> str:
    """The table of a distillation set, for a reader."""
    table = DistillationTable.load(folder / CLUSTERS_FILE)
    paid = sum(one.dearer_usd for one in table.clusters)
    rows = [
        f"{one.cluster:7d}  {one.n:8d}  {one.dearer_usd:10.6f}  {one.saved_usd:13.6f}  {', '.join(one.words)}"
        for one in table.clusters
    ]
    n = sum(one.n for one in table.clusters)
    return "\n".join(
        [
            f"{n} turns at which '{table.cheap}' failed and a dearer model made progress next, of {table.n_cheap_turns} turns "
            f"of '{table.cheap}' and {table.n_turns} in all",
            f"paid to dearer models there: {paid:.6f} USD of {table.total_usd:.6f} USD; {table.n_failed_episodes} failed "
            f"episodes left out; {table.n_scrubbed} places scrubbed",
            "cluster  examples  dearer USD  USD not needed  actions",
            *rows,
        ]
    )


export_distillation = Exporter(
    format="distillation",
    description="Folder of chat examples: what a dearer model did where the cheap one had just failed, by cluster.",
    options_model=DistillationOptions,
    write=_write,
    summary=format_clusters,
)
