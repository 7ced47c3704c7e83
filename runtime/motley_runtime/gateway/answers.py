"""What counts as an answer: statuses and forms that say a replica has failed.

Statuses that say "this replica cannot" (401, 403, 404, 429 and 5xx) are failures, and so are answers
that cannot be what was asked for; other refusals are about the request.
"""

from __future__ import annotations

import logging

from motley_runtime.gateway.errors import UpstreamError
from motley_runtime.gateway.upstream import Answer, OpenStream

log = logging.getLogger("motley.gateway")

_BUSY = (429, 503)
_EVENT_STREAM = "text/event-stream"
_SPACE = b" \t\r\n"

# What reading an answer may stumble over where its fields are not what they should be. What is known
# to come is checked for; this is for the rest, so that it costs a stage's answer and not the request.
GARBLED = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError)


def garbled(error: Exception, stage: str = "") -> UpstreamError:
    """One of GARBLED as a replica's failure. Logs its kind only, for its text may be an answer's."""
    log.warning(
        "answer not understood",
        extra={"fields": {"stage": stage, "error": type(error).__name__}},
    )
    return UpstreamError("garbage", f"the answer cannot be read: {type(error).__name__}")


def check_status(status: int, adapter: str = "") -> None:
    """Raises: UpstreamError where a status says that the replica cannot."""
    if status == 404 and adapter:
        raise UpstreamError(
            "adapter", f"{adapter} is not loaded"
        )  # started before it was asked for
    if status in _BUSY:
        raise UpstreamError("busy", f"HTTP {status}")
    if status >= 500 or status in (401, 403, 404) or status < 200 or 300 <= status < 400:
        raise UpstreamError("status", f"HTTP {status}")


def check_whole(answer: Answer) -> None:
    """Refuses what cannot be a JSON object, by its ends: large answers are not parsed for it.

    Raises: UpstreamError.
    """
    if answer.status == 200:
        body = answer.body.strip(_SPACE)
        if not (body.startswith(b"{") and body.endswith(b"}")):
            raise UpstreamError("garbage", "the answer is not a JSON object")


def check_begun(opened: OpenStream) -> None:
    """Refuses a beginning that cannot be one of an event stream. Raises: UpstreamError."""
    if opened.status == 200:
        if not opened.first:
            raise UpstreamError("disconnected", "the stream ended before it began")
        if not opened.content_type.lower().startswith(_EVENT_STREAM):
            raise UpstreamError("garbage", "the answer is not an event stream")
        if opened.first.lstrip(_SPACE)[:1] not in (b"d", b"e", b"i", b"r", b":", b""):
            raise UpstreamError("garbage", "the stream does not begin with an event")
