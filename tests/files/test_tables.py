"""Tables made to exhaust memory, and folders that are not data sets."""

import json
import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from agentdistill import Bm25Index, RetrievalError, TrajectoryError
from agentdistill.files.formats import convert
from agentdistill.files.tables import RECORD_BYTES, read_table, saved_dataset

pyarrow = pytest.importorskip("pyarrow", reason="needs agentdistill[tables]")
parquet = pytest.importorskip("pyarrow.parquet")


def repeated(text: str, times: int) -> Any:
    return pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * times, pyarrow.int32()), pyarrow.array([text]))


def test_a_text_that_stands_in_every_row_is_there_once(tmp_path: Path) -> None:
    """9 kB of Parquet that expand to 2.4 GB."""
    table = pyarrow.table({"id": [str(i) for i in range(4000)], "text": repeated("word " * 120_000, 4000)})
    parquet.write_table(table, tmp_path / "t.parquet")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = read_table(tmp_path / "t.parquet", RetrievalError).rows
    assert sum(len(row["text"]) for row in rows) == 4000 * 600_000
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10 < 500


def test_a_text_that_is_written_as_differences_takes_the_memory_of_some_rows(tmp_path: Path) -> None:
    """The file has 1 text and 400 references to it."""
    table = pyarrow.table({"id": [str(i) for i in range(400)], "text": ["word " * 120_000] * 400})
    encoding = {"text": "DELTA_BYTE_ARRAY", "id": "DELTA_LENGTH_BYTE_ARRAY"}
    parquet.write_table(table, tmp_path / "t.parquet", use_dictionary=False, column_encoding=encoding)
    del table
    rows = read_table(tmp_path / "t.parquet", RetrievalError).rows
    assert max(pyarrow.total_allocated_bytes() for row in rows if len(row["text"]) == 600_000) < 100 << 20


BOMBS = {
    "one text": lambda: {"text": ["a" * 300_000_000]},
    "many texts": lambda: {"text": ["a" * 20_000] * 20_000},
    "a list": lambda: {"text": ["a"], "more": [[1] * 10_000_000]},
    "a large record among small ones": lambda: {"text": ["a"] * 100 + ["b" * (RECORD_BYTES + 1)]},
}


@pytest.mark.parametrize("what", BOMBS)
def test_what_only_fills_memory_is_refused_with_its_place(what: str, tmp_path: Path) -> None:
    columns = BOMBS[what]()
    table = pyarrow.table({"id": [str(i) for i in range(len(columns["text"]))], **columns})
    parquet.write_table(table, tmp_path / "t.parquet", compression="zstd", use_dictionary=what == "a list")
    with pytest.raises(RetrievalError, match=r"t\.parquet: row \d+"):
        for _ in read_table(tmp_path / "t.parquet", RetrievalError).rows:
            pass


TEXTS = ("text", "turns.list.element.role", "turns.list.element.content", "bytes")
ENCODINGS: dict[str, dict[str, Any]] = {
    "plain": {"use_dictionary": False},
    "dictionary": {"use_dictionary": True},
    **{
        name: {"use_dictionary": ["id"], "column_encoding": dict.fromkeys(TEXTS, name)}
        for name in ("DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY")
    },
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("rows", [1, 7, 20_000])
def test_rows_are_as_written(rows: int, encoding: str, tmp_path: Path) -> None:
    said = [
        {
            "id": i,
            "text": f"text {i % 5}" if i % 7 else None,
            "turns": [{"role": "user", "content": f"c {i % 3}"}] * (i % 4),
            "score": i / 2,
            "bytes": b"\xff" * (i % 2),
        }
        for i in range(max(rows, 7))
    ]
    table = pyarrow.Table.from_pylist(said).slice(0, rows)  # 7 rows have all types
    parquet.write_table(table, tmp_path / "t.parquet", row_group_size=9_000, **ENCODINGS[encoding])
    assert list(read_table(tmp_path / "t.parquet", RetrievalError).rows) == said[:rows]
    write_arrow(table, tmp_path / "t.arrow")
    assert list(read_table(tmp_path / "t.arrow", RetrievalError).rows) == said[:rows]


def write_arrow(table: Any, path: Path, compression: str | None = None) -> None:
    options = pyarrow.ipc.IpcWriteOptions(compression=compression)
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)


ROWS = [
    {
        "id": str(i),
        "text": f"text {i % 5}" if i % 7 else None,
        "turns": [{"role": "user", "content": f"c {i % 3}"}] * (i % 4),
    }
    for i in range(50)
]


def rows_table() -> Any:
    table = pyarrow.Table.from_pylist(ROWS)
    return table.append_column("again", table["text"].combine_chunks().dictionary_encode())


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_arrow_files_may_be_compressed(compression: str | None, tmp_path: Path) -> None:
    write_arrow(rows_table(), tmp_path / "t.arrow", compression)
    table = read_table(tmp_path / "t.arrow", RetrievalError)
    assert table.length == 50 and list(table.rows) == [{**row, "again": row["text"]} for row in ROWS]


ARROW_BOMBS: dict[str, Callable[[], Any]] = {
    "one text": lambda: ["a" * 300_000_000],
    "a dictionary": lambda: repeated("a" * 300_000_000, 1),
    "nothing, many times": lambda: pyarrow.FixedSizeListArray.from_arrays(pyarrow.nulls(10**9), 10**9),
    "bits": lambda: pyarrow.FixedSizeListArray.from_arrays(
        pyarrow.Array.from_buffers(pyarrow.bool_(), 10**8, [None, pyarrow.py_buffer(bytes(10**8 // 8))]), 10**8
    ),
    "one text, in views": lambda: pyarrow.array(["a" * (RECORD_BYTES + 1)], pyarrow.string_view()),
    "lists that share their items": lambda: pyarrow.ListViewArray.from_arrays(
        [0] * 99, [10**6] * 99, pyarrow.nulls(10**6)
    ),
    "one run": lambda: pyarrow.RunEndEncodedArray.from_arrays([10**9], pyarrow.array(["text"])),
}


@pytest.mark.parametrize("what", ARROW_BOMBS)
def test_arrow_that_only_fills_memory_is_refused(what: str, tmp_path: Path) -> None:
    write_arrow(pyarrow.table({"text": ARROW_BOMBS[what]()}), tmp_path / "t.arrow", "zstd")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RetrievalError, match=r"t\.arrow: "):
        next(read_table(tmp_path / "t.arrow", RetrievalError).rows)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10 < 300


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
@pytest.mark.parametrize("seed", range(300))
def test_damaged_tables_are_read_or_refused(seed: int, kind: str, tmp_path: Path) -> None:
    path, random = tmp_path / f"t.{kind}", Random(seed)
    (write_arrow if kind == "arrow" else parquet.write_table)(rows_table(), path)
    damaged = bytearray(path.read_bytes())
    for _ in range(random.choice((1, 3))):
        damaged[random.randrange(len(damaged))] = random.choice((0, 255, random.randrange(256)))
    path.write_bytes(damaged)
    with suppress(RetrievalError):
        for _ in read_table(path, RetrievalError).rows:
            pass


def test_an_index_of_such_a_table_takes_the_memory_it_may(tmp_path: Path) -> None:
    table = pyarrow.table({"id": [str(i) for i in range(2000)], "text": repeated("word " * 20_000, 2000)})
    parquet.write_table(table, tmp_path / "t.parquet")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    Bm25Index.build([tmp_path / "t.parquet"], tmp_path / "index", memory_mb=64)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10 < 700


# Contents of state.json or dataset_dict.json.
NO_DATASETS: list[Any] = [
    *([], {}, None, 5, {"_data_files": 5}, {"_data_files": [5]}, {"_data_files": [{"filename": 5}]}),
    *({"_data_files": [{"filename": "../../secret.arrow"}]}, {"_data_files": [{"filename": "/etc/passwd"}]}),
]


@pytest.mark.parametrize("state", NO_DATASETS)
def test_folders_that_are_no_datasets(state: Any, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(json.dumps(state))
    with pytest.raises(RetrievalError, match=r"state\.json: this is not what save_to_disk writes"):
        saved_dataset(tmp_path, RetrievalError)


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b"\xff", b"", b'{"splits": [".."]}', b'{"splits": 5}', b'{"splits": []}']
)
def test_splits_that_are_none(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_bytes(text)
    with pytest.raises(RetrievalError, match=str(tmp_path)):
        saved_dataset(tmp_path, RetrievalError)


@pytest.mark.parametrize("steps", ["5", "{", "[" * 100_000, None, b"\xff"])
def test_a_table_of_trajectories_that_are_none(steps: Any, tmp_path: Path) -> None:
    row = {"task_id": "1", "question": "q", "outcome": "final_answer", "steps": steps, "messages": 5}
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "t.parquet")
    with pytest.raises(TrajectoryError, match=r"t\.parquet: row 1: "):
        convert(tmp_path / "t.parquet", tmp_path / "out.jsonl", progress=False)
    assert not (tmp_path / "out.jsonl").exists()
