"""Texts are encoded once, ahead of the decision where they are known, with the vectors of the encoder inside."""

import dataclasses
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.embeddings.encoders import make_hashing
from mtrouter_rl.serving.service import run
from mtrouter_rl.serving.service.brain import ServingEncoder
from tests.cases.call_rows import POOL
from tests.cases.served import TASK, chat, served
from tests.serving.test_live import trained  # noqa: F401


class Counting:
    """The hashing encoder, counting what it is asked for."""

    name, dim = "hashing-384", 384

    def __init__(self):
        self.inner, self.texts = make_hashing(), []

    def encode(self, texts):
        self.texts += texts
        return self.inner.encode(texts)


def test_every_text_is_encoded_once_and_a_failure_is_not_kept():
    counting = Counting()
    with ThreadPoolExecutor(2) as threads:
        encoder = ServingEncoder(counting, threads)
        rows = encoder.encode(["a b", "c", "a b"])
        assert np.array_equal(rows, make_hashing().encode(["a b", "c", "a b"]))
        assert sorted(counting.texts) == ["a b", "c"]
        assert encoder.encode([]).shape == (0, 384)
        counting.inner, inner = None, counting.inner
        with pytest.raises(AttributeError):
            encoder.encode(["d"])
        counting.inner = inner
        assert np.array_equal(encoder.encode(["d"])[0], inner.encode(["d"])[0])


def test_a_turn_encodes_its_observation_and_the_answer_and_nothing_else(request_of, double, trained, monkeypatch):  # noqa: F811
    counting = Counting()
    monkeypatch.setattr("mtrouter_rl.serving.service.brain.bare_encoder", lambda name: counting)
    double.answer = lambda model, body: {"role": "assistant", "content": f"step {len(body['messages'])}"}
    folder, _ = trained
    pool = request_of().pool
    routed = PoolCard.model_validate(POOL.model_dump() | {"backend": pool.backend.model_dump()})
    with served(request_of(str(folder), pool=routed)) as (address, _):
        del counting.texts[:]
        messages = [TASK]
        for turn in range(3):
            answer = chat(address, messages)
            assert answer.status_code == 200, answer.text
            messages += [answer.json()["choices"][0]["message"], {"role": "user", "content": f"You see {turn}."}]
    expected = [TASK["content"], "", "step 1", "You see 0.", "step 3", "You see 1.", "step 5"]
    assert sorted(counting.texts) == sorted(expected)


def test_a_router_whose_files_change_is_loaded_again_and_a_broken_one_is_not(
    request_of,
    trained,  # noqa: F811
    monkeypatch,
    tmp_path,
):
    monkeypatch.setattr(run, "BEAT_S", 0.05)
    folder = tmp_path / "router"
    shutil.copytree(trained[0], folder)
    routed = PoolCard.model_validate(POOL.model_dump() | {"backend": request_of().pool.backend.model_dump()})
    request = dataclasses.replace(request_of(str(folder), pool=routed), watches=True)

    def until(is_so):
        ends = time.monotonic() + 20
        while not is_so() and time.monotonic() < ends:
            time.sleep(0.02)
        assert is_so()

    with served(request) as (address, running):
        box, told = running.service.desk.box, running.service.metrics.text
        first = box.brain
        weights = next(folder.glob("*.safetensors"))
        weights.touch()
        until(lambda: box.brain is not first)
        assert b'mtrouter_reloads_total{result="loaded"} 1.0' in told()
        second, kept = box.brain, weights.read_bytes()
        weights.write_bytes(kept[: len(kept) // 2])
        until(lambda: b'mtrouter_reloads_total{result="refused"} 1.0' in told())
        assert box.brain is second
        assert chat(address, [TASK]).status_code == 200
        weights.write_bytes(kept)
        until(lambda: box.brain is not second)
