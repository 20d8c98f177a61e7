"""Every format of passages gives the same passages in the same order, and errors name what is wrong."""

import bz2
import gzip
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentdistill import Bm25Index, RetrievalError
from agentdistill.files.corpus import find_passages

PASSAGES = [(str(i), f"Title {i}", f"Some text, number {i}.\nAnd é.") for i in range(20_000, 20_050)]
FIRST, SECOND = PASSAGES[:20], PASSAGES[20:]


def records(passages: list[tuple[str, str, str]], id: str = "id") -> list[dict[str, str]]:
    return [{id: passage[0], "title": passage[1], "text": passage[2]} for passage in passages]


def lines(passages: list[tuple[str, str, str]], id: str = "id") -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records(passages, id))


def jsonl(folder: Path) -> list[Path]:
    (folder / "a.jsonl").write_bytes(lines(FIRST))
    (folder / "b.jsonl").write_bytes(lines(SECOND))
    return [folder / "a.jsonl", folder / "b.jsonl"]


def wiki_18(folder: Path) -> list[Path]:
    contents = [{"id": id, "contents": f'"{title}"\n{text}'} for id, title, text in PASSAGES]
    (folder / "wiki-18.jsonl").write_text("\n".join(map(json.dumps, contents)))
    return [folder / "wiki-18.jsonl"]


def gzipped(folder: Path) -> list[Path]:
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(lines(FIRST)) + gzip.compress(lines(SECOND)) + bytes(512))
    return [folder / "corpus.jsonl.gz"]


def zstandard(folder: Path) -> list[Path]:
    pyarrow = pytest.importorskip("pyarrow", reason="needs agentdistill[tables]")
    (folder / "corpus.zst").write_bytes(pyarrow.Codec("zstd").compress(lines(PASSAGES), asbytes=True))
    return [folder / "corpus.zst"]


def beir(folder: Path) -> list[Path]:
    (folder / "corpus.jsonl").write_bytes(lines(PASSAGES, "_id"))
    (folder / "queries.jsonl").write_text('{"_id": "1", "text": "not a passage"}\n')
    (folder / "qrels").mkdir()
    return [folder]


def folder_of_files(folder: Path) -> list[Path]:
    jsonl(folder)
    (folder / "README.md").write_text("not a passage")
    return [folder]


def pattern(folder: Path) -> list[Path]:
    jsonl(folder)
    return [folder / "[ab].json*"]


def parquet(folder: Path) -> list[Path]:
    pyarrow = pytest.importorskip("pyarrow", reason="needs agentdistill[tables]")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs agentdistill[tables]")
    for name, passages in (("a", FIRST), ("b", SECOND)):
        table = pyarrow.Table.from_pylist([{**record, "url": "x"} for record in records(passages)])
        numbers = table["id"].cast("int64") if name == "b" else table["id"].dictionary_encode()
        parquet.write_table(table.set_column(0, "id", numbers), folder / f"{name}.parquet", row_group_size=7)
    return [folder]


def hugging_face(folder: Path) -> list[Path]:
    datasets = pytest.importorskip("datasets", reason="needs agentdistill[train]")
    dataset = datasets.Dataset.from_list(records(PASSAGES))
    dataset.save_to_disk(folder / "saved", num_shards=3)
    return [folder / "saved"]


def splits(folder: Path) -> list[Path]:
    datasets = pytest.importorskip("datasets", reason="needs agentdistill[train]")
    contents = [{"_id": int(id), "contents": f'"{title}"\n{text}'} for id, title, text in PASSAGES]
    dataset = datasets.DatasetDict({"train": datasets.Dataset.from_list(contents)})
    dataset.save_to_disk(folder / "saved")
    return [folder / "saved"]


def mixed(folder: Path) -> list[Path]:
    (folder / "tables").mkdir()
    [tables] = parquet(folder / "tables")
    return [jsonl(folder)[0], tables / "b.parquet"]


FORMS = [jsonl, wiki_18, gzipped, zstandard, beir, folder_of_files, pattern, parquet, hugging_face, splits, mixed]


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_same_index(form: Callable[[Path], list[Path]], tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    shares: list[float | None] = []
    paths = form(corpus)
    index = Bm25Index.build(
        paths[0] if len(paths) == 1 else paths, tmp_path / "index", progress=lambda _, share: shares.append(share)
    )
    found = index.search("text", k=100)
    assert [(passage.id, passage.title, passage.text) for passage in found] == PASSAGES
    assert shares == sorted(shares, key=lambda share: share or 0.0) and shares[-1] == 1.0


def test_a_dataset_can_be_given_itself(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs agentdistill[train]")
    index = Bm25Index.build(datasets.Dataset.from_list(records(PASSAGES)), tmp_path / "index")
    assert len(index) == len(PASSAGES)


def table(folder: Path, **columns: list[object]) -> Path:
    return table_of(folder, list(columns), list(columns.values()))


def table_of(folder: Path, names: list[str], columns: list[Any]) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="needs agentdistill[tables]")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs agentdistill[tables]")
    parquet.write_table(pyarrow.table(columns, names), folder / "table.parquet")
    return folder / "table.parquet"


def date_of_the_far_future(folder: Path) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="needs agentdistill[tables]")
    return table_of(folder, ["id", "text"], [pyarrow.array([2**60], pyarrow.timestamp("us")), ["x"]])


def written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def two_splits(folder: Path) -> Path:
    return written(folder / "dataset_dict.json", b'{"splits": ["train", "test"]}').parent


BAD: dict[str, tuple[Callable[[Path], Path], type[Exception], str]] = {
    "no file": (lambda folder: folder / "none.jsonl", FileNotFoundError, "none.jsonl"),
    "no match": (lambda folder: folder / "*.jsonl", FileNotFoundError, r"\*\.jsonl"),
    "an empty folder": (lambda folder: folder, RetrievalError, "no passages in this folder"),
    "no columns": (lambda folder: table(folder, title=["x"], text=["y"]), RetrievalError, "columns id and text"),
    "a null": (
        lambda folder: table(folder, id=["1", "2"], text=["x", None]),
        RetrievalError,
        "passage 2: no field `te",
    ),
    "a wrong type": (lambda folder: table(folder, id=["1"], text=[[1]]), RetrievalError, "`text` is of the type list"),
    "no table": (
        lambda folder: written(folder / "a.parquet", b"junk" * 9),
        RetrievalError,
        "a.parquet: cannot read this file",
    ),
    "no arrow": (
        lambda folder: written(folder / "a.arrow", b"junk" * 9),
        RetrievalError,
        "a.arrow: cannot read this file",
    ),
    "half a gzip": (lambda folder: written(folder / "a.gz", gzip.compress(lines(PASSAGES))[:-20]), OSError, "a.gz"),
    "splits": (two_splits, RetrievalError, "several splits: give the folder of one of train, test"),
    "a list": (
        lambda folder: written(folder / "a.jsonl", b"[" + lines(FIRST).strip().replace(b"\n", b",\n") + b"]"),
        RetrievalError,
        "a.jsonl:1: the file is one JSON list, and must have an object a line",
    ),
    "a null id": (
        lambda folder: table(folder, id=["1", None], text=["x", "y"]),
        RetrievalError,
        "passage 2: no field `id",
    ),
    "bytes": (lambda folder: table(folder, id=[b"1"], text=["x"]), RetrievalError, "1: its id is of the type bytes"),
    "floats": (lambda folder: table(folder, id=[1.5], text=["x"]), RetrievalError, "1: its id is of the type float"),
    "objects": (
        lambda folder: table(folder, id=[{"a": 1}], text=["x"]),
        RetrievalError,
        "1: its id is of the type dict",
    ),
    "bytes as text": (
        lambda folder: table(folder, id=["1"], text=[b"x"]),
        RetrievalError,
        "`text` is of the type bytes",
    ),
    "a column twice": (
        lambda folder: table_of(folder, ["id", "text", "text"], [["1"], ["x"], ["y"]]),
        RetrievalError,
        "table.parquet: the column 'text' occurs twice",
    ),
    "a date that Python does not have": (
        date_of_the_far_future,
        RetrievalError,
        "table.parquet: cannot read this file",
    ),
    "bzip2": (
        lambda folder: written(folder / "a.bz2", bz2.compress(lines(FIRST))),
        OSError,
        "a.bz2: this is bzip2: give",
    ),
    "UTF-16": (
        lambda folder: written(folder / "a.jsonl", lines(FIRST).decode().encode("utf-16")),
        OSError,
        "a.jsonl: this is text in UTF-16: give",
    ),
    "a bad line": (
        lambda folder: written(folder / "a.jsonl", lines(FIRST) + b"{\n"),
        RetrievalError,
        "a.jsonl:21: not J",
    ),
    "nothing in it": (lambda folder: written(folder / "a.jsonl", b"\n"), RetrievalError, "no passages to index"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named(case: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    make, error, message = BAD[case]
    with pytest.raises(error, match=message):
        Bm25Index.build(make(corpus), tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_the_first_bad_line_is_named_or_all_are_counted(tmp_path: Path) -> None:
    good, bad = [lines(FIRST)] * 3000, b'{"id": 1}\n'
    files = [
        written(tmp_path / "a.jsonl", b"".join(good)),
        written(tmp_path / "b.jsonl", b"".join([*good[:2000], bad, *good[:2000], bad, bad])),
    ]
    for _ in range(3):
        with pytest.raises(RetrievalError, match=re.escape(f"{files[1]}:40001: no field `text`")):
            Bm25Index.build(files, tmp_path / "index", memory_mb=64)
    index = Bm25Index.build(files, tmp_path / "index", skip_bad=True, memory_mb=64)
    assert (index.info()["documents"], index.info()["skipped"]) == (140_000, 3)
    shown = table(tmp_path, id=["1", "2", "3"], text=["x", None, "y"])
    index = Bm25Index.build(shown, tmp_path / "other", skip_bad=True)
    assert (index.info()["documents"], index.info()["skipped"]) == (2, 1)


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    for path in jsonl(tmp_path):
        [file] = find_passages([path])
        assert (file.path, file.bytes, file.passages) == (path, path.stat().st_size, None)
    [path] = parquet(tmp_path)
    assert [file.rows for file in find_passages([path])] == [0, 20, 0, 30]


def test_memory_is_bounded(tmp_path: Path) -> None:
    """Index 50 MB of passages with a limit of 64 MB, plus the memory of the interpreter and of mapped files."""
    text = b"".join(lines([(str(i), f"t{i}", " ".join(f"w{i * j % 9973}" for j in range(100)))]) for i in range(2000))
    corpus = written(tmp_path / "a.jsonl", text * (50_000_000 // len(text)))
    code = f"""
from agentdistill._core import Bm25Index
index = Bm25Index.build({str(corpus)!r}, {str(tmp_path / "index")!r}, memory_mb=64)
print(len(index), open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    documents, kilobytes = map(int, run.stdout.split())
    assert documents == text.count(b"\n") * (50_000_000 // len(text))
    assert kilobytes < 150_000
