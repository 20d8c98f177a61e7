"""Read the passages of a corpus: JSON Lines, Parquet, saved Hugging Face datasets, BEIR folders.

JSON Lines files, plain or compressed, are found here and read by the core; tables (Parquet, Arrow) are read by
tables.py. A row has the same fields as a line: ``id`` or ``_id``, ``title`` and ``text``, or Search-R1's ``contents``.

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
    """Number of passages; 0 if unknown."""
    passages: Iterator[dict[str, Any]] | None
    """None for a JSON Lines file, which the core reads."""


def find_passages(paths: Sequence[Path]) -> list[PassageFile]:
    """Find the passage files for ``paths``, in order. A path is a file, a folder or a pattern (``wiki/*.parquet``).

    A folder may be from BEIR (its ``corpus.jsonl`` is used), a dataset saved by Hugging Face's library
    (``save_to_disk``), or contain passage files, which are sorted by name.

    Raises RetrievalError for a folder without passages and for a table without the columns of passages;
    FileNotFoundError; AgentDistillError if a table needs a library that is not installed.
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
        raise RetrievalError(f"{path}: no passages in this folder: it has no file named {', '.join(known)}")
    return files


def _open(path: Path) -> PassageFile:
    size = path.stat().st_size
    if path.suffix not in (".parquet", ".arrow"):
        return PassageFile(path, size, 0, None)
    return PassageFile(path, size, *read_table(path, RetrievalError, lambda names: _columns(path, names)))


def _columns(path: Path, names: Sequence[str]) -> list[str]:
    columns = [name for name in FIELDS if name in names]
    if not {"id", "_id"} & set(columns) or not {"text", "contents"} & set(columns):
        raise RetrievalError(f"{path}: passages need the columns id and text (or contents); it has {', '.join(names)}")
    return columns
