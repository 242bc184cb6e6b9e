"""Closed-loop validation while a router is being trained: the same few episodes every time, in this process."""

import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import numpy as np

from mtrouter_rl.cards.splits import sample_specs
from mtrouter_rl.datasets.logged import LOG_ONLY
from mtrouter_rl.envs.factory import EnvConfig, build_env
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.evaluation.metrics import EpisodeMetrics, episode_metrics
from mtrouter_rl.metric_names import (
    VALIDATION_COST_USD_MEAN,
    VALIDATION_N_FAILED,
    VALIDATION_RETURN_MEAN,
    VALIDATION_SCORE_MEAN,
)
from mtrouter_rl.protocols import Router
from mtrouter_rl.records import Episode
from mtrouter_rl.rollout import run_episode

_LOG = logging.getLogger(__name__)

SPECS_SEED = 0
"""Seed of the draw of episodes: trainings of any seed are looked at on the same ones, so that curves can be compared."""

_MEANS = {
    VALIDATION_SCORE_MEAN: "score",
    VALIDATION_COST_USD_MEAN: "cost_usd",
    VALIDATION_RETURN_MEAN: "return_",
}


class ValidationRun:
    """Runs a router on fixed episodes of the validation split; use it in a `with` statement, which closes the simulator.

    It runs in the process of the training, on the training's own features, so that no text is encoded twice and no
    router is sent anywhere.
    """

    def __init__(self, config: EnvConfig, *, n_episodes: int) -> None:
        """Choose the episodes; no simulator is started before the first run.

        Raises:
            InvalidConfigError: If the environment cannot be run, has no validation split, or `n_episodes` is below 1.
        """
        if config.card.family == LOG_ONLY:
            raise InvalidConfigError(
                f"environment '{config.card.name}' is an imported log, there is nothing that could be run: leave out "
                "--evaluate-every and estimate the trained router with 'mtrouter-rl ope', or give the environment with --env"
            )
        if n_episodes < 1:
            raise InvalidConfigError(f"--evaluate-episodes is {n_episodes}, must be at least 1")
        self._specs = sample_specs(config.card, "validation", n_episodes=n_episodes, seed=SPECS_SEED)
        self._reward = config.reward
        self._env = build_env(config, split="validation")

    def __call__(self, router: Router) -> Mapping[str, float]:
        """Run a router on all episodes.

        Returns:
            Metric name -> value. Means are over completed episodes; how many broke for outside reasons is one of them.

        Raises:
            InvalidConfigError: If no episode was completed.
        """
        episodes = [run_episode(self._env, router, spec).episode for spec in self._specs]
        completed = [episode_metrics(one, self._reward) for one in episodes if one.status == "completed"]
        failed = [one for one in episodes if one.status == "failed"]
        if failed:
            self._report(failed, is_all=not completed)
        means = {name: _mean(completed, field) for name, field in _MEANS.items()}
        return means | {VALIDATION_N_FAILED: float(len(failed))}

    def _report(self, failed: list[Episode], *, is_all: bool) -> None:
        first = f"'{failed[0].episode_id}': {failed[0].status_detail}"
        if is_all:
            raise InvalidConfigError(
                f"closed-loop validation completed none of its {len(failed)} episodes (first, {first}); mend the "
                "environment, or go on without --evaluate-every: the checkpoint is kept"
            )
        _LOG.warning(
            "closed-loop validation: %d of %d episodes failed (first, %s)", len(failed), len(self._specs), first
        )

    def close(self) -> None:
        """Close the simulator. May be called twice."""
        self._env.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _mean(episodes: list[EpisodeMetrics], field: str) -> float:
    return float(np.mean([getattr(one, field) for one in episodes]))
