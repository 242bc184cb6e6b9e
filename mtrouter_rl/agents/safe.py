"""A router that follows a learned policy only where the log shows it to be better than the best single model.

Where the log shows that the learned policy as a whole loses no more than `MARGIN` against the best single model, at 95%, and
does better as far as it is known, it is followed at every turn (`is_whole`). Else every turn is judged by itself; and where the
log shows that to be worse than the best single model, that model is called throughout (`is_held`):

A learned Q-function is most wrong where it has seen least, and a greedy router goes where it is overrated. So the training
is repeated without each of K folds of the log. How much the repeats differ says how far an advantage is to be trusted: with
A_k the advantage that the k-th repeat sees, the delete-a-group jackknife gives the variance (K - 1) / K sum_k (A_k - mean A)^2.
With few repeats that number is itself a matter of luck, so it is averaged with its mean over the states of the log (a moderated
variance, as of a prior that counts as much as the repeats).

The learned policy is followed where its advantage over the best single model is above `caution` such errors. If an estimate is
normal with error s and a model is worse by d, following it loses d P(N > caution + d / s) on average: at most 0.170 s a turn
without caution, 0.033 s with caution 1, and 0.0033 s with 2, whatever d is. With errors of .05 in return that is .01 in an
episode of sixty turns, which is why 2 is the default. What this does not hold: errors that all repeats share, such as of
a network that cannot see what decides, and that the advantage is of going on as the learner assumes, not with the single model.

Source: Piaggio et al., Reporting of Noninferiority and Equivalence Randomized Trials (2012): a margin in place of 0; Shao and
Wu, A General Theory for Jackknife Variance Estimation (1989): leaving out groups; Smyth, Linear Models and Empirical Bayes
Methods (2004): moderated variances; Laroche, Trichelair and Tachet des Combes, Safe Policy Improvement with Baseline
Bootstrapping (2019): the baseline acts where the data do not speak. Errors from repeats in place of counts are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

import numpy as np
from pydantic import Field

from mtrouter_rl.agents import distributions
from mtrouter_rl.agents.loading import load_router, save_router
from mtrouter_rl.agents.saving import (
    RECORD_FILE,
    WEIGHTS_FILE,
    MakeFeatures,
    Provenance,
    RouterRecord,
    SavedRouter,
    digest,
    write_router,
)
from mtrouter_rl.errors import RouterError, unknown_name
from mtrouter_rl.protocols import Router, ValueRouter
from mtrouter_rl.records import BoolArray, FloatArray, Frozen, IntArray, JsonValue, NonNegative, Observation

if TYPE_CHECKING:
    from mtrouter_rl.embeddings.history import HistoryFeatures

LEARNED_FOLDER = "learned"
FOLDS_FOLDER = "folds"
MARGIN = 0.01
"""Return that following a policy as a whole may cost at the low end of its interval: one point of a hundred."""
CAUTION = 2.0
"""Default of `SafeSettings.caution`; see the module for what it bounds."""


class SafeSettings(Frozen):
    """What a `SafeRouter` is made of, the routers apart.

    Attributes:
        baseline: The single model that is called where the policy is not followed.
        caution: Errors that an advantage has to be above; 0 follows the policy wherever it sees any advantage.
        typical_error: Root mean square error of the advantage over the states of the log.
        is_whole: Whether the policy is followed throughout, since the log says that as a whole it does no worse.
        is_held: Whether the baseline is called throughout, since the log says that following is worse.
        members: Digests of the files of the learned router and of its repeats, so that none is taken for another.
    """

    baseline: str
    caution: Annotated[NonNegative, Field(allow_inf_nan=False)] = CAUTION
    typical_error: Annotated[NonNegative, Field(allow_inf_nan=False)]
    is_whole: bool = False
    is_held: bool = False
    members: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Advantage:
    """The learned policy's choice against the baseline, in B states.

    Attributes:
        chosen: Model that the policy calls, shape (B,).
        mean: Its value minus that of the baseline, by the policy, shape (B,).
        spread: Jackknife error of it, from the repeats, shape (B,).
    """

    chosen: IntArray
    mean: FloatArray
    spread: FloatArray

    @classmethod
    def of(cls, values: FloatArray, repeats: FloatArray, chosen: IntArray, baseline: int) -> Self:
        """From the policy's values, shape (B, M), those of its K repeats, shape (K, B, M), and what it calls, shape (B,)."""
        rows = np.arange(len(chosen))
        advantages = repeats[:, rows, chosen] - repeats[:, :, baseline]
        n = len(repeats)
        variance = (n - 1) / n * np.square(advantages - advantages.mean(axis=0)).sum(axis=0)
        return cls(
            chosen=chosen,
            mean=values[rows, chosen] - values[rows, np.full(len(rows), baseline)],
            spread=np.sqrt(variance),
        )

    def typical_error(self, baseline: int) -> float:
        """Root mean square error where the policy calls another model than the baseline; 0 where it never does."""
        others = self.spread[self.chosen != baseline]
        return float(np.sqrt(np.square(others).mean())) if len(others) else 0.0

    def errors(self, typical_error: float) -> FloatArray:
        """Moderated error of every state, shape (B,)."""
        found: FloatArray = np.sqrt((np.square(self.spread) + typical_error**2) / 2)
        return found

    def actions(self, baseline: int, masks: BoolArray, *, caution: float, typical_error: float) -> IntArray:
        """What is called: the policy's choice where it is followed or the baseline is masked, else that; shape (B,)."""
        is_followed = self.mean > caution * self.errors(typical_error)
        return np.where(is_followed | ~masks[:, baseline], self.chosen, baseline)


class SafeRouter:
    """Calls the best single model, and another one where a learned policy's advantage is beyond its error.

    Attributes:
        KIND: Registered name of the class.
        name: Name in logs and tables.
        model_names: Names of its pool, length M.
        settings: What it is made of.
        policy: The learned router; has values.
        repeats: The same training without each fold, in order; they have values too.
        provenance: How the learned router was made.
    """

    KIND: ClassVar[str] = "safe"

    def __init__(
        self,
        *,
        name: str,
        settings: SafeSettings,
        policy: ValueRouter,
        repeats: Sequence[ValueRouter],
        provenance: Provenance | None = None,
    ) -> None:
        if settings.baseline not in policy.model_names:
            raise unknown_name("baseline of a safe router", settings.baseline, policy.model_names)
        self.name = name
        self.model_names = policy.model_names
        self.settings = settings
        self.policy = policy
        self.repeats = tuple(repeats)
        self.provenance = provenance
        self._baseline = self.model_names.index(settings.baseline)

    def q_values(self, observations: Sequence[Observation]) -> FloatArray:
        """Action values of the learned policy, shape (B, M). Raises as `action_probabilities`."""
        return self.policy.q_values(observations)

    def action_probabilities(self, observations: Sequence[Observation]) -> FloatArray:
        """Probability 1 for one model a row, shape (B, M).

        Raises:
            InvalidConfigError: If a mask has another length than M.
            MaskedActionError: If an observation allows no model.
        """
        return distributions.one_hot(self._actions(observations)[0], len(self.model_names))

    def follows(self, observations: Sequence[Observation]) -> BoolArray:
        """Where it calls another model than the baseline, shape (B,)."""
        found: BoolArray = self._actions(observations)[0] != self._baseline
        return found

    def explain(self, observation: Observation) -> str:
        """Whether the learned policy is followed, with its advantage and the error of that."""
        name = self.settings.baseline
        actions, seen = self._actions([observation])
        if self.settings.is_held:
            return f"{name} is called throughout: on the log it is better than following the learned policy"
        if self.settings.is_whole:
            return f"the learned policy is followed throughout: on the log it does no worse than {name}, the best single model"
        if seen is None or seen.chosen[0] == self._baseline:
            return f"the learned policy calls {name}, the best single model, as well"
        if not observation["action_mask"][self._baseline]:
            return f"{name}, the best single model, may not be called, so the learned policy is followed"
        error = float(seen.errors(self.settings.typical_error)[0])
        numbers = (
            f"{self.model_names[seen.chosen[0]]} is worth {float(seen.mean[0]):+.3f} more than {name}, the best single model, "
            f"with an error of {error:.3f}"
        )
        is_followed = actions[0] != self._baseline
        verb = "follows the learned policy" if is_followed else f"keeps to {name}"
        return f"{verb}: {numbers} ({'above' if is_followed else 'not above'} {self.settings.caution:g} of them)"

    def save(self, folder: Path) -> None:
        """Write the learned router and its repeats into folders, then `router.json`, which tells their digests."""
        for name in (RECORD_FILE, WEIGHTS_FILE):  # of another router that lay there
            (folder / name).unlink(missing_ok=True)
        for place, router in zip(member_folders(folder, len(self.repeats)), (self.policy, *self.repeats), strict=True):
            save_router(router, place)
        write_router(folder, self.record(folder))

    def record(self, folder: Path) -> RouterRecord:
        """Its `router.json`, the routers lying in the folder already."""
        places = member_folders(folder, len(self.repeats))
        settings = self.settings.model_copy(update={"members": tuple(digest(place) for place in places)})
        return RouterRecord(
            kind=self.KIND,
            name=self.name,
            model_names=self.model_names,
            settings=settings.model_dump(mode="json"),
            provenance=self.provenance,
        )

    @classmethod
    def from_saved(cls, saved: SavedRouter) -> Self:
        """Make the router of a record whose pool has been checked.

        Raises:
            RouterError: If a router in it is missing, broken, another one than was saved, or has no values.
        """
        settings = saved.settings(SafeSettings)
        n_repeats = len(settings.members) - 1
        if n_repeats < 2:
            raise RouterError(
                f"router {saved.folder / RECORD_FILE}: members has {len(settings.members)} digests, must have one of the "
                "learned router and of two repeats at least; train it again"
            )
        make_features = _shared(saved.make_features)
        routers = []
        for place, told in zip(member_folders(saved.folder, n_repeats), settings.members, strict=True):
            if digest(place) != told:
                raise RouterError(
                    f"router {saved.folder}: {place.name} is not the router that it was saved with; copy the whole folder, or "
                    "train it again"
                )
            routers.append(_valued(load_router(place, pool=saved.pool, make_features=make_features), place))
        return cls(
            name=saved.record.name,
            settings=settings,
            policy=routers[0],
            repeats=routers[1:],
            provenance=saved.record.provenance,
        )

    def _actions(self, observations: Sequence[Observation]) -> tuple[IntArray, Advantage | None]:
        """What it calls, and what it saw; None where it need not look."""
        masks = distributions.action_masks(observations, len(self.model_names))
        if self.settings.is_held and masks[:, self._baseline].all():
            return np.full(len(masks), self._baseline), None
        chosen = self.policy.action_probabilities(observations).argmax(axis=1)
        if self.settings.is_whole or (chosen == self._baseline).all():
            return chosen, None
        if self.settings.is_held:
            return np.where(masks[:, self._baseline], self._baseline, chosen), None
        seen = Advantage.of(
            self.policy.q_values(observations),
            np.stack([repeat.q_values(observations) for repeat in self.repeats]),
            chosen,
            self._baseline,
        )
        settings = self.settings
        actions = seen.actions(self._baseline, masks, caution=settings.caution, typical_error=settings.typical_error)
        return actions, seen


def member_folders(folder: Path, n_repeats: int) -> list[Path]:
    """Folders of the learned router and of its repeats."""
    return [folder / LEARNED_FOLDER, *(folder / FOLDS_FOLDER / str(fold) for fold in range(n_repeats))]


def _valued(router: Router, place: Path) -> ValueRouter:
    if not isinstance(router, ValueRouter):
        raise RouterError(f"router {place} has no action values, so a safe router cannot follow it; train it again")
    return router


def _shared(make_features: MakeFeatures) -> MakeFeatures:
    """The same, one set of features for equal configurations: a text is then encoded once, not once for every repeat."""
    made: list[tuple[dict[str, JsonValue], HistoryFeatures]] = []

    def make(config: dict[str, JsonValue]) -> "HistoryFeatures":
        found = next((features for known, features in made if known == config), None)
        if found is None:
            found = make_features(config)
            made.append((config, found))
        return found

    return make
