"""MiniLM in bfloat16: faster than `minilm` where the processor has instructions for it.

Its vectors are others than those of `minilm` (cosine about 0.9999), so it is an encoder of its own: train with it what is to be
served with it.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mtrouter_rl.embeddings.encoders import check_minilm, minilm_path

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

Float32Array = npt.NDArray[np.float32]
_MAX_TOKENS = 256
_EPSILON = 1e-12


class MiniLmBf16Encoder:
    """all-MiniLM-L6-v2 with weights and activations in bfloat16; at most 256 tokens, mean pooling, unit length.

    May be used by several threads at once. Every text goes through the network alone. On one kind of processor a text
    always gets the same vector; processors with other instructions round otherwise (cosine above 0.999).

    Attributes:
        name: Name of weights and number format.
        dim: 384.
        may_be_shared: Several threads may encode at once.
    """

    name = "all-MiniLM-L6-v2-bf16"
    dim = 384
    may_be_shared = True

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: tuple[Tokenizer, _Network] | None = None

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """Encode texts, one row each, shape (len(texts), 384). The weights are loaded at the first call."""
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        with self._lock:
            if self._loaded is None:
                self._loaded = _load()
        return np.stack([self._one(text) for text in texts])

    def _one(self, text: str) -> Float32Array:
        import torch

        assert self._loaded is not None
        tokenizer, network = self._loaded
        with torch.inference_mode():
            states = network(torch.tensor(tokenizer.encode(text).ids)).float()
            mean = states.mean(dim=0)
            vector: Float32Array = (mean / mean.norm().clamp_min(1e-12)).numpy()
        return vector

    def __getstate__(self) -> dict[str, None]:
        """State without the weights: a copy in another process loads its own."""
        return {}

    def __setstate__(self, _: dict[str, None]) -> None:
        self.__init__()  # type: ignore[misc]


class _Network:
    """The network of a BERT for one text without padding. Query, key and value are one product, and nothing is masked."""

    def __init__(self, model: "torch.nn.Module", *, n_layers: int, n_heads: int) -> None:
        import torch

        weights = {name: one.detach() for name, one in model.state_dict().items()}
        self._n_heads = n_heads
        self._words = weights["embeddings.word_embeddings.weight"]
        self._places = (
            weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
        )
        self._first_norm = _pair(weights, "embeddings.LayerNorm")
        self._layers = []
        for number in range(n_layers):
            at = f"encoder.layer.{number}."
            three = [_pair(weights, f"{at}attention.self.{name}") for name in ("query", "key", "value")]
            mixed = (torch.cat([one for one, _ in three]), torch.cat([two for _, two in three]))
            names = (
                "attention.output.dense",
                "attention.output.LayerNorm",
                "intermediate.dense",
                "output.dense",
                "output.LayerNorm",
            )
            self._layers.append((mixed, *(_pair(weights, at + name) for name in names)))

    def __call__(self, ids: "torch.Tensor") -> "torch.Tensor":
        """Last states, shape (tokens, D)."""
        import torch
        from torch.nn import functional

        n_tokens = len(ids)
        size = self._words.shape[1:]
        states = functional.layer_norm(
            self._words[ids] + self._places[:n_tokens], size, *self._first_norm, eps=_EPSILON
        )
        for mixed, out, first, wide, narrow, second in self._layers:
            three = (
                functional.linear(states, *mixed).view(n_tokens, 3, self._n_heads, -1).permute(1, 2, 0, 3).contiguous()
            )
            query, key, value = three[0], three[1], three[2]
            likeness = torch.bmm(query * query.shape[-1] ** -0.5, key.transpose(1, 2))
            seen = torch.bmm(torch.softmax(likeness, dim=-1), value).transpose(0, 1).reshape(n_tokens, -1)
            seen = functional.linear(seen, *out)
            states = functional.layer_norm(states + seen, size, *first, eps=_EPSILON)
            grown = functional.linear(functional.gelu(functional.linear(states, *wide)), *narrow)
            states = functional.layer_norm(states + grown, size, *second, eps=_EPSILON)
        return states


def _pair(weights: "Mapping[str, torch.Tensor]", name: str) -> "tuple[torch.Tensor, torch.Tensor]":
    return weights[f"{name}.weight"], weights[f"{name}.bias"]


def _load() -> "tuple[Tokenizer, _Network]":
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModel

    folder = minilm_path()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(_MAX_TOKENS)
    model = AutoModel.from_pretrained(str(folder), local_files_only=True, dtype=torch.bfloat16)
    config = model.config
    return tokenizer, _Network(model, n_layers=config.num_hidden_layers, n_heads=config.num_attention_heads)


def make_minilm_bf16() -> MiniLmBf16Encoder:
    """MiniLM encoder in bfloat16; never goes to the network.

    Raises:
        MissingDependencyError: If the extra that holds encoder and weights is not installed.
    """
    check_minilm("minilm-bf16")
    return MiniLmBf16Encoder()
