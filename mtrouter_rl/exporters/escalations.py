"""Escalation failures of a log: turns at which a cheap model failed, and a dearer one, called next, made progress."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mtrouter_rl.datasets.info import DatasetInfo
from mtrouter_rl.errors import DatasetError, unknown_name
from mtrouter_rl.records import Episode, TokenUsage
from mtrouter_rl.transitions.usefulness import turn_facts, turn_kinds, usefulness

REFERENCE_CALL = TokenUsage(n_fresh=3000, n_output=300)
"""Call by whose price models are ordered."""
_MIN_GAIN = 1e-9


@dataclass(frozen=True, kw_only=True)
class Escalation:
    """One escalation failure.

    Attributes:
        episode: Where it happened.
        turn: Index of the dearer model's turn; the cheap one failed in the turn before.
    """

    episode: Episode
    turn: int

    @property
    def dearer_usd(self) -> float:
        """What the dearer model was paid, USD."""
        return self.episode.turns[self.turn].cost_usd

    @property
    def cheap_usd(self) -> float:
        """What the cheap model was paid for its failed call just before, USD."""
        return self.episode.turns[self.turn - 1].cost_usd

    @property
    def action_text(self) -> str:
        """What the dearer model did."""
        return self.episode.turns[self.turn].action_text


def cheap_model(info: DatasetInfo, name: str | None) -> str:
    """The model to be taught: the one that is named, else the cheapest of the log.

    Raises:
        UnknownNameError: If the log has no such model.
        DatasetError: If no model of the log is dearer.
    """
    prices = reference_prices(info)
    if name is not None and name not in prices:
        raise unknown_name(f"model of dataset '{info.dataset_id}'", name, prices)
    cheap = min(prices, key=lambda model: prices[model]) if name is None else name
    if prices[cheap] >= max(prices.values()):
        raise DatasetError(
            f"dataset '{info.dataset_id}': no model is dearer than '{cheap}' by its prices, so there is nobody to learn from; "
            "give a cheaper one with --option cheap=NAME"
        )
    return cheap


def reference_prices(info: DatasetInfo) -> dict[str, float]:
    """Price of a reference call by model, USD."""
    return {model.name: model.prices.cost_usd(REFERENCE_CALL) for model in info.models}


def escalations(episodes: Sequence[Episode], *, cheap: str, prices: Mapping[str, float]) -> list[Escalation]:
    """Every escalation failure of completed episodes, in order.

    The cheap model failed if its turn was an error, or gained nothing and is of a kind that is of no use; the dearer one made
    progress if its turn was no error, lost nothing, and gained or is of a useful kind. Who answered counts, not who was chosen.

    Args:
        episodes: Episodes of a log; those that failed for outside reasons are left out.
        cheap: The model to be taught.
        prices: Price of a reference call by model; those that cost more than the cheap one are dearer.
    """
    completed = [episode for episode in episodes if episode.status == "completed" and episode.turns]
    facts = turn_facts(completed)
    found = []
    for episode, useful in zip(completed, usefulness(facts, turn_kinds(facts)), strict=True):
        for index in range(1, len(episode.turns)):
            before, turn = episode.turns[index - 1], episode.turns[index]
            has_failed = before.served_model == cheap and (
                bool(before.error) or (before.utility_gain <= _MIN_GAIN and useful[index - 1] <= 0)
            )
            is_dearer = prices[turn.served_model] > prices[cheap]
            has_gained = turn.utility_gain > _MIN_GAIN or (turn.utility_gain > -_MIN_GAIN and useful[index] > 0)
            if has_failed and is_dearer and not turn.error and has_gained:
                found.append(Escalation(episode=episode, turn=index))
    return found
