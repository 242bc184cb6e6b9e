"""A pool that one of its models has left."""

from mtrouter_rl.cards.pool import BackendCard, PoolCard
from mtrouter_rl.errors import InvalidConfigError

_PER_MODEL = "models"
"""Setting of a backend that holds one entry for every model of the pool, by name."""


def pool_without(pool: PoolCard, model: str) -> PoolCard:
    """The pool that remains when a model leaves, in the same order.

    The other models keep their prices, limits and strengths. Of the backend's settings only the model's own entry under
    `models` goes. Simulated models draw from (episode, turn, model) alone, so each of them plays as it does in the whole pool.

    Args:
        pool: The whole pool.
        model: Name of the model that leaves.

    Raises:
        UnknownNameError: If the pool has no such model.
        InvalidConfigError: If it is the pool's only one.
    """
    pool.index(model)
    if len(pool.models) == 1:
        raise InvalidConfigError(
            f"pool '{pool.name}': '{model}' is its only model, so it cannot leave; take a larger pool"
        )
    return pool.model_copy(
        update={
            "name": f"{pool.name}-without-{model}",
            "models": tuple(card for card in pool.models if card.name != model),
            "backend": _backend_without(pool.backend, model),
        }
    )


def _backend_without(backend: BackendCard, model: str) -> BackendCard:
    entries = backend.settings.get(_PER_MODEL)
    if not isinstance(entries, dict):
        return backend
    rest = {name: entry for name, entry in entries.items() if name != model}
    return backend.model_copy(update={"settings": backend.settings | {_PER_MODEL: rest}})
