"""How answers reach the client: whole, as a stream made of one, or relayed piece by piece."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson

from motley_runtime.gateway.answers import GARBLED, garbled
from motley_runtime.gateway.errors import GatewayError, UpstreamError, error_body
from motley_runtime.gateway.exchange import Reply
from motley_runtime.gateway.job import Job
from motley_runtime.gateway.openai_api import add_usage, usage_of
from motley_runtime.gateway.scoring import strip_logprobs, wants_logprobs
from motley_runtime.gateway.streams import UsageRewriter, as_events
from motley_runtime.gateway.upstream import Answer, OpenStream

_EVENT_STREAM = b"text/event-stream; charset=utf-8"


def written(job: Job, answer: dict[str, Any], stage: str) -> bytes:
    """A decoded answer as the client gets it: a stream where it asked for one.

    Raises: UpstreamError where the stage's answer is such that it cannot be written.
    """
    answer["usage"] = dict(job.spent)
    try:
        if not wants_logprobs(job.request.body):
            strip_logprobs(answer)
        if job.request.is_stream:
            return b"".join(as_events(answer, job.request))
        return orjson.dumps(answer)
    except GARBLED as error:
        raise garbled(error, stage) from error


async def send_written(job: Job, body: bytes, reply: Reply) -> None:
    """Sends a `written` answer."""
    if not job.request.is_stream:
        await reply.whole(200, b"application/json", body, job.headers())
        return
    await reply.start(200, _EVENT_STREAM, job.headers())
    job.first_bytes_s = time.monotonic()
    await reply.send(body)
    await reply.end()


async def send_last(job: Job, answer: dict[str, Any], reply: Reply) -> None:
    """Sends a decoded answer that nothing could replace. Raises: GatewayError 502."""
    try:
        body = written(job, answer, job.stage)
    except UpstreamError as error:
        text = f"the answer of stage {job.stage!r} cannot be read"
        raise GatewayError(502, text, "upstream_failed") from error
    await send_written(job, body, reply)


async def send_raw(job: Job, raw: Answer, reply: Reply) -> None:
    """Sends the last stage's answer as it came, with the usage of all stages."""
    body = raw.body
    if job.spent and raw.status == 200:
        body = _with_sum(raw, job.spent)
    await reply.whole(raw.status, raw.content_type.encode(), body, job.headers())


def _with_sum(raw: Answer, spent: Mapping[str, Any]) -> bytes:
    """An answer with the usage of all stages; as it came where that cannot be written."""
    answer = decoded(raw)
    if answer is None:
        return raw.body
    try:
        answer["usage"] = add_usage(usage_of(answer), spent)
        return orjson.dumps(answer)
    except GARBLED as error:
        garbled(error)
        return raw.body


async def relay_stream(job: Job, opened: OpenStream, reply: Reply) -> None:
    """Relays the last stage's stream, byte for byte unless usage has to be added."""
    await reply.start(opened.status, opened.content_type.encode(), job.headers())
    job.first_bytes_s = time.monotonic()
    if job.spent and job.request.include_usage:
        await finish_stream(_with_usage(job, opened), reply)
        return
    await reply.send(opened.first)
    await finish_stream(opened.rest, reply)


async def finish_stream(pieces: AsyncIterator[bytes], reply: Reply) -> None:
    """Sends what is left of a stream that has begun. Raises: UpstreamError, told to the client."""
    try:
        async for piece in pieces:
            await reply.send(piece)
    except UpstreamError as error:
        # The status is long sent; OpenAI's clients raise on an error event, and the missing
        # [DONE] tells everyone else.
        message = f"the replica stopped in mid-answer ({error.kind})"
        broken = error_body(502, message, "upstream_failed")
        await reply.send(b"\n\ndata: " + broken + b"\n\n")
        await reply.end()
        raise
    await reply.end()


async def _with_usage(job: Job, opened: OpenStream) -> AsyncIterator[bytes]:
    rewriter = UsageRewriter(job.spent)
    yield rewriter.feed(opened.first)
    async for chunk in opened.rest:
        yield rewriter.feed(chunk)
    yield rewriter.rest()


def decoded(raw: Answer) -> dict[str, Any] | None:
    """A whole answer with choices; None where it is anything else."""
    if raw.status != 200:
        return None
    try:
        answer = orjson.loads(raw.body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(answer, dict) or not isinstance(answer.get("choices"), list):
        return None
    return answer if all(isinstance(choice, dict) for choice in answer["choices"]) else None


def completion_tokens(usage: Mapping[str, Any]) -> int:
    """The completion tokens of a usage object; 0 where it does not say."""
    count = usage.get("completion_tokens")
    return count if isinstance(count, int) and count > 0 else 0
