"""Raw JSON over HTTP to the API server: one request, or one stream of lines.

No typed models: at thousands of nodes decoding into them costs more than everything else the
operator does. Every request may be sent twice without harm (creates have fixed names, deletes a
UID, applies are idempotent), so connection errors, 429 and 5xx are tried again here, once for
everyone, honoring Retry-After.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
import orjson

from motley_operator.connection.credentials import Credentials
from motley_operator.errors import OperatorError

JSON = "application/json"
APPLY = "application/apply-patch+yaml"  # JSON is YAML
MERGE = "application/merge-patch+json"

_RETRIED = frozenset({429, 500, 502, 503, 504})
_BACKOFF_S = (0.1, 0.4, 1.0, 2.5)
_LONGEST_WAIT_S = 10.0  # what of a Retry-After is honored inside a cycle
_REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=30.0, sock_connect=10.0)
_RELOAD_S = 60.0  # service account tokens rotate on disk

Document = dict[str, Any]
# Verb, plural, HTTP status (0: no answer), and whether it was refused for want of a right.
OnCall = Callable[[str, str, int, bool], None]
# How every authorizer refuses, and how RBAC refuses a Role with rights that its maker lacks. What admission
# refuses is 403, too, and says something else: Pod Security, a quota, a policy, a namespace that ends.
_LACKS = re.compile(
    r'is forbidden: (User ".*?" cannot |user ".*?" .*is attempting to grant RBAC permissions )',
    re.DOTALL,
)


class ApiError(OperatorError):
    """The API server refused, or could not be reached (status 0)."""

    def __init__(self, status: int, reason: str, message: str, retry_after_s: float | None) -> None:
        super().__init__(f"{status} {reason}: {message}" if status else message)
        self.status, self.reason, self.message = status, reason, message
        self.retry_after_s = retry_after_s

    @property
    def lacks_right(self) -> bool:
        """Whether it was refused for want of a right, which roles of this version would give."""
        return self.status == 403 and _LACKS.search(self.message) is not None


@dataclass(frozen=True, slots=True)
class Sent:
    """One request; `verb` and `plural` are what metrics and audit logs call it."""

    verb: str
    plural: str
    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    content_type: str = JSON
    optional: bool = False  # the caller goes on without: a right for it is not missed


NOT_ALLOWED = "NotAllowed"  # nothing was sent
SILENT = "Silent"  # a watch was answered, and then said nothing


class Client:
    """One connection pool to one API server."""

    def __init__(
        self, login: Callable[[], Credentials], on_call: OnCall | None = None, attempts: int = 5
    ) -> None:
        self._login = login
        self._on_call = on_call or (lambda verb, plural, status, lacks_right: None)
        self._attempts = attempts
        self._session: aiohttp.ClientSession | None = None
        self._credentials: Credentials | None = None
        self._loaded_at = 0.0
        self._loading = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self._load(force=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session:
            await self._session.close()

    async def send(
        self,
        sent: Sent,
        allowed: Callable[[], bool] = lambda: True,
        left_s: Callable[[], float] = lambda: math.inf,
    ) -> Document:
        """The answer's JSON; `allowed` is asked again before each attempt.

        No attempt takes longer than is `left_s` at its begin, the login that it may need included: so
        nothing of a leader is on its way once it may not write any more.

        Raises: ApiError once the server's answer is final, no attempt is left or none is allowed.
        """
        for attempt in range(self._attempts):
            if not allowed():
                raise ApiError(0, NOT_ALLOWED, "not the leader any more", None)
            try:
                return await self._once(sent, left_s())
            except ApiError as error:
                final = error.status not in _RETRIED and error.status not in (0, 401)
                if final or attempt + 1 >= self._attempts:
                    raise
                if error.status == 401:
                    await self._load(force=True)
                await asyncio.sleep(_pause_s(attempt, error.retry_after_s))
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _once(self, sent: Sent, left_s: float) -> Document:
        body = orjson.dumps(sent.body) if sent.body is not None else None
        status, refusal = 0, None
        try:
            async with (
                asyncio.timeout(left_s if math.isfinite(left_s) else None),
                self._open(sent, body, _REQUEST_TIMEOUT) as response,
            ):
                status = response.status
                raw = await response.read()
                refusal = _refusal(response, raw)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(0, "Unreachable", f"{type(error).__name__}: {error}", None) from error
        finally:
            self._count(sent, status, refusal)
        if refusal is not None:
            raise refusal
        answer: Document = orjson.loads(raw) if raw else {}
        return answer

    @asynccontextmanager
    async def stream(
        self, sent: Sent, silence_s: Callable[[], float]
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of a watch, one JSON object each; ends when the server ends it.

        `silence_s` is asked anew before each line: it may fall while the watch goes on.
        Raises: ApiError when refused, or when nothing came for that long (status 0, SILENT).
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=silence_s())
        status = 0
        try:
            async with self._open(sent, None, timeout) as response:
                raw = await response.read() if response.status >= 400 else b""
                status, refusal = response.status, _refusal(response, raw)
                self._count(sent, status, refusal)
                if refusal is not None:
                    if status == 401:
                        await self._load(force=True)
                    raise refusal
                yield _in_time(_lines(response), silence_s)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if not status:
                self._count(sent, 0, None)
            elif isinstance(error, TimeoutError):
                told = f"a watch without a word for {silence_s():.0f} s"
                raise ApiError(0, SILENT, told, None) from error
            raise ApiError(0, "Unreachable", f"{type(error).__name__}: {error}", None) from error

    @asynccontextmanager
    async def _open(
        self, sent: Sent, body: bytes | None, timeout: aiohttp.ClientTimeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        await self._load()
        assert self._session is not None and self._credentials is not None
        credentials = self._credentials
        async with self._session.request(
            sent.method,
            credentials.server + sent.path,
            params=dict(sent.params),
            data=body,
            headers={"Content-Type": sent.content_type, **credentials.headers()},
            timeout=timeout,
            proxy=credentials.proxy_url,
            server_hostname=credentials.tls_server_name,
        ) as response:
            yield response

    def _count(self, sent: Sent, status: int, refusal: ApiError | None) -> None:
        lacks_right = refusal is not None and refusal.lacks_right and not sent.optional
        self._on_call(sent.verb, sent.plural, status, lacks_right)

    async def _load(self, force: bool = False) -> None:
        loop = asyncio.get_running_loop()
        async with self._loading:
            age_s = loop.time() - self._loaded_at
            if self._session and age_s < (1.0 if force else _RELOAD_S):
                return
            # A credential plugin is another process: never on the event loop.
            fresh = await asyncio.to_thread(self._login)
            self._loaded_at = loop.time()
            changed = self._credentials is None or _transport(fresh) != _transport(
                self._credentials
            )
            self._credentials = fresh
            if not changed:
                return
            # Watches on the old session end here and reconnect on the new one.
            old, context = self._session, fresh.ssl_context()
            connector = aiohttp.TCPConnector(limit=0, ssl=context if context else True)
            self._session = aiohttp.ClientSession(connector=connector, headers={"Accept": JSON})
            if old:
                await old.close()


def _transport(credentials: Credentials) -> tuple[object, ...]:
    c = credentials
    return (c.server, c.ca_data, c.insecure, c.certificate_data, c.key_data)


def _pause_s(attempt: int, retry_after_s: float | None) -> float:
    """Seconds before the next attempt: what the server asks for, else exponential; with jitter."""
    base = _BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)]
    if retry_after_s is not None:
        base = min(max(base, retry_after_s), _LONGEST_WAIT_S)
    return base * random.uniform(1.0, 1.25)


def _refusal(response: aiohttp.ClientResponse, raw: bytes) -> ApiError | None:
    """What an answer refuses with; None where it does not."""
    if response.status < 400:
        return None
    try:
        answer = orjson.loads(raw)
        reason, message = str(answer.get("reason", "")), str(answer.get("message", ""))
    except (orjson.JSONDecodeError, AttributeError):
        reason, message = "", raw[:300].decode(errors="replace")
    retry_after = response.headers.get("Retry-After", "")
    seconds = float(retry_after) if retry_after.isdigit() else None
    return ApiError(response.status, reason, message, seconds)


async def _in_time(
    lines: AsyncIterator[bytes], silence_s: Callable[[], float]
) -> AsyncIterator[bytes]:
    """The same lines; raises TimeoutError where the next one takes too long."""
    while True:
        async with asyncio.timeout(silence_s()):
            line = await anext(lines, None)
        if line is None:
            return
        yield line


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The lines of a body that say something; they may be of any length (nodes are long)."""
    rest: list[bytes] = []
    async for chunk in response.content.iter_any():
        *whole, tail = chunk.split(b"\n")
        for line in whole:
            text = b"".join((*rest, line))
            rest.clear()
            if text.strip():
                yield text
        if tail:
            rest.append(tail)
