"""Texts are encoded once, ahead of the decision where they are known, with the vectors of the encoder inside."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.embeddings.encoders import make_hashing
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
