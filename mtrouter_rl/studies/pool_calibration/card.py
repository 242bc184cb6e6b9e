"""A calibrated pool as a card: it extends the pool that it was fitted from, and tells how near it comes to its target."""

from collections.abc import Sequence
from typing import cast

from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.records import Split
from mtrouter_rl.studies.pool_calibration.run import CalibrationRow, CalibrationTarget, entry_of, format_rows


def calibrated_card(
    pool: PoolCard,
    rows: Sequence[CalibrationRow],
    *,
    name: str,
    target: CalibrationTarget,
    extends: str,
    fit_on: Sequence[Split],
    command: str,
) -> str:
    """Text of the card.

    Args:
        pool: The fitted pool.
        rows: Achieved against target; stands in the card as a comment.
        name: Name of the card.
        target: What was fitted to.
        extends: Name of the pool card that was started from.
        fit_on: Splits that were fitted to.
        command: The command that made it.
    """
    random = " One `stuck` of all models is fitted to uniform random routing." if target.random is not None else ""
    lines = [
        f"# {extends} with fitted numbers. THE MODELS ARE SIMULATED. No vendor's model is called.",
        f"# Fitted to: {target.source}. Rows of routers were not used.",
        f"# Made by: {command}",
        "#",
        f"# Achieved against target; fitted on {' and '.join(fit_on)}, the other splits only looked at.",
        *(f"# {line}" for line in format_rows(rows).splitlines()),
        f"name: {name}",
        f"extends: {extends}",
        "description: >-",
        f"  SIMULATED: the models of {extends} with one ability and one output length a model fitted to single models of",
        f"  {target.source}.{random}",
        "  No real model was called.",
        "backend:",
        "  settings:",
        f"    complementarity: {cast(float, pool.backend.settings['complementarity']):g}",
        "    models:",
    ]
    for model in pool.model_names:
        entry = entry_of(pool, model)
        median = cast("dict[str, float]", entry["output_tokens"])["median"]
        fitted = f"ability: {entry['ability']}, stuck: {entry['stuck']}, output_tokens: {{ median: {median:g} }}"
        lines.append(f"      {model}: {{ {fitted} }}")
    return "\n".join(lines) + "\n"


def with_complementarity(pool: PoolCard, complementarity: float | None) -> PoolCard:
    """Pool with another complementarity; None leaves it as it is."""
    if complementarity is None:
        return pool
    settings = pool.backend.settings | {"complementarity": complementarity}
    return pool.model_copy(update={"backend": pool.backend.model_copy(update={"settings": settings})})
