"""The greedy router of a learned Q-function."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mtrouter_rl.agents import distributions
from mtrouter_rl.agents.parameters import JointParameters, ModelEmbedding
from mtrouter_rl.agents.q.learned_router import LearnedRouter, check_shapes
from mtrouter_rl.agents.q.networks import Ensemble, HistoryLayout, QNetwork, StateDict, make_q_network, stack_weights
from mtrouter_rl.agents.q.one_row import OneRow
from mtrouter_rl.agents.saving import SavedRouter, check_pool, read_record
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.errors import RouterError
from mtrouter_rl.records import BoolArray, FloatArray, Frozen, Observation

if TYPE_CHECKING:
    from mtrouter_rl.embeddings.history import HistoryFeatures


class QNetworkSettings(Frozen):
    """Everything that makes the network of a `QRouter`, weights apart.

    Attributes:
        layout: Of the history features.
        sizes: Of the network.
        model_features: Features of the M models that it was trained with, shape (M, F).
        n_members: How many networks are averaged: kept iterates times critics.
        model_embedding: What it tells models apart by, see `networks.make_q_network`.
    """

    layout: HistoryLayout
    sizes: JointParameters
    model_features: tuple[tuple[float, ...], ...]
    n_members: int
    model_embedding: ModelEmbedding = "metadata+residual"

    def make_network(self) -> QNetwork:
        """One network of this shape; torch's global random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            return make_q_network(
                self.layout,
                self.sizes,
                model_features=self.model_features,
                model_embedding=self.model_embedding,
            )


class QRouter(LearnedRouter[QNetworkSettings]):
    """Calls the allowed model of highest Q-value, the lower index on a tie.

    The Q-value is the mean over the last iterates of the training and their critics. Single iterates of fitted-Q
    iteration jump about, and the maximum over models picks whichever was overrated last; averaging them takes that out
    (Anschel et al., Averaged-DQN, 2017, who average in the target; here it is done when acting).
    """

    KIND: ClassVar[str] = "q"
    SETTINGS: ClassVar[type[Frozen]] = QNetworkSettings
    _last: tuple[npt.NDArray[np.float32], FloatArray] | None = None

    @property
    def q_weights(self) -> StateDict:
        """Those of its weights that make the Q-function."""
        return self.weights

    @cached_property
    def _ensemble(self) -> Ensemble:
        return Ensemble(self.settings.make_network(), self.q_weights)

    @cached_property
    def _one_row(self) -> OneRow:
        return OneRow(self.settings.make_network(), self.q_weights)

    @cached_property
    def _last_iterate(self) -> QNetwork:
        network = self.settings.make_network()
        network.load_state_dict({name: members[-1] for name, members in self.q_weights.items()})
        return network.eval()

    def q_values(self, observations: Sequence[Observation]) -> FloatArray:
        """Action values for a batch of B observations, shape (B, M); `networks.FORBIDDEN_Q` for masked models.

        Raises:
            InvalidConfigError: If a mask has another length than M.
            MaskedActionError: If an observation allows no model.
        """
        return self._values(observations, distributions.action_masks(observations, len(self.model_names)))

    def action_probabilities(self, observations: Sequence[Observation]) -> FloatArray:
        """Probability 1 for the allowed model of highest Q-value, shape (B, M).

        Raises:
            InvalidConfigError: If a mask has another length than M.
            MaskedActionError: If an observation allows no model.
        """
        masks = distributions.action_masks(observations, len(self.model_names))
        return distributions.greedy(self._values(observations, masks), masks)

    def model_embeddings(self) -> FloatArray:
        """What the last iterate has learned of the models, in pool order: near rows are models that it takes for alike.

        Returns:
            Embeddings z_m, shape (M, d).
        """
        with torch.inference_mode():
            embeddings: FloatArray = self._last_iterate.embed_models().numpy()
        return embeddings

    def history_embeddings(self, observations: Sequence[Observation]) -> FloatArray:
        """What the last iterate makes of histories: near rows are states that it takes for alike.

        Args:
            observations: B observations.

        Returns:
            Embeddings phi(h), shape (B, d).
        """
        rows = torch.from_numpy(self._histories(observations))
        with torch.inference_mode():
            embeddings: FloatArray = self._last_iterate.history(rows).numpy()
        return embeddings

    @classmethod
    def load(cls, folder: Path, *, features: "HistoryFeatures", pool: PoolCard) -> Self:
        """Read a saved router.

        Args:
            folder: Where `save` wrote it.
            features: Must be configured as those that it was trained on.
            pool: Must have the same models in the same order.

        Raises:
            RouterError: If the files are missing, broken or of another kind, or the features are configured otherwise.
            PoolMismatchError: If the pool is another one; names the differing models.
        """
        record = read_record(folder)
        if record.kind != cls.KIND:
            raise RouterError(f"router {folder} is of kind '{record.kind}', must be '{cls.KIND}'; use load_router")
        check_pool(record, pool)
        return cls.from_saved(SavedRouter(folder=folder, record=record, pool=pool, make_features=lambda _: features))

    @classmethod
    def check_weights(cls, saved: SavedRouter, settings: QNetworkSettings, weights: StateDict) -> None:
        """See `LearnedRouter.check_weights`."""
        expected = settings.make_network().state_dict()
        check_shapes(saved, weights, n_members=settings.n_members, expected=expected)

    def _histories(self, observations: Sequence[Observation]) -> npt.NDArray[np.float32]:
        """What the network reads besides the mask, shape (B, `layout.n_columns`)."""
        return self.features.of_observations(observations)

    def _values(self, observations: Sequence[Observation], masks: BoolArray) -> FloatArray:
        rows = np.concatenate([self._histories(observations), masks], axis=1, dtype=np.float32)
        if self._last is not None and np.array_equal(self._last[0], rows):
            return self._last[1].copy()
        if len(rows) != 1:
            every: FloatArray = self._ensemble(torch.from_numpy(rows)).mean(dim=0).numpy()
            return every
        values: FloatArray = self._one_row(rows).mean(axis=0)
        self._last = (rows, values.copy())  # whoever decides live asks for probabilities and values of one observation
        return values


def split_critics(iterates: Sequence[StateDict]) -> list[dict[str, Tensor]]:
    """Weights of every critic of every iterate as d3rlpy names them (`0.network.head...`), each under its own names.

    Weights of other modules, whose names begin with no number, are left out.
    """
    members = []
    for iterate in iterates:
        numbers = {name.partition(".")[0] for name in iterate}
        critics = sorted(int(number) for number in numbers if number.isdigit())
        for critic in critics:
            prefix = f"{critic}.network."
            members.append(
                {name.removeprefix(prefix): tensor for name, tensor in iterate.items() if name.startswith(prefix)}
            )
    return members


def stack_critics(iterates: Sequence[StateDict]) -> dict[str, Tensor]:
    """Weights of an ensemble of all critics of all iterates."""
    return stack_weights(split_critics(iterates))
