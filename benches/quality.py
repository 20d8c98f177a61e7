"""Recall of plain BM25 on sets of questions with gold passages, and of what might better it, with what that costs.

    python benches/quality.py ../shared/data/retrieval

Ways to index: the passages as they are; with their titles counted oftener; with each two neighbouring words joined as a
further word. Ways to score: other parameters of BM25 than k1 1.2 and b 0.75. Ways to ask: the question as it is; with
its neighbouring words joined; once more, with the weightiest words of the best passages added to the question (as RM3
does), which counts thrice. Cost is the processor time of all searches against that of the plain way, the lowest of some
rounds.

A second table shows the parameters with the highest recall at 5 on every other question, and what they find for the
remaining questions.
"""

import argparse
import json
import math
import re
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from agentdistill import Bm25Index, Passage

CUTS = (2, 5, 10)
FEEDBACK_PASSAGES, FEEDBACK_WORDS, ORIGINAL_WEIGHT = 3, 10, 3
ROUNDS = 7
PARAMETERS = ((0.6, 0.75), (0.9, 0.4), (1.2, 0.4), (1.2, 0.9), (1.8, 0.75), (2.4, 0.9))
"""k1 and b. Anserini's for Wikipedia are 0.9 and 0.4."""
DEFAULTS = (1.2, 0.75)
GRID = [(k1, b) for k1 in (0.4, 0.6, 0.9, 1.2, 1.5, 1.8, 2.4, 3.2) for b in (0.2, 0.4, 0.6, 0.75, 0.9, 1.0)]
DEPTHS = (2, 3, 5, 10, 20)
TITLE_WEIGHTS = (1, 4, 8)


class Questions(NamedTuple):
    name: str
    passages: list[tuple[str, str, str]]
    texts: list[str]
    gold: list[set[str]]


def read(folder: Path) -> Questions:
    gold = defaultdict(set)
    for line in (folder / "qrels/test.tsv").read_text().splitlines()[1:]:
        query, passage, _ = line.split("\t")
        gold[query].add(passage)
    texts = {query["_id"]: query["text"] for query in map(json.loads, (folder / "queries.jsonl").open())}
    lines = map(json.loads, (folder / "corpus.jsonl").open())
    passages = [(line["_id"], line["title"], line["text"]) for line in lines]
    return Questions(folder.name, passages, [texts[query] for query in gold], list(gold.values()))


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def joined(text: str) -> str:
    return " ".join(one + other for one, other in zip(words(text), words(text)[1:], strict=False))


Indexed = Callable[[tuple[str, str, str]], tuple[str, str, str]]
INDEXED: dict[str, Indexed] = {
    "plain": lambda passage: passage,
    "pairs": lambda passage: (*passage[:2], f"{passage[2]} {joined(passage[1])} {joined(passage[2])}"),
}


def fed_back(index: Bm25Index, texts: list[str], frequency: Counter[str]) -> list[list[Passage]]:
    """Search, add to each question the words of the best passages with the most weight, and search again."""
    expanded = []
    for text, found in zip(texts, index.search_batch(texts, FEEDBACK_PASSAGES), strict=True):
        counts = Counter(word for passage in found for word in words(f"{passage.title} {passage.text}"))
        weights = {word: count * math.log(len(index) / (1 + frequency[word])) for word, count in counts.items()}
        best = sorted(weights, key=weights.__getitem__, reverse=True)[:FEEDBACK_WORDS]
        expanded.append(" ".join([text] * ORIGINAL_WEIGHT + best))
    return index.search_batch(expanded, max(CUTS))


def ways(questions: Questions, folder: Path) -> Iterator[tuple[str, Callable[[], list[list[Passage]]]]]:
    def index(name: str, form: Indexed, **options: Any) -> Bm25Index:
        return Bm25Index.build(map(form, questions.passages), folder / name, **options)

    plain = index("plain", INDEXED["plain"])
    texts = questions.texts
    frequency = Counter(word for _, title, text in questions.passages for word in {*words(title), *words(text)})
    yield "plain", lambda: plain.search_batch(texts, max(CUTS))
    bare = index("none", INDEXED["plain"], language="none")
    yield "no stems, no stop words", lambda: bare.search_batch(texts, max(CUTS))
    for weight in (2, 3, 4, 6, 8):
        titled = index(f"title-{weight}", INDEXED["plain"], title_weight=weight)
        yield f"title x {weight}", lambda titled=titled: titled.search_batch(texts, max(CUTS))
    for k1, b in PARAMETERS:
        for name, weight in (("plain", ""), ("title-4", "title x 4, ")):
            other = Bm25Index.open(folder / name, k1, b)
            yield f"{weight}k1 {k1}, b {b}", lambda other=other: other.search_batch(texts, max(CUTS))
    pairs = index("pairs", INDEXED["pairs"])
    for weight in (1, 2, 4):
        asked = [" ".join([text] * weight + [joined(text)]) for text in texts]
        yield f"pairs, words x {weight}", lambda asked=asked: pairs.search_batch(asked, max(CUTS))
    yield "fed back", lambda: fed_back(plain, texts, frequency)


def recall(
    questions: Questions, found: list[list[Passage]], cuts: tuple[int, ...] = CUTS, half: slice = slice(None)
) -> list[float]:
    """Percent, at each cut, of the questions of a half."""

    def at(cut: int) -> float:
        hits = [
            len(gold & {passage.id for passage in passages[:cut]}) / len(gold)
            for gold, passages in zip(questions.gold, found, strict=True)
        ]
        return 100 * statistics.mean(hits[half])

    return [at(cut) for cut in cuts]


def show_choice(sets: list[Questions]) -> None:
    """Choose k1 and b on even questions, and print what they and the defaults find for odd ones."""
    print(f"| recall at {', '.join(map(str, DEPTHS))}, % | chosen on: mean | other half: mean |\n|---|---|---|")
    for weight in TITLE_WEIGHTS:
        halves: dict[tuple[float, float], list[list[float]]] = {}
        with tempfile.TemporaryDirectory() as folder:
            for questions in sets:
                Bm25Index.build(questions.passages, Path(folder, questions.name), title_weight=weight)
            for parameters in GRID:
                found = [
                    Bm25Index.open(Path(folder, questions.name), *parameters).search_batch(questions.texts, max(DEPTHS))
                    for questions in sets
                ]
                for half in (slice(0, None, 2), slice(1, None, 2)):
                    each = [recall(*pair, DEPTHS, half) for pair in zip(sets, found, strict=True)]
                    halves.setdefault(parameters, []).append(
                        [statistics.mean(values) for values in zip(*each, strict=True)]
                    )
        best = max(GRID, key=lambda parameters: halves[parameters][0][DEPTHS.index(5)])
        for name, parameters in (("defaults", DEFAULTS), (f"chosen, k1 {best[0]}, b {best[1]}", best)):
            cells = [" / ".join(f"{value:.1f}" for value in values) for values in halves[parameters]]
            print(f"| title x {weight}, {name} | {' | '.join(cells)} |")


def cost(way: Callable[[], object]) -> float:
    def once() -> float:
        start = time.process_time()
        way()
        return time.process_time() - start

    return min(once() for _ in range(ROUNDS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=Path)
    sets = [read(folder) for folder in sorted(parser.parse_args().sets.iterdir())]
    recalls: defaultdict[str, list[list[float]]] = defaultdict(list)
    costs: defaultdict[str, float] = defaultdict(float)
    for questions in sets:
        with tempfile.TemporaryDirectory() as folder:
            for name, way in ways(questions, Path(folder)):
                recalls[name].append(recall(questions, way()))
                costs[name] += cost(way)
    print(f"| recall at {', '.join(map(str, CUTS))}, % | {' | '.join(q.name for q in sets)} | mean at 5 | cost |")
    print("|---" * (len(sets) + 3) + "|")
    for name, each in recalls.items():
        cells = [" / ".join(f"{value:.1f}" for value in values) for values in each]
        mean = statistics.mean(values[1] for values in each) - statistics.mean(values[1] for values in recalls["plain"])
        print(f"| {name} | {' | '.join(cells)} | {mean:+.1f} | {costs[name] / costs['plain']:.2f} x |")
    print()
    show_choice(sets)


if __name__ == "__main__":
    main()
