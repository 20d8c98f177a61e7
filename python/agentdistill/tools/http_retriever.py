"""Search through a server with Search-R1's protocol (``agentdistill serve-retrieval`` or another).

``POST /retrieve`` with ``{"queries", "topk", "return_scores"}`` returns ``{"result": [[...], ...]}``, and so does
``POST /page`` with ``{"title"}``, which only ``serve-retrieval`` has. Transient failures are retried (retry.py); all
others raise RetrievalError at once.

Not here: serving.
"""

import json
import time
from collections.abc import Sequence
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx2

from agentdistill._core import Passage, RetrievalError
from agentdistill.per_process import PerProcess
from agentdistill.redaction import hide_in_command, public_url, redacted
from agentdistill.retry import Retries, is_transient, retry_after
from agentdistill.tools.retriever import Retriever
from agentdistill.well_formed import well_formed

MAX_RESPONSE_BYTES = 256 << 20
"""Maximum size of a response. A larger one is an error."""


class HttpRetriever(Retriever):
    """A search server at ``url``, such as ``http://127.0.0.1:8000`` (or ``.../retrieve``). It is thread-safe."""

    def __init__(self, url: str, *, retries: int = 5, timeout: float = 30.0) -> None:
        """A request is retried up to ``retries`` times, with growing pauses (about 15 s in total for 5 retries). Each
        attempt takes at most ``timeout`` seconds.

        Raises ValueError for an invalid URL.
        """
        hide_in_command([url])
        try:
            httpx2.URL(url)
        except httpx2.InvalidURL as error:
            raise ValueError(f"the URL of the retriever is not valid: {error}") from None
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError("this is not the URL of a retriever: give http://HOST:PORT")
        if retries < 0 or timeout <= 0:
            raise ValueError(f"retries is {retries} and timeout {timeout}: give at least 0 and more than 0 seconds")
        user_info, _, host = parts.netloc.rpartition("@")
        path = parts.path if parts.path.strip("/") else "/retrieve"
        self.url = parts._replace(netloc=host, path=path).geturl()
        self._base = self.url.rpartition("/")[0]
        self._where = f"the retriever at {public_url(self.url)}"
        self._copy = partial(HttpRetriever, url, retries=retries, timeout=timeout)
        self._timeout = timeout
        user, _, password = map(unquote, user_info.partition(":"))
        # Not in the URL, which the library logs.
        auth = (user, password) if user_info else None
        self._clients = PerProcess(lambda: httpx2.Client(timeout=timeout, auth=auth))
        self._retries = Retries(self._where, retries, RetrievalError)

    def search_batch(self, queries: Sequence[str], k: int = 3) -> list[list[Passage]]:
        """The ``k`` best passages for each query, best first, in one request. Raises RetrievalError if the server
        does not answer or refuses, ValueError for ``k`` < 1."""
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        wanted = {"queries": [well_formed(query) for query in queries], "topk": k, "return_scores": True}
        return [found[:k] for found in self._post(self.url, wanted, len(queries))]  # some servers return more

    def page(self, title: str) -> list[Passage]:
        """The passages with this title, as ``Bm25Index.page`` returns them. Raises RetrievalError, also for servers
        other than ``serve-retrieval``, which have no pages."""
        (passages,) = self._post(f"{self._base}/page", {"title": well_formed(title)}, 1)
        return passages

    def _post(self, url: str, wanted: dict[str, Any], results: int) -> list[list[Passage]]:
        """Make a request, and repeat it after transient failures."""
        attempt = 0
        while True:
            wait, unreachable = None, False
            try:
                return self._ask(url, wanted, results)
            except _TransientError as failed:
                problem, wait = str(failed), failed.wait
            except httpx2.RequestError as error:
                problem, unreachable = f"{error or type(error).__name__}", isinstance(error, httpx2.ConnectError)
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                problem = f"its response is not a list of passages ({type(error).__name__}: {error})"
            time.sleep(self._retries.pause(attempt, problem, wait=wait, unreachable=unreachable))
            attempt += 1

    def is_lexical(self) -> bool:
        """Whether the server is ``serve-retrieval``, which searches by words. Others are assumed to search by meaning,
        as Search-R1's and the paper's do."""
        try:
            answer = self._clients.get().get(f"{self._base}/health")
            return answer.is_success and "documents" in answer.json()
        except (httpx2.RequestError, ValueError, TypeError):
            return False

    def close(self) -> None:
        self._clients.get().close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens its own connections."""
        return self._copy, ()

    def _ask(self, url: str, wanted: dict[str, Any], results: int) -> list[list[Passage]]:
        """Make one attempt. Raises RetrievalError for a permanent failure, else _TransientError or another error."""
        deadline = time.monotonic() + self._timeout
        body = bytearray()
        with self._clients.get().stream("POST", url, json=wanted) as response:
            for chunk in response.iter_bytes():
                body += chunk
                if time.monotonic() > deadline or len(body) > MAX_RESPONSE_BYTES:
                    raise _TransientError(f"its response is too long or too slow ({len(body)} bytes so far)")
        self._retries.answered()
        if response.is_success:
            return _passages(bytes(body), results)
        problem = f"status {response.status_code}: {_excerpt(bytes(body))}"
        if is_transient(response.status_code):
            raise _TransientError(problem, retry_after(response.headers))
        advice = "Does its URL end in /retrieve?" if url == self.url else "Only serve-retrieval returns pages"
        if response.has_redirect_location:
            advice = f"Give the URL that it redirects to, {response.headers['location']}"
        hint = f". {advice}" if response.status_code in (404, 405) or response.has_redirect_location else ""
        raise RetrievalError(redacted(f"{self._where} rejects the request with {problem}{hint}"))


class _TransientError(Exception):
    """A failure that a retry may resolve."""

    def __init__(self, problem: str, wait: float | None = None) -> None:
        super().__init__(problem)
        self.wait = wait


def _passages(body: bytes, queries: int) -> list[list[Passage]]:
    answer = json.loads(body)
    if not isinstance(answer, dict) or "result" not in answer:
        raise ValueError(f"it has no result: {_excerpt(body)}")
    result = answer["result"]
    if not isinstance(result, list) or len(result) != queries:
        raise ValueError(f"it is not a list of {queries} results")
    return [[_passage(found) for found in each] for each in result]


def _passage(found: dict[str, Any]) -> Passage:
    """A passage, with or without a score, depending on the server."""
    document = found.get("document", found)
    title, text = document.get("title"), document.get("text")
    if text is None:
        heading, _, text = document["contents"].partition("\n")
        title = title or heading.strip().strip('"')
    names = (document.get(name) for name in ("id", "_id", "docid"))
    identifier = next((str(name) for name in names if name is not None), "")
    title = "" if title is None else str(title)  # "1984" may be a number
    return Passage(identifier, title, text, float(found.get("score") or 0.0))


def _excerpt(body: bytes) -> str:
    return " ".join(body[:500].decode("utf-8", "replace").split())
