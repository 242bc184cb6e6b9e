"""Single-turn router that asks how each model did on the most similar tasks."""

from typing import ClassVar

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.regression.reward_fits import fit_neighbors
from mtrouter_rl.agents.regression.reward_models import Arrays
from mtrouter_rl.agents.regression.task_values import TaskParameters, TaskValueAlgorithm, TaskValueSettings
from mtrouter_rl.records import Frozen, PositiveInt
from mtrouter_rl.transitions.outcomes import TaskLog


class TaskNeighborsParameters(TaskParameters):
    """Parameters of `TaskNeighbors`.

    Attributes:
        n_neighbors: Episodes of every model that are averaged: those whose task texts are nearest.
    """

    n_neighbors: PositiveInt = 20


class TaskNeighbors(TaskValueAlgorithm[TaskNeighborsParameters]):
    """Averages utility and cost over each model's nearest episodes, by Euclidean distance of the task vectors.

    Source: Fix and Hodges, Discriminatory Analysis (1951): the nearest-neighbor rule, here as a regression.
    """

    parameters_model: ClassVar[type[Frozen]] = TaskNeighborsParameters

    def fit(self, log: TaskLog, context: TrainingContext) -> tuple[TaskValueSettings, Arrays]:
        """Keep the episodes."""
        settings = TaskValueSettings(form="neighbors", reward=context.reward, n_neighbors=self.parameters.n_neighbors)
        return settings, fit_neighbors(log)
