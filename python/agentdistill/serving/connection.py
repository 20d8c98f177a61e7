"""Limits on each client connection to an HTTP server (http_server.py), with or without a valid API key.

A request's head may have ``HEAD_BYTES`` and must arrive within ``HEAD_SECONDS``. A client must read its response within
``READ_SECONDS``. At most ``MAX_CONNECTIONS`` are open: when another one arrives, the connection that has been idle
longest is closed. uvicorn has no such limits.

A client must read from its WebSocket, too. WebSockets do not count among the connections: their server limits them.

Not here: limits on the body of a request (http_server.py), on its episode (chat_server.py), and on a session of a
WebSocket (environment_server.py).
"""

import asyncio
import time

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

HEAD_BYTES = 64 << 10
"""Maximum size of a request's head, in bytes."""

HEAD_SECONDS = 20.0
"""Time limit for a request's head, from the start of the connection or the end of the previous response."""

READ_SECONDS = 60.0
"""Time limit for a client to read: to drain a full write buffer, or to take the rest when the connection closes."""

MAX_CONNECTIONS = 512
"""Maximum number of open connections."""

_CHECK_SECONDS = 1.0


class _ReadDeadline(asyncio.Protocol):
    """A connection that is aborted if its client does not drain a full write buffer in time."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport

    def pause_writing(self) -> None:
        super().pause_writing()
        self._read_deadline = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_deadline.cancel()


class Connection(_ReadDeadline, H11Protocol):
    """uvicorn's HTTP/1.1 protocol with these limits."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._state: object = None
        self._since = time.monotonic()
        self._next_check = self.loop.call_later(_CHECK_SECONDS, self._check)
        open_ones = [other for other in self.connections if isinstance(other, Connection)]
        if len(open_ones) > MAX_CONNECTIONS:
            waiting = [other for other in open_ones if not other._is_busy]
            min(waiting, key=lambda other: other._since).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._next_check.cancel()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._next_check.cancel()
        super().handle_websocket_upgrade(event)

    @property
    def _is_busy(self) -> bool:
        """Whether a request is waiting for its response."""
        return self.cycle is not None and not self.cycle.response_complete

    def _check(self) -> None:
        """Abort the connection if it has been idle or closing for too long; else check again later."""
        state, now = (self.transport.is_closing(), self._is_busy, self.cycle), time.monotonic()
        if state != self._state:
            self._state, self._since = state, now
        waited = now - self._since
        if waited > (READ_SECONDS if state[0] else HEAD_SECONDS) and (state[0] or not self._is_busy):
            self.transport.abort()
        else:
            self._next_check = self.loop.call_later(_CHECK_SECONDS, self._check)


class WebSocketConnection(_ReadDeadline, WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol with these limits."""

    def on_task_complete(self, task: "asyncio.Task[None]") -> None:
        super().on_task_complete(task)
        self.loop.call_later(READ_SECONDS, self.transport.abort)  # if the client does not close or read to the end
