"""What the double does wrong, and when: a share of the calls for every kind, drawn from (session, turn, try) alone."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mtrouter_rl.errors import InvalidConfigError, unknown_name

FAULT_KINDS: Mapping[str, str] = {
    "429": "refuses for the rate, without Retry-After",
    "429_retry_after": "refuses for the rate, with Retry-After, in seconds or as a date by turns",
    "500": "fails inside",
    "timeout": "says nothing, and closes the connection after a while",
    "drip": "sends the answer a few bytes at a time",
    "broken_json": "answers with JSON that breaks off, its usage readable",
    "cut_stream": "closes the connection in the middle of the answer; its usage is not sent",
    "missing_usage": "answers without usage",
    "zero_usage": "answers with a usage of zeros",
    "wrong_model": "answers under the name of another model",
    "redirect": "sends the call to another address (302)",
    "foreign_thinking": "signs its thinking, and from then on refuses it from another model (400)",
}
"""Kind -> what the double does."""

UNBILLED = frozenset({"429", "429_retry_after", "500", "timeout", "redirect"})
"""Kinds that generate no answer and so cost nothing."""

ALL = "all"


@dataclass(frozen=True, kw_only=True)
class FaultPlan:
    """Which share of the calls goes wrong how.

    Attributes:
        shares: Kind -> share of all calls; together at most 1.
        seed: Of the draws.
        retry_after_s: What `429_retry_after` asks for, seconds.
        timeout_s: How long `timeout` says nothing, seconds.
        drip_s: How long `drip` takes for an answer, seconds.
        most_per_turn: Faults that one turn of a session may meet, so that whoever tries often enough gets through.
    """

    shares: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    retry_after_s: float = 1.0
    timeout_s: float = 30.0
    drip_s: float = 1.0
    most_per_turn: int = 2

    def __post_init__(self) -> None:
        """Check kinds and shares.

        Raises:
            UnknownNameError: If there is no such kind.
            InvalidConfigError: If a share is outside [0, 1], or all together are above 1.
        """
        for kind, share in self.shares.items():
            if kind not in FAULT_KINDS:
                raise unknown_name("fault", kind, [*FAULT_KINDS, ALL])
            if not 0 <= share <= 1:
                raise InvalidConfigError(f"share of fault '{kind}' is {share}, must be from 0 to 1")
        if sum(self.shares.values()) > 1 + 1e-9:
            raise InvalidConfigError(f"shares of faults add up to {sum(self.shares.values()):g}, must be at most 1")

    @staticmethod
    def shares_of(words: Sequence[str]) -> dict[str, float]:
        """Shares of words such as "500=0.1"; "all=0.2" shares that out among all kinds.

        Raises:
            InvalidConfigError: If a word is none.

        Example:
            >>> FaultPlan.shares_of(["500=0.1", "429=0.05"])
            {'500': 0.1, '429': 0.05}
        """
        shares: dict[str, float] = {}
        for word in words:
            kind, _, text = word.partition("=")
            try:
                share = float(text)
            except ValueError:
                raise InvalidConfigError(f"fault is '{word}', must be KIND=SHARE, such as 500=0.1") from None
            kinds = tuple(FAULT_KINDS) if kind == ALL else (kind,)
            for one in kinds:
                shares[one] = shares.get(one, 0.0) + share / len(kinds)
        return shares

    def draw(self, session: str, turn: int, n_try: int) -> str:
        """Fault of a call; empty for none.

        Args:
            session: What tells sessions apart, the same in every run.
            turn: Turn of the session.
            n_try: How often this turn was asked for before.
        """
        if not self.shares or n_try >= self.most_per_turn:
            return ""
        rng = np.random.default_rng([self.seed, zlib.crc32(session.encode()), turn, n_try])
        drawn = float(rng.random())
        for kind, share in self.shares.items():
            drawn -= share
            if drawn < 0:
                return kind
        return ""
