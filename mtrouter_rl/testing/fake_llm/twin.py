"""The pool card by which a simulated pool is called over the protocol."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import yaml

from mtrouter_rl.cards.pool import BackendCard, PoolCard
from mtrouter_rl.files import write_atomically
from mtrouter_rl.records import JsonValue
from mtrouter_rl.testing.fake_llm.server import SESSION_HEADER


def remote_twin(
    pool: PoolCard, base_url: str, *, of_pool: Mapping[str, JsonValue] = MappingProxyType({}), **settings: JsonValue
) -> PoolCard:
    """The same models, prices and limits, answered by a double.

    Args:
        pool: The simulated pool.
        base_url: Address of the double.
        of_pool: Further settings of the pool, as `mtrouter_rl.pools.remote.settings.RemotePool` has them.
        settings: Further settings of every model, as `mtrouter_rl.pools.remote.settings.RemoteModel` has them.
    """
    models: dict[str, JsonValue] = {name: {"base_url": base_url, **settings} for name in pool.model_names}
    called = BackendCard(
        kind="openai_compatible", settings={"models": models, "session_header": SESSION_HEADER, **of_pool}
    )
    described = f"SIMULATED models of '{pool.name}' behind a test double of an endpoint. {pool.description}"
    return pool.model_copy(update={"backend": called, "description": described})


def write_twin(path: Path, pool: PoolCard, base_url: str) -> None:
    """Write the pool card that calls a double; arguments as `remote_twin`."""
    data = json.loads(remote_twin(pool, base_url).model_dump_json(exclude_none=True))
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)
    write_atomically(
        path, f"# SIMULATED models behind `mtrouter-rl fake-llm`, which has to run at that address.\n{text}".encode()
    )
