"""Where passages are: files of JSON lines, Parquet, datasets saved by Hugging Face's library, folders of BEIR.

Files of JSON lines, plain or compressed, are named here and read by the core. Tables (Parquet, Arrow) are read here by
pyarrow, some thousand rows at a time. A row is a passage in the same form as a line: ``id`` or ``_id``, ``title`` and
``text``, or Search-R1's ``contents``.

Not here: downloading.
"""

import glob
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from agentdistill._core import RetrievalError
from agentdistill.extras import need

JSON_LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".ndjson")
FIELDS = ("id", "_id", "title", "text", "contents")
BATCH = 8192
"""Rows read at once."""


class PassageFile(NamedTuple):
    """A file of passages."""

    path: Path
    bytes: int
    rows: int
    """How many passages there are; 0 where it is not known."""
    passages: Iterator[dict[str, Any]] | None
    """None for a file of JSON lines, which the core reads."""


def find_passages(paths: Sequence[Path]) -> list[PassageFile]:
    """The files that ``paths`` name, in their order: files, folders, or patterns such as ``wiki/*.parquet``.

    A folder is one of BEIR (its ``corpus.jsonl``), a dataset saved by Hugging Face's library (``save_to_disk``), or one
    of files of passages, which are taken in the order of their names.

    Raises RetrievalError for a folder without passages, and for a table whose columns are not those of passages;
    FileNotFoundError; AgentDistillError where a table needs a library that is not installed.
    """
    return [_open(file) for path in paths for name in _expand(Path(path)) for file in _files(name)]


def _expand(path: Path) -> list[Path]:
    if path.exists() or not glob.has_magic(str(path)):
        return [path]
    if not (found := sorted(glob.glob(str(path), recursive=True))):
        raise FileNotFoundError(2, "no file is named so", str(path))
    return [Path(name) for name in found]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    if (splits := path / "dataset_dict.json").exists():
        names = json.loads(splits.read_text())["splits"]
        if len(names) > 1:
            raise RetrievalError(f"{path}: this is a dataset of several splits; give one of {', '.join(names)} in it")
        path = path / names[0]
    if (state := path / "state.json").exists():
        return [path / file["filename"] for file in json.loads(state.read_text())["_data_files"]]
    if beir := [file for suffix in JSON_LINES if (file := path / f"corpus{suffix}").exists()]:
        return beir[:1]
    known = (*JSON_LINES, ".parquet", ".arrow")
    if not (files := sorted(file for file in path.iterdir() if file.name.endswith(known))):
        raise RetrievalError(f"{path}: there are no passages in this folder: it has no file of {', '.join(known)}")
    return files


def _open(path: Path) -> PassageFile:
    size = path.stat().st_size
    match path.suffix:
        case ".parquet":
            return PassageFile(path, size, *_parquet(path))
        case ".arrow":
            return PassageFile(path, size, *_arrow(path))
    return PassageFile(path, size, 0, None)


def _parquet(path: Path) -> tuple[int, Iterator[dict[str, Any]]]:
    need("pyarrow", "tables")
    from pyarrow.parquet import ParquetFile

    with _reading(path):
        file = ParquetFile(path)
        columns = _columns(path, file.schema_arrow.names)

    def rows() -> Iterator[dict[str, Any]]:
        with _reading(path):
            for batch in file.iter_batches(BATCH, columns=columns):
                yield from batch.to_pylist()

    return file.metadata.num_rows, rows()


def _arrow(path: Path) -> tuple[int, Iterator[dict[str, Any]]]:
    """Arrow's stream format, which the ``datasets`` library saves; its rows are counted by going through it."""
    need("pyarrow", "tables")
    import pyarrow

    def batches() -> Any:
        return pyarrow.ipc.open_stream(pyarrow.memory_map(str(path)))

    with _reading(path):
        columns = _columns(path, batches().schema.names)
        count = sum(batch.num_rows for batch in batches())

    def rows() -> Iterator[dict[str, Any]]:
        with _reading(path):
            for batch in batches():
                for start in range(0, batch.num_rows, BATCH):
                    yield from batch.select(columns).slice(start, BATCH).to_pylist()

    return count, rows()


def _columns(path: Path, names: Sequence[str]) -> list[str]:
    columns = [name for name in FIELDS if name in names]
    if not {"id", "_id"} & set(columns) or not {"text", "contents"} & set(columns):
        raise RetrievalError(f"{path}: passages have columns id and text (or contents); here are {', '.join(names)}")
    return columns


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Names the file in what pyarrow raises."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        raise RetrievalError(f"{path}: this file cannot be read ({error})") from error
