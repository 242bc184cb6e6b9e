"""Single-turn routers: choose once, from the task alone, by what each model is expected to score and to cost.

The ways to predict that share everything else. Utility and cost are predicted apart, so that a trained router serves any
cost weight.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.parameters import CardAlgorithm
from mtrouter_rl.agents.regression.reward_models import Arrays
from mtrouter_rl.agents.regression.reward_router import OutcomeRouter, OutcomeSettings, as_tensors
from mtrouter_rl.agents.training import provenance, require_data
from mtrouter_rl.cards import RegularExpression
from mtrouter_rl.records import FloatArray, Frozen, Observation
from mtrouter_rl.transitions.outcomes import TASK_BLOCK, LearnsFrom, TaskLog


class TaskParameters(Frozen):
    """What every single-turn algorithm has.

    Attributes:
        learns_from: "episodes" that one model played throughout, "turns", or "auto"; see `TaskLog.of_dataset`.
    """

    learns_from: LearnsFrom = "episodes"


TaskParametersT = TypeVar("TaskParametersT", bound=TaskParameters)


class TaskValueSettings(OutcomeSettings):
    """What a `TaskValueRouter` is made of, arrays apart.

    A table goes by the nearest of `centroids` if there are any, else by key: `utility` and `cost` then have shape
    (K+1, M), the last row for unknown keys.

    Attributes:
        key_pattern: Regular expression whose first group (or whole match) in the task text is the key of a table.
        keys: Keys of the table, in the order of its rows.
    """

    key_pattern: RegularExpression = ""
    keys: tuple[str, ...] = ()


def key_of(pattern: str, text: str) -> str:
    r"""Key of a task text: the first group of the pattern's first match, or the whole match; the whole text without one.

    Example:
        >>> key_of("(?m)^task: (.*)$", "game: x\ntask: boil")
        'boil'
    """
    found = re.search(pattern, text) if pattern else None
    if found is None:
        return text
    return found.group(1) if found.re.groups else found.group(0)


class TaskValueRouter(OutcomeRouter[TaskValueSettings]):
    """Calls the allowed model with the highest predicted utility minus weighted cost of the whole episode.

    The prediction reads the task text alone, so the choice stays the same over an episode unless a model is masked.
    """

    KIND: ClassVar[str] = "task_values"
    SETTINGS: ClassVar[type[Frozen]] = TaskValueSettings

    def vectors(self, observations: Sequence[Observation]) -> npt.NDArray[np.float64]:
        """Encoded task texts, shape (B, E)."""
        block = self.features.blocks[TASK_BLOCK]
        return self.features.of_observations(observations)[:, block].astype(np.float64)

    def outcomes(self, observations: Sequence[Observation]) -> FloatArray:
        """Predicted utility and cost in USD of an episode with each model, shape (B, M, 2)."""
        if self.settings.form != "table" or "centroids" in self.arrays:
            return super().outcomes(observations)
        rows = {key: row for row, key in enumerate(self.settings.keys)}
        unknown = len(self.settings.keys)
        keys = [key_of(self.settings.key_pattern, observation["task"]) for observation in observations]
        chosen = np.array([rows.get(key, unknown) for key in keys], dtype=np.int64)
        return np.stack([self.arrays["utility"][chosen], self.arrays["cost"][chosen]], axis=-1)


class TaskValueAlgorithm(CardAlgorithm[TaskParametersT], ABC, Generic[TaskParametersT]):
    """Base of the single-turn algorithms: a subclass says how outcomes are predicted."""

    needs_dataset: ClassVar[bool] = True
    needs_features: ClassVar[bool] = True

    def train(self, context: TrainingContext) -> TaskValueRouter:
        """Train on the context's dataset; `learns_from` says on what of it.

        Raises:
            InvalidConfigError: If dataset or features are missing, or a model has nothing in the log to learn from.
            PoolMismatchError: If the dataset was logged with another pool.
        """
        dataset, features = require_data(context, self.card)
        learns_from = self.parameters.learns_from
        log = TaskLog.of_dataset(dataset, features, reward=context.reward, learns_from=learns_from)
        settings, arrays = self.fit(log, context)
        return TaskValueRouter(
            name=self.card.name,
            model_names=context.pool.model_names,
            features=features,
            settings=settings,
            weights=as_tensors(arrays),
            provenance=provenance(context, self.card, self.parameters),
        )

    @abstractmethod
    def fit(self, log: TaskLog, context: TrainingContext) -> tuple[TaskValueSettings, Arrays]:
        """Learn to predict outcomes from tasks."""
