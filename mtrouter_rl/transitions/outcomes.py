"""A log as regressions read it: a vector, the model that was called, and the utility and cost that came of it.

Single-turn routers read one row per episode (or per episode and model), routers per turn one row per turn.
"""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import numpy.typing as npt

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.datasets.bandit_view import as_one_decision
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import FloatArray
from mtrouter_rl.transitions.arrays import Transitions, discounted_returns, make_transitions

if TYPE_CHECKING:
    from mtrouter_rl.datasets.store import Dataset
    from mtrouter_rl.embeddings.history import HistoryFeatures

_LOG = logging.getLogger(__name__)
LearnsFrom = Literal["episodes", "turns", "auto"]
TASK_BLOCK = "task"


@dataclass(frozen=True, kw_only=True)
class OutcomeLog:
    """N rows of a log.

    Attributes:
        vectors: What is known before the choice, shape (N, D).
        models: Index of the model that was called, shape (N,).
        outcomes: Utility and cost in USD that came of it, shape (N, 2).
        weights: How many observations a row stands for, above 0, shape (N,).
        n_models: M.
    """

    vectors: npt.NDArray[np.floating]
    models: npt.NDArray[np.int64]
    outcomes: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
    n_models: int

    def by_model(self) -> list[npt.NDArray[np.int64]]:
        """Rows of every model, in pool order."""
        return [np.flatnonzero(self.models == model) for model in range(self.n_models)]

    def means(self, chosen: npt.NDArray[np.bool_], *, prior: FloatArray, prior_weight: float) -> FloatArray:
        """Mean outcomes of every model over some rows, drawn towards a prior, shape (M, 2).

        Args:
            chosen: Which rows count, shape (N,).
            prior: Outcomes where nothing is known, shape (M, 2).
            prior_weight: How many observations the prior counts for, at least 0.
        """
        counts = np.bincount(self.models[chosen], weights=self.weights[chosen], minlength=self.n_models)[:, None]
        sums = np.zeros((self.n_models, 2))
        np.add.at(sums, self.models[chosen], self.weights[chosen, None] * self.outcomes[chosen])
        weights = counts + prior_weight
        known = weights[:, 0] > 0
        means = prior.copy()
        means[known] = ((sums + prior_weight * prior) / np.where(weights > 0, weights, 1))[known]
        return means

    def overall(self) -> FloatArray:
        """Mean outcomes of every model over all rows, shape (M, 2)."""
        everything = np.ones(len(self.models), dtype=np.bool_)
        return self.means(everything, prior=np.zeros((self.n_models, 2)), prior_weight=0.0)


@dataclass(frozen=True, kw_only=True)
class TaskLog(OutcomeLog):
    """Rows as single-turn routers learn from them; `vectors` are the encoded task texts.

    Attributes:
        texts: Task texts, length N.
    """

    texts: tuple[str, ...]

    @classmethod
    def of_dataset(
        cls, dataset: "Dataset", features: "HistoryFeatures", *, reward: RewardCard, learns_from: LearnsFrom
    ) -> Self:
        """Rows of a dataset.

        Args:
            dataset: The log.
            features: Encodes it.
            reward: Cost weight and unit.
            learns_from: "episodes": episodes that one model played throughout, the others are left out, which is logged.
                "turns": every turn, see `_of_turns`. "auto": see `resolve_learns_from`.

        Raises:
            InvalidConfigError: If a model of the pool has no row.
        """
        if resolve_learns_from(dataset, learns_from) == "turns":
            return cls._of_turns(dataset, features, reward=reward)
        return cls._of_episodes(dataset, features)

    @classmethod
    def _of_episodes(cls, dataset: "Dataset", features: "HistoryFeatures") -> Self:
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
                "--policy single:MODEL, leave the model out of the pool, or set the parameter learns_from to 'turns'"
            )
        block = features.blocks[TASK_BLOCK]
        vectors = [features.of_episode(episode)[0, block] for episode in collapsed.episodes]
        return cls(
            texts=tuple(episode.task_text for episode in collapsed.episodes),
            vectors=np.array(vectors, dtype=np.float64),
            models=models,
            outcomes=np.array([(episode.utility, episode.cost_usd) for episode in collapsed.episodes]),
            weights=np.ones(len(models)),
            n_models=len(names),
        )

    @classmethod
    def _of_turns(cls, dataset: "Dataset", features: "HistoryFeatures", *, reward: RewardCard) -> Self:
        """One row per episode and model that it called: the mean outcome-to-go of those turns.

        No episode of a log that changes the model says what one model does with the whole task. What it says is what
        one call of a model is worth, the logging policy going on afterwards. The outcome of turn t is G_t - b_t + b_0, with
        G_t the utility and cost still to come and b_t its mean over the turns t of the log: b is a baseline that takes
        out how far the episode has got, and b_0 puts the level back to whole episodes. Differences between models are
        those of one call, utility and cost alike, which to first order is all that decides between them.

        Source: the performance difference lemma, Kakade and Langford, Approximately Optimal Approximate Reinforcement
        Learning (2002), lemma 6.1, with the state distribution of the logging policy in place of the new one.
        """
        transitions = make_transitions(dataset, features, reward=reward, gamma=1.0)
        to_go = outcomes_to_go(transitions, gamma=1.0)
        counts = np.bincount(transitions.turns)
        means = [np.bincount(transitions.turns, weights=column) / counts for column in to_go.T]
        baseline = np.stack(means, axis=1)
        outcomes = to_go - baseline[transitions.turns] + baseline[0]
        pairs = transitions.episodes * transitions.n_models + transitions.actions
        kept, rows = np.unique(pairs, return_inverse=True)
        weights = np.bincount(rows).astype(np.float64)
        sums = np.stack([np.bincount(rows, weights=column) for column in outcomes.T], axis=1)
        episodes, models = np.divmod(kept, transitions.n_models)
        _check_every_model(models, dataset)
        texts = [episode.task_text for episode in dataset.completed if episode.turns]
        block = features.blocks[TASK_BLOCK]
        return cls(
            texts=tuple(texts[episode] for episode in episodes),
            vectors=transitions.observations[transitions.start_rows[episodes], block].astype(np.float64),
            models=models,
            outcomes=sums / weights[:, None],
            weights=weights,
            n_models=transitions.n_models,
        )


def resolve_learns_from(dataset: "Dataset", learns_from: LearnsFrom) -> Literal["episodes", "turns"]:
    """What "auto" means for a log.

    "episodes" if more than half of the completed episodes that are longer than a turn have one model throughout, or none is
    longer; else "turns". An episode of one turn has one model under any policy, so it tells nothing.
    """
    if learns_from != "auto":
        return learns_from
    longer = [episode for episode in dataset.completed if len(episode.turns) > 1]
    n_single = sum(len(set(episode.models)) == 1 for episode in longer)
    chosen: Literal["episodes", "turns"] = "episodes" if 2 * n_single > len(longer) or not longer else "turns"
    _LOG.info("learns_from is auto: %s, as %d of %d longer episodes have one model", chosen, n_single, len(longer))
    return chosen


def turn_log(dataset: "Dataset", transitions: Transitions, *, gamma: float) -> OutcomeLog:
    """One row per turn: the history before it, the model, and the discounted utility and cost from it to the end.

    Raises:
        InvalidConfigError: If a model of the pool has no turn.
    """
    _check_every_model(transitions.actions, dataset)
    return OutcomeLog(
        vectors=transitions.observations[transitions.rows, : -transitions.n_models],
        models=transitions.actions,
        outcomes=outcomes_to_go(transitions, gamma=gamma),
        weights=np.ones(len(transitions)),
        n_models=transitions.n_models,
    )


def outcomes_to_go(transitions: Transitions, *, gamma: float) -> npt.NDArray[np.float64]:
    """Discounted utility and cost in USD from every turn to the end of its episode, shape (N, 2)."""
    starts = np.flatnonzero(transitions.turns == 0)[1:]
    columns = [
        np.concatenate([discounted_returns(part, gamma) for part in np.split(gains, starts)])
        for gains in (transitions.utility_gains, transitions.costs_usd)
    ]
    return np.stack(columns, axis=1).astype(np.float64)


def _check_every_model(models: npt.NDArray[np.int64], dataset: "Dataset") -> None:
    missing = [name for index, name in enumerate(dataset.info.model_names) if index not in models]
    if missing:
        raise InvalidConfigError(
            f"dataset '{dataset.info.dataset_id}' has no completed turn of {', '.join(missing)}; one regression a model "
            "needs some of every model: log them, or leave the model out of the pool"
        )
