"""Where passages are: files of JSON lines, Parquet, datasets saved by Hugging Face's library, folders of BEIR.

Files of JSON lines, plain or compressed, are named here and read by the core; tables (Parquet, Arrow) are read by
tables.py. A row is a passage in the same form as a line: ``id`` or ``_id``, ``title`` and
``text``, or Search-R1's ``contents``.

Not here: downloading.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agentdistill._core import RetrievalError
from agentdistill.files.tables import expand, read_table, saved_dataset

JSON_LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".ndjson")
FIELDS = ("id", "_id", "title", "text", "contents")


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
    return [_open(file) for path in paths for name in expand(Path(path)) for file in _files(name)]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    if saved := saved_dataset(path, RetrievalError):
        return saved
    if beir := [file for suffix in JSON_LINES if (file := path / f"corpus{suffix}").exists()]:
        return beir[:1]
    known = (*JSON_LINES, ".parquet", ".arrow")
    if not (files := sorted(file for file in path.iterdir() if file.name.endswith(known))):
        raise RetrievalError(f"{path}: there are no passages in this folder: it has no file of {', '.join(known)}")
    return files


def _open(path: Path) -> PassageFile:
    size = path.stat().st_size
    if path.suffix not in (".parquet", ".arrow"):
        return PassageFile(path, size, 0, None)
    return PassageFile(path, size, *read_table(path, RetrievalError, lambda names: _columns(path, names)))


def _columns(path: Path, names: Sequence[str]) -> list[str]:
    columns = [name for name in FIELDS if name in names]
    if not {"id", "_id"} & set(columns) or not {"text", "contents"} & set(columns):
        raise RetrievalError(f"{path}: passages have columns id and text (or contents); here are {', '.join(names)}")
    return columns
