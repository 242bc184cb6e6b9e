"""The hook inside the real LiteLLM, in this process and without a network: its mocked answers go through its own callbacks."""

import asyncio
import json
import os

import pytest

from mtrouter_rl.datasets.importers.run import ImportRequest, import_log
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import NoModelAllowedError
from mtrouter_rl.serving.live import LiveRouter
from tests.cases.agent_logs import TASK
from tests.cases.call_rows import POOL
from tests.serving.test_live import Fixed, deployment

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
litellm = pytest.importorskip("litellm")

from mtrouter_rl.serving.litellm_hook import MARK, make_hook  # noqa: E402


class Key:
    def __init__(self, api_key):
        self.api_key = api_key


@pytest.fixture(scope="module")
def run():
    """One event loop for all: LiteLLM calls back from a task of the first one that it sees."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture
def hook(tmp_path, monkeypatch):
    live = LiveRouter(Fixed(("small", "big"), [0.2, 0.7]), POOL, deployment(), explore=0.5, seed=1)
    made = make_hook(live, log=tmp_path / "calls.jsonl", budget_usd=50.0)
    for name in (
        "input_callback",
        "success_callback",
        "failure_callback",
        "_async_success_callback",
        "_async_failure_callback",
    ):
        monkeypatch.setattr(litellm, name, [])  # LiteLLM keeps the first hook of a class
    monkeypatch.setattr(litellm, "callbacks", [made])
    return made


async def called(hook, messages, *, key="k", answer="I look.", **more):
    data = {"model": "router", "messages": messages, **more}
    data = await hook.async_pre_call_hook(Key(key), None, data, "acompletion")
    model = data.pop("model")
    response = await litellm.acompletion(model=f"openai/{model}", mock_response=answer, **data)
    if more.get("stream"):
        async for _ in response:
            pass
    return model, data["metadata"]


def lines(tmp_path):
    path = tmp_path / "calls.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


async def until(n, tmp_path):
    for _ in range(400):
        if len(lines(tmp_path)) >= n:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{len(lines(tmp_path))} lines, {n} expected")


def test_a_session_is_chosen_booked_and_imported(run, hook, tmp_path):
    async def play():
        model, told = await called(hook, [TASK])
        after = [TASK, {"role": "assistant", "content": "I look."}, {"role": "user", "content": "A door."}]
        other, again = await called(hook, after, answer="Open it.")
        await until(2, tmp_path)
        assert told["mtrouter_session"] == again["mtrouter_session"]
        _, alien = await called(hook, after[:1], key="another")
        await until(3, tmp_path)
        assert alien["mtrouter_session"] != told["mtrouter_session"]
        return told["mtrouter_session"], [model, other]

    session, models = run(play())
    written = [line for line in lines(tmp_path) if line["session_id"] == session]
    assert [line["model"] for line in written] == models
    assert [line["propensity"] for line in written] == [{"big": 0.75, "small": 0.25}[model] for model in models]
    scores = tmp_path / "scores.csv"
    scores.write_text(f"session_id,score\n{session},1\n")
    request = ImportRequest(
        format="openai-jsonl", paths=(tmp_path / "calls.jsonl",), pool=POOL, out=tmp_path / "out", scores=(scores,)
    )
    import_log(request, show_progress=False)
    (episode,) = Dataset.load(tmp_path / "out").episodes
    assert [turn.action_text for turn in episode.turns] == ["I look.", "Open it."]
    assert [turn.observation_text for turn in episode.turns] == ["A door.", ""]


def test_streams_are_booked_once(run, hook, tmp_path):
    async def play():
        await called(hook, [TASK], stream=True)
        await until(1, tmp_path)
        await asyncio.sleep(0.05)

    run(play())
    (line,) = lines(tmp_path)
    assert line["response"]["content"] == "I look."
    assert line["usage"]["completion_tokens"] > 0


def test_a_call_that_fails_is_left_out_and_the_session_goes_on(run, hook, tmp_path):
    async def play():
        with pytest.raises(litellm.RateLimitError):
            await called(
                hook, [TASK], answer=litellm.RateLimitError("no", "openai", "small"), metadata={"session_id": "s"}
            )
        await called(hook, [TASK], metadata={"session_id": "s"})
        await until(1, tmp_path)

    run(play())


def test_other_names_and_kinds_of_calls_are_left_alone(run, hook):
    data = {"model": "small", "messages": [TASK]}
    assert run(hook.async_pre_call_hook(Key("k"), None, data, "acompletion")) is data
    routed = {"model": "router", "input": "x"}
    assert run(hook.async_pre_call_hook(Key("k"), None, routed, "aembedding")) is routed


def test_a_budget_refuses(run, tmp_path):
    live = LiveRouter(Fixed(("small", "big"), [0.2, 0.7]), POOL, deployment())
    made = make_hook(live, budget_usd=1e-9)
    with pytest.raises(NoModelAllowedError, match="may cost"):
        run(made.async_pre_call_hook(Key("k"), None, {"model": "router", "messages": [TASK]}, "acompletion"))


def test_the_mark_is_in_the_metadata(run, hook):
    data = run(hook.async_pre_call_hook(Key("k"), None, {"model": "router", "messages": [TASK]}, "acompletion"))
    assert data["metadata"][MARK].endswith("/0")
    assert data["metadata"]["mtrouter_propensity"] in (0.75, 0.25)
