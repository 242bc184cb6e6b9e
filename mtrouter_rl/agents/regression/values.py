"""Routers that predict what each model will score and cost, and call the one that is worth most by it.

There are two levels. A single-turn router reads the task alone and predicts the whole episode; a router per turn reads the
history and predicts the rest of it, as `MonteCarloQ` does, with plain regressions in place of the joint network. How
outcomes are predicted (ridge, trees, clusters, neighbors) is the same at both: each form has a file, with its two routers.

Utility and cost are predicted apart, so that a trained router serves any cost weight.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.parameters import CardAlgorithm, Discount
from mtrouter_rl.agents.regression.reward_fits import fit_projection, project
from mtrouter_rl.agents.regression.reward_models import Arrays
from mtrouter_rl.agents.regression.reward_router import OutcomeRouter, OutcomeSettings, as_tensors
from mtrouter_rl.agents.training import provenance, require_data
from mtrouter_rl.cards import RegularExpression
from mtrouter_rl.records import FloatArray, Frozen, Observation
from mtrouter_rl.transitions.arrays import make_transitions
from mtrouter_rl.transitions.outcomes import TASK_BLOCK, LearnsFrom, OutcomeLog, TaskLog, turn_log

Blocks = dict[str, slice]
"""Parts of a vector by name."""


class TaskParameters(Frozen):
    """What every single-turn algorithm has.

    Attributes:
        learns_from: "episodes" that one model played throughout, "turns", or "auto"; see `TaskLog.of_dataset`.
    """

    learns_from: LearnsFrom = "episodes"


class TurnParameters(Frozen):
    """What every algorithm per turn has.

    Attributes:
        gamma: Discount of the utility and cost that are regressed.
    """

    gamma: Discount = 1.0


TaskParametersT = TypeVar("TaskParametersT", bound=TaskParameters)
TurnParametersT = TypeVar("TurnParametersT", bound=TurnParameters)


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


class TurnValueRouter(OutcomeRouter[OutcomeSettings]):
    """Calls the allowed model with the highest predicted utility minus weighted cost of the rest of the episode."""

    KIND: ClassVar[str] = "turn_values"
    SETTINGS: ClassVar[type[Frozen]] = OutcomeSettings

    def vectors(self, observations: Sequence[Observation]) -> npt.NDArray[np.float64]:
        """History features, shape (B, D)."""
        return self.features.of_observations(observations).astype(np.float64)


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
        settings, arrays = self.fit(log, context, {TASK_BLOCK: slice(0, log.vectors.shape[1])})
        return TaskValueRouter(
            name=self.card.name,
            model_names=context.pool.model_names,
            features=features,
            settings=TaskValueSettings.model_validate(settings.model_dump()),
            weights=as_tensors(arrays),
            provenance=provenance(context, self.card, self.parameters),
        )

    @abstractmethod
    def fit(self, log: TaskLog, context: TrainingContext, blocks: Blocks) -> tuple[OutcomeSettings, Arrays]:
        """Learn to predict outcomes from tasks; `blocks` names the parts of a vector."""


class TurnValueAlgorithm(CardAlgorithm[TurnParametersT], ABC, Generic[TurnParametersT]):
    """Base of the regressions per turn: a subclass says how outcomes are predicted.

    The greedy router is one step of policy improvement over the logging policy, see `MonteCarloQ`.
    """

    needs_dataset: ClassVar[bool] = True
    needs_features: ClassVar[bool] = True

    @property
    def gamma(self) -> float:
        """See `CardAlgorithm.gamma`."""
        return self.parameters.gamma

    def train(self, context: TrainingContext) -> TurnValueRouter:
        """Train on every turn of the context's dataset.

        Raises:
            InvalidConfigError: If dataset or features are missing, or a model was never called.
            PoolMismatchError: If the dataset was logged with another pool.
        """
        dataset, features = require_data(context, self.card)
        transitions = make_transitions(
            dataset, features, reward=context.reward, gamma=self.gamma, show_progress=context.show_progress
        )
        log = turn_log(dataset, transitions, gamma=self.gamma)
        settings, arrays = self.fit(log, context, features.blocks)
        return TurnValueRouter(
            name=self.card.name,
            model_names=context.pool.model_names,
            features=features,
            settings=settings,
            weights=as_tensors(arrays),
            provenance=provenance(context, self.card, self.parameters),
        )

    @abstractmethod
    def fit(self, log: OutcomeLog, context: TrainingContext, blocks: Blocks) -> tuple[OutcomeSettings, Arrays]:
        """Learn to predict outcomes from histories; `blocks` names the parts of a vector."""


def projected(log: OutcomeLog, blocks: Blocks, *, n_components: int, seed: int) -> tuple[OutcomeLog, Arrays]:
    """The log with the text of its vectors projected to its principal components, and the arrays that do so again."""
    projection = fit_projection(log.vectors, blocks, n_components=n_components, seed=seed)
    return project(log, projection), projection.as_arrays()
