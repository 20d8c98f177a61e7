"""Hybrid search: BM25 finds passages, and a sentence encoder reorders the best of them by meaning.

The score of a passage is its BM25 score, relative to the best one, plus a weight times the cosine of its vector and
the query's. The vectors of passages are in a folder (vectors.py), and missing ones are computed. So apart from BM25, a
search costs the encoding of its query, whatever the size of the index.

Not here: finding passages that share no word with the query.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentdistill._core import Bm25Index, Passage
from agentdistill.extras import require
from agentdistill.tools.retriever import Retriever

DEPTH = 50
"""Passages found by BM25 that are reordered, or k if it is more."""

WEIGHT = 3.0
"""Weight of the cosine, the best of those in benches/hybrid.py on half of the questions of four sets."""


class HybridRetriever(Retriever):
    """An index, or a ``serve-retrieval`` server, whose best passages are reordered by meaning. It is thread-safe."""

    def __init__(self, lexical: Bm25Index | Retriever, vectors: str | Path) -> None:
        """``vectors`` is the folder that ``agentdistill index encode`` wrote. Raises RetrievalError if it has no
        vectors, or those of another model; ModelError if their encoder cannot be loaded; AgentDistillError if the
        extra ``train`` is not installed."""
        require("transformers", "train")
        from agentdistill.models.encoder import SentenceEncoder  # here, since it imports torch
        from agentdistill.tools.vectors import Vectors

        self._lexical = lexical
        self._vectors = Vectors(vectors)
        self._encoder = SentenceEncoder(self._vectors.model)
        self._vectors.check(self._encoder)

    def search_batch(self, queries: Sequence[str], k: int = 3) -> list[list[Passage]]:
        """The ``k`` best passages for each query, best first. Scores of different queries are not comparable. Raises
        as ``search_batch`` of the index or server."""
        found = self._lexical.search_batch(queries, max(k, DEPTH) if k > 0 else k)
        vectors = self._encoder(queries)
        return [self._reordered(*each)[:k] for each in zip(found, vectors, strict=True)]

    def page(self, title: str) -> list[Passage]:
        """The passages with this title, as the index or server returns them."""
        return self._lexical.page(title)

    def info(self) -> dict[str, Any]:
        """What determines the results."""
        return self._lexical.info() | {"encoder": self._vectors.model}

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the same folders."""
        return HybridRetriever, (self._lexical, self._vectors.folder.absolute())

    def _reordered(self, passages: list[Passage], query: Any) -> list[Passage]:
        """Passages that BM25 found, best first, in the new order. ``query`` is a vector."""
        if not passages:
            return []
        cosines = (self._vectors.of(passages, self._encoder) @ query).tolist()
        scored = [
            Passage(passage.id, passage.title, passage.text, passage.score / passages[0].score + WEIGHT * cosine)
            for passage, cosine in zip(passages, cosines, strict=True)
        ]
        return sorted(scored, key=lambda passage: -passage.score)
