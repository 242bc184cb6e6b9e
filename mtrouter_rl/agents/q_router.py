"""The greedy router of a learned Q-function."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from mtrouter_rl.agents import distributions
from mtrouter_rl.agents.networks import Ensemble, HistoryLayout, JointQNetwork, StateDict, stack_weights
from mtrouter_rl.agents.parameters import JointParameters
from mtrouter_rl.agents.saving import (
    Provenance,
    RouterRecord,
    SavedRouter,
    check_pool,
    read_record,
    write_router,
)
from mtrouter_rl.errors import RouterError
from mtrouter_rl.pools.card import Frozen, PoolCard
from mtrouter_rl.records import BoolArray, FloatArray, Observation

if TYPE_CHECKING:
    from mtrouter_rl.embeddings.history import HistoryFeatures


class QNetworkSettings(Frozen):
    """Everything that makes the network of a `QRouter`, weights apart.

    Attributes:
        layout: Of the history features.
        sizes: Of the network.
        model_features: Features of the M models that it was trained with, shape (M, F).
        n_members: How many networks are averaged: kept iterates times critics.
    """

    layout: HistoryLayout
    sizes: JointParameters
    model_features: tuple[tuple[float, ...], ...]
    n_members: int

    def make_network(self) -> JointQNetwork:
        """One network of this shape; torch's global random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            return JointQNetwork(self.layout, self.sizes, model_features=self.model_features)


class QRouter:
    """Calls the allowed model of highest Q-value, the lower index on a tie.

    The Q-value is the mean over the last iterates of the training and their critics. Single iterates of fitted-Q
    iteration jump about, and the maximum over models picks whichever was overrated last; averaging them takes that out
    (Anschel et al., Averaged-DQN, 2017, who average in the target; here it is done when acting).

    Attributes:
        name: Name in logs and tables.
        model_names: Names of its pool, length M.
        features: History features that it was trained on.
        settings: Its network.
        provenance: How it was made.
    """

    KIND = "q"

    def __init__(
        self,
        *,
        name: str,
        model_names: tuple[str, ...],
        features: "HistoryFeatures",
        settings: QNetworkSettings,
        weights: StateDict,
        provenance: Provenance | None = None,
    ) -> None:
        self.name = name
        self.model_names = model_names
        self.features = features
        self.settings = settings
        self.provenance = provenance
        self._ensemble = Ensemble(settings.make_network(), weights)

    def q_values(self, observations: Sequence[Observation]) -> FloatArray:
        """Action values for a batch of B observations, shape (B, M); `networks.FORBIDDEN_Q` for masked models.

        Raises:
            InvalidConfigError: If a mask has another length than M.
            MaskedActionError: If an observation allows no model.
        """
        return self._values(observations, distributions.action_masks(observations, len(self.model_names)))

    def propensities(self, observations: Sequence[Observation]) -> FloatArray:
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
        network = self.settings.make_network()
        network.load_state_dict({name: members[-1] for name, members in self._ensemble.weights.items()})
        with torch.inference_mode():
            embeddings: FloatArray = network.eval().embed_models().numpy()
        return embeddings

    def save(self, folder: Path) -> None:
        """Write `router.json` and `weights.safetensors`."""
        record = RouterRecord(
            kind=self.KIND,
            name=self.name,
            model_names=self.model_names,
            settings=self.settings.model_dump(mode="json"),
            features=self.features.to_config(),
            provenance=self.provenance,
        )
        write_router(folder, record, weights=self._ensemble.weights)

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
    def from_saved(cls, saved: SavedRouter) -> Self:
        """Make the router of a record whose pool has been checked. Raises as `load`."""
        record = saved.record
        features = saved.features()
        check_features(saved, features)
        settings = saved.settings(QNetworkSettings)
        weights = saved.weights()
        check_weights(saved, weights, n_members=settings.n_members, expected=settings.make_network().state_dict())
        return cls(
            name=record.name,
            model_names=record.model_names,
            features=features,
            settings=settings,
            weights=weights,
            provenance=record.provenance,
        )

    def _values(self, observations: Sequence[Observation], masks: BoolArray) -> FloatArray:
        rows = np.concatenate([self.features.of_observations(observations), masks], axis=1, dtype=np.float32)
        values: FloatArray = self._ensemble(torch.from_numpy(rows)).mean(dim=0).numpy()
        return values


def check_features(saved: SavedRouter, features: "HistoryFeatures") -> None:
    """Make sure that features are configured as those that a router was trained on.

    Raises:
        RouterError: If they are not; names the differing fields.
    """
    theirs = saved.record.features or {}
    ours = features.to_config()
    differing = [key for key in sorted({*theirs, *ours}) if theirs.get(key) != ours.get(key)]
    if differing:
        details = "; ".join(f"{key} was {theirs.get(key)!r}, is {ours.get(key)!r}" for key in differing)
        raise RouterError(
            f"router {saved.folder} was trained on other history features: {details}; make them from the record's own "
            "configuration"
        )


def check_weights(saved: SavedRouter, weights: StateDict, *, n_members: int, expected: StateDict) -> None:
    """Make sure that weights fit the network: `n_members` of every tensor of `expected`.

    Raises:
        RouterError: If a tensor is missing, unknown or of another shape.
    """
    theirs = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    ours = {name: (n_members, *tensor.shape) for name, tensor in expected.items()}
    differing = [name for name in sorted({*theirs, *ours}) if theirs.get(name) != ours.get(name)]
    if differing:
        raise RouterError(
            f"router {saved.folder}: the weights do not fit router.json at {', '.join(differing[:3])}; both files must "
            "come from one training"
        )


def split_critics(iterates: Sequence[StateDict]) -> list[dict[str, Tensor]]:
    """Weights of every critic of every iterate as d3rlpy names them (`0.network.head...`), each under its own names."""
    members = []
    for iterate in iterates:
        critics = sorted({int(name.partition(".")[0]) for name in iterate})
        for critic in critics:
            prefix = f"{critic}.network."
            members.append(
                {name.removeprefix(prefix): tensor for name, tensor in iterate.items() if name.startswith(prefix)}
            )
    return members


def stack_critics(iterates: Sequence[StateDict]) -> dict[str, Tensor]:
    """Weights of an ensemble of all critics of all iterates."""
    return stack_weights(split_critics(iterates))
