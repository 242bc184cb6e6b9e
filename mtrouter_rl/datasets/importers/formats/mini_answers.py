"""Answers in trajectories of mini-swe-agent that do not stand there as ordinary messages.

Version 2 keeps an answer in a wrong form only inside the complaint about it (`extra.response` of a message whose
`interrupt_type` is `FormatError`), and answers of OpenAI's Responses API as the whole response, without a role.
Source: github.com/SWE-agent/mini-swe-agent, `models/litellm_model.py` and `models/litellm_response_model.py`.
"""

from collections.abc import Iterable, Iterator, Sequence

from mtrouter_rl.datasets.importers.base import Amount, ImportReport, UnusableEpisodeError, cut
from mtrouter_rl.datasets.importers.chat import TurnBuilder, call_usage
from mtrouter_rl.datasets.importers.formats.openai_pairs import read_reply
from mtrouter_rl.datasets.importers.formats.rows import Object, as_number, as_object, as_text
from mtrouter_rl.records import JsonValue

FORMAT_ERROR = "FormatError"
NO_TOKENS = "call that was billed and whose tokens were not logged, left out"


def with_all_answers(messages: Sequence[JsonValue], report: ImportReport, *, where: str) -> Iterator[JsonValue]:
    """Messages, with every answer as a message of its own.

    Args:
        messages: As they were logged.
        report: Where answers are counted whose tokens are lost.
        where: The file, for the report.
    """
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            yield message
            continue
        extra = as_object(message.get("extra"))
        if extra.get("interrupt_type") == FORMAT_ERROR:
            response = as_object(extra.get("response"))
            if isinstance(response.get("usage"), dict):
                yield _answer(response, extra) | {"is_refused": True}
            else:
                cost = as_number(extra.get("cost")) or 0.0
                given = cut(repr(extra.get("response")), 40)
                detail = f"messages.{index}.extra.response is {given}, cost {cost:g} USD"
                report.note(NO_TOKENS, source=where, detail=detail, usd=cost)
                message = message | {"extra": {**extra, "response": None}}
        if "role" not in message and message.get("object") == "response":
            yield _answer(message, extra)
        else:
            yield message


def _answer(response: Object, extra: Object) -> dict[str, JsonValue]:
    """An assistant message of a whole response."""
    try:
        message = read_reply(response).message
    except UnusableEpisodeError:
        content, calls = as_text(extra.get("model_response")) or None, []
    else:
        content = message.content
        calls = [call.plain() for call in message.tool_calls or ()]
    logged: dict[str, JsonValue] = {"model": response.get("model"), "usage": response.get("usage")}
    answer: dict[str, JsonValue] = {"role": "assistant", "content": content}
    if calls:
        answer["tool_calls"] = calls  # type: ignore[assignment]
    return answer | {"extra": {"response": logged, "cost": extra.get("cost")}}


def lost_amount(messages: Iterable[JsonValue], builder: TurnBuilder, configured: str) -> Amount:
    """Tokens and money of the answers of a run that is left out, as far as they are known."""
    return sum((_amount(as_object(one), builder, configured) for one in messages if _is_answer(one)), Amount())


def _is_answer(message: JsonValue) -> bool:
    return isinstance(message, dict) and message.get("role") == "assistant"


def _amount(message: Object, builder: TurnBuilder, configured: str) -> Amount:
    response = as_object(as_object(message.get("extra")).get("response"))
    try:
        tokens = call_usage(response.get("usage")).tokens
    except UnusableEpisodeError:
        return Amount.of_call(None, None)
    names = (as_text(response.get("model")), as_text(message.get("model_name")), configured)
    served = next((found for name in names if (found := builder.find(name))), None)
    return Amount.of_call(tokens, None if served is None else builder.price_usd(served, tokens))
