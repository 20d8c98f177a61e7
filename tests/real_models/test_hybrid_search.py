"""Hybrid search with a real sentence encoder finds more of the gold passages than BM25 alone does.

`python recipes/models/fetch.py target/models all-minilm-l6-v2` fetches the encoder.
"""

import os
from pathlib import Path

import pytest

from agentdistill import Bm25Index, HybridRetriever
from agentdistill.tools.vectors import encode
from gold_questions import gold_questions, recall

ENCODER = Path(os.environ.get("AGENTDISTILL_MODELS", "none")) / "all-minilm-l6-v2"
RECALL = {"hotpot_hipporag_train100": (68.5, 81.5, 90.0), "musique_hipporag_train100": (47.9, 63.5, 69.8)}
"""Recall at 2, 5 and 10, in percent. That of BM25 with the same index is 64.5, 79.5, 88.5 and 42.8, 53.0, 57.7."""


@pytest.mark.skipif(not ENCODER.exists(), reason="no real models: recipes/models/fetch.py has the sentence encoder")
@pytest.mark.parametrize("name", RECALL)
def test_an_encoder_finds_more_than_words(name: str, shared_data: Path, tmp_path: Path) -> None:
    asked = gold_questions(shared_data / "retrieval" / name)
    index = Bm25Index.build(asked.corpus, tmp_path / "index", title_weight=4)
    encode(index, str(ENCODER), tmp_path / "vectors")
    words, both = (
        found.search_batch(asked.texts, k=10) for found in (index, HybridRetriever(index, tmp_path / "vectors"))
    )
    for k, expected in zip((2, 5, 10), RECALL[name], strict=True):
        assert recall(both, asked.gold, k) == pytest.approx(expected, abs=0.6), f"recall at {k}"
        assert recall(both, asked.gold, k) > recall(words, asked.gold, k) + 1, f"recall at {k}"
