"""What does a change of an index cost, and how much slower are searches of several segments?

    .venv/bin/python benches/index_changes.py

60,000 generated passages of 63 words: 40,000 are built, 15,000 and 5,000 added, every tenth deleted, and one replaced.
The result is then merged. Searches of both alternate; the figure is the lowest processor time of some rounds.
"""

import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from agentdistill import Bm25Index

ROUNDS = 15
Result = TypeVar("Result")


def timed(name: str, change: Callable[[], Result]) -> Result:
    start = time.process_time()
    result = change()
    print(f"{name}: {time.process_time() - start:.2f} s")
    return result


def search(index: Bm25Index, queries: list[str]) -> float:
    start = time.process_time()
    for query in queries:
        index.search(query, 10)
    return time.process_time() - start


def main() -> None:
    choose = random.Random(1)

    def text(words: int) -> str:
        return " ".join(f"zq{int(100_000 ** choose.random())}" for _ in range(words))

    rows = [(str(number), text(3), text(60)) for number in range(60_000)]
    queries = [text(3 + number % 8) for number in range(300)]
    with tempfile.TemporaryDirectory() as folder:
        timed("build 60,000 passages", lambda: Bm25Index.build(rows, Path(folder, "all")))
        index = Bm25Index.build(rows[:40_000], Path(folder, "index"))
        index = timed("add 15,000 passages", lambda: index.add(rows[40_000:55_000]))
        index = timed("add 5,000 passages", lambda: index.add(rows[55_000:]))
        index = timed("delete 6,000 passages", lambda: index.delete([row[0] for row in rows[::10]]))
        index = timed("replace one passage", lambda: index.add([rows[1]]))
        merged = timed("merge", index.merge)
        assert index.search_batch(queries, 10) == merged.search_batch(queries, 10)
        several, one = [min(times) for times in zip(*[
            (search(index, queries), search(merged, queries)) for _ in range(ROUNDS)
        ], strict=True)]  # fmt: skip
    print(f"a search of {index.info()['segments']} segments takes {several / one:.2f} times as long as of one")


if __name__ == "__main__":
    main()
