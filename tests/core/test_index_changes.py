"""Passages are added to an index, deleted and replaced, and segments are merged. The oracle is an index built anew of
the same passages: it finds the same passages in the same order with the same scores, to the bit."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentdistill._core import Bm25Index, RetrievalError

Row = tuple[str, str, str]

WORDS = st.integers(0, 14 * 14 - 1).map(lambda square: f"zq{int(square**0.5)}")  # some are rare
TEXT = st.lists(WORDS, max_size=30).map(" ".join)
IDS = st.integers(0, 40).map(str)  # few, so that many passages replace others
ROWS = st.lists(st.tuples(IDS, st.lists(WORDS, max_size=2).map(" ".join), TEXT), min_size=1, max_size=40)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("add"), ROWS),
        st.tuples(st.just("add"), ROWS.map(lambda rows: rows[:2])),
        st.tuples(st.just("delete"), st.sets(IDS, min_size=1, max_size=8)),
        st.tuples(st.just("merge"), st.none()),
    ),
    min_size=1,
    max_size=6,
)


def apply(index: Bm25Index, passages: list[Row], change: str, what: list[Row] | set[str]) -> Bm25Index:
    """Change the index, and the passages that it should contain."""
    if change == "merge":
        merged = index.merge()
        assert (merged.info()["segments"], merged.info()["deleted"]) == (1, 0)
        return merged
    ids = {row[0] for row in what} if change == "add" else set(what) & {row[0] for row in passages}
    left = [row for row in passages if row[0] not in ids]
    if change == "add":
        passages[:] = [*left, *what]
        return index.add(what)
    if not left:
        with pytest.raises(RetrievalError, match="an index cannot be empty"):
            index.delete(sorted(ids))
        return index
    passages[:] = left
    return index.delete(sorted(ids))


@settings(max_examples=12)
@given(ROWS, CHANGES, st.lists(TEXT, min_size=3, max_size=3), st.integers(1, 60), st.integers(1, 3),
       st.floats(0, 4, width=32), st.floats(0, 1, width=32))  # fmt: skip
def test_a_changed_index_is_one_built_anew(
    first: list[Row], changes: list, queries: list[str], k: int, weight: int, k1: float, b: float
) -> None:
    with TemporaryDirectory() as folder:
        path, anew = Path(folder, "index"), Path(folder, "anew")
        index, passages = Bm25Index.build(first, path, title_weight=weight), list(first)
        for change, what in changes:
            before, found = index, index.search_batch(queries, k)
            index = apply(index, passages, change, what)
            assert before.search_batch(queries, k) == found, "a reader is undisturbed"
            index.check()
            assert (len(index), os.listdir(folder).count(".index.building")) == (len(passages), 0)
            Bm25Index.build(passages, anew, title_weight=weight, overwrite=True)
            for parameters in ((1.2, 0.75), (k1, b)):
                changed, fresh = [Bm25Index.open(each, *parameters) for each in (path, anew)]
                assert changed.search_batch(queries, k) == fresh.search_batch(queries, k)


def test_pruning_loses_nothing_in_several_segments(tmp_path: Path) -> None:
    """Segments of many blocks. Later passages are longer, so that no segment has the average length of the index."""
    choose = random.Random(1)

    def text(words: int) -> str:
        return " ".join(f"zq{int(5000 ** choose.random())}" for _ in range(words))

    rows = [(str(number), "", text(2 + number // 2000)) for number in range(42_000)]
    index = Bm25Index.build(rows[:30_000], tmp_path / "index").add(rows[30_000:39_000]).add(rows[39_000:])
    index = index.delete([row[0] for row in rows[::7]])
    assert (index.info()["segments"], index.info()["deleted"]) == (3, 6_000)
    anew = Bm25Index.build([row for number, row in enumerate(rows) if number % 7], tmp_path / "anew")
    queries = [text(1 + number % 8) for number in range(60)]
    for k in (1, 10, 1000):
        assert index.search_batch(queries, k) == anew.search_batch(queries, k)


def test_there_are_few_segments(tmp_path: Path) -> None:
    """Small segments are merged, so that there are at most as many as the binary logarithm of the passages."""
    index = Bm25Index.build([("0", "", "some text")], tmp_path / "index")
    for number in range(1, 20):
        index = index.add([(str(number), "", f"text {number}")])
        assert index.info()["segments"] <= len(index).bit_length()
    assert [passage.id for passage in index.search("text", k=40)] == [str(number) for number in range(20)]


def test_a_change_that_is_not_possible_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "index"
    index = Bm25Index.build([("1", "", "one"), ("2", "", "two")], path)
    inode = path.stat().st_ino
    for change, message in (
        (lambda: index.delete(["1", "7", "8"]), '2 ids are not in the index, for example "7"; nothing is deleted'),
        (lambda: index.delete(["1", "2"]), "an index cannot be empty"),
        (lambda: index.add([]), "no passages to index"),
        (lambda: index.add([("3", "", "three"), "no passage"]), "passage 2: .* is neither"),
    ):
        with pytest.raises(RetrievalError, match=message):
            change()
    assert (path.stat().st_ino, os.listdir(tmp_path)) == (inode, ["index"])
    # The metadata of version 3 had no checksums.
    (path / "agentdistill.json").write_text(
        '{"version": 3, "documents": 2, "skipped": 0, "language": "english", "title_weight": 1}'
    )
    with pytest.raises(RetrievalError, match="`agentdistill index merge` makes it one of version 5"):
        Bm25Index.open(path).add([("3", "", "three")])
    assert len(Bm25Index.open(path).merge().add([("3", "", "three")])) == 3


def test_damage_of_a_changed_index_is_an_error(tmp_path: Path) -> None:
    rows = [(str(number), "", f"word{number} all") for number in range(50)]
    path = tmp_path / "index"
    index = Bm25Index.build(rows, path).add([("7", "", "seven all"), ("60", "", "sixty all")])
    assert (index.info()["segments"], index.info()["deleted"], len(index)) == (2, 1, 51)
    files = [file for file in path.rglob("*") if file.is_file() and file.stat().st_size]
    assert {path / "deleted", path / "1/passages"} <= set(files)
    for file in files:
        whole = file.read_bytes()
        file.unlink()
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(RetrievalError):
            Bm25Index.open(path).check()
        file.write_bytes(whole)
    Bm25Index.open(path).check()


def test_damage_never_gets_a_new_checksum(tmp_path: Path) -> None:
    """Opening an index does not verify a file as large as this one."""
    path = tmp_path / "index"
    Bm25Index.build([(str(number), "", f"{'word ' * 400}{number}") for number in range(3_000)], path)
    file = path / "passages"
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes(whole[:9] + bytes([whole[9] ^ 1]) + whole[10:])
    index = Bm25Index.open(path)
    for change in (index.merge, lambda: index.delete(["1"]), lambda: index.add([("1", "", "one")])):
        with pytest.raises(RetrievalError, match=r"the index is damaged \(passages is not what was written"):
            change()
    file.unlink()
    file.write_bytes(whole)
    Bm25Index.open(path).check()


CHANGE = """
import itertools, os, sys
from agentdistill._core import Bm25Index
index = Bm25Index.open(sys.argv[1])
for i in itertools.count():
    index = index.add([(f"{os.getpid()}-{i}", "", "some text"), ("same", "", "some text")]).delete(["same"])
"""


def test_whenever_a_change_is_killed_the_index_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "index"
    Bm25Index.build([("first", "", "some text")], path)
    for i in range(4):
        before = len(Bm25Index.open(path))
        changer = subprocess.Popen([sys.executable, "-c", CHANGE, path])
        while len(Bm25Index.open(path)) < before + 2:
            assert changer.poll() is None
        time.sleep(0.005 * i)
        changer.kill()
        changer.wait()
        index = Bm25Index.open(path)
        index.check()
        assert len(index.search("some", k=10_000)) == len(index) > before
