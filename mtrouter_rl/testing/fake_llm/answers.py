"""Who answers for the double, and the plain answers that need no environment."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mtrouter_rl.cards.pool import PoolCard, TokenCounter
from mtrouter_rl.records import TokenUsage
from mtrouter_rl.testing.fake_llm.conversation import ChatRequest, RefusedError, text_of

_WORDS = ("one", "step", "after", "another", "and", "then", "the", "next")
_COUNTER = TokenCounter(kind="characters")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model says.

    Attributes:
        text: The action.
        usage: Tokens as billed.
        latency_s: How long the model would have taken, seconds.
        is_exact_text: Whether the text is the whole answer already, and gets no words around it.
    """

    text: str
    usage: TokenUsage
    latency_s: float = 0.0
    is_exact_text: bool = False


class Answerer(Protocol):
    """Answers requests; may be called from several threads."""

    def answer(self, request: ChatRequest, session: str) -> Answer:
        """Answer a request.

        Raises:
            RefusedError: If it cannot be answered.
        """

    def close(self) -> None:
        """Release what was started."""


class ScriptedAnswers:
    """The lines of a script one after another, by turn; without one, the last message of the user, or so many words."""

    def __init__(self, pool: PoolCard | None, *, script: Sequence[str] = (), n_tokens: int = 0) -> None:
        """Create it.

        Args:
            pool: Its counter counts tokens, and its models are the only ones; None takes any model.
            script: Answers by turn, the last one for ever; empty for an echo.
            n_tokens: Length of every answer instead; 0 for script or echo.
        """
        self._counter = pool.token_counter if pool else _COUNTER
        self._names = frozenset(pool.model_names) if pool else None
        self._script = tuple(script)
        self._words = " ".join(_WORDS[i % len(_WORDS)] for i in range(n_tokens))
        self._n_tokens = n_tokens

    def answer(self, request: ChatRequest, session: str) -> Answer:
        """Answer by turn alone: the same conversation has the same answer."""
        del session
        if self._names is not None and request.model not in self._names:
            raise RefusedError(404, f"the model '{request.model[:80]}' does not exist", kind="model_not_found")
        text = self._text(request)
        n_output = self._n_tokens or self._counter.count(text)
        usage = TokenUsage(n_fresh=count_prompt(self._counter, request), n_output=min(n_output, request.max_tokens))
        return Answer(text=text, usage=usage, is_exact_text=True)

    def close(self) -> None:
        """Nothing to release."""

    def _text(self, request: ChatRequest) -> str:
        if self._n_tokens:
            return self._words
        if self._script:
            return self._script[min(request.turn, len(self._script) - 1)]
        return next((text_of(one) for one in reversed(request.messages) if one.get("role") == "user"), "")


def count_prompt(counter: TokenCounter, request: ChatRequest) -> int:
    """Tokens of a conversation."""
    return sum(counter.count(text_of(one)) for one in request.messages)
