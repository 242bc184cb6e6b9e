"""A cascade with a calibrated threshold: stay with a model while it promises success, else climb to the next one."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mtrouter_rl.agents import distributions
from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.q.learned_router import LearnedRouter
from mtrouter_rl.agents.q.networks import StateDict
from mtrouter_rl.agents.regression.conformal import conformal_threshold
from mtrouter_rl.agents.regression.reward_router import as_tensors
from mtrouter_rl.agents.rules.cheap_strong_pair import LadderParameters, RungAlgorithm
from mtrouter_rl.agents.rules.ladder import LadderSettings, check_ladder, others_of, rung_preferences
from mtrouter_rl.agents.saving import SavedRouter
from mtrouter_rl.agents.training import provenance, require_data
from mtrouter_rl.errors import InvalidConfigError, RouterError
from mtrouter_rl.records import BoolArray, FloatArray, Frozen, Observation, Positive
from mtrouter_rl.transitions.arrays import Transitions, make_transitions
from mtrouter_rl.transitions.outcomes import LearnsFrom, resolve_learns_from

if TYPE_CHECKING:
    from mtrouter_rl.datasets.store import Dataset

Share = Annotated[float, Field(gt=0, lt=1)]


class CascadeParameters(LadderParameters):
    """Parameters of `Cascade`.

    Attributes:
        alpha: Share of failing episodes that may go without escalation.
        success_utility: An episode of at least this utility is a success.
        calibration_share: Share of the log's (task, variation) pairs that the threshold is calibrated on; the score learns
            from the others.
        penalty: Weight of the squared coefficients of the score.
        learns_from: "episodes" that the model of a rung played throughout; "turns": all episodes, whoever played them; or
            "auto", see `outcome_log.resolve_learns_from`.
    """

    alpha: Share = 0.1
    success_utility: float = 1.0
    calibration_share: Share = 0.5
    penalty: Positive = 10.0
    learns_from: LearnsFrom = "episodes"


class CascadeSettings(LadderSettings):
    """What a `CascadeRouter` is made of, the score's coefficients apart.

    Attributes:
        thresholds: Score at or below which each rung but the last is left.
        n_calibration: Failed episodes that each threshold was calibrated on.
        calibrated_on: What those were: "episodes" of the rung's model, or "turns": episodes of the log, whoever played.
    """

    thresholds: tuple[float, ...]
    n_calibration: tuple[int, ...]
    calibrated_on: Literal["episodes", "turns"]


class CascadeRouter(LearnedRouter[CascadeSettings]):
    """Stays on a rung while its score is above the threshold, and never climbs down.

    The rung is the highest whose model has been called; before each turn it may be left for the next one.
    """

    KIND: ClassVar[str] = "cascade"
    SETTINGS: ClassVar[type[Frozen]] = CascadeSettings

    def scores(self, observations: Sequence[Observation]) -> FloatArray:
        """Predicted chance of success if each rung but the last is stayed on, shape (B, rungs - 1)."""
        return score(self.features.of_observations(observations), self.weights["coefficients"].numpy())

    def rungs(self, observations: Sequence[Observation]) -> npt.NDArray[np.int64]:
        """Rung for each of B observations, masks not looked at, shape (B,)."""
        ladder = self.settings.roles.rungs
        rung_of = {self.model_names.index(model): rung for rung, model in enumerate(ladder)}
        called = [{turn["model"] for turn in observation["history"]} for observation in observations]
        rungs = np.array([max((rung_of.get(model, 0) for model in models), default=0) for models in called])
        is_below_top = rungs < len(ladder) - 1
        at = np.flatnonzero(is_below_top)
        scores = self.scores(observations)[at, rungs[at]]
        rungs[at] += scores <= np.array(self.settings.thresholds)[rungs[at]]
        return rungs.astype(np.int64)

    def action_probabilities(self, observations: Sequence[Observation]) -> FloatArray:
        """Probability 1 for one model a row, shape (B, M). Raises as `distributions.action_masks`."""
        masks = distributions.action_masks(observations, len(self.model_names))
        return distributions.greedy(self._preferences[self.rungs(observations)], masks)

    @cached_property
    def _preferences(self) -> FloatArray:
        return rung_preferences(self.settings, self.model_names)

    @classmethod
    def check_weights(cls, saved: SavedRouter, settings: CascadeSettings, weights: StateDict) -> None:
        """See `LearnedRouter.check_weights`."""
        check_ladder(saved, settings)
        n_scores = len(settings.roles.rungs) - 1
        coefficients = weights.get("coefficients")
        if coefficients is None or len(coefficients) != n_scores or len(settings.thresholds) != n_scores:
            raise RouterError(
                f"router {saved.folder}: the weights and thresholds are not those of {n_scores} scores; both files must "
                "come from one training"
            )


class Cascade(RungAlgorithm[CascadeParameters]):
    """Learns to tell early that a model will fail, and calibrates how early to give it up.

    A ridge regression predicts, before every turn, whether the episode will succeed if its model stays. The threshold is
    the split-conformal quantile of the lowest score of held-out episodes that failed.

    What is guaranteed, with `learns_from: episodes`, for the first rung: of episodes that the first model, left alone, would
    have failed, a share of at least 1 - alpha is escalated before the end, on average over the draw of calibration and new
    episodes. It assumes that the failed calibration episodes and the new one are exchangeable, as draws from the same tasks
    are; it holds however bad the score is (a bad one escalates the successes too). Up to the escalation the episode is
    what it would have been with the first model alone, so nothing is said of what comes after. Not covered: later rungs
    (their episodes begin with failures of the one before, unlike those that calibrate them), held-out kinds of task, and
    `learns_from: turns`, where calibration episodes were played as the log was, by changing models.

    Source: Chen et al., FrugalGPT (2023), for cascades by a learned score; Vovk, Conditional Validity of Inductive Conformal
    Predictors (2012), for quantiles within one class, here that of failures. Deviation: the score of an episode is the
    lowest of its turns, since the router looks before every one.
    """

    parameters_model: ClassVar[type[Frozen]] = CascadeParameters
    needs_dataset: ClassVar[bool] = True
    needs_features: ClassVar[bool] = True

    def train(self, context: TrainingContext) -> CascadeRouter:
        """Train and calibrate on the context's dataset.

        Raises:
            UnknownNameError: If the pool has no model of a name in `ladder`.
            InvalidConfigError: If dataset, features or a needed validation are missing, or a rung has too few episodes.
            PoolMismatchError: If the dataset was logged with another pool.
        """
        dataset, features = require_data(context, self.card)
        roles = self.roles(context)
        transitions = make_transitions(
            dataset, features, reward=context.reward, gamma=1.0, show_progress=context.show_progress
        )
        learns_from = resolve_learns_from(dataset, self.parameters.learns_from)
        rungs = [
            self._rung(model, dataset, transitions, learns_from=learns_from, seed=context.seed)
            for model in roles.rungs[:-1]
        ]
        settings = CascadeSettings(
            roles=roles,
            others=others_of(roles, context.pool),
            thresholds=tuple(threshold for _, threshold, _ in rungs),
            n_calibration=tuple(n_failed for _, _, n_failed in rungs),
            calibrated_on=learns_from,
        )
        coefficients = np.array([row for row, _, _ in rungs]).reshape(len(rungs), features.dim + 1)
        return CascadeRouter(
            name=self.card.name,
            model_names=context.pool.model_names,
            features=features,
            settings=settings,
            weights=as_tensors({"coefficients": coefficients}),
            provenance=provenance(context, self.card, self.parameters),
        )

    def _rung(
        self,
        model: str,
        dataset: "Dataset",
        transitions: Transitions,
        *,
        learns_from: Literal["episodes", "turns"],
        seed: int,
    ) -> tuple[FloatArray, float, int]:
        """Coefficients of a rung's score, its threshold, and how many failed episodes that was calibrated on."""
        episodes = [episode for episode in dataset.completed if episode.turns]
        chosen = np.array([learns_from == "turns" or set(episode.models) == {model} for episode in episodes])
        has_succeeded = np.array([episode.utility >= self.parameters.success_utility - 1e-9 for episode in episodes])
        is_calibration = self._is_calibration([(episode.task, episode.variation) for episode in episodes], seed)
        learned = transitions.of_episodes(chosen & ~is_calibration)
        is_own = learned.actions == dataset.info.model_names.index(model)
        where = f"agent '{self.card.name}', dataset '{dataset.info.dataset_id}', model '{model}'"
        if not is_own.any():
            raise InvalidConfigError(
                f"{where}: nothing to learn a score from, must have played some {learns_from}; log some with --policy "
                f"single:{model}, or set the parameter learns_from to 'turns', which guarantees nothing"
            )
        n_columns = transitions.observations.shape[1] - transitions.n_models
        coefficients = self._fit(
            transitions.observations[learned.rows[is_own], :n_columns], has_succeeded[learned.episodes[is_own]]
        )
        failed = transitions.of_episodes(chosen & is_calibration & ~has_succeeded)
        scores = score(transitions.observations[failed.rows, :n_columns], coefficients[None])[:, 0]
        lowest = np.array([part.min() for part in np.split(scores, np.flatnonzero(failed.turns == 0)[1:]) if part.size])
        what = f"{where}, failed episodes held out for calibration"
        return coefficients, conformal_threshold(lowest, alpha=self.parameters.alpha, what=what), len(lowest)

    def _is_calibration(self, units: Sequence[tuple[str, int]], seed: int) -> BoolArray:
        """Which episodes are held out: all of a share of the (task, variation) pairs, so that the score has seen none."""
        different = sorted(set(units))
        n_held_out = round(self.parameters.calibration_share * len(different))
        order = np.random.default_rng(seed).permutation(len(different))
        held_out = {different[index] for index in order[:n_held_out]}
        return np.array([unit in held_out for unit in units], dtype=np.bool_)

    def _fit(self, vectors: npt.NDArray[np.float32], has_succeeded: BoolArray) -> FloatArray:
        """Ridge regression of success, shape (D+1,), the intercept last."""
        from sklearn.linear_model import Ridge

        fitted = Ridge(alpha=self.parameters.penalty).fit(vectors.astype(np.float64), has_succeeded.astype(np.float64))
        return np.append(fitted.coef_, fitted.intercept_)


def score(vectors: npt.NDArray[np.float32], coefficients: FloatArray) -> FloatArray:
    """Scores of vectors (B, D) by coefficients (R, D+1), shape (B, R); rounded, so that equal histories score equally."""
    scores: FloatArray = vectors.astype(np.float64) @ coefficients[:, :-1].T + coefficients[:, -1]
    return scores.round(9)
