"""The network of fitted Q evaluation: a joint history-model network with an output for every policy and quantity."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtrouter_rl.agents.parameters import JointParameters
from mtrouter_rl.agents.q.networks import HistoryLayout, JointQNetwork

_MEMORY_HIDDEN = 64


class VectorQNetwork(JointQNetwork):
    """`JointQNetwork` with many outputs, and with the features of `reward_memory` beside those of the history.

    The first joint layer adds W_x x and g([y_m ; x]) to what it adds up already: x are the features about the history, y_m
    those about model m in it, g is a small network shared by all models.

    Nothing is masked: a masked model has probability 0 under every policy and was never logged, so its value is never read.
    """

    def __init__(
        self,
        layout: HistoryLayout,
        parameters: JointParameters,
        *,
        model_features: Sequence[Sequence[float]],
        n_memory: tuple[int, int],
        n_outputs: int,
    ) -> None:
        """Make the network.

        Args:
            layout: Of the history features.
            parameters: Sizes.
            model_features: Features of the M models, shape (M, F).
            n_memory: H and P, the columns of `RewardMemory`; (0, 0) leaves them out.
            n_outputs: One for every policy and quantity.
        """
        super().__init__(layout, parameters, model_features=model_features)
        n_history, n_pairs = n_memory
        first = parameters.joint_hidden[0]
        self.has_memory = n_history + n_pairs > 0
        if self.has_memory:
            self.memory_history = nn.Linear(n_history, first, bias=False)
            self.memory_pairs = nn.Sequential(
                nn.Linear(n_pairs + n_history, _MEMORY_HIDDEN), nn.ReLU(), nn.Linear(_MEMORY_HIDDEN, first, bias=False)
            )
        inputs = self.head[-1].in_features
        assert isinstance(inputs, int)
        last = nn.Linear(inputs, n_outputs)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.head[-1] = last

    def all_values(self, x: Tensor, history: Tensor, pairs: Tensor) -> Tensor:
        """Values of all models.

        Args:
            x: Rows of [history features, ...], shape (B, D or more).
            history: Shape (B, H).
            pairs: Shape (B, M, P).

        Returns:
            Shape (B, M, n_outputs).
        """
        joint = self._history(x, history).unsqueeze(1) + self._models().unsqueeze(0)
        if self.has_memory:
            both = torch.cat([pairs, history.unsqueeze(1).expand(-1, pairs.shape[1], -1)], dim=2)
            joint = joint + self.memory_pairs(both)
        values: Tensor = self.head(joint)
        return values

    def values_of(self, x: Tensor, actions: Tensor, history: Tensor, pairs: Tensor) -> Tensor:
        """Values of one model a row: actions of shape (B,), its pair features of shape (B, P); returns (B, n_outputs)."""
        joint = self._history(x, history) + self._models()[actions]
        if self.has_memory:
            joint = joint + self.memory_pairs(torch.cat([pairs, history], dim=1))
        values: Tensor = self.head(joint)
        return values

    def _history(self, x: Tensor, history: Tensor) -> Tensor:
        joint: Tensor = self.joint_history(self.history(x[:, : self.n_history]))
        return joint + self.memory_history(history) if self.has_memory else joint
