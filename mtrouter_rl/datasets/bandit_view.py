"""Logs in which a model was chosen once per episode, seen as what they are: one decision each.

Nothing about a change of model within an episode can be learned or estimated from such a log.
"""

from dataclasses import replace

from mtrouter_rl.datasets.store import Dataset, FilterReport
from mtrouter_rl.records import Episode, TokenUsage, Turn


def as_one_decision(dataset: Dataset) -> tuple[Dataset, FilterReport]:
    """Every completed episode that one model played throughout as an episode of a single turn.

    That turn has the episode's whole utility, cost and tokens, and its last observation; what was said in between is left
    out. A router is trained on what is known before the first move. The propensity is unknown: who decided which model
    plays which episode is not in the log.

    Returns:
        The dataset, and a report of the episodes that were left out because they failed, are empty or change the model.
    """
    kept, report = dataset.filter(_has_one_model, "failed, empty, or changes the model within the episode")
    info = kept.info.model_copy(
        update={
            "propensities": "unknown",
            "origin": "imported",
            "max_turns": 1,
            "n_episodes_planned": len(kept.episodes),
        }
    )
    return Dataset(info=info, episodes=tuple(_collapsed(episode) for episode in kept.episodes)), report


def _has_one_model(episode: Episode) -> bool:
    return episode.status == "completed" and len({(turn.model, turn.served_model) for turn in episode.turns}) == 1


def _collapsed(episode: Episode) -> Episode:
    first = episode.turns[0]
    usages = [turn.usage for turn in episode.turns]
    usage = TokenUsage(
        n_fresh=sum(usage.n_fresh for usage in usages),
        n_cached=sum(usage.n_cached for usage in usages),
        n_written=sum(usage.n_written for usage in usages),
        n_output=sum(usage.n_output for usage in usages),
    )
    turn = Turn(
        model=first.model,
        served_model=first.served_model,
        action_text="",
        observation_text=episode.turns[-1].observation_text,
        usage=usage,
        cost_usd=episode.cost_usd,
        utility_gain=episode.utility,
        propensity=None,
        action_mask=first.action_mask,
        warm=first.warm,
        error="",
        latency_s=None,
        terminated=True,
        truncated=False,
    )
    return replace(episode, turns=(turn,), max_turns=1)
