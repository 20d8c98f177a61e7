"""Questions whose gold passages are known, from the public data sets, and the recall of a search for them."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from agentdistill import Passage


class GoldQuestions(NamedTuple):
    corpus: Path
    texts: list[str]
    gold: list[set[str]]
    """For each question, the ids of the passages that answer it."""


def gold_questions(folder: Path) -> GoldQuestions:
    """Read a data set in BEIR's layout."""
    gold: defaultdict[str, set[str]] = defaultdict(set)
    for line in (folder / "qrels/test.tsv").read_text().splitlines()[1:]:
        query, passage, _ = line.split("\t")
        gold[query].add(passage)
    texts = {query["_id"]: query["text"] for query in map(json.loads, (folder / "queries.jsonl").open())}
    return GoldQuestions(folder / "corpus.jsonl", [texts[query] for query in gold], list(gold.values()))


def recall(found: Sequence[Sequence[Passage]], gold: Sequence[set[str]], k: int) -> float:
    """The share of the gold passages among the first ``k``, in percent, averaged over the questions."""
    shares = [
        len(wanted & {passage.id for passage in passages[:k]}) / len(wanted)
        for passages, wanted in zip(found, gold, strict=True)
    ]
    return 100 * sum(shares) / len(shares)
