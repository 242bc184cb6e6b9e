"""What the learned agents do alike: check the context, name the training, and write down how the router was made."""

from typing import TYPE_CHECKING

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.extrapolation import Extrapolation, extrapolations
from mtrouter_rl.agents.saving import LogRecord, Provenance
from mtrouter_rl.cards import AgentCard
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import Frozen, JsonValue
from mtrouter_rl.transitions.arrays import TrainingLog, Transitions, join_transitions
from mtrouter_rl.transitions.hold_out import hold_out

if TYPE_CHECKING:
    from mtrouter_rl.datasets.store import Dataset
    from mtrouter_rl.embeddings.history import HistoryFeatures


def require_data(context: TrainingContext, card: AgentCard) -> "tuple[Dataset, HistoryFeatures]":
    """The dataset and the features of a context, of the first log if there are several.

    Raises:
        InvalidConfigError: If one of them is missing.
        PoolMismatchError: If a dataset was logged with another pool, or two of them with different models.
    """
    if context.dataset is None or context.features is None:
        missing = "dataset" if context.dataset is None else "features"
        raise InvalidConfigError(
            f"agent '{card.name}': the training context has no {missing}, but algorithm '{card.algorithm}' learns from "
            "a log; give one"
        )
    context.dataset.info.check_pool(context.pool)
    for log in context.more_logs:
        context.dataset.info.check_models(log.dataset.info)
    return context.dataset, context.features


def lay_out_logs(
    context: TrainingContext,
    card: AgentCard,
    *,
    gamma: float,
    bootstrap_after_truncation: bool = False,
    n_extra: int = 0,
) -> Transitions:
    """The logs of a context as transitions, with the rewards of their environments; see `transitions.join_transitions`.

    A model that the context holds out is taken out of them; see `hold_out.hold_out`.

    Raises:
        InvalidConfigError: If dataset or features are missing or hold nothing to learn from, or the model cannot be held out.
        PoolMismatchError: As `require_data`.
    """
    dataset, features = require_data(context, card)
    first = TrainingLog(dataset=dataset, reward=context.reward, features=features)
    transitions = join_transitions(
        (first, *context.more_logs),
        gamma=gamma,
        log_shares=context.log_shares,
        bootstrap_after_truncation=bootstrap_after_truncation,
        n_extra=n_extra,
        show_progress=context.show_progress,
    )
    if context.held_out is None:
        return transitions
    return hold_out(transitions, context.held_out, index=context.pool.index(context.held_out.model))


def training_identity(context: TrainingContext, card: AgentCard, parameters: Frozen) -> dict[str, JsonValue]:
    """What decides the result of a training, besides its seed and its data."""
    dataset, features = require_data(context, card)
    values: dict[str, JsonValue] = parameters.model_dump(mode="json")
    more: list[JsonValue] = [record.model_dump(mode="json") for record in _records(context)]
    several: dict[str, JsonValue] = {"more_logs": more, "log_shares": context.log_shares} if more else {}
    return (
        several
        | {f"parameter {name}": value for name, value in values.items()}
        | {
            "algorithm": card.algorithm,
            "dataset_id": dataset.info.dataset_id,
            "model_names": list(context.pool.model_names),
            "features": features.to_config(),
            "reward": context.reward.model_dump(mode="json"),
        }
    )


def provenance(context: TrainingContext, card: AgentCard, parameters: Frozen) -> Provenance:
    """How a router was made, with the whole resolved configuration."""
    resolved = card.model_copy(update={"parameters": parameters.model_dump(mode="json")})
    info = None if context.dataset is None else context.dataset.info
    return Provenance(
        card=resolved,
        seed=context.seed,
        dataset_id=None if info is None else info.dataset_id,
        dataset_fingerprint=None if info is None else info.fingerprint,
        env=None if info is None else info.env,
        reward=context.reward,
        more_logs=_records(context),
        held_out=context.held_out,
        extrapolated=_extrapolated(context),
    )


def _extrapolated(context: TrainingContext) -> tuple[Extrapolation, ...]:
    """The model that was held out altogether."""
    if context.held_out is None or context.held_out.n_episodes or context.features is None:
        return ()
    rows = context.features.model_features.tolist()
    return extrapolations(rows, context.pool.model_names, unknown=(context.held_out.model,))


def _records(context: TrainingContext) -> tuple[LogRecord, ...]:
    """The logs of a context beside the first."""
    return tuple(
        LogRecord(
            dataset_id=log.dataset.info.dataset_id,
            dataset_fingerprint=log.dataset.info.fingerprint,
            env=log.dataset.info.env,
            reward=log.reward,
        )
        for log in context.more_logs
    )
