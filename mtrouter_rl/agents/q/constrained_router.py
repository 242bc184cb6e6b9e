"""The greedy router of a Q-function among models that the log makes likely: discrete BCQ, when it acts."""

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, ClassVar, Self

from pydantic import Field

from mtrouter_rl.agents import distributions
from mtrouter_rl.agents.parameters import NetworkParameters
from mtrouter_rl.agents.q.behavior_cloning import CloneRouter, CloneSettings, stack_imitators
from mtrouter_rl.agents.q.learned_router import check_shapes
from mtrouter_rl.agents.q.networks import StateDict
from mtrouter_rl.agents.q.q_router import QNetworkSettings, QRouter
from mtrouter_rl.agents.saving import SavedRouter
from mtrouter_rl.records import FloatArray, Frozen, Observation

_PREFIX = "imitator."


class ConstrainedSettings(QNetworkSettings):
    """Settings of a `ConstrainedQRouter`.

    Attributes:
        imitator: Of the classifier that says how likely the logged policy was to call each model.
        action_flexibility: A model may be chosen if it is more than so many times as likely as the likeliest allowed one.
    """

    imitator: CloneSettings
    action_flexibility: Annotated[float, Field(gt=0, lt=1)]


class ConstrainedQRouter(QRouter):
    """Calls the model of highest Q-value among the allowed ones that the imitator finds likely.

    `q_values` are those of all allowed models, also of those that may not be chosen. The imitator is the mean of the kept
    iterates, as a `CloneRouter` is; the likeliest allowed model can always be chosen.

    Source: Fujimoto et al., Benchmarking Batch Deep Reinforcement Learning Algorithms (2019), equation 8; the maximum is over
    allowed models.
    """

    KIND: ClassVar[str] = "constrained_q"
    SETTINGS: ClassVar[type[Frozen]] = ConstrainedSettings

    settings: ConstrainedSettings

    @classmethod
    def of(cls, router: QRouter, iterates: Sequence[StateDict], *, action_flexibility: float) -> Self:
        """Make it of the router of a Q-function and the iterates of its training, which hold the imitators."""
        n_models, layout = len(router.model_names), router.settings.layout
        sizes = {name: getattr(router.settings.sizes, name) for name in NetworkParameters.model_fields}
        imitator = CloneSettings(
            layout=layout.model_copy(update={"n_columns": layout.n_columns + n_models}),
            sizes=NetworkParameters(**sizes),
            n_members=len(iterates),
        )
        own = {"imitator": imitator, "action_flexibility": action_flexibility}
        return cls(
            name=router.name,
            model_names=router.model_names,
            features=router.features,
            settings=ConstrainedSettings.model_validate(router.settings.model_dump() | own),
            weights={**router.weights, **{_PREFIX + name: t for name, t in stack_imitators(iterates).items()}},
            provenance=router.provenance,
        )

    @property
    def q_weights(self) -> StateDict:
        """See `QRouter.q_weights`."""
        return {name: tensor for name, tensor in self.weights.items() if not name.startswith(_PREFIX)}

    @cached_property
    def imitator(self) -> CloneRouter:
        """Clone of the logged policy."""
        return CloneRouter(
            name=self.name,
            model_names=self.model_names,
            features=self.features,
            settings=self.settings.imitator,
            weights=_imitator_weights(self.weights),
        )

    def action_probabilities(self, observations: Sequence[Observation]) -> FloatArray:
        """Probability 1 for the model of highest Q-value among those that are allowed and likely, shape (B, M).

        Raises:
            InvalidConfigError: If a mask has another length than M.
            MaskedActionError: If an observation allows no model.
        """
        masks = distributions.action_masks(observations, len(self.model_names))
        logged = self.imitator.action_probabilities(observations)
        likely = logged > self.settings.action_flexibility * logged.max(axis=1, keepdims=True)
        return distributions.greedy(self._values(observations, masks), masks & likely)

    @classmethod
    def check_weights(cls, saved: SavedRouter, settings: QNetworkSettings, weights: StateDict) -> None:
        """See `LearnedRouter.check_weights`."""
        assert isinstance(settings, ConstrainedSettings)
        super().check_weights(saved, settings, {n: t for n, t in weights.items() if not n.startswith(_PREFIX)})
        expected = settings.imitator.make_network(len(saved.record.model_names)).state_dict()
        check_shapes(saved, _imitator_weights(weights), n_members=settings.imitator.n_members, expected=expected)


def _imitator_weights(weights: StateDict) -> StateDict:
    return {name.removeprefix(_PREFIX): tensor for name, tensor in weights.items() if name.startswith(_PREFIX)}
