"""What can go wrong with a request, as values that know their OpenAI form."""

from __future__ import annotations

import orjson


class GatewayError(Exception):
    """A request that ends with an error answer of the gateway's own."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after_s = retry_after_s

    def body(self) -> bytes:
        """The answer body in OpenAI's form."""
        return error_body(self.status, self.message, self.code, self.param)


class NothingThere(GatewayError):
    """No replica could be connected to: all are gone, or about to start."""


class UpstreamError(Exception):
    """A replica that did not answer; `kind` is what the metric counts."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def error_body(status: int, message: str, code: str, param: str | None = None) -> bytes:
    """An error object as OpenAI's clients read it."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})
