"""How each model did on the most similar tasks, or after its calls in the most similar histories."""

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.regression.reward_fits import fit_neighbors
from mtrouter_rl.agents.regression.reward_models import Arrays
from mtrouter_rl.agents.regression.reward_router import OutcomeSettings
from mtrouter_rl.agents.regression.values import (
    Blocks,
    TaskParameters,
    TaskValueAlgorithm,
    TurnParameters,
    TurnValueAlgorithm,
    projected,
)
from mtrouter_rl.records import Frozen, PositiveInt
from mtrouter_rl.transitions.outcomes import OutcomeLog


class TaskNeighborsParameters(TaskParameters):
    """Parameters of `TaskNeighbors`.

    Attributes:
        n_neighbors: Episodes of every model that are averaged: those whose task texts are nearest.
    """

    n_neighbors: PositiveInt = 20


class TurnNeighborsParameters(TurnParameters):
    """Parameters of `TurnNeighbors`.

    Attributes:
        n_neighbors: Turns of every model that are averaged.
        n_components: Principal components of the text, see `reward_fits.fit_projection`.
        n_kept_per_model: At most this many turns of a model are kept, drawn without replacement; bounds the time of a
            decision.
    """

    n_neighbors: PositiveInt = 100
    n_components: PositiveInt = 32
    n_kept_per_model: PositiveInt = 4000


class TaskNeighbors(TaskValueAlgorithm[TaskNeighborsParameters]):
    """Averages utility and cost over each model's nearest episodes, by Euclidean distance of the task vectors.

    Source: Fix and Hodges, Discriminatory Analysis (1951): the nearest-neighbor rule, here as a regression.
    """

    parameters_model: ClassVar[type[Frozen]] = TaskNeighborsParameters

    def fit(self, log: OutcomeLog, context: TrainingContext, blocks: Blocks) -> tuple[OutcomeSettings, Arrays]:
        """Keep the episodes."""
        settings = OutcomeSettings(form="neighbors", reward=context.reward, n_neighbors=self.parameters.n_neighbors)
        return settings, fit_neighbors(log)


class TurnNeighbors(TurnValueAlgorithm[TurnNeighborsParameters]):
    """Averages utility and cost to go over each model's nearest turns, by Euclidean distance of projected histories.

    Source: see `TaskNeighbors`.
    """

    parameters_model: ClassVar[type[Frozen]] = TurnNeighborsParameters

    def fit(self, log: OutcomeLog, context: TrainingContext, blocks: Blocks) -> tuple[OutcomeSettings, Arrays]:
        """Project, then keep a sample of the turns."""
        shown, projection = projected(log, blocks, n_components=self.parameters.n_components, seed=context.seed)
        arrays = fit_neighbors(shown, rows=self._sample(log, context.seed))
        settings = OutcomeSettings(form="neighbors", reward=context.reward, n_neighbors=self.parameters.n_neighbors)
        return settings, arrays | projection

    def _sample(self, log: OutcomeLog, seed: int) -> npt.NDArray[np.int64]:
        rng, most = np.random.default_rng(seed), self.parameters.n_kept_per_model
        kept = [rng.choice(rows, size=min(most, len(rows)), replace=False) for rows in log.by_model()]
        return np.sort(np.concatenate(kept))
