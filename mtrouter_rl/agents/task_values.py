"""Single-turn routers: choose once, from the task alone, by what each model is expected to score and to cost.

Four ways to predict that share everything else: a table per kind of task, ridge regression, nearest neighbors and
clusters. Utility and cost are predicted apart, so that a trained router serves any cost weight.
"""

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from mtrouter_rl.agents import distributions
from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.learned_router import LearnedRouter
from mtrouter_rl.agents.networks import StateDict
from mtrouter_rl.agents.parameters import CardAlgorithm
from mtrouter_rl.agents.saving import SavedRouter
from mtrouter_rl.agents.training import provenance, require_data
from mtrouter_rl.cards import RegularExpression, RewardCard
from mtrouter_rl.datasets.one_decision import as_one_decision
from mtrouter_rl.errors import InvalidConfigError, RouterError
from mtrouter_rl.pools.card import Frozen
from mtrouter_rl.records import FloatArray, Observation

if TYPE_CHECKING:
    from mtrouter_rl.datasets.store import Dataset
    from mtrouter_rl.embeddings.history import HistoryFeatures

_LOG = logging.getLogger(__name__)
ParametersT = TypeVar("ParametersT", bound=Frozen)
Form = Literal["table", "linear", "neighbors"]
Arrays = dict[str, npt.NDArray[np.float64]]
TASK_BLOCK = "task"


class TaskValueSettings(Frozen):
    """What a `TaskValueRouter` is made of, arrays apart.

    Attributes:
        form: How values come from arrays: "table" by key (`utility`, `cost`: shape (K+1, M), the last row for unknown
            keys), or by nearest centroid if there are `centroids`, shape (K, E); "linear" in the task's vector
            (`utility`, `cost`: shape (E+1, M), the last row the intercept); "neighbors": mean over the nearest episodes of
            each model (`vectors` (N, E), `model`, `utility`, `cost` (N,)).
        reward: Weighs cost against utility.
        key_pattern: Regular expression whose first group (or whole match) in the task text is the key of a table.
        keys: Keys of the table, in the order of its rows.
        n_neighbors: How many neighbors of each model are averaged.
    """

    form: Form
    reward: RewardCard
    key_pattern: RegularExpression = ""
    keys: tuple[str, ...] = ()
    n_neighbors: int = 0


@dataclass(frozen=True, kw_only=True)
class TaskLog:
    """Episodes of one model each, as single-turn routers learn from them.

    Attributes:
        texts: Task texts, length N.
        vectors: Encoded task texts, shape (N, E).
        models: Index of the model that played, shape (N,).
        outcomes: Utility and cost in USD of the episode, shape (N, 2).
        n_models: M.
    """

    texts: tuple[str, ...]
    vectors: npt.NDArray[np.float64]
    models: npt.NDArray[np.int64]
    outcomes: npt.NDArray[np.float64]
    n_models: int

    @classmethod
    def of(cls, dataset: "Dataset", features: "HistoryFeatures") -> Self:
        """Episodes of a dataset that one model played throughout; the others are left out, which is logged.

        Raises:
            InvalidConfigError: If a model of the pool has no such episode.
        """
        collapsed, report = as_one_decision(dataset)
        if report.n_left_out:
            _LOG.warning("single-turn routers learn from episodes of one model: %s", report)
        names = dataset.info.model_names
        models = np.array([names.index(episode.turns[0].model) for episode in collapsed.episodes], dtype=np.int64)
        missing = [name for index, name in enumerate(names) if index not in models]
        if missing:
            raise InvalidConfigError(
                f"dataset '{dataset.info.dataset_id}' has no completed episode that was played throughout by "
                f"{', '.join(missing)}; single-turn routers need some of every model: collect them with "
                "--policy single:MODEL, or leave the model out of the pool"
            )
        block = features.blocks[TASK_BLOCK]
        vectors = [features.of_episode(episode)[0, block] for episode in collapsed.episodes]
        return cls(
            texts=tuple(episode.task_text for episode in collapsed.episodes),
            vectors=np.array(vectors, dtype=np.float64),
            models=models,
            outcomes=np.array([(episode.utility, episode.cost_usd) for episode in collapsed.episodes]),
            n_models=len(names),
        )

    def means(self, chosen: npt.NDArray[np.bool_], *, prior: FloatArray, prior_weight: float) -> FloatArray:
        """Mean outcomes of every model over some episodes, drawn towards a prior, shape (M, 2).

        Args:
            chosen: Which episodes count, shape (N,).
            prior: Outcomes where nothing is known, shape (M, 2).
            prior_weight: How many episodes the prior counts for, at least 0.
        """
        counts = np.bincount(self.models[chosen], minlength=self.n_models)[:, None]
        sums = np.zeros((self.n_models, 2))
        np.add.at(sums, self.models[chosen], self.outcomes[chosen])
        weights = counts + prior_weight
        known = weights[:, 0] > 0
        means = prior.copy()
        means[known] = ((sums + prior_weight * prior) / np.where(weights > 0, weights, 1))[known]
        return means

    def overall(self) -> FloatArray:
        """Mean outcomes of every model over all episodes, shape (M, 2)."""
        everything = np.ones(len(self.models), dtype=np.bool_)
        return self.means(everything, prior=np.zeros((self.n_models, 2)), prior_weight=0.0)


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


class TaskValueRouter(LearnedRouter[TaskValueSettings]):
    """Calls the allowed model with the highest predicted utility minus weighted cost of the whole episode.

    The prediction reads the task text alone, so the choice stays the same over an episode unless a model is masked.
    """

    KIND: ClassVar[str] = "task_values"
    SETTINGS: ClassVar[type[Frozen]] = TaskValueSettings

    @cached_property
    def arrays(self) -> Arrays:
        """The weights as arrays."""
        return {name: tensor.numpy() for name, tensor in self.weights.items()}

    def outcomes(self, observations: Sequence[Observation]) -> FloatArray:
        """Predicted utility and cost in USD of an episode with each model, shape (B, M, 2)."""
        vectors = self.features.of_observations(observations)[:, self.features.blocks[TASK_BLOCK]].astype(np.float64)
        if self.settings.form == "linear":
            padded = np.concatenate([vectors, np.ones((len(vectors), 1))], axis=1)
            return np.stack([padded @ self.arrays["utility"], padded @ self.arrays["cost"]], axis=-1)
        if self.settings.form == "neighbors":
            return self._of_neighbors(vectors)
        rows = self._rows([observation["task"] for observation in observations], vectors)
        return np.stack([self.arrays["utility"][rows], self.arrays["cost"][rows]], axis=-1)

    def q_values(self, observations: Sequence[Observation]) -> FloatArray:
        """Predicted return of an episode with each model, shape (B, M). Masks are not looked at."""
        outcomes = self.outcomes(observations)
        values: FloatArray = self.settings.reward.reward(outcomes[..., 0], outcomes[..., 1])
        return values

    def propensities(self, observations: Sequence[Observation]) -> FloatArray:
        """Probability 1 for one model a row, shape (B, M). Raises as `distributions.action_masks`."""
        masks = distributions.action_masks(observations, len(self.model_names))
        return distributions.greedy(self.q_values(observations), masks)

    def with_cost_weight(self, cost_weight: float, *, name: str) -> "TaskValueRouter":
        """The same predictions under another cost weight."""
        reward = self.settings.reward.model_copy(update={"cost_weight": cost_weight})
        return TaskValueRouter(
            name=name,
            model_names=self.model_names,
            features=self.features,
            settings=self.settings.model_copy(update={"reward": reward}),
            weights=self.weights,
            provenance=self.provenance,
        )

    @classmethod
    def check_weights(cls, saved: SavedRouter, settings: TaskValueSettings, weights: StateDict) -> None:
        """See `LearnedRouter.check_weights`."""
        needed = {"utility", "cost"} | ({"vectors", "model"} if settings.form == "neighbors" else set())
        if not needed <= set(weights):
            raise RouterError(
                f"router {saved.folder}: the weights lack {', '.join(sorted(needed - set(weights)))}; both files must come "
                "from one training"
            )

    def _rows(self, texts: Sequence[str], vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        if "centroids" in self.arrays:
            distances = _squared_distances(vectors, self.arrays["centroids"])
            nearest: npt.NDArray[np.int64] = distances.argmin(axis=1)
            return nearest
        rows = {key: row for row, key in enumerate(self.settings.keys)}
        unknown = len(self.settings.keys)
        return np.array([rows.get(key_of(self.settings.key_pattern, text), unknown) for text in texts], dtype=np.int64)

    def _of_neighbors(self, vectors: npt.NDArray[np.float64]) -> FloatArray:
        outcomes = np.zeros((len(vectors), len(self.model_names), 2))
        for model in range(len(self.model_names)):
            members = np.flatnonzero(self.arrays["model"] == model)
            distances = _squared_distances(vectors, self.arrays["vectors"][members])
            k = min(self.settings.n_neighbors, len(members))
            nearest = members[np.argsort(distances, axis=1, kind="stable")[:, :k]]
            outcomes[:, model, 0] = self.arrays["utility"][nearest].mean(axis=1)
            outcomes[:, model, 1] = self.arrays["cost"][nearest].mean(axis=1)
        return outcomes


def _squared_distances(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Squared Euclidean distance of every pair of rows, shape (B, N); rounded, so that equal texts are equally near."""
    products = left @ right.T
    distances: npt.NDArray[np.float64] = (left**2).sum(axis=1)[:, None] - 2 * products + (right**2).sum(axis=1)[None, :]
    return distances.round(9)


class TaskValueAlgorithm(CardAlgorithm[ParametersT], ABC, Generic[ParametersT]):
    """Base of the single-turn algorithms: a subclass says how outcomes are predicted."""

    needs_dataset: ClassVar[bool] = True
    needs_features: ClassVar[bool] = True

    def train(self, context: TrainingContext) -> TaskValueRouter:
        """Train on the episodes of the context's dataset that one model played throughout.

        Raises:
            InvalidConfigError: If dataset or features are missing, or a model has no such episode.
            PoolMismatchError: If the dataset was logged with another pool.
        """
        dataset, features = require_data(context, self.card)
        log = TaskLog.of(dataset, features)
        settings, arrays = self.fit(log, context)
        return TaskValueRouter(
            name=self.card.name,
            model_names=context.pool.model_names,
            features=features,
            settings=settings,
            weights={name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()},
            provenance=provenance(context, self.card, self.parameters),
        )

    @abstractmethod
    def fit(self, log: TaskLog, context: TrainingContext) -> tuple[TaskValueSettings, Arrays]:
        """Learn to predict outcomes from tasks."""
