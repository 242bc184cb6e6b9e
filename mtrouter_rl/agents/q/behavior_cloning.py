"""Behaviour cloning: a classifier that imitates the logged choices, of all episodes or of the best ones."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from mtrouter_rl.agents import distributions
from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.parameters import CardAlgorithm, HistoryInputs, LoopParameters, NetworkParameters, NonNegative
from mtrouter_rl.agents.q.learned_router import LearnedRouter, check_shapes
from mtrouter_rl.agents.q.learners import imitation_learner
from mtrouter_rl.agents.q.networks import (
    ActionClassifier,
    Ensemble,
    HistoryLayout,
    StateDict,
    stack_weights,
)
from mtrouter_rl.agents.q.quiet import silence_gym_notice
from mtrouter_rl.agents.q.trainer import train
from mtrouter_rl.agents.saving import SavedRouter
from mtrouter_rl.agents.training import lay_out_logs, provenance, require_data, training_identity
from mtrouter_rl.records import BoolArray, FloatArray, Frozen, Observation
from mtrouter_rl.transitions.arrays import Transitions

if TYPE_CHECKING:
    from mtrouter_rl.datasets.store import Dataset


class BehaviorCloningParameters(NetworkParameters, LoopParameters, HistoryInputs):
    """Parameters of `BehaviorCloning`.

    Attributes:
        best_share: Share of the episodes of every task that is imitated, those of highest return; 1 takes all.
        logit_penalty: Weight of the mean squared logit in the loss; large values flatten the clone.
    """

    best_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    logit_penalty: NonNegative = 0.001


class CloneSettings(Frozen):
    """Everything that makes the network of a `CloneRouter`, weights apart.

    Attributes:
        layout: Of [history features, allowed bits].
        sizes: Of the network.
        n_members: How many networks are averaged.
    """

    layout: HistoryLayout
    sizes: NetworkParameters
    n_members: int

    def make_network(self, n_models: int) -> ActionClassifier:
        """One network of this shape; torch's global random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            return ActionClassifier(self.layout, self.sizes, n_models=n_models)


class CloneRouter(LearnedRouter[CloneSettings]):
    """Calls each allowed model as often as the imitated episodes did in such a state.

    It is stochastic: the faithful clone of a stochastic behaviour policy is stochastic. The softmax is taken over the
    allowed models.
    """

    KIND: ClassVar[str] = "clone"
    SETTINGS: ClassVar[type[Frozen]] = CloneSettings

    @cached_property
    def _ensemble(self) -> Ensemble:
        return Ensemble(self.settings.make_network(len(self.model_names)), self.weights)

    def action_probabilities(self, observations: Sequence[Observation]) -> FloatArray:
        """Probability of every model, shape (B, M).

        Raises:
            InvalidConfigError: If a mask has another length than M.
            MaskedActionError: If an observation allows no model.
        """
        masks = distributions.action_masks(observations, len(self.model_names))
        logits: FloatArray = self._ensemble(self._rows(observations, masks)).mean(dim=0).numpy()
        return distributions.softmax(logits, masks)

    def history_embeddings(self, observations: Sequence[Observation]) -> FloatArray:
        """What the last iterate makes of histories, shape (B, d); see `QRouter.history_embeddings`."""
        network = self.settings.make_network(len(self.model_names))
        network.load_state_dict({name: members[-1] for name, members in self.weights.items()})
        rows = self._rows(observations, distributions.action_masks(observations, len(self.model_names)))
        with torch.inference_mode():
            embeddings: FloatArray = network.eval().encoder(rows).numpy()
        return embeddings

    def _rows(self, observations: Sequence[Observation], masks: BoolArray) -> Tensor:
        rows = np.concatenate([self.features.of_observations(observations), masks], axis=1, dtype=np.float32)
        return torch.from_numpy(rows)

    @classmethod
    def check_weights(cls, saved: SavedRouter, settings: CloneSettings, weights: StateDict) -> None:
        """See `LearnedRouter.check_weights`."""
        expected = settings.make_network(len(saved.record.model_names)).state_dict()
        check_shapes(saved, weights, n_members=settings.n_members, expected=expected)


class BehaviorCloning(CardAlgorithm[BehaviorCloningParameters]):
    """Imitates the logged choices: maximum likelihood of the logged action given the state (d3rlpy's discrete BC).

    With `best_share` below 1 it imitates the best episodes only, ranked by return within each task, since easy tasks
    would fill the best share otherwise ("percentile behaviour cloning", Chen et al., Decision Transformer, 2021,
    section 5).
    """

    parameters_model: ClassVar[type[Frozen]] = BehaviorCloningParameters
    needs_dataset: ClassVar[bool] = True
    needs_features: ClassVar[bool] = True
    takes_several_logs: ClassVar[bool] = True

    def train(self, context: TrainingContext) -> CloneRouter:
        """Train on the context's logs.

        Raises:
            InvalidConfigError: If dataset or features are missing or hold nothing to learn from.
            PoolMismatchError: If a dataset was logged with another pool, or two of them with different models.
            RouterError: If the checkpoint folder belongs to another training.
        """
        silence_gym_notice()
        from mtrouter_rl.agents.q.joint_q import HistoryEncoderFactory

        dataset, features = require_data(context, self.card)
        transitions = lay_out_logs(context, self.card, gamma=1.0)
        datasets = (dataset, *(log.dataset for log in context.more_logs))
        imitated = transitions.of_episodes(_best(datasets, transitions, share=self.parameters.best_share))
        n_models = len(context.pool.models)
        layout = HistoryLayout.of_features(features, n_extra=n_models, shown=self.parameters.history_inputs)
        factory = HistoryEncoderFactory.of(layout, self.parameters)
        sizes = NetworkParameters(**{name: getattr(self.parameters, name) for name in NetworkParameters.model_fields})

        def make_router(iterates: Sequence[StateDict]) -> CloneRouter:
            return CloneRouter(
                name=self.card.name,
                model_names=context.pool.model_names,
                features=features,
                settings=CloneSettings(layout=layout, sizes=sizes, n_members=len(iterates)),
                weights=stack_imitators(iterates),
                provenance=provenance(context, self.card, self.parameters),
            )

        iterates = train(
            imitation_learner(factory, logit_penalty=self.parameters.logit_penalty),
            imitated,
            loop=self.parameters,
            context=context,
            identity=training_identity(context, self.card, self.parameters),
            make_router=make_router,
        )
        return make_router(iterates)


def stack_imitators(iterates: Sequence[StateDict]) -> dict[str, Tensor]:
    """Weights of an ensemble of the imitators of all iterates, under the names of the classifiers of `networks`."""
    return stack_weights([_own_names(iterate) for iterate in iterates])


def _own_names(weights: StateDict) -> dict[str, Tensor]:
    """Weights of d3rlpy's categorical policy under the names of the classifiers of `networks`; others are left out."""
    prefixes = {"_encoder.network.": "encoder.", "_fc.": "output."}
    return {
        own + name.removeprefix(theirs): tensor
        for name, tensor in weights.items()
        for theirs, own in prefixes.items()
        if name.startswith(theirs)
    }


def _best(datasets: "Sequence[Dataset]", transitions: Transitions, *, share: float) -> npt.NDArray[np.bool_]:
    """Flags of the episodes with a turn: the best share of every environment's tasks by return, at least one of each."""
    names = [(log.info.env, one.task) for log in datasets for one in log.completed if one.turns]
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    tasks = np.array([numbers[name] for name in names])
    returns = transitions.returns[transitions.turns == 0]
    chosen = np.zeros(len(tasks), dtype=np.bool_)
    for task in np.unique(tasks):
        members = np.flatnonzero(tasks == task)
        n_best = max(1, round(share * len(members)))
        chosen[members[np.argsort(-returns[members], kind="stable")[:n_best]]] = True
    return chosen
