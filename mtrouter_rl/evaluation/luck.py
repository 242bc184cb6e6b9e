"""The luck of an episode with simulated models: what was drawn minus what was to be expected, summed over its calls.

Two sorts of draws decide most: whether a model is stuck at a sub-goal, and whether a model that is not stuck does what is due.
Both are drawn with probabilities that do not depend on what comes later. So each sum has mean 0 for every policy, in every
world, and `statistics.control_variates` may take it off the returns.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from mtrouter_rl.errors import DatasetError
from mtrouter_rl.pools.simulated.backend import SimulationCard
from mtrouter_rl.records import Episode, FloatArray, JsonValue

LUCK: tuple[str, ...] = ("success", "success_where_fatal", "stuck", "stuck_where_fatal")
"""Columns: of either sort of draw, where a failure can cost no more than time, and where it may be fatal."""


def luck_of_episode(card: SimulationCard, episode: Episode, hidden: Sequence[Mapping[str, JsonValue]]) -> FloatArray:
    """Sums over the calls of an episode, by `LUCK`, shape (4,).

    Of the draws of being stuck only the first of every sub-goal counts: where models are stuck together, a later one is known
    in part from the first.

    Args:
        card: What the simulation is set to.
        episode: The episode.
        hidden: What the simulation told of every turn.

    Raises:
        DatasetError: If a turn's hidden information is not that of a simulated model.
    """
    fatal_skills = {skill for model in card.models.values() for skill in model.fatal_skills}
    luck = np.zeros(len(LUCK))
    met = set[JsonValue]()
    for number, (turn, told) in enumerate(zip(episode.turns, hidden, strict=True)):
        try:
            skill, action = told["skill"], told["expert_action"]
            probability, is_stuck, failure = float(str(told["success_probability"])), told["stuck"], told["failure"]
        except (KeyError, ValueError) as error:
            raise DatasetError(
                f"episode '{episode.episode_id}', turn {number}: hidden information has no {error}, so its luck is not known; "
                "only runs with simulated models have it"
            ) from error
        where_fatal = int(skill in fatal_skills)
        if action not in met:
            met.add(action)
            expected = card.stuck_probability(
                turn.model, task_name=episode.task, variation=episode.variation, seed=episode.seed
            )
            luck[2 + where_fatal] += bool(is_stuck) - expected
        if not is_stuck:
            luck[where_fatal] += (failure == "") - probability
    return luck
