"""The cache of text vectors: bit-equal, shared by processes, clear about broken files."""

import multiprocessing
import sqlite3

import numpy as np
import pytest

from mtrouter_rl.embeddings.cache import CACHE_FILE, CachedEncoder, EncoderCacheError


class NoisyEncoder:
    """Encoder that never gives a text the same vector twice, so that only a cache makes calls agree."""

    name = "noisy"
    dim = 5

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.n_encoded = 0

    def encode(self, texts):
        self.n_encoded += len(texts)
        return self.rng.normal(size=(len(texts), self.dim)).astype(np.float32)


def encode_in_process(folder, seed, start, texts, results):
    start.wait()
    encoder = CachedEncoder(NoisyEncoder(seed), folder)
    for text in texts:
        encoder.encode([text])
    results.put(encoder.encode(texts))


def test_texts_are_encoded_once_and_counted():
    inner = NoisyEncoder()
    encoder = CachedEncoder(inner, None)
    assert (encoder.name, encoder.dim) == ("noisy", 5)
    first = encoder.encode(["a", "b", "a"])
    assert inner.n_encoded == 2
    assert np.array_equal(first[0], first[2])
    assert (encoder.n_hits, encoder.n_misses) == (1, 2)
    assert np.array_equal(encoder.encode(["b", "c"])[0], first[1])
    assert (encoder.n_hits, encoder.n_misses) == (2, 3)
    assert encoder.encode([]).shape == (0, 5)


def test_rows_are_copies():
    encoder = CachedEncoder(NoisyEncoder(), None)
    first = encoder.encode(["a"])
    kept = first.copy()
    first[:] = 0
    assert np.array_equal(encoder.encode(["a"]), kept)


def test_disk_gives_the_same_bits_in_batches_above_a_select(tmp_path):
    texts = [f"text {index}" for index in range(1203)] + ["", "λ → 中文", "\udc80 lone surrogate"]
    first = CachedEncoder(NoisyEncoder(1), tmp_path / "new" / "folder")
    vectors = first.encode(texts)
    first.close()
    inner = NoisyEncoder(2)
    second = CachedEncoder(inner, tmp_path / "new" / "folder")
    assert np.array_equal(second.encode(texts[::-1]), vectors[::-1])
    assert inner.n_encoded == 0
    assert (second.n_hits, second.n_misses) == (1206, 0)
    assert np.array_equal(first.encode(texts), vectors)


def test_encoders_do_not_share_vectors(tmp_path, scripted):
    noisy = CachedEncoder(NoisyEncoder(), tmp_path).encode(["a"])
    other = CachedEncoder(scripted({"a": [1, 0, 0]}, dim=3), tmp_path).encode(["a"])
    assert noisy.shape == (1, 5)
    assert other.tolist() == [[1, 0, 0]]


def test_processes_at_once_agree_on_every_bit(tmp_path):
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    texts = [f"text {index}" for index in range(150)]
    processes = [
        context.Process(target=encode_in_process, args=(tmp_path, seed, start, texts, results)) for seed in range(4)
    ]
    for process in processes:
        process.start()
    start.set()
    answers = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    assert all(np.array_equal(answer, answers[0]) for answer in answers)
    assert np.array_equal(CachedEncoder(NoisyEncoder(9), tmp_path).encode(texts), answers[0])


def test_open_cache_survives_a_fork(tmp_path):
    context = multiprocessing.get_context("fork")
    encoder = CachedEncoder(NoisyEncoder(), tmp_path)
    vectors = encoder.encode(["a"])
    results = context.Queue()
    process = context.Process(target=lambda: results.put(encoder.encode(["a", "b"])))
    process.start()
    answer = results.get(timeout=60)
    process.join(timeout=60)
    assert np.array_equal(answer[:1], vectors)
    assert np.array_equal(encoder.encode(["a", "b"]), answer)


def write_garbage(path):
    path.write_bytes(b"this is no database, it only looks long enough to be one" * 100)


def write_short_vector(path):
    CachedEncoder(NoisyEncoder(), path.parent).encode(["a"])
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE vectors SET vector = x'00000000'")


def write_newer_version(path):
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")


def write_other_table(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE vectors (something INTEGER)")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (write_garbage, "is corrupt: .*; delete the file"),
        (write_short_vector, r"a vector has 4 bytes, must have 20 \(5 float32\); delete the file"),
        (write_newer_version, "version is 99, must be 1; delete the file"),
        (write_other_table, "cannot be used: no such column: key"),
    ],
)
def test_broken_file_is_named_with_the_fix(spoil, message, tmp_path):
    spoil(tmp_path / CACHE_FILE)
    with pytest.raises(EncoderCacheError, match=f"{CACHE_FILE}.*{message}"):
        CachedEncoder(NoisyEncoder(), tmp_path).encode(["a"])
