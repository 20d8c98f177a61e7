"""Search at any server that speaks the protocol of Search-R1's retrieval server: ``agentdistill serve-retrieval``,
Search-R1's own, or another.

``POST /retrieve`` with ``{"queries", "topk", "return_scores"}`` is answered by ``{"result": [[...], ...]}``. What fails
for a moment is asked again (retry.py); what does not pass is a RetrievalError at once.

Not here: serving.
"""

import json
import time
from collections.abc import Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import httpx2

from agentdistill._core import Passage, RetrievalError, for_reading
from agentdistill.retry import Retries, passes, retry_after

LONGEST_ANSWER = 1 << 30
"""Bytes; more are garbage."""


class HttpRetriever:
    """The retriever at ``url``, such as ``http://127.0.0.1:8000`` (or ``.../retrieve``). Used from many threads."""

    def __init__(self, url: str, *, retries: int = 5, timeout: float = 30.0) -> None:
        """``retries``: how often a request is tried again (5 take 15 seconds). ``timeout``: seconds for one try.

        Raises ValueError for what is no URL.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"{url} is no URL of a retriever: give http://HOST:PORT")
        if retries < 0 or timeout <= 0:
            raise ValueError(f"retries is {retries} and timeout {timeout}: give at least 0 and more than 0 seconds")
        self.url = url if parts.path.strip("/") else parts._replace(path="/retrieve").geturl()
        self._where = f"the retriever at {self.url}"
        self._copy = partial(HttpRetriever, url, retries=retries, timeout=timeout)
        self._timeout = timeout
        self._client = httpx2.Client(timeout=timeout)
        self._retries = Retries(self._where, retries, RetrievalError)

    def search(self, query: str, k: int = 3) -> list[Passage]:
        """The ``k`` best passages. Raises RetrievalError."""
        (passages,) = self.search_batch([query], k)
        return passages

    def search_text(self, query: str, k: int = 3) -> str:
        """The same as text for a model to read: what a cell's ``web_search`` returns."""
        return for_reading(self.search(query, k))

    def search_batch(self, queries: Sequence[str], k: int = 3) -> list[list[Passage]]:
        """The same for many queries, in one request. Raises ValueError for a ``k`` under 1."""
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        attempt = 0
        while True:
            wait, unreachable = None, False
            try:
                return self._ask(queries, k)
            except _Failed as failed:
                problem, wait = str(failed), failed.wait
            except httpx2.RequestError as error:
                problem, unreachable = f"{error or type(error).__name__}", isinstance(error, httpx2.ConnectError)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                problem = f"it answers with something else than passages ({type(error).__name__}: {error})"
            time.sleep(self._retries.pause(attempt, problem, wait=wait, unreachable=unreachable))
            attempt += 1

    def close(self) -> None:
        self._client.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process asks by connections of its own."""
        return self._copy, ()

    def _ask(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """One try. Raises RetrievalError for what would fail again; _Failed and others for what might not."""
        texts = [query.encode("utf-8", "replace").decode() for query in queries]  # a lone surrogate is no UTF-8
        wanted = {"queries": texts, "topk": k, "return_scores": True}
        deadline = time.monotonic() + self._timeout
        body = bytearray()
        with self._client.stream("POST", self.url, json=wanted) as response:
            for chunk in response.iter_bytes():
                body += chunk
                if time.monotonic() > deadline or len(body) > LONGEST_ANSWER:
                    raise _Failed(f"its answer does not end ({len(body)} bytes so far)")
        self._retries.answered()
        if response.is_success:
            return _passages(bytes(body), len(queries))
        said = " ".join(bytes(body[:500]).decode("utf-8", "replace").split())
        problem = f"status {response.status_code}: {said}"
        if passes(response.status_code):
            raise _Failed(problem, retry_after(response.headers))
        hint = ". Does its URL end in /retrieve?" if response.status_code in (404, 405) else ""
        raise RetrievalError(f"{self._where} refuses the request with {problem}{hint}")


class _Failed(Exception):
    """A try that might go better next time."""

    def __init__(self, problem: str, wait: float | None = None) -> None:
        super().__init__(problem)
        self.wait = wait


def _passages(body: bytes, queries: int) -> list[list[Passage]]:
    result = json.loads(body)["result"]
    if not isinstance(result, list) or len(result) != queries:
        raise ValueError(f"it is no list of {queries} results")
    return [[_passage(found) for found in each] for each in result]


def _passage(found: dict[str, Any]) -> Passage:
    """A passage with its score, or as some servers have it, without."""
    document = found.get("document", found)
    title, text = document.get("title"), document.get("text")
    if text is None:
        heading, _, text = document["contents"].partition("\n")
        title = title or heading.strip().strip('"')
    return Passage(str(document.get("id", "")), title or "", text, float(found.get("score") or 0.0))
