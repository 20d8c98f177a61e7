"""BM25 against its peers in one run: speed per core, memory, time to build and to open, overlap of what is found.

    python benches/compare/retrieval.py passages.jsonl --sizes 20000 200000 2000000

Passages are lines of ``{"id", "title", "text"}``; an index is made of the first so many. Every side has its own
process and one thread, and answers the same batches of queries in turn, round after round, so that whatever else the
machine does falls on all of them; figures are medians over rounds. Speed is queries per second of processor time.
Queries are the questions of ../shared/data/retrieval, and spans of 3 to 10 words of random passages.

What each side does is what its users do, made as alike as it allows: title and text in one field, English stop words,
Porter2 stems, k1 1.2, b 0.75; a word is a run of letters and digits.

- agentdistill: ``search_batch``, from strings to passages.
- bm25s (numba backend, compiled and warm): ``tokenize`` and ``retrieve``. "bm25s, passages" goes from strings to
  passages, which it reads from its memory-mapped corpus; "bm25s, numbers" from strings to passages' numbers, without a
  corpus; "bm25s, tokens" is ``retrieve`` alone, from tokens to numbers.
- bm25x: ``search_batch`` of the Rust crate (bm25x/ is its binding), from strings to passages' numbers.
- tantivy-py: ``parse_query_lenient``, ``search`` and ``doc``, from strings to passages. One call for each query.
- rank-bm25: ``get_scores`` and a partial sort, from tokens to numbers; the first 20 queries of each kind, on at most
  20,000 passages, since it keeps a dictionary of each and scores them all.

Indexes stay in --work, with the record of their building, and are not built again. For several sizes, what a query
costs as the collection grows is plotted there, in cost.svg.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

K1, B = 1.2, 0.75
WORD = r"[^\W_]+"
QUESTIONS = Path(__file__).parents[3] / "shared/data/retrieval"
SPANS = 600


class Side(Protocol):
    """One way to search. Its libraries are imported where they are used, so that each process loads its own."""

    most: int
    """Passages it can do in reasonable time."""

    @staticmethod
    def build(corpus: Path, folder: Path) -> None: ...

    def __init__(self, folder: Path) -> None: ...

    def ways(self, queries: list[str], k: int) -> dict[str, Callable[[], Any]]:
        """What answers the queries, by the name to show; each is timed."""

    def ids(self, found: Any) -> list[list[str | int]]:
        """Of what that returned: ids, or numbers by line of the corpus."""


def passages(corpus: Path) -> Iterator[dict[str, str]]:
    with corpus.open() as lines:
        yield from map(json.loads, lines)


class Agentdistill:
    most = sys.maxsize

    @staticmethod
    def build(corpus: Path, folder: Path) -> None:
        from agentdistill import Bm25Index

        Bm25Index.build(corpus, folder / "index", overwrite=True)

    def __init__(self, folder: Path) -> None:
        from agentdistill import Bm25Index

        self.index = Bm25Index.open(folder / "index")

    def ways(self, queries: list[str], k: int) -> dict[str, Callable[[], Any]]:
        return {"agentdistill": lambda: self.index.search_batch(queries, k=k)}

    def ids(self, found: Any) -> list[list[str | int]]:
        return [[passage.id for passage in passages] for passages in found]


class Bm25s:
    most = sys.maxsize

    @staticmethod
    def build(corpus: Path, folder: Path) -> None:
        import bm25s

        tokens = Bm25s.tokens([f"{passage['title']} {passage['text']}" for passage in passages(corpus)])
        index = bm25s.BM25(method="lucene", k1=K1, b=B, backend="numba")
        index.index(tokens, show_progress=False)
        index.save(folder / "index", corpus=list(passages(corpus)), show_progress=False)

    def __init__(self, folder: Path) -> None:
        import bm25s
        from bm25s.utils.corpus import JsonlCorpus

        self.index = bm25s.BM25.load(folder / "index", show_progress=False)
        self.corpus = JsonlCorpus(folder / "index/corpus.jsonl", show_progress=False)

    @staticmethod
    def tokens(texts: list[str]) -> Any:
        import bm25s
        import Stemmer

        stemmer = Stemmer.Stemmer("english")
        return bm25s.tokenize(texts, token_pattern=WORD, stopwords="en", stemmer=stemmer, show_progress=False)

    def ways(self, queries: list[str], k: int) -> dict[str, Callable[[], Any]]:
        def retrieve(tokens: Any, **corpus: Any) -> Any:
            return self.index.retrieve(tokens, k=k, show_progress=False, **corpus)

        tokens = self.tokens(queries)
        return {
            "bm25s, passages": lambda: retrieve(self.tokens(queries), corpus=self.corpus),
            "bm25s, numbers": lambda: retrieve(self.tokens(queries)),
            "bm25s, tokens": lambda: retrieve(tokens),
        }

    def ids(self, found: Any) -> list[list[str | int]]:
        return [
            [found["id"] if isinstance(found, dict) else found for found, score in zip(*each, strict=True) if score > 0]
            for each in zip(found.documents.tolist(), found.scores.tolist(), strict=True)
        ]


class Bm25x:
    most = sys.maxsize

    @staticmethod
    def build(corpus: Path, folder: Path) -> None:
        from bm25x_binding import Index

        texts = [f"{passage['title']} {passage['text']}" for passage in passages(corpus)]
        Index.build(texts, str(folder / "index"), K1, B)

    def __init__(self, folder: Path) -> None:
        from bm25x_binding import Index

        self.index = Index.open(str(folder / "index"), K1, B)

    def ways(self, queries: list[str], k: int) -> dict[str, Callable[[], Any]]:
        return {"bm25x, numbers": lambda: self.index.search_batch(queries, k)}

    def ids(self, found: Any) -> list[list[str | int]]:
        return found


class TantivyPy:
    most = 200_000

    @staticmethod
    def schema() -> Any:
        import tantivy

        schema = tantivy.SchemaBuilder()
        for field in ("id", "title", "text"):
            schema.add_text_field(field, stored=True, index_option="basic", tokenizer_name="raw")
        return schema.add_text_field("body", tokenizer_name="english").build()

    @staticmethod
    def analyzer() -> Any:
        from tantivy import Filter, TextAnalyzerBuilder, Tokenizer

        builder = TextAnalyzerBuilder(Tokenizer.simple()).filter(Filter.remove_long(40)).filter(Filter.lowercase())
        return builder.filter(Filter.stopword("english")).filter(Filter.stemmer("english")).build()

    @staticmethod
    def build(corpus: Path, folder: Path) -> None:
        import tantivy

        (folder / "index").mkdir()
        index = tantivy.Index(TantivyPy.schema(), path=str(folder / "index"))
        index.register_tokenizer("english", TantivyPy.analyzer())
        writer = index.writer(heap_size=1 << 30, num_threads=1)
        for passage in passages(corpus):
            body = f"{passage['title']} {passage['text']}"
            writer.add_document(tantivy.Document(**passage, body=body))
        writer.commit()
        writer.wait_merging_threads()

    def __init__(self, folder: Path) -> None:
        import tantivy

        self.index = tantivy.Index.open(str(folder / "index"))
        self.index.register_tokenizer("english", self.analyzer())
        self.searcher = self.index.searcher()

    def ways(self, queries: list[str], k: int) -> dict[str, Callable[[], Any]]:
        def search(query: str) -> list[Any]:
            parsed, _ = self.index.parse_query_lenient(query, ["body"])
            return [self.searcher.doc(address) for _, address in self.searcher.search(parsed, k, count=False).hits]

        return {"tantivy-py": lambda: [search(query) for query in queries]}

    def ids(self, found: Any) -> list[list[str | int]]:
        return [[document["id"][0] for document in documents] for documents in found]


class RankBm25:
    most = 20_000

    @staticmethod
    def build(corpus: Path, folder: Path) -> None:
        """It has no files: an index is built each time it is opened."""
        (folder / "corpus").symlink_to(corpus.resolve())

    def __init__(self, folder: Path) -> None:
        import rank_bm25

        texts = [f"{passage['title']} {passage['text']}" for passage in passages(folder / "corpus")]
        self.index = rank_bm25.BM25Okapi(self.tokens(texts), k1=K1, b=B)

    @staticmethod
    def tokens(texts: list[str]) -> list[list[str]]:
        import bm25s
        import Stemmer

        tokens: list[list[str]] = bm25s.tokenize(
            texts,
            token_pattern=WORD,
            stopwords="en",
            stemmer=Stemmer.Stemmer("english"),
            return_ids=False,
            show_progress=False,
        )
        return tokens

    def ways(self, queries: list[str], k: int) -> dict[str, Callable[[], Any]]:
        import numpy as np

        def search(query: list[str]) -> Any:
            scores = self.index.get_scores(query)
            best = np.argpartition(-scores, k)[:k]
            return best[np.argsort(-scores[best], kind="stable")]

        tokens = self.tokens(queries[:20])
        return {"rank-bm25, tokens": lambda: [search(query) for query in tokens]}

    def ids(self, found: Any) -> list[list[str | int]]:
        return [numbers.tolist() for numbers in found]


SIDES: list[type[Side]] = [Agentdistill, Bm25s, Bm25x, TantivyPy, RankBm25]


# ---- a side's process: builds, or opens and then times the way that each line it reads names -------------------------


def build(side: type[Side], work: Path) -> None:
    wall, cpu = timed(lambda: side.build(work / "corpus.jsonl", work / side.__name__))
    (work / side.__name__ / "built.json").write_text(json.dumps({"wall": wall, "cpu": cpu}))


def serve(side: type[Side], work: Path, k: int) -> None:
    opened: list[Side] = []
    wall, _ = timed(lambda: opened.append(side(work / side.__name__)))
    answer({"wall": wall} | memory())
    ways = {}
    for kind, queries in json.loads((work / "queries.json").read_text()).items():
        ways[kind] = opened[0].ways(queries, k)
        found = [opened[0].ids(way()) for way in ways[kind].values()]  # which also warms up, and compiles
        answer({"ways": list(ways[kind]), "found": found[0]})
    for line in sys.stdin:
        kind, way = json.loads(line)
        wall, cpu = timed(ways[kind][way])
        answer({"wall": wall, "cpu": cpu} | memory())


def timed(do: Callable[[], Any]) -> tuple[float, float]:
    """Seconds, of the clock and of processors."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = do()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    del result  # what it costs to throw away is not counted
    return wall, cpu


def memory() -> dict[str, float]:
    """Resident memory of this process, in MB, and how much of it is its own, not pages of files the system may take
    back."""
    status = Path("/proc/self/status").read_text()
    return {
        name: int(status.split(f"{field}:")[1].split()[0]) / 1024
        for name, field in (("resident", "VmRSS"), ("own", "RssAnon"))
    }


def answer(report: dict[str, Any]) -> None:
    print(json.dumps(report), flush=True)


# ---- the comparison ------------------------------------------------------------------------------------------------


class Worker:
    """A side's process. Used as a function, it times one way of answering one kind of queries."""

    def __init__(self, job: str, side: type[Side], *arguments: object, threads: int = 1) -> None:
        limits = {f"{library}_NUM_THREADS": str(threads) for library in ("RAYON", "NUMBA", "OMP", "OPENBLAS", "MKL")}
        command = [sys.executable, __file__, job, side.__name__, *map(str, arguments)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=os.environ | limits, stdin=pipe, stdout=pipe, text=True)

    def read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args} ended with {self.process.wait()}")
        return json.loads(line)

    def __call__(self, kind: str, way: str) -> dict[str, float]:
        assert self.process.stdin is not None
        print(json.dumps([kind, way]), file=self.process.stdin, flush=True)
        measured: dict[str, float] = self.read()
        return measured

    def end(self) -> None:
        self.process.communicate()
        if self.process.returncode != 0:
            raise SystemExit(f"{self.process.args} ended with {self.process.returncode}")


def compare(source: Path, size: int, k: int, rounds: int, work: Path) -> dict[tuple[str, str], float]:
    """Print the table of this size; return seconds of processor time for a query, by way and kind."""
    batches = prepare(source, size, work)
    sides = [side for side in SIDES if size <= side.most]
    for side in sides:
        if not (work / side.__name__ / "built.json").exists():
            (work / side.__name__).mkdir(exist_ok=True)
            Worker("build", side, work).end()
    workers = {side: Worker("serve", side, work, k) for side in sides}
    opened = {side: worker.read() for side, worker in workers.items()}
    answers = {(side, kind): workers[side].read() for side in sides for kind in batches}
    ways = [(side, way) for side in sides for way in answers[side, "questions"]["ways"]]
    two_threads = Worker("serve", Agentdistill, work, k, threads=2)
    [two_threads.read() for _ in range(1 + len(batches))]

    cpu = defaultdict(list)
    scaling = []
    held = {}
    for _ in range(rounds):
        for kind in batches:
            for side, way in ways:
                measured = workers[side](kind, way)
                cpu[way, kind].append(measured["cpu"] / len(answers[side, kind]["found"]))
                held[side] = measured
            one, two = workers[Agentdistill](kind, "agentdistill"), two_threads(kind, "agentdistill")
            scaling.append(one["wall"] / two["wall"])
    for worker in (*workers.values(), two_threads):
        worker.end()

    ids = [passage["id"] for passage in passages(work / "corpus.jsonl")]
    print(f"\n{size:,} passages, k = {k}, {rounds} rounds; queries/s of one core\n")
    heads = [head for kind, queries in batches.items() for head in (f"{len(queries)} {kind}", "ours is", "same top k")]
    heads += ["resident", "its own", "opened in", "with", "built in"]
    print(f"| | {' | '.join(heads)} |")
    print("|---" * (1 + len(heads)) + "|")
    for side, way in ways:
        cells = []
        for kind in batches:
            ratios = [theirs / ours for theirs, ours in zip(cpu[way, kind], cpu["agentdistill", kind], strict=True)]
            same = overlap(answers[Agentdistill, kind]["found"], answers[side, kind]["found"], ids)
            cells += [
                f"{1 / statistics.median(cpu[way, kind]):,.0f}",
                f"{statistics.median(ratios):.2f} x",
                f"{same:.1%}",
            ]
        built = json.loads((work / side.__name__ / "built.json").read_text())
        cells += [f"{held[side][name]:,.0f} MB" for name in ("resident", "own")]
        cells += [f"{opened[side]['wall']:.3f} s", f"{opened[side]['resident']:,.0f} MB"]
        print(f"| {way} | {' | '.join(cells)} | {built['cpu']:,.1f} s |")
    print(f"\nOn two threads ours is {statistics.median(scaling):.2f} times as fast as on one.", flush=True)
    return {key: statistics.median(seconds) for key, seconds in cpu.items()}


def plot(costs: dict[int, dict[tuple[str, str], float]], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    kinds = sorted({kind for cost in costs.values() for _, kind in cost})
    ways = dict.fromkeys(way for cost in costs.values() for way, _ in cost)
    for axes, kind in zip(figure.subplots(1, len(kinds), sharey=True), kinds, strict=True):
        for way in ways:
            sizes = [size for size, cost in costs.items() if (way, kind) in cost]
            axes.loglog(sizes, [costs[size][way, kind] * 1e3 for size in sizes], marker="o", label=way)
        axes.set(title=kind, xlabel="passages")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("ms of a core for a query")
    figure.axes[0].legend(frameon=False)
    figure.savefig(file)


def prepare(source: Path, size: int, work: Path) -> dict[str, list[str]]:
    """Writes the corpus of this size, and the queries, into the folder of work; returns the queries by kind."""
    work.mkdir(parents=True, exist_ok=True)
    with source.open() as lines, (work / "corpus.jsonl").open("w") as corpus:
        written = sum(corpus.write(line) > 0 for line in itertools.islice(lines, size))
    files = sorted(QUESTIONS.glob("*/queries.jsonl"))
    if written < size or not files:
        raise SystemExit(f"{source} has {written} passages, and {QUESTIONS} {len(files)} sets of questions")
    chance = random.Random(0)
    chosen = set(chance.sample(range(size), SPANS))
    spans = []
    for number, passage in enumerate(passages(work / "corpus.jsonl")):
        if number in chosen:
            words, length = passage["text"].split(), chance.randint(3, 10)
            start = chance.randrange(max(len(words) - length, 1))
            spans.append(" ".join(words[start : start + length]))
    batches = {"questions": [json.loads(line)["text"] for file in files for line in file.open()], "spans": spans}
    (work / "queries.json").write_text(json.dumps(batches))
    return batches


def overlap(ours: list[list[str]], theirs: list[list[str | int]], ids: list[str]) -> float:
    """Mean over queries of the share of our top k that is in theirs."""
    by_id = [{each if isinstance(each, str) else ids[each] for each in found} for found in theirs]
    return statistics.mean(
        len(their.intersection(our)) / len(our) for our, their in zip(ours, by_id, strict=False) if our
    )


def main() -> None:
    if sys.argv[1] in ("build", "serve"):
        job, name, work, *k = sys.argv[1:]
        side = next(side for side in SIDES if side.__name__ == name)
        build(side, Path(work)) if job == "build" else serve(side, Path(work), int(k[0]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("passages", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--work", type=Path, default=Path("runs/compare"))
    arguments = parser.parse_args()
    costs = {
        size: compare(arguments.passages, size, arguments.k, arguments.rounds, arguments.work / str(size))
        for size in sorted(arguments.sizes)
    }
    if len(costs) > 1:
        plot(costs, arguments.work / "cost.svg")


if __name__ == "__main__":
    main()
