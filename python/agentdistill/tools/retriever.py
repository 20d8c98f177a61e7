"""The interface of what can be searched in place of an index: a server (http_retriever.py), hybrid search (hybrid.py).

Not here: ``Bm25Index`` itself, which has the same methods.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

from agentdistill._core import Passage, for_reading

MAX_PASSAGES = 100
"""Maximum number of passages of one ``web_search``, as for an index (rust/search_tool.rs)."""


class Retriever(ABC):
    """Something that finds passages for queries."""

    @abstractmethod
    def search_batch(self, queries: Sequence[str], k: int = 3) -> list[list[Passage]]:
        """The ``k`` best passages for each query, best first."""

    @abstractmethod
    def page(self, title: str) -> list[Passage]:
        """The passages with this title, as ``Bm25Index.page`` returns them."""

    def info(self) -> dict[str, Any]:
        """What determines the results, as far as it is known."""
        return {}

    def search(self, query: str, k: int = 3) -> list[Passage]:
        """The ``k`` best passages for the query, best first. Raises as ``search_batch``."""
        (passages,) = self.search_batch([query], k)
        return passages

    def search_text(self, query: str, k: int | None = None, *, compat: Literal["reference"] | None = None) -> str:
        """The best passages as text for a model to read: what the tool ``web_search`` returns. As with an index, they
        are at most 100. ``compat``: "reference" is the format of the paper's code. Raises TypeError and ValueError for
        invalid arguments, and as ``search``."""
        if not isinstance(query, str):
            raise TypeError("call it with one string, the query")
        if k is not None and (not isinstance(k, int) or isinstance(k, bool) or k < 1):
            raise ValueError("k must be a positive whole number")
        return for_reading(self.search(query, 3 if k is None else min(k, MAX_PASSAGES)), compat=compat)
