"""A judge that is a language model behind any OpenAI-compatible endpoint. Its cost is its own, never the episode's."""

import logging
import re
import time
from dataclasses import dataclass
from typing import Annotated, cast

from pydantic import Field

from mtrouter_rl.cards.pool import TOKENS_PER_PRICE_UNIT, UsdPerMillionTokens
from mtrouter_rl.envs.hle.judges import Verdict
from mtrouter_rl.envs.hle.questions import Question
from mtrouter_rl.errors import SimulatorError
from mtrouter_rl.pools.endpoint import Endpoint, EndpointError
from mtrouter_rl.records import Frozen, JsonValue

logger = logging.getLogger(__name__)

_VERDICT = re.compile(
    r"^[^\w\n]{0,9}correct[^\w\n]{0,9}:[^\w\n]{0,9}(yes|no)[^\w\n]{0,9}$", re.IGNORECASE | re.MULTILINE
)
_RETRIED_STATUS = (408, 409, 425, 429)
_MOST_TOKENS = 10**9
_LONGEST_REASON = 20_000
"""The verdict stands at the end; characters before the last so many are not searched for one."""
_PROMPT = """\
Compare an answer with the known right answer to a question. Do not solve the question yourself.

Question:
{question}

Known right answer:
{right}

Answer to be judged:
{answer}

The answer is correct if it states the same thing as the known right answer; another wording or notation, and a small difference
in a number that was rounded, do not matter. It is not correct if it states several answers, or anything else.
Give a reason in one sentence. Then end with a line of its own that is either "correct: yes" or "correct: no"."""


class EndpointJudgeCard(Frozen):
    """A judge behind an endpoint, in an environment card.

    Attributes:
        base_url: Address up to and without `/chat/completions`.
        model: Model name that the endpoint knows.
        api_key_env: Environment variable that holds the key; None for an endpoint without one.
        input_usd: Price of the judge's prompt tokens, USD per million.
        output_usd: Price of its output tokens, USD per million.
        timeout_s: Time limit of one whole call, seconds.
        retries: How often a failed call is repeated.
        backoff_s: Pause before the first repetition, seconds; doubled each time.
    """

    base_url: Annotated[str, Field(pattern=r"^https?://")]
    model: Annotated[str, Field(min_length=1)]
    api_key_env: str | None = None
    input_usd: UsdPerMillionTokens
    output_usd: UsdPerMillionTokens
    timeout_s: Annotated[float, Field(gt=0)] = 60.0
    retries: Annotated[int, Field(ge=0)] = 4
    backoff_s: Annotated[float, Field(ge=0)] = 1.0


@dataclass(frozen=True, kw_only=True)
class _Spend:
    """Tokens and cost of one judgement, failed calls that were billed included."""

    n_prompt: int = 0
    n_output: int = 0

    def plus(self, usage: object) -> "_Spend":
        counts = usage if isinstance(usage, dict) else {}
        return _Spend(
            n_prompt=self.n_prompt + _n_tokens(counts, "prompt_tokens"),
            n_output=self.n_output + _n_tokens(counts, "completion_tokens"),
        )


def _n_tokens(counts: dict[str, object], name: str) -> int:
    """Tokens of a reply; what is no count makes the reply unusable, since its cost is then unknown."""
    value = counts.get(name)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST_TOKENS:
        raise _UnusableReplyError(f"usage.{name} is {str(value)[:40]!r}, must be a whole number of at least 0")
    return value


class _UnusableReplyError(Exception):
    """A call that gave no verdict; may be repeated."""


class LlmJudge:
    """Asks a model whether an answer says the same as the right one.

    Attributes:
        cost_usd: What all judgements so far have cost, USD.
        n_calls: How many calls were made.
    """

    def __init__(self, card: EndpointJudgeCard) -> None:
        """Create the judge; calls nothing.

        Raises:
            InvalidConfigError: If the address is none, the variable that should hold the key is not set, or what it holds is no
                key.
        """
        self._card = card
        self._endpoint = Endpoint.of_environment(
            card.base_url, card.api_key_env, field="settings.judge.api_key_env", timeout_s=card.timeout_s
        )
        self.cost_usd = 0.0
        self.n_calls = 0

    def judge(self, question: Question, answer: str) -> Verdict:
        """Judge an answer; see `mtrouter_rl.envs.hle.judges.Judge`."""
        prompt = _PROMPT.format(question=question.text, right=question.answer, answer=answer)
        spend, problems = _Spend(), []
        for attempt in range(self._card.retries + 1):
            if attempt:
                time.sleep(self._card.backoff_s * 2 ** (attempt - 1))
            try:
                reply = self._call(prompt)
                spend = spend.plus(reply.get("usage"))
                is_right = _parse_verdict(reply)
            except _UnusableReplyError as problem:
                problems.append(str(problem))
                continue
            return self._verdict(is_right, spend, n_calls=attempt + 1)
        self._book(spend)
        raise SimulatorError(
            f"judge {self._card.model} at {self._card.base_url} gave no verdict in {self._card.retries + 1} call(s): "
            + "; ".join(dict.fromkeys(problems))
        )

    def _verdict(self, is_right: bool, spend: _Spend, *, n_calls: int) -> Verdict:
        cost_usd = self._book(spend)
        hidden: dict[str, JsonValue] = {
            "judge_model": self._card.model,
            "judge_calls": n_calls,
            "judge_prompt_tokens": spend.n_prompt,
            "judge_output_tokens": spend.n_output,
            "judge_cost_usd": cost_usd,
        }
        return Verdict(is_right=is_right, method="llm", hidden=hidden)

    def _book(self, spend: _Spend) -> float:
        card = self._card
        cost_usd = (spend.n_prompt * card.input_usd + spend.n_output * card.output_usd) / TOKENS_PER_PRICE_UNIT
        self.cost_usd += cost_usd
        logger.info("judge %s: %.6f USD, %.6f so far", card.model, cost_usd, self.cost_usd)
        return cost_usd

    def _call(self, prompt: str) -> dict[str, object]:
        self.n_calls += 1
        body = {"model": self._card.model, "messages": [{"role": "user", "content": prompt}]}
        try:
            reply = self._endpoint.post("chat/completions", body)
        except EndpointError as error:
            is_refused = error.status is not None and 300 <= error.status < 500
            if is_refused and error.status not in _RETRIED_STATUS:
                raise SimulatorError(
                    f"judge {self._card.model} at {self._card.base_url} refused the call: {error}; "
                    "check base_url, model and key in settings.judge"
                ) from None
            raise _UnusableReplyError(str(error)) from None
        if not isinstance(reply, dict):
            raise _UnusableReplyError("the reply is no JSON object")
        return cast("dict[str, object]", reply)


def _parse_verdict(reply: dict[str, object]) -> bool:
    """The verdict of a reply; anything but exactly one line that states it is unusable."""
    try:
        choices = cast("list[dict[str, dict[str, object]]]", reply["choices"])
        content = choices[0]["message"]["content"]
    except (LookupError, TypeError) as error:
        raise _UnusableReplyError("the reply has no choices[0].message.content") from error
    found = _VERDICT.findall(str(content)[-_LONGEST_REASON:])
    if len(found) != 1:
        raise _UnusableReplyError(f"the reply holds {len(found)} lines 'correct: yes' or 'correct: no', must hold one")
    return str(found[0]).lower() == "yes"
