"""What is sent to an endpoint: the body of chat completions, and the header that names an episode."""

import urllib.parse
import uuid
from collections.abc import Mapping, Sequence
from typing import cast

from mtrouter_rl.cards import HarnessCard
from mtrouter_rl.pools.remote.settings import RemoteModel
from mtrouter_rl.records import JsonValue


def request_body(
    remote: RemoteModel,
    name: str,
    messages: Sequence[Mapping[str, object]],
    *,
    max_output_tokens: int,
    harness: HarnessCard | None,
) -> dict[str, JsonValue]:
    """Body of a call.

    Args:
        remote: How the model is called.
        name: Its name in the pool.
        messages: The conversation as it can take it.
        max_output_tokens: Output limit.
        harness: Form of the action; the tool is offered where it is one.
    """
    body: dict[str, JsonValue] = {
        **remote.set_fields,
        "model": remote.model or name,
        "messages": [cast("dict[str, JsonValue]", dict(one)) for one in messages],
        remote.limit_field: max_output_tokens,
    }
    if remote.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    tool = harness.tool_definition if harness is not None else None
    if tool is not None:
        body |= {"tools": [cast("JsonValue", tool)], "tool_choice": "required"}
    return body


def episode_header(task: str, variation: int, seed: int) -> str:
    """Name of an episode in a header: TASK|VARIATION|SEED|RUN, where RUN tells two runs of the same episode apart."""
    return f"{urllib.parse.quote(task, safe='')}|{variation}|{seed}|{uuid.uuid4().hex[:12]}"
