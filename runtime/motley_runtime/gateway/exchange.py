"""Reading requests from and writing replies to a raw ASGI server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, MutableMapping
from typing import Any

from motley_runtime.gateway.errors import GatewayError

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

CLIENT = "motley.client"  # where a request's scope has the ClientWatch of its connection


class ClientGone(Exception):
    """The client closed its connection."""


class ClientWatch:
    """Tells those who ask when a client's connection is gone; the server keeps one for each."""

    __slots__ = ("_asking", "is_gone")

    def __init__(self) -> None:
        self.is_gone = False
        self._asking: set[Callable[[], object]] = set()

    def ask(self, tell: Callable[[], object]) -> None:
        """`tell` is called once the connection is gone, unless `leave` comes first."""
        self._asking.add(tell)

    def leave(self, tell: Callable[[], object]) -> None:
        """It need not be told any longer."""
        self._asking.discard(tell)

    def lost(self) -> None:
        """The connection is gone."""
        self.is_gone = True
        for tell in tuple(self._asking):
            tell()


class Reply:
    """One response: whole or in pieces, started at most once."""

    def __init__(self, send: Send, headers: Headers = ()) -> None:
        self._send = send
        self._headers = list(headers)
        self.status = 0

    @property
    def is_started(self) -> bool:
        """Whether the status line is out, after which only the body can change."""
        return self.status != 0

    def add_header(self, name: bytes, value: bytes) -> None:
        """Adds a header to a response that has not started."""
        self._headers.append((name, value))

    def set_header(self, name: bytes, value: bytes) -> None:
        """Replaces a header of a response that has not started."""
        self._headers = [each for each in self._headers if each[0] != name]
        self._headers.append((name, value))

    async def start(self, status: int, content_type: bytes, headers: Headers = ()) -> None:
        """Sends status and headers of a response in pieces."""
        self.status = status
        every = [(b"content-type", content_type), *self._headers, *headers]
        await self._send({"type": "http.response.start", "status": status, "headers": every})

    async def send(self, chunk: bytes) -> None:
        """Sends a piece of the body."""
        if chunk:
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self) -> None:
        """Ends the body."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def whole(
        self, status: int, content_type: bytes, body: bytes, headers: Headers = ()
    ) -> None:
        """Sends a response at once."""
        length = (b"content-length", str(len(body)).encode())
        await self.start(status, content_type, [*headers, length])
        await self._send({"type": "http.response.body", "body": body, "more_body": False})


def check_length(headers: Mapping[bytes, bytes], limit_bytes: int) -> None:
    """Refuses a body by its announced length, before any of it is read. Raises: GatewayError 413."""
    announced = headers.get(b"content-length", b"")
    if announced.isdigit() and int(announced) > limit_bytes:
        raise _too_large(limit_bytes)


def _too_large(limit_bytes: int) -> GatewayError:
    return GatewayError(413, f"the body is larger than {limit_bytes} bytes", "body_too_large")


async def read_body(receive: Receive, limit_bytes: int, limit_s: float) -> bytes:
    """A request's body. Raises: GatewayError 413 or 408; ClientGone."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limit_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                piece = message.get("body", b"")
                size += len(piece)
                if size > limit_bytes:
                    raise _too_large(limit_bytes)
                parts.append(piece)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError as error:
        text = f"the body did not arrive within {limit_s:g} s"
        raise GatewayError(408, text, "body_timeout") from error


async def unless_gone(work: Coroutine[Any, Any, None], client: ClientWatch) -> None:
    """Runs the work to its end, or cancels it when the client closes its connection.

    Raises: ClientGone; whatever the work raises.
    """
    task = asyncio.current_task()
    assert task is not None
    if client.is_gone:
        work.close()
        raise ClientGone
    cancel = task.cancel
    client.ask(cancel)
    try:
        await work
    except asyncio.CancelledError:
        if not client.is_gone or task.uncancel():
            raise  # somebody else cancels, too
        raise ClientGone from None
    finally:
        client.leave(cancel)
    if client.is_gone and not task.uncancel():
        raise ClientGone
