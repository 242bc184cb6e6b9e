"""What a service is told when it starts, checked together."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from hmac import compare_digest

from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.serving.service.policy import PolicySettings

MIB = 2**20
_KEY_CHARACTERS = range(0x21, 0x7F)


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """Limits and rules of a service.

    Attributes:
        policy: How models are drawn.
        routed_name: Model name that clients give to have a model chosen.
        token_variables: Environment variables with the bearer tokens that are let in; none lets everybody in.
        session_budget_usd: What a session may cost, USD; None for no limit.
        key_budget_usd: What a bearer key may spend on a day, UTC, USD; None for no limit.
        max_turns: Turn limit that the router is shown; None takes that of its training.
        max_body_bytes: Longest request.
        read_within_s: Deadline for the body of a request to arrive, seconds.
        tries_of_a_draw: How often the model of a turn is called before another one is drawn, if the client asks again.
    """

    policy: PolicySettings = field(default_factory=PolicySettings)
    routed_name: str = "router"
    token_variables: tuple[str, ...] = ()
    session_budget_usd: float | None = None
    key_budget_usd: float | None = None
    max_turns: int | None = None
    max_body_bytes: int = 8 * MIB
    read_within_s: float = 30.0
    tries_of_a_draw: int = 3

    def check(self, pool: PoolCard) -> None:
        """See that the settings fit each other and a pool.

        Raises:
            InvalidConfigError, UnknownNameError: If one breaks its rule.
        """
        self.policy.check(pool)
        if not self.routed_name or self.routed_name in pool.model_names:
            raise InvalidConfigError(
                f"the routed name is '{self.routed_name}', must be a name that no model of pool '{pool.name}' has"
            )
        for name in ("session_budget_usd", "key_budget_usd"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InvalidConfigError(f"{name} is {value}, must be a number above 0; leave it out for no limit")
        for name in ("max_turns", "max_body_bytes", "tries_of_a_draw"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidConfigError(f"{name} is {value}, must be at least 1")


class Keyring:
    """Who may ask, and as whom: keys are kept as digests with a secret of the store, never as they are."""

    def __init__(self, secret: bytes, tokens: Sequence[str]) -> None:
        """Take the secret of the store and the tokens; without tokens everybody is let in, each key apart from the others."""
        self._secret = secret
        self._known = tuple(map(self._digest, tokens))

    def key_id(self, authorization: str | None) -> str | None:
        """Name of the key of a request; None if it is not let in.

        Args:
            authorization: Header of that name.
        """
        scheme, _, token = (authorization or "").partition(" ")
        given = self._digest(token.strip()) if scheme.lower() == "bearer" and token.strip() else ""
        if not self._known:
            return given or "open"
        found = [known for known in self._known if compare_digest(known, given)]
        return found[0] if found else None

    @property
    def is_open(self) -> bool:
        """Whether everybody is let in."""
        return not self._known

    def _digest(self, token: str) -> str:
        return blake2b(token.encode("utf-8", "surrogateescape"), key=self._secret, digest_size=16).hexdigest()


def tokens_of(variables: Sequence[str]) -> tuple[str, ...]:
    """Bearer tokens of environment variables.

    Raises:
        InvalidConfigError: If one is not set, or holds what no header may hold. The token itself is never told.
    """
    tokens = []
    for name in variables:
        token = os.environ.get(name, "")
        if not token:
            raise InvalidConfigError(
                f"--token-variable names {name}, which is not set; export the token of the clients"
            )
        if any(ord(character) not in _KEY_CHARACTERS for character in token):
            raise InvalidConfigError(
                f"the token in {name} holds a line break, a blank or another character that no token has; export it anew, "
                "such as with TOKEN=$(tr -d '\\r\\n' < FILE)"
            )
        tokens.append(token)
    return tuple(tokens)
