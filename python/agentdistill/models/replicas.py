"""Several servers of one model as one model: each request goes to the one that has the least to do.

What a server cannot answer within some seconds is asked elsewhere, and that server gets nothing new for a while. Not
here: how one server is spoken to (openai.py).
"""

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agentdistill.models.model import Generation, Message, ModelError, Sampling

if TYPE_CHECKING:
    from agentdistill.models.openai import OpenAIModel

RETRIES = 3
"""How often a request is tried again at one server (which takes seconds) before another is asked."""

REST = 30.0
"""Seconds for which a server that failed is asked nothing new while another can be asked."""


class Replicas:
    """The servers must have the same model under the same name. To be asked from one event loop."""

    def __init__(self, servers: "Sequence[OpenAIModel]") -> None:
        self.name = servers[0].name
        self._servers = list(servers)
        self._asked = Counter[int]()  # requests under way, by server
        self._rests = dict[int, float]()  # until when

    @property
    def retried(self) -> int:
        """How many requests had to be sent again so far."""
        return sum(server.retried for server in self._servers)

    @property
    def refused(self) -> frozenset[str]:
        """Parameters that one of the servers has refused."""
        return frozenset[str]().union(*(server.refused for server in self._servers))

    async def generate(
        self, messages: Sequence[Message], sampling: Sampling, *, n: int = 1, prefix: str = ""
    ) -> Generation:
        left = set(range(len(self._servers)))
        while True:
            now = time.monotonic()
            at = min(left, key=lambda i: (self._rests.get(i, 0) > now, self._asked[i]))
            left.remove(at)
            self._asked[at] += 1
            try:
                return await self._servers[at].generate(messages, sampling, n=n, prefix=prefix)
            except ModelError:
                self._rests[at] = time.monotonic() + REST
                if not left:
                    raise
            finally:
                self._asked[at] -= 1

    async def close(self) -> None:
        for server in self._servers:
            await server.close()
