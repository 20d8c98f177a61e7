"""Load balancing over several servers of one model: each request goes to the server with the fewest pending requests.

When a server fails, the request is sent to another, and the failed server is avoided for a while. Not here: the client
of a single server (openai.py).
"""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from agentdistill.models.model import Generation, Message, ModelError, Sampling, ServerRefusal

if TYPE_CHECKING:
    from agentdistill.models.openai import OpenAIModel

T = TypeVar("T")

RETRIES = 3
"""How often a request is retried on one server, which takes seconds, before the next server is tried."""

REST = 30.0
"""Seconds for which a failed server gets no new requests while another server is available."""


class Replicas:
    """Several servers that serve the same model under the same name. Use it from a single event loop."""

    def __init__(self, servers: "Sequence[OpenAIModel]") -> None:
        self.name = servers[0].name
        self._servers = list(servers)
        self._asked = Counter[int]()  # pending requests, by server
        self._rests = dict[int, float]()  # when each failed server may be used again

    @property
    def retried(self) -> int:
        """Number of retries so far, over all servers."""
        return sum(server.retried for server in self._servers)

    @property
    def refused(self) -> frozenset[str]:
        """Parameters that at least one server has refused."""
        return frozenset[str]().union(*(server.refused for server in self._servers))

    async def generate(
        self, messages: Sequence[Message], sampling: Sampling, *, n: int = 1, prefix: str = ""
    ) -> Generation:
        return await self._ask(lambda server: server.generate(messages, sampling, n=n, prefix=prefix))

    async def forward(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return await self._ask(lambda server: server.forward(request))

    async def _ask(self, ask: "Callable[[OpenAIModel], Awaitable[T]]") -> T:
        """Ask the least busy server, and another one if that fails."""
        left = set(range(len(self._servers)))
        while True:
            now = time.monotonic()
            at = min(left, key=lambda i: (self._rests.get(i, 0) > now, self._asked[i]))
            left.remove(at)
            self._asked[at] += 1
            try:
                return await ask(self._servers[at])
            except ModelError as error:
                if isinstance(error, ServerRefusal) and error.status < 500:  # the request is at fault, not the server
                    raise
                self._rests[at] = time.monotonic() + REST
                if not left:
                    raise
            finally:
                self._asked[at] -= 1

    async def close(self) -> None:
        for server in self._servers:
            await server.close()
