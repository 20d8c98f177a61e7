"""How are tables (Parquet, Arrow) and folders saved by Hugging Face's ``datasets`` read and written?

pyarrow reads and writes them in batches of some thousand rows.

Not here: what a row is (corpus.py, formats.py).
"""

import glob
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from agentdistill._core import AgentDistillError
from agentdistill.extras import need

BATCH = 8192
"""Rows per batch."""

Row = dict[str, Any]
Columns = Callable[[Sequence[str]], Sequence[str]]
"""Chooses the columns to read from the names of a table's columns."""
Error = type[AgentDistillError]
"""The type of error to raise for a table that cannot be read or written."""


class Table(NamedTuple):
    """An open table."""

    length: int
    """Number of rows."""
    rows: Iterator[Row]


def expand(path: Path) -> list[Path]:
    """The path, or the sorted matches of a pattern. Raises FileNotFoundError if nothing matches."""
    if path.exists() or not glob.has_magic(str(path)):
        return [path]
    if not (found := sorted(glob.glob(str(path), recursive=True))):
        raise FileNotFoundError(2, "no file matches this pattern", str(path))
    return [Path(name) for name in found]


def saved_dataset(folder: Path, error: Error) -> list[Path]:
    """The files of a dataset that ``save_to_disk`` wrote; none for any other folder.

    Raises ``error`` if the dataset has several splits.
    """
    if (splits := folder / "dataset_dict.json").exists():
        names = json.loads(splits.read_text())["splits"]
        if len(names) > 1:
            raise error(f"{folder}: this dataset has several splits: give the folder of one of {', '.join(names)}")
        folder = folder / names[0]
    if not (state := folder / "state.json").exists():
        return []
    return [folder / file["filename"] for file in json.loads(state.read_text())["_data_files"]]


def read_table(path: Path, error: Error, columns: Columns = lambda names: names) -> Table:
    """Open a Parquet file, or an ``.arrow`` file in the stream format that ``datasets`` saves.

    The rows of an ``.arrow`` file are counted by reading it. Raises ``error``, and AgentDistillError if pyarrow is not
    installed.
    """
    need("pyarrow", "tables")
    return (_arrow if path.suffix == ".arrow" else _parquet)(path, error, columns)


def _parquet(path: Path, error: Error, columns: Columns) -> Table:
    from pyarrow.parquet import ParquetFile

    with _reading(path, error):
        file = ParquetFile(path)
        wanted = list(columns(file.schema_arrow.names))

    def rows() -> Iterator[Row]:
        with _reading(path, error):
            for batch in file.iter_batches(BATCH, columns=wanted):
                yield from batch.to_pylist()

    return Table(file.metadata.num_rows, rows())


def _arrow(path: Path, error: Error, columns: Columns) -> Table:
    import pyarrow

    def batches() -> Any:
        return pyarrow.ipc.open_stream(pyarrow.memory_map(str(path)))

    with _reading(path, error):
        wanted = list(columns(batches().schema.names))
        count = sum(batch.num_rows for batch in batches())

    def rows() -> Iterator[Row]:
        with _reading(path, error):
            for batch in batches():
                for start in range(0, batch.num_rows, BATCH):
                    yield from batch.select(wanted).slice(start, BATCH).to_pylist()

    return Table(count, rows())


def write_table(rows: Callable[[], Iterator[Row]], path: Path, error: Error) -> None:
    """Write rows to a Parquet file or, if ``path`` has no suffix, to a folder like one from ``save_to_disk``.

    Existing output is replaced atomically. ``rows`` is called twice, the first time to find the types of the columns.
    Raises ``error`` for a column with several types, FileExistsError for a folder that is not a dataset.
    """
    need("pyarrow", "tables")
    import pyarrow

    if path.is_dir() and not saved_dataset(path, error):
        raise FileExistsError(17, "this folder is not a dataset and will not be replaced", str(path))
    new = path.with_name(f".{path.name}.new")
    schema = pyarrow.schema([])
    try:
        for batch in _batches(rows()):
            found = pyarrow.RecordBatch.from_pylist(batch).schema
            schema = pyarrow.unify_schemas([schema, found], promote_options="permissive")
        tables = (pyarrow.Table.from_pylist(batch, schema) for batch in _batches(rows()))
        (_write_parquet if path.suffix else _write_dataset)(tables, schema, new)
    except pyarrow.ArrowException as why:
        raise error(f"{path}: these rows do not form a table ({why})") from why
    if path.is_dir():
        shutil.rmtree(path)
    new.replace(path)


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while batch := list(islice(rows, BATCH)):
        yield batch


def _write_parquet(tables: Iterable[Any], schema: Any, path: Path) -> None:
    from pyarrow.parquet import ParquetWriter

    with ParquetWriter(path, schema) as writer:
        for table in tables:
            writer.write_table(table)


def _write_dataset(tables: Iterable[Any], schema: Any, folder: Path) -> None:
    import pyarrow

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    name = "data-00000-of-00001.arrow"
    with pyarrow.OSFile(str(folder / name), "wb") as sink, pyarrow.ipc.new_stream(sink, schema) as writer:
        for table in tables:
            writer.write_table(table)
    state: Row = {
        "_data_files": [{"filename": name}],
        "_fingerprint": folder.name.strip("."),
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    (folder / "state.json").write_text(json.dumps(state, indent=2))
    (folder / "dataset_info.json").write_text("{}")


@contextmanager
def _reading(path: Path, error: Error) -> Iterator[None]:
    """Add the file's name to errors from pyarrow."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as why:
        raise error(f"{path}: cannot read this file ({why})") from why
