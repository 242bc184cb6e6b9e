"""What the learned agents do alike: check the context, name the training, and write down how the router was made."""

from typing import TYPE_CHECKING

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.quiet import silence_gym_notice
from mtrouter_rl.agents.saving import Provenance
from mtrouter_rl.cards import AgentCard
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.pools.card import Frozen
from mtrouter_rl.records import JsonValue

if TYPE_CHECKING:
    from mtrouter_rl.datasets.store import Dataset
    from mtrouter_rl.embeddings.history import HistoryFeatures


def require_data(context: TrainingContext, card: AgentCard) -> "tuple[Dataset, HistoryFeatures]":
    """The dataset and the features of a context.

    Raises:
        InvalidConfigError: If one of them is missing.
        PoolMismatchError: If the dataset was logged with another pool.
    """
    if context.dataset is None or context.features is None:
        missing = "dataset" if context.dataset is None else "features"
        raise InvalidConfigError(
            f"agent '{card.name}': the training context has no {missing}, but algorithm '{card.algorithm}' learns from "
            "a log; give one"
        )
    context.dataset.info.check_pool(context.pool)
    silence_gym_notice()
    return context.dataset, context.features


def training_identity(context: TrainingContext, card: AgentCard, parameters: Frozen) -> dict[str, JsonValue]:
    """What decides the result of a training, besides its seed and its data."""
    dataset, features = require_data(context, card)
    values: dict[str, JsonValue] = parameters.model_dump(mode="json")
    return {f"parameter {name}": value for name, value in values.items()} | {
        "algorithm": card.algorithm,
        "dataset_id": dataset.info.dataset_id,
        "model_names": list(context.pool.model_names),
        "features": features.to_config(),
        "reward": context.reward.model_dump(mode="json"),
    }


def provenance(context: TrainingContext, card: AgentCard, parameters: Frozen) -> Provenance:
    """How a router was made, with the whole resolved configuration."""
    resolved = card.model_copy(update={"parameters": parameters.model_dump(mode="json")})
    info = None if context.dataset is None else context.dataset.info
    return Provenance(
        card=resolved,
        seed=context.seed,
        dataset_id=None if info is None else info.dataset_id,
        dataset_fingerprint=None if info is None else info.fingerprint,
        reward=context.reward,
    )
