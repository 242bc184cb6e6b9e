"""The neural networks, in plain torch: what is needed to act, without d3rlpy.

`joint_q` hands them to d3rlpy for training.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from mtrouter_rl.agents.parameters import JointParameters, ModelEmbedding, NetworkParameters
from mtrouter_rl.embeddings.history_inputs import HISTORY_INPUTS, HistoryInput, hidden_columns
from mtrouter_rl.records import Frozen
from mtrouter_rl.transitions.arrays import FORBIDDEN_Q

if TYPE_CHECKING:
    from mtrouter_rl.embeddings.history import HistoryFeatures


TEXT_BLOCKS = ("task", "last_observation", "last_action", "recent")
"""Blocks of the history features that hold text vectors; all of one size E."""

StateDict = Mapping[str, Tensor]


class HistoryLayout(Frozen):
    """Where things are in a row of input.

    Attributes:
        n_columns: Columns that the encoder reads, from the first.
        text_blocks: (start, stop) of every text block; all of one size E. The remaining columns are taken as they are.
        hidden: (start, stop) of columns that the encoder is not shown: it takes them for 0.
    """

    n_columns: int
    text_blocks: tuple[tuple[int, int], ...]
    hidden: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of_features(
        cls, features: "HistoryFeatures", *, n_extra: int = 0, shown: Sequence[HistoryInput] = HISTORY_INPUTS
    ) -> "HistoryLayout":
        """Layout of history features, of which some parts are shown, followed by `n_extra` plain columns, which all are."""
        slices = [features.blocks[name] for name in TEXT_BLOCKS if name in features.blocks]
        blocks = tuple((part.start, part.stop) for part in slices)
        return cls(n_columns=features.dim + n_extra, text_blocks=blocks, hidden=hidden_columns(features, shown))


class GradientDropout(nn.Module):
    """Dropout that acts only while training and only where a gradient is taken.

    d3rlpy computes targets and greedy actions in training mode, but without gradients. Plain dropout would put noise
    into both, and the maximum over noisy values is too high.

    Attributes:
        share: (B, rows) where x has some rows only of a batch of B, and other processes have the rest: what is dropped is drawn
            for the whole batch, so that it is the same in any number of processes. None where x is the batch.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.share: tuple[int, slice] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Drop components of x, any shape, with the given probability."""
        active = self.training and torch.is_grad_enabled()
        if self.share is None or not active:
            # Torch draws in the order in which x lies in memory.
            return functional.dropout(x.contiguous() if active else x, self.probability, training=active)
        n_rows, rows = self.share
        kept = functional.dropout(x.new_ones((n_rows, *x.shape[1:])), self.probability, training=True)
        return x * kept[rows]


class TextProjection(nn.Module):
    """Every text block through its own linear projection and layer norm."""

    def __init__(self, slices: Sequence[slice], *, text_dim: int, projection: int) -> None:
        super().__init__()
        self.slices = tuple(slices)
        bound = 1 / math.sqrt(text_dim)
        self.weight = nn.Parameter(torch.empty(len(slices), text_dim, projection).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(len(slices), projection))
        self.norm_gain = nn.Parameter(torch.ones(len(slices), projection))
        self.norm_bias = nn.Parameter(torch.zeros(len(slices), projection))

    def forward(self, x: Tensor) -> Tensor:
        """Project the blocks of rows of shape (..., n_columns or more), to shape (..., n_blocks, projection)."""
        # One product a block on a view of x: stacking the blocks first would copy nearly all of it.
        projected = torch.stack([x[..., part] @ self.weight[block] for block, part in enumerate(self.slices)], dim=-2)
        normed = functional.layer_norm(projected + self.bias, projected.shape[-1:])
        return normed * self.norm_gain + self.norm_bias


class HistoryEncoder(nn.Module):
    """phi(h): projected text blocks, joined with the remaining columns, through an MLP with layer norm.

    Text vectors make up nearly all columns and few of the facts; the projections keep them from drowning the rest.
    Hidden columns are set to 0 and keep their weights, so that networks that are shown different parts start from the same
    weights.
    """

    def __init__(self, layout: HistoryLayout, parameters: NetworkParameters) -> None:
        super().__init__()
        self.n_columns = layout.n_columns
        self.text_slices = [slice(start, stop) for start, stop in layout.text_blocks]
        self.rest_slices = _between(layout)
        self.shown: Tensor | None
        self.register_buffer("shown", _shown(layout) if layout.hidden else None, persistent=False)
        size = sum(part.stop - part.start for part in self.rest_slices)
        if self.text_slices:
            text_dim = layout.text_blocks[0][1] - layout.text_blocks[0][0]
            projection = parameters.text_projection
            self.text = TextProjection(self.text_slices, text_dim=text_dim, projection=projection)
            size += len(self.text_slices) * projection
        layers: list[nn.Module] = []
        for hidden in parameters.history_hidden:
            layers += [nn.Linear(size, hidden), nn.LayerNorm(hidden), nn.ReLU(), GradientDropout(parameters.dropout)]
            size = hidden
        self.layers = nn.Sequential(*layers)
        self.out_dim = size

    def forward(self, x: Tensor) -> Tensor:
        """Encode rows of shape (..., n_columns or more) to shape (..., out_dim)."""
        if self.shown is not None:
            x = x[..., : self.n_columns] * self.shown
        parts = [x[..., part] for part in self.rest_slices]
        if self.text_slices:
            parts.insert(0, self.text(x).flatten(-2))
        encoded: Tensor = self.layers(torch.cat(parts, dim=-1))
        return encoded


class ConversationEncoder(nn.Module):
    """phi of every turn of a conversation: its row and a memory of all rows before it, through one layer.

    The memory is learned (a gated recurrent unit), where that of `HistoryFeatures` fades at a fixed rate.

    Source: Cho et al., Learning Phrase Representations using RNN Encoder-Decoder (2014), for the unit; Hausknecht and Stone,
    Deep Recurrent Q-Learning for Partially Observable MDPs (2015), for the use.
    """

    def __init__(self, layout: HistoryLayout, parameters: NetworkParameters, *, memory_size: int) -> None:
        super().__init__()
        self.rows = HistoryEncoder(layout, parameters)
        size = self.rows.out_dim
        self.memory = nn.GRU(size, memory_size, batch_first=True)
        self.dropout = GradientDropout(parameters.dropout)
        self.layer = nn.Sequential(
            nn.Linear(memory_size + size, size), nn.LayerNorm(size), nn.ReLU(), GradientDropout(parameters.dropout)
        )
        self.out_dim = size

    def forward(self, x: Tensor, memories: Tensor) -> tuple[Tensor, Tensor]:
        """Encode C conversations of T turns each.

        Args:
            x: Rows, shape (C, T, n_columns or more).
            memories: Of the turns before these, zeros if there are none, shape (C, memory_size).

        Returns:
            phi, shape (C, T, out_dim), and the memory after every turn, shape (C, T, memory_size).
        """
        rows = self.rows(x)
        after, _ = self.memory(rows, memories[None])
        return self.layer(torch.cat([self.dropout(after), rows], dim=-1)), after


def _between(layout: HistoryLayout) -> list[slice]:
    """Columns between and after the text blocks, in order."""
    ends = [0, *(stop for _, stop in sorted(layout.text_blocks))]
    starts = [*(start for start, _ in sorted(layout.text_blocks)), layout.n_columns]
    return [slice(end, start) for end, start in zip(ends, starts, strict=True) if end < start]


def _shown(layout: HistoryLayout) -> Tensor:
    """1 for every column that the encoder is shown, else 0, shape (n_columns,)."""
    shown = torch.ones(layout.n_columns)
    for start, stop in layout.hidden:
        shown[start:stop] = 0
    return shown


class JointQNetwork(nn.Module):
    """Q(h, m) = head(act(W_h phi(h) + W_m z_m + b)), one number for every model.

    z_m is an MLP of [model features ; learned residual], the residual being zero at first, so that an unseen model is
    judged by its features alone. The first joint layer is split into W_h and W_m: the same functions as a layer on the
    concatenation [phi(h) ; z_m], at half the time. The last layer is zero at first, so Q starts as the Q_0 = 0 of
    fitted Q iteration (Ernst et al., Tree-Based Batch Mode Reinforcement Learning, 2005).

    Source: MTRouter (2026), history-model joint embeddings; deviations: the history encoder, and no concatenation.
    """

    def __init__(
        self,
        layout: HistoryLayout,
        parameters: JointParameters,
        *,
        model_features: Sequence[Sequence[float]],
        model_embedding: ModelEmbedding = "metadata+residual",
    ) -> None:
        """Make the network; `model_embedding` as in `make_q_network`, but not "none"."""
        super().__init__()
        self.n_history = layout.n_columns
        self.history = HistoryEncoder(layout, parameters)
        metadata = torch.tensor(model_features, dtype=torch.float32)
        n_models, n_features = metadata.shape
        self.model_features: Tensor
        self.register_buffer(
            "model_features", torch.zeros_like(metadata) if model_embedding == "residual" else metadata
        )
        self.residual: Tensor
        zeros = torch.zeros(n_models, parameters.residual_dim)
        if model_embedding == "metadata":
            self.register_buffer("residual", zeros)
        else:
            self.residual = nn.Parameter(zeros)
        size = parameters.model_hidden
        self.model = nn.Sequential(
            nn.Linear(n_features + parameters.residual_dim, size), nn.ReLU(), nn.Linear(size, size), nn.ReLU()
        )
        first, *more = parameters.joint_hidden
        self.joint_history = nn.Linear(self.history.out_dim, first)
        self.joint_model = nn.Linear(size, first, bias=False)
        self.head = _head(first, more, parameters.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Q-values of all models.

        Args:
            x: Rows of [history features, allowed bits], shape (B, D + M).

        Returns:
            Q-values, shape (B, M); `FORBIDDEN_Q` where the bit is 0, except in rows whose bits are all 0.
        """
        history = self.joint_history(self.history(x[:, : self.n_history]))
        joint = history.unsqueeze(1) + self._models().unsqueeze(0)
        return _mask_forbidden(self.head(joint).squeeze(-1), x[:, self.n_history :])

    def value_of(self, x: Tensor, actions: Tensor) -> Tensor:
        """Q-value of one model a row, without the cost of all the others.

        Args:
            x: Rows of [history features, allowed bits], shape (B, D + M).
            actions: One allowed model each, int64, shape (B,).

        Returns:
            Q-values, shape (B, 1).
        """
        joint = self.joint_history(self.history(x[:, : self.n_history])) + self._models()[actions]
        value: Tensor = self.head(joint)
        return value

    def embed_models(self) -> Tensor:
        """Model embeddings z_m, shape (M, model_hidden)."""
        embedded: Tensor = self.model(torch.cat([self.model_features, self.residual], dim=1))
        return embedded

    def _models(self) -> Tensor:
        joint: Tensor = self.joint_model(self.embed_models())
        return joint


class SeparateQNetwork(nn.Module):
    """Q(h, m) = w_m . g(phi(h)) + b_m: a free output for every model, which knows nothing of the models.

    The hidden layers and the zero at the start are those of `JointQNetwork`; what models have in common (their prices, their
    limits) cannot be learned from one for the others.

    Source: the Q-network of Mnih et al., Human-Level Control through Deep Reinforcement Learning (2015).
    """

    def __init__(self, layout: HistoryLayout, parameters: JointParameters, *, n_models: int) -> None:
        super().__init__()
        self.n_history = layout.n_columns
        self.history = HistoryEncoder(layout, parameters)
        first, *more = parameters.joint_hidden
        self.joint_history = nn.Linear(self.history.out_dim, first)
        self.head = _head(first, more, parameters.dropout, n_outputs=n_models)

    def forward(self, x: Tensor) -> Tensor:
        """As `JointQNetwork.forward`."""
        return _mask_forbidden(self._outputs(x), x[:, self.n_history :])

    def value_of(self, x: Tensor, actions: Tensor) -> Tensor:
        """As `JointQNetwork.value_of`."""
        return self._outputs(x).gather(1, actions.unsqueeze(1))

    def embed_models(self) -> Tensor:
        """All that it knows of the models: the weights w_m of their outputs, shape (M, last hidden size)."""
        weight = self.head[-1].weight
        assert isinstance(weight, Tensor)
        return weight

    def _outputs(self, x: Tensor) -> Tensor:
        values: Tensor = self.head(self.joint_history(self.history(x[:, : self.n_history])))
        return values


QNetwork = JointQNetwork | SeparateQNetwork


def make_q_network(
    layout: HistoryLayout,
    parameters: JointParameters,
    *,
    model_features: Sequence[Sequence[float]],
    model_embedding: ModelEmbedding,
) -> QNetwork:
    """A Q-function of history and model.

    Args:
        layout: Of the history features.
        parameters: Sizes.
        model_features: Features of the M models, shape (M, F).
        model_embedding: What it tells models apart by: "metadata+residual", their features and a learned residual;
            "metadata", their features alone, so that models of equal features have equal values; "residual", a learned
            vector alone; "none", no embedding but an output for every model, from the history alone.
    """
    if model_embedding == "none":
        return SeparateQNetwork(layout, parameters, n_models=len(model_features))
    return JointQNetwork(layout, parameters, model_features=model_features, model_embedding=model_embedding)


class ActionClassifier(nn.Module):
    """Logit of every model from a row of [history features, allowed bits]."""

    def __init__(self, layout: HistoryLayout, parameters: NetworkParameters, *, n_models: int) -> None:
        super().__init__()
        self.encoder = HistoryEncoder(layout, parameters)
        self.output = nn.Linear(self.encoder.out_dim, n_models)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (B, M), of rows of shape (B, D + M)."""
        logits: Tensor = self.output(self.encoder(x))
        return logits


class ConversationClassifier(nn.Module):
    """Logit of every class before every turn of conversations, from rows of [history features, allowed bits].

    With a `memory_size` of 0 it is an `ActionClassifier`, which looks at every row by itself.
    """

    def __init__(
        self, layout: HistoryLayout, parameters: NetworkParameters, *, memory_size: int, n_classes: int
    ) -> None:
        super().__init__()
        self.encoder: HistoryEncoder | ConversationEncoder = (
            ConversationEncoder(layout, parameters, memory_size=memory_size)
            if memory_size
            else HistoryEncoder(layout, parameters)
        )
        self.output = nn.Linear(self.encoder.out_dim, n_classes)

    def forward(self, x: Tensor, memories: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, shape (C, T, n_classes), and memories, shape (C, T, memory_size); see `ConversationEncoder.forward`."""
        if isinstance(self.encoder, HistoryEncoder):
            return self.output(self.encoder(x)), x.new_zeros((*x.shape[:2], 0))
        encoded, after = self.encoder(x, memories)
        return self.output(encoded), after


def _head(size: int, hidden: Sequence[int], dropout: float, *, n_outputs: int = 1) -> nn.Sequential:
    layers: list[nn.Module] = [nn.ReLU(), GradientDropout(dropout)]
    for out in hidden:
        layers += [nn.Linear(size, out), nn.ReLU()]
        size = out
    last = nn.Linear(size, n_outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


def _mask_forbidden(values: Tensor, allowed: Tensor) -> Tensor:
    is_open = (allowed > 0.5) | ~(allowed > 0.5).any(dim=1, keepdim=True)
    return torch.where(is_open, values, torch.full_like(values, FORBIDDEN_Q))


class Ensemble:
    """Networks of one shape, evaluated in one pass.

    Args:
        network: A network of that shape; its own weights do not matter.
        weights: Stacked weights, one leading axis for the members: name -> tensor of shape (K, ...).
    """

    def __init__(self, network: nn.Module, weights: StateDict) -> None:
        self.network = network.eval()
        self.weights = dict(weights)

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Tensor:
        """Outputs of the K members for rows of shape (B, ...), shape (K, B, ...)."""

        def member(weights: dict[str, Tensor]) -> Tensor:
            output: Tensor = torch.func.functional_call(self.network, weights, (x,))
            return output

        stacked: Tensor = torch.func.vmap(member)(self.weights)
        return stacked


def stack_weights(members: Sequence[StateDict]) -> dict[str, Tensor]:
    """Weights of K networks of one shape, stacked along a new first axis."""
    return {name: torch.stack([member[name] for member in members]).contiguous() for name in members[0]}
