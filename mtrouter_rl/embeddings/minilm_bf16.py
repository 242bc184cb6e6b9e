"""MiniLM in bfloat16: faster than `minilm` where the processor has instructions for it.

Its vectors are others than those of `minilm` (cosine about 0.9999), so it is an encoder of its own: train with it what is to be
served with it.
"""

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from mtrouter_rl.embeddings.encoders import check_minilm, minilm_path

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

    _Half = Iterator[torch.Tensor | None]

Float32Array = npt.NDArray[np.float32]
_MAX_TOKENS = 256
_LEAST_SPLIT = 32
"""Texts of fewer tokens are reckoned in one piece."""
_LEAST_SHARED = 64
"""Texts of fewer tokens are not worth the meetings of two threads."""
_JOINED_TOKENS = _MAX_TOKENS
"""So many tokens go through the network together at most."""
_TRIED = ((1, 2, 7, 16, 17, 31, 32, 50, 64), (101, 155), (3, 253), (256,), (13, 40))
"""Lengths of texts, group by group, that show whether texts may be joined on this processor."""
_PACKED_FOR = 64
"""Number of tokens that the form of the weights is chosen for; any other number can be multiplied with it."""
_EPSILON = 1e-12
_LATE, _LATE_S = 1.5, 0.002
"""A helper is late where a text takes longer than this many times the work of one half, and a little more."""
_REST_S = (0.5, 16.0)
"""How long a helper that was late is left out, at first and at most, seconds."""


class MiniLmBf16Encoder:
    """all-MiniLM-L6-v2 with weights and activations in bfloat16; at most 256 tokens, mean pooling, unit length.

    May be used by several threads at once. On one kind of processor a text always gets the same vector, whatever texts go
    through the network beside it and however many threads work on it; processors with other instructions round otherwise
    (cosine above 0.999).

    Attributes:
        name: Name of weights and number format.
        dim: 384.
        may_be_shared: Several threads may encode at once.
        threads_per_text: Threads that work on one long text, 1 or 2. The second one sleeps between texts; where its processor
            is busy with something else, a text takes about as long as with one thread.
    """

    name = "all-MiniLM-L6-v2-bf16"
    dim = 384
    may_be_shared = True
    threads_per_text = 1

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: tuple[Tokenizer, _Network] | None = None
        self._helper: _Helper | None = None

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """Encode texts, one row each, shape (len(texts), 384). The weights are loaded at the first call."""
        import torch

        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        with self._lock:
            if self._loaded is None:
                self._loaded = _load()
            if self._helper is None and self.threads_per_text > 1:
                self._helper = _Helper()
        tokenizer, network = self._loaded
        with torch.inference_mode():
            means = network.mean_states([torch.tensor(tokenizer.encode(text).ids) for text in texts], self._helper)
            return np.stack([(mean / mean.norm().clamp_min(_EPSILON)).numpy() for mean in means])

    def __getstate__(self) -> dict[str, None]:
        """State without the weights: a copy in another process loads its own."""
        return {}

    def __setstate__(self, _: dict[str, None]) -> None:
        self.__init__()  # type: ignore[misc]


class _Network:
    """The network of a BERT for texts without padding. Query, key and value are one product, and nothing is masked.

    Short texts are joined: but for attention, each token is reckoned by itself, and the weights are read once for all of them.
    A long text may be reckoned in two halves, which meet once a layer, where each reads the keys and values of all; two threads
    take a half each. The same numbers come out if the processor's products reckon a row alike in any company. That is tried
    when the network is made; where it does not hold, every text goes alone, in halves, in any number of threads.
    """

    def __init__(self, model: "torch.nn.Module", *, n_layers: int, n_heads: int) -> None:
        weights = {name: one.detach() for name, one in model.state_dict().items()}
        self._n_heads = n_heads
        self._words = weights["embeddings.word_embeddings.weight"]
        self._places = (
            weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
        )
        self._first_norm = _pair(weights, "embeddings.LayerNorm")
        self._layers = [_Layer(weights, f"encoder.layer.{number}.", n_heads=n_heads) for number in range(n_layers)]
        self._may_join = self._are_equal_joined()

    def mean_states(self, texts: "Sequence[torch.Tensor]", helper: "_Helper | None") -> "list[torch.Tensor]":
        """Mean of the last states of every text, given by its tokens, shape (D,) each, float32.

        A helper that is free takes half of each long text.
        """
        if not self._may_join:
            return [self._mean_of_halves(ids, helper) for ids in texts]
        found: dict[int, torch.Tensor] = {}
        groups: list[list[int]] = []
        n_tokens = _JOINED_TOKENS
        for number, ids in enumerate(texts):
            if helper is not None and len(ids) >= _LEAST_SHARED:
                found[number] = self._mean_of_halves(ids, helper)
                continue
            n_tokens += len(ids)
            if n_tokens > _JOINED_TOKENS:
                groups.append([])
                n_tokens = len(ids)
            groups[-1].append(number)
        for group in groups:
            found |= zip(group, self._means_joined([texts[one] for one in group]), strict=True)
        return [found[number] for number in range(len(texts))]

    def _are_equal_joined(self) -> bool:
        """Whether texts have the same bits together as they have alone and in halves, tried with made-up ones."""
        import torch

        with torch.inference_mode():
            for lengths in _TRIED:
                texts = [torch.arange(length) * 97 % len(self._words) for length in lengths]
                alone = [self._mean_of_halves(ids, None) for ids in texts]
                in_one_piece = [self._means_joined([ids])[0] for ids in texts]
                if not all(map(torch.equal, alone * 2, in_one_piece + self._means_joined(texts))):
                    return False
        return True

    def _means_joined(self, texts: "Sequence[torch.Tensor]") -> "list[torch.Tensor]":
        import torch
        from torch.nn import functional

        lengths = [len(ids) for ids in texts]
        places = torch.cat([self._places[:length] for length in lengths])
        states = self._words[torch.cat(list(texts))] + places
        states = functional.layer_norm(states, self._words.shape[1:], *self._first_norm, eps=_EPSILON)
        for layer in self._layers:
            states = layer.of_texts(states, lengths)
        return [_mean(part) for part in torch.split(states.float(), lengths)]

    def _mean_of_halves(self, ids: "torch.Tensor", helper: "_Helper | None") -> "torch.Tensor":
        import torch

        n_tokens = len(ids)
        middle = _middle(n_tokens)
        shape = (3, self._n_heads, n_tokens, self._words.shape[1] // self._n_heads)
        # Two places by turns: whoever is first may write a layer while the other one still reads the layer before.
        shared = [torch.empty(shape, dtype=self._words.dtype) for _ in range(2)]
        halves = [self._half(ids, start, stop, shared) for start, stop in ((0, middle), (middle, n_tokens)) if stop]
        if len(halves) == 1:
            sums = _alone(halves)
        else:
            together = None if helper is None else helper.run(halves, n_meetings=len(self._layers))
            sums = _alone(halves) if together is None else together
        total = sums[0]
        for one in sums[1:]:
            total = total + one
        return total / n_tokens

    def _half(self, ids: "torch.Tensor", start: int, stop: int, shared: "Sequence[torch.Tensor]") -> "_Half":
        """Sum of the last states of some tokens; pauses in every layer until the other half is there too."""
        from torch.nn import functional

        size = self._words.shape[1:]
        states = self._words[ids[start:stop]] + self._places[start:stop]
        states = functional.layer_norm(states, size, *self._first_norm, eps=_EPSILON)
        places = [_Place.of(three, start, stop) for three in shared]
        for number, layer in enumerate(self._layers):
            place = places[number % 2]
            layer.mix(states, place)
            yield None
            states = layer.after(states, place)
        yield states.float().sum(dim=0)


class _Place(NamedTuple):
    """Where queries, keys and values of a layer lie, seen from one half of the text."""

    own: "torch.Tensor"
    queries: "torch.Tensor"
    keys: "torch.Tensor"
    values: "torch.Tensor"

    @classmethod
    def of(cls, three: "torch.Tensor", start: int, stop: int) -> "_Place":
        """Views of a tensor of shape (3, heads, tokens, size of a head)."""
        own = three[:, :, start:stop]
        return cls(own.permute(2, 0, 1, 3), own[0], three[1].transpose(1, 2), three[2])


class _Layer:
    """One layer."""

    def __init__(self, weights: "Mapping[str, torch.Tensor]", at: str, *, n_heads: int) -> None:
        import torch

        three = [_pair(weights, f"{at}attention.self.{name}") for name in ("query", "key", "value")]
        size = len(three[0][1])
        scale = (size // n_heads) ** -0.5
        three[0] = (three[0][0] * scale, three[0][1] * scale)  # so that likenesses need no scaling
        self._n_heads = n_heads
        self._mixed = _Linear(torch.cat([one for one, _ in three]), torch.cat([two for _, two in three]))
        self._out = _Linear(*_pair(weights, f"{at}attention.output.dense"))
        self._wide = _Linear(*_pair(weights, f"{at}intermediate.dense"), with_gelu=True)
        self._narrow = _Linear(*_pair(weights, f"{at}output.dense"))
        self._first = _pair(weights, f"{at}attention.output.LayerNorm")
        self._second = _pair(weights, f"{at}output.LayerNorm")

    def mix(self, states: "torch.Tensor", place: _Place) -> None:
        """Write queries, keys and values of some tokens."""
        place.own.copy_(self._mixed(states).view(place.own.shape))

    def of_texts(self, states: "torch.Tensor", lengths: "list[int]") -> "torch.Tensor":
        """States of the tokens of texts after the layer; lengths are those of the texts, which lie one after the other."""
        import torch

        seen = []
        for three in torch.split(self._mixed(states), lengths):
            queries, keys, values = three.view(len(three), 3, self._n_heads, -1).permute(1, 2, 0, 3)
            seen.append(_seen(queries, keys.transpose(1, 2), values))
        return self._rest(states, torch.cat(seen))

    def after(self, states: "torch.Tensor", place: _Place) -> "torch.Tensor":
        """States of some tokens after the layer, from theirs before it and the keys and values of all."""
        return self._rest(states, _seen(place.queries, place.keys, place.values))

    def _rest(self, states: "torch.Tensor", seen: "torch.Tensor") -> "torch.Tensor":
        from torch.nn import functional

        size = states.shape[1:]
        states = functional.layer_norm(states + self._out(seen), size, *self._first, eps=_EPSILON)
        return functional.layer_norm(states + self._narrow(self._wide(states)), size, *self._second, eps=_EPSILON)


def _seen(queries: "torch.Tensor", keys: "torch.Tensor", values: "torch.Tensor") -> "torch.Tensor":
    """What tokens see of all tokens of their text, shape (tokens, D); keys are transposed."""
    import torch

    return torch.bmm(torch.softmax(torch.bmm(queries, keys), dim=-1), values).transpose(0, 1).flatten(1)


def _mean(states: "torch.Tensor") -> "torch.Tensor":
    """Mean over tokens, added up as halves are."""
    middle = _middle(len(states))
    total = states[middle:].sum(dim=0)
    return (states[:middle].sum(dim=0) + total if middle else total) / len(states)


def _middle(n_tokens: int) -> int:
    """Tokens of the first half; 0 for a text that is one piece."""
    return n_tokens // 2 if n_tokens >= _LEAST_SPLIT else 0


class _Linear:
    """A linear layer whose weights lie as the processor's product wants them, where torch can do that."""

    def __init__(self, weight: "torch.Tensor", bias: "torch.Tensor", *, with_gelu: bool = False) -> None:
        import torch

        self._weight, self._bias, self._with_gelu = weight.contiguous(), bias.contiguous(), with_gelu
        self._call: Callable[..., torch.Tensor] | None = None
        if can_pack():
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight, _PACKED_FOR)
            self._call = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: "torch.Tensor") -> "torch.Tensor":
        from torch.nn import functional

        if self._call is not None:
            after, way = ("gelu", "none") if self._with_gelu else ("none", "")
            return self._call(x, self._weight, self._bias, after, [], way)
        x = functional.linear(x, self._weight, self._bias)
        return functional.gelu(x) if self._with_gelu else x


def can_pack() -> bool:
    """Whether this torch, on this processor, keeps weights in the form that its products want."""
    import torch

    try:
        names = (torch.ops.mkldnn._reorder_linear_weight, torch.ops.mkldnn._linear_pointwise)
        return all(names) and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


def _alone(halves: "Sequence[_Half]") -> "list[torch.Tensor]":
    """Both halves in one thread, by turns."""
    while True:
        sums = [next(half) for half in halves]
        if sums[0] is not None:
            return [one for one in sums if one is not None]


class _Helper:
    """A thread that takes the second half of a text. It sleeps while there is none, so it costs nothing.

    Where its processor is busy with something else, sharing is slower than working alone. So whenever it was late, it is left
    out for a while, which doubles each time.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="half")
        self._id = self._thread.submit(threading.get_native_id).result()
        self._is_taken = threading.Lock()
        self._rest_s, self._rests_until = 0.0, 0.0

    def run(self, halves: "Sequence[_Half]", *, n_meetings: int) -> "list[torch.Tensor] | None":
        """Sums of two halves; None if it is resting or at work for somebody else, or there is but one processor."""
        if time.monotonic() < self._rests_until or not self._is_taken.acquire(blocking=False):
            return None
        try:
            with apart_from(self._id) as are_two:
                return self._run(halves, n_meetings) if are_two else None
        finally:
            self._is_taken.release()

    def _run(self, halves: "Sequence[_Half]", n_meetings: int) -> "list[torch.Tensor]":
        started, worked = time.monotonic(), time.thread_time()
        meetings = _Meetings(n_meetings)
        second = self._thread.submit(meetings.run, halves[1], 1)
        sums = [meetings.run(halves[0], 0), second.result()]
        self.judge(time.monotonic() - started, worked_s=time.thread_time() - worked)
        return sums

    def judge(self, took_s: float, *, worked_s: float) -> None:
        """Leave the helper out for a while if a text took much longer than the work of one half."""
        is_late = took_s > _LATE * worked_s + _LATE_S
        self._rest_s = min(max(2 * self._rest_s, _REST_S[0]), _REST_S[1]) if is_late else 0.0
        self._rests_until = time.monotonic() + self._rest_s


@contextmanager
def apart_from(thread: int) -> Iterator[bool]:
    """Keep this thread where it runs and another one elsewhere; tells whether there is an elsewhere.

    Left alone, the kernel often lets two threads that wake each other share one processor beside one that is idle.
    """
    allowed = os.sched_getaffinity(0)
    here = _here()
    if len(allowed) < 2 or here not in allowed:
        yield len(allowed) > 1
        return
    try:
        with suppress(OSError):  # where a sandbox forbids it, they go where the kernel puts them
            os.sched_setaffinity(thread, allowed - {here})
            os.sched_setaffinity(0, {here})
        yield True
    finally:
        with suppress(OSError):
            os.sched_setaffinity(0, allowed)


def _here() -> int:
    """Processor that this thread runs on; -1 where the C library does not tell."""
    found = getattr(ctypes.pythonapi, "sched_getcpu", None)
    return -1 if found is None else int(found())


class _Meetings:
    """Points that two threads pass together; a thread that fails lets the other go on to its end."""

    def __init__(self, number: int) -> None:
        self._gates = tuple(tuple(threading.Lock() for _ in range(number)) for _ in range(2))
        for gate in (*self._gates[0], *self._gates[1]):
            gate.acquire()

    def run(self, half: "_Half", side: int) -> "torch.Tensor":
        """Go through a half, waiting for the other one at every point."""
        import torch

        n_passed = 0
        mine, other = self._gates[side], self._gates[1 - side]
        try:
            with torch.inference_mode():
                while (total := next(half)) is None:
                    mine[n_passed].release()
                    other[n_passed].acquire()
                    n_passed += 1
                return total
        finally:
            for gate in mine[n_passed:]:
                if gate.locked():
                    gate.release()


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
