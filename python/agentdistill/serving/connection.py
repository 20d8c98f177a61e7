"""What may a client's connection to ``agentdistill serve`` do, before it is known who that is, and after?

It may take so much and so long: a head of ``HEAD_BYTES`` within ``HEAD_SECONDS``, an answer read within
``READ_SECONDS``; there are ``MOST`` of them, and the one that has waited longest makes room for another. uvicorn bounds
none of these.

Not here: the body of a request, and its episode (chat_server.py).
"""

import asyncio
import time

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_BYTES = 64 << 10
"""Largest head of a request."""

HEAD_SECONDS = 20.0
"""Time in which the head of a request must be there, from the connection's beginning or the answer before."""

READ_SECONDS = 60.0
"""Time in which a client must make room in an answer that is too long for what lies between, or take its end."""

MOST = 512
"""Connections at once."""

_LOOK_SECONDS = 1.0


class Connection(H11Protocol):
    """uvicorn's own, with these bounds."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._state: object = None
        self._since = time.monotonic()
        self._look = self.loop.call_later(_LOOK_SECONDS, self._look_again)
        if len(self.connections) > MOST:
            waiting = [other for other in self.connections if isinstance(other, Connection) and not other._is_asked]
            min(waiting, key=lambda other: other._since).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._look.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._reading.cancel()

    @property
    def _is_asked(self) -> bool:
        """Whether there is a request that has not been answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def _look_again(self) -> None:
        """Ends it where it has waited for too long."""
        state, now = (self.transport.is_closing(), self._is_asked, self.cycle), time.monotonic()
        if state != self._state:
            self._state, self._since = state, now
        waited = now - self._since
        if waited > (READ_SECONDS if state[0] else HEAD_SECONDS) and (state[0] or not self._is_asked):
            self.transport.abort()
        else:
            self._look = self.loop.call_later(_LOOK_SECONDS, self._look_again)
