"""All members of an ensemble of Q-networks on one history, in numpy: what a live decision asks for.

The same formulas as in `networks`, written down once for all members. On one row, torch spends nearly all its time between the
products, and a service decides between two calls of something else, so that every way through torch is a cold one. What
depends on the weights alone is reckoned once.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from mtrouter_rl.agents.q.networks import (
    GradientDropout,
    HistoryEncoder,
    JointQNetwork,
    SeparateQNetwork,
    StateDict,
)
from mtrouter_rl.transitions.arrays import FORBIDDEN_Q

Rows = npt.NDArray[np.float32]
Step = Callable[[Rows], Rows]
_EPSILON = 1e-5
"""That of torch's layer norm."""


class OneRow:
    """The K members of an ensemble for one row at a time."""

    def __init__(self, network: JointQNetwork | SeparateQNetwork, weights: StateDict) -> None:
        """Take the weights.

        Args:
            network: A network of the members' shape; its own weights do not matter.
            weights: Stacked weights, name -> tensor of shape (K, ...).
        """
        self._n_history = network.n_history
        self._history = _Histories(network.history, weights)
        self._joint = _linear("joint_history", weights)
        self._head = _steps(network.head, "head", weights)
        self._models = _models(network, weights) if isinstance(network, JointQNetwork) else None

    def __call__(self, row: Rows) -> Rows:
        """Q-values of a row of shape (1, D + M), shape (K, 1, M)."""
        x = self._joint(self._history(row[:, : self._n_history]))
        values = _through(self._head, x if self._models is None else x + self._models)
        values = values.reshape(len(values), 1, -1)
        allowed = row[:, self._n_history :] > 0.5
        return values if allowed.all() or not allowed.any() else np.where(allowed, values, np.float32(FORBIDDEN_Q))


class _Histories:
    """phi(h) of every member, shape (K, 1, size)."""

    def __init__(self, encoder: HistoryEncoder, weights: StateDict) -> None:
        self._shown = None if encoder.shown is None else _numbers(encoder.shown)
        self._rest = np.array([n for part in encoder.rest_slices for n in range(part.start, part.stop)], dtype=np.int64)
        self._n_columns, self._slices = encoder.n_columns, encoder.text_slices
        self._layers = _steps(encoder.layers, "history.layers", weights)
        self._n_members = len(next(iter(weights.values())))
        if self._slices:
            names = ("weight", "bias", "norm_gain", "norm_bias")
            weight, self._bias, self._gain, self._norm_bias = (
                _numbers(weights[f"history.text.{name}"]) for name in names
            )
            n_blocks, size = weight.shape[1:3]
            self._weight = np.ascontiguousarray(weight.transpose(1, 2, 0, 3).reshape(n_blocks, size, -1))

    def __call__(self, x: Rows) -> Rows:
        if self._shown is not None:
            x = x[:, : self._n_columns] * self._shown
        rest = np.broadcast_to(x[:, self._rest], (self._n_members, 1, len(self._rest)))
        if self._slices:
            blocks = np.stack([x[:, part] for part in self._slices])
            projected = np.matmul(blocks, self._weight).reshape(len(blocks), self._n_members, -1).transpose(1, 0, 2)
            normed = _normed(projected + self._bias, _EPSILON) * self._gain + self._norm_bias
            rest = np.concatenate([normed.reshape(self._n_members, 1, -1), rest], axis=2)
        return _through(self._layers, rest)


def _models(network: JointQNetwork, weights: StateDict) -> Rows:
    """W_m z_m of every model and member, shape (K, M, size)."""
    given = np.concatenate([_of(network, weights, "model_features"), _of(network, weights, "residual")], axis=2)
    embedded = _through(_steps(network.model, "model", weights), given)
    joint: Rows = np.matmul(embedded, _numbers(weights["joint_model.weight"]).transpose(0, 2, 1))
    return joint


def _of(network: nn.Module, weights: StateDict, name: str) -> Rows:
    """A tensor of every member; one that is not saved is the network's own."""
    if name in weights:
        return _numbers(weights[name])
    own = _numbers(getattr(network, name))
    return np.broadcast_to(own, (len(next(iter(weights.values()))), *own.shape))


def _steps(layers: nn.Sequential, at: str, weights: StateDict) -> list[Step]:
    found = (_step(layer, f"{at}.{name}", weights) for name, layer in layers.named_children())
    return [step for step in found if step is not None]


def _step(layer: nn.Module, at: str, weights: StateDict) -> Step | None:
    """A layer for all members; None for one that does nothing when it is asked."""
    if isinstance(layer, nn.Linear):
        return _linear(at, weights)
    if isinstance(layer, nn.LayerNorm):
        gain, bias, eps = (
            _numbers(weights[f"{at}.weight"])[:, None],
            _numbers(weights[f"{at}.bias"])[:, None],
            layer.eps,
        )
        return lambda x: _normed(x, eps) * gain + bias
    if isinstance(layer, nn.ReLU):
        return lambda x: np.maximum(x, 0)
    assert isinstance(layer, GradientDropout), f"no rule for {type(layer).__name__}"
    return None


def _linear(at: str, weights: StateDict) -> Step:
    weight = np.ascontiguousarray(_numbers(weights[f"{at}.weight"]).transpose(0, 2, 1))
    bias = _numbers(weights[f"{at}.bias"])[:, None]
    return lambda x: np.matmul(x, weight) + bias


def _normed(x: Rows, eps: float) -> Rows:
    centered = x - x.mean(axis=-1, keepdims=True)
    normed: Rows = centered / np.sqrt((centered * centered).mean(axis=-1, keepdims=True) + np.float32(eps))
    return normed


def _numbers(tensor: Tensor) -> Rows:
    numbers: Rows = tensor.detach().numpy()
    return numbers


def _through(steps: list[Step], x: Rows) -> Rows:
    for step in steps:
        x = step(x)
    return x
