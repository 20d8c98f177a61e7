"""What does reading whole pages add to a search? What it would show of the gold passages, without a model.

    .venv/bin/python benches/open_page.py ../shared/data/retrieval

A page is all passages with a title. The first table splits the passages into pieces of 30 words, as Wikipedia's pages
are split into passages. It compares 3 pieces that a search finds, the pages of these 3, and as much text of further
pieces: characters, the share of the gold passages' words, the gold passages of which anything is shown, and the answers
that occur in the text (of questions whose answer is known and is not yes or no).

The second table is about the passages as they are: how many gold passages a search for the question does not show,
how many of these the shown text mentions by title, and how many of those a search for this title finds.
"""

import argparse
import json
import re
import statistics
import tempfile
from collections import defaultdict
from itertools import accumulate
from pathlib import Path

from agentdistill import Bm25Index, Passage
from quality import Questions, read

K = 3
WORDS = 30
DEPTH = 60
"""Pieces of a search, which have at least as much text as the pages of the first ones."""


def pieces(questions: Questions) -> list[tuple[str, str, str]]:
    """The passages in pieces of few words, which have the passage's title and, before #, its id."""
    return [
        (f"{identifier}#{start}", title, " ".join(text.split()[start : start + WORDS]))
        for identifier, title, text in questions.passages
        for start in range(0, max(1, len(text.split())), WORDS)
    ]


def known_answers(folder: Path) -> dict[str, str]:
    """Answers by question."""
    lines = map(json.loads, (folder / "queries.jsonl").open())
    answers = {line["text"]: plain(line["answer"] or "") for line in lines}
    return {text: answer for text, answer in answers.items() if answer not in ("", "yes", "no")}


def plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def page_of(passage: Passage) -> str:
    return passage.id.partition("#")[0]


def as_much(found: list[Passage], chars: int) -> list[Passage]:
    """The first passages, up to a number of characters."""
    ends = accumulate(len(passage.text) for passage in found)
    return [passage for passage, end in zip(found, ends, strict=True) if end <= chars]


def read_pages(folder: Path, index_folder: Path) -> dict[str, list[float]]:
    """Characters, and percent of gold words, gold passages and answers, for each way."""
    questions, answers = read(folder), known_answers(folder)
    index = Bm25Index.build(pieces(questions), index_folder, title_weight=4)
    pages: defaultdict[str, list[Passage]] = defaultdict(list)
    for piece in pieces(questions):
        pages[piece[1]].append(Passage(*piece))
    lengths = {identifier: len(text.split()) for identifier, _, text in questions.passages}
    shown: defaultdict[str, list[tuple[list[Passage], set[str], str | None]]] = defaultdict(list)
    for text, found, gold in zip(
        questions.texts, index.search_batch(questions.texts, DEPTH), questions.gold, strict=True
    ):
        first = found[:K]
        opened = [piece for title in dict.fromkeys(piece.title for piece in first) for piece in pages[title]]
        chars = sum(len(piece.text) for piece in opened)
        for name, passages in ((f"{K} pieces", first), ("their pages", opened), ("as much", as_much(found, chars))):
            shown[name].append((passages, gold, answers.get(text)))

    def measured(passages: list[Passage], gold: set[str], answer: str | None) -> list[float | None]:
        words = sum(len(piece.text.split()) for piece in passages if page_of(piece) in gold)
        text = plain(" ".join(piece.text for piece in passages))
        return [
            sum(len(piece.text) for piece in passages),
            100 * words / sum(lengths[identifier] for identifier in gold),
            100 * len(gold & set(map(page_of, passages))) / len(gold),
            None if answer is None else 100.0 * (f" {answer} " in f" {text} "),
        ]

    def means(rows: list[list[float | None]]) -> list[float]:
        columns = ([value for value in column if value is not None] for column in zip(*rows, strict=True))
        return [statistics.mean(column) for column in columns if column]

    return {name: means([measured(*one) for one in each]) for name, each in shown.items()}


def follow_titles(folder: Path, index_folder: Path) -> list[int]:
    """Numbers of gold passages: all, not shown, of a shown title, mentioned, and found by that title in two ways."""
    questions = read(folder)
    index = Bm25Index.build(questions.passages, index_folder, title_weight=4)
    titles = {identifier: title for identifier, title, _ in questions.passages}
    counts = [0] * 6
    for found, gold in zip(index.search_batch(questions.texts, K), questions.gold, strict=True):
        text = f" {plain(' '.join(passage.text for passage in found))} "
        for identifier in gold:
            title = titles[identifier]
            missed = identifier not in {passage.id for passage in found}
            mentioned = missed and f" {plain(re.sub(r' [(].*[)]$', '', title))} " in text
            by_title = [passage.id for passage in index.search(title, K)]
            outcomes = (
                True,
                missed,
                missed and any(passage.title == title for passage in found),
                mentioned,
                mentioned and identifier == by_title[0],
                mentioned and identifier in by_title,
            )
            counts = [count + outcome for count, outcome in zip(counts, outcomes, strict=True)]
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=Path)
    folders = sorted(parser.parse_args().sets.iterdir())
    with tempfile.TemporaryDirectory() as scratch:
        print(f"| characters / gold words / gold passages / answers, % | {' | '.join(f.name for f in folders)} |")
        print("|---" * (len(folders) + 1) + "|")
        each = [read_pages(folder, Path(scratch, f"{folder.name}-pieces")) for folder in folders]
        for name in each[0]:
            cells = [" / ".join(f"{value:.0f}" for value in one[name]) for one in each]
            print(f"| {name} | {' | '.join(cells)} |")
        print()
        counts = [follow_titles(folder, Path(scratch, folder.name)) for folder in folders]
    print(f"| gold passages | {' | '.join(folder.name for folder in folders)} | all |\n{'|---' * (len(folders) + 2)}|")
    ways = (
        *("all", f"not among the first {K}", "of these, with a title that is", "of these, mentioned there by title"),
        *("then first of a search for the title", f"then among its first {K}"),
    )
    for way, *numbers in zip(ways, *counts, strict=True):
        print(f"| {way} | {' | '.join(map(str, numbers))} | {sum(numbers)} |")


if __name__ == "__main__":
    main()
