"""The table of a one-turn suite: what every model scored on every query and what that cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.records import Episode, FloatArray, IntArray
from mtrouter_rl.statistics.hull import CostScore

SOLVED_SCORE = 1.0
"""A query is solved by a model whose score is at least this."""
SCORE_TOLERANCE = 1e-12
"""Scores that differ by less are alike: means of the same numbers in another order differ by rounding."""

QueryKey = tuple[str, int]
"""(task, variation)."""


@dataclass(frozen=True, kw_only=True)
class OneTurnTable:
    """Scores and costs of every model on every query.

    Attributes:
        models: Names in action order, length M.
        queries: (task, variation) of every query, length N, in the order of the dataset.
        scores: Scores, shape (N, M).
        costs_usd: Costs of the calls, USD, shape (N, M).
        examples: One episode of every query, whose start is what a router sees; length N.
    """

    models: tuple[str, ...]
    queries: tuple[QueryKey, ...]
    scores: FloatArray
    costs_usd: FloatArray
    examples: tuple[Episode, ...]

    @classmethod
    def of(cls, dataset: Dataset) -> "OneTurnTable":
        """Table of a dataset in which every model has answered every query exactly once.

        Args:
            dataset: Its completed episodes, each of one turn.

        Raises:
            DatasetError: If there is no query, an episode has another number of turns than one, another model answered
                than was chosen, a model answered a query twice, answers to one query show different starts, or an
                answer is missing; names the first.
        """
        answers: dict[QueryKey, dict[str, Episode]] = {}
        for episode in dataset.completed:
            _add_answer(answers, episode)
        if not answers:
            raise DatasetError(f"dataset '{dataset.info.dataset_id}' has no completed episode, so there is no query")
        models = dataset.info.model_names
        _check_complete(answers, models, dataset.info.dataset_id)
        rows = [[found[model] for model in models] for found in answers.values()]
        return cls(
            models=models,
            queries=tuple(answers),
            scores=np.array([[episode.utility for episode in row] for row in rows], dtype=np.float64),
            costs_usd=np.array([[episode.cost_usd for episode in row] for row in rows], dtype=np.float64),
            examples=tuple(row[0] for row in rows),
        )

    @property
    def n_queries(self) -> int:
        """N."""
        return len(self.queries)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task of every query, length N."""
        return tuple(task for task, _ in self.queries)

    @property
    def best_single(self) -> int:
        """Model of the highest mean score; of several the one of the lowest mean cost, then the first."""
        return best_model(self.scores.mean(axis=0), self.costs_usd.mean(axis=0))

    @property
    def single_points(self) -> tuple[CostScore, ...]:
        """(mean cost, mean score) of every single model, length M."""
        costs, scores = self.costs_usd.mean(axis=0).tolist(), self.scores.mean(axis=0).tolist()
        return tuple(zip(costs, scores, strict=True))


def _add_answer(answers: dict[QueryKey, dict[str, Episode]], episode: Episode) -> None:
    where = f"episode '{episode.episode_id}'"
    if len(episode.turns) != 1:
        raise DatasetError(
            f"{where} has {len(episode.turns)} turns, must have 1; one-turn metrics are for query x model tables only"
        )
    turn = episode.turns[0]
    if turn.model != turn.served_model:
        raise DatasetError(
            f"{where}: model is '{turn.model}', but '{turn.served_model}' answered; leave the episode out, its outcome is "
            "not the chosen model's"
        )
    found = answers.setdefault((episode.task, episode.variation), {})
    if turn.model in found:
        raise DatasetError(
            f"{where}: model '{turn.model}' has answered task '{episode.task}', variation {episode.variation} before, in "
            f"episode '{found[turn.model].episode_id}'; keep one answer per query and model"
        )
    first = next(iter(found.values()), episode)
    if (first.task_text, first.first_observation) != (episode.task_text, episode.first_observation):
        raise DatasetError(
            f"{where}: its text differs from that of episode '{first.episode_id}', but both are task '{episode.task}', "
            f"variation {episode.variation}; give every query a variation of its own"
        )
    found[turn.model] = episode


def _check_complete(answers: Mapping[QueryKey, Mapping[str, Episode]], models: Sequence[str], dataset_id: str) -> None:
    missing = [(key, model) for key, found in answers.items() for model in models if model not in found]
    if missing:
        (task, variation), model = missing[0]
        raise DatasetError(
            f"dataset '{dataset_id}': task '{task}', variation {variation} has no answer of model '{model}' (first of "
            f"{len(missing)} missing pairs out of {len(answers) * len(models)}); every model of info.json must have "
            "answered every query: import with a pool card of fewer models, or filter the queries that lack one"
        )


def best_model(scores: FloatArray, costs_usd: FloatArray) -> int:
    """Model of the highest score, of several the one of the lowest cost, then the first; both have shape (M,)."""
    return int(best_of_rows(scores[None, :], costs_usd[None, :])[0])


def best_of_rows(scores: FloatArray, costs_usd: FloatArray) -> IntArray:
    """Per row the column of the highest score, of several the one of the lowest cost, then the first; shape (rows,)."""
    is_top = scores >= scores.max(axis=1, keepdims=True) - SCORE_TOLERANCE
    return np.asarray(np.where(is_top, costs_usd, np.inf).argmin(axis=1), dtype=np.int64)
