"""Errors as clients get them: the status, and OpenAI's form of an error."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mtrouter_rl.errors import MTRouterError

_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a client is told of an error.

    Attributes:
        status: HTTP status.
        message: What is wrong and how to mend it.
        code: Short name of it.
        param: Field of the request that it concerns.
        headers: Further headers.
    """

    status: int
    message: str
    code: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, object]:
        """As OpenAI writes errors."""
        kind = _KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "api_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class RequestError(MTRouterError):
    """A request cannot be answered.

    Attributes:
        told: What the client is told.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.told = Told(status=status, message=message, code=code, param=param, headers=headers or {})


def bad_request(message: str, *, param: str | None = None, code: str = "invalid_request") -> RequestError:
    """The client has to mend its request."""
    return RequestError(400, message, code=code, param=param)
