"""Read and write tables (Parquet, Arrow) and folders saved by Hugging Face's ``datasets``.

pyarrow reads and writes them in batches of some thousand rows.

Not here: what a row is (corpus.py, formats.py).
"""

import glob
import json
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from agentdistill._core import AgentDistillError
from agentdistill.extras import require

BATCH = 8192
"""Most rows per batch."""

BATCH_BYTES = 32 << 20
"""Maximum size of rows read at once, unless a single row is larger."""

RECORD_BYTES = 64 << 20
"""Maximum size of a row, as for a JSON record."""

MAX_COMPRESSION = 200
"""Maximum compression ratio of data that expands to more than ``BOMB_BYTES``; a higher one is a decompression bomb."""

BOMB_BYTES = 256 << 20

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
        names = _names_in(splits, lambda known: known["splits"], error)
        if len(names) != 1:
            raise error(f"{folder}: this dataset has several splits: give the folder of one of {', '.join(names)}")
        folder = folder / names[0]
    if not (state := folder / "state.json").exists():
        return []
    return [
        folder / name
        for name in _names_in(state, lambda known: [file["filename"] for file in known["_data_files"]], error)
    ]


def _names_in(file: Path, names: Callable[[Any], list[str]], error: Error) -> list[str]:
    """The files that a file of ``save_to_disk`` names in its folder."""
    try:
        found = names(json.loads(file.read_text(encoding="utf-8")))
        if not all(Path(name).name == name.strip() and name.strip(".") for name in found):
            raise ValueError("it names files outside its folder")
    except (ValueError, KeyError, TypeError, RecursionError) as why:
        raise error(f"{file}: this is not what save_to_disk writes ({type(why).__name__}: {why})") from why
    return found


def read_table(path: Path, error: Error, columns: Columns = lambda names: names) -> Table:
    """Open a Parquet file, or an ``.arrow`` file in the stream format that ``datasets`` saves.

    Raises ``error``, and AgentDistillError if pyarrow is not installed.
    """
    require("pyarrow", "tables")
    return (_arrow if path.suffix == ".arrow" else _parquet)(path, error, columns)


def _parquet(path: Path, error: Error, columns: Columns) -> Table:
    from pyarrow.parquet import ParquetFile

    with _reading(path, error):
        file = ParquetFile(path)
        wanted = _wanted(file.schema_arrow.names, columns, path, error)
        # A text that the file has once stays one: written out for each row it may be any number of times as long.
        # pyarrow cannot do that for texts that are written as differences (DELTA_BYTE_ARRAY).
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
        texts = {column.path for column in file.schema if column.physical_type == "BYTE_ARRAY"}
        deltas = texts & {chunk.path_in_schema for chunk in chunks if any("DELTA" in name for name in chunk.encodings)}
        file = ParquetFile(path, read_dictionary=sorted(texts - deltas))

    def rows() -> Iterator[Row]:
        row = 0
        with _reading(path, error):
            for number in range(file.num_row_groups):
                at_once = _rows_at_once(groups[number], deltas, f"{path}: row {row + 1}", error)
                for batch in file.iter_batches(at_once, row_groups=[number], columns=wanted):
                    batch.validate(full=True)
                    yield from _bounded(batch, path, row, error)
                    row += batch.num_rows

    return Table(file.metadata.num_rows, rows())


def _wanted(names: Sequence[str], columns: Columns, path: Path, error: Error) -> list[str]:
    wanted = list(columns(names))
    if repeated := [name for name in wanted if names.count(name) > 1]:
        raise error(f"{path}: the column {repeated[0]!r} occurs twice: give each column its own name")
    return wanted


def _arrow(path: Path, error: Error, columns: Columns) -> Table:
    import pyarrow

    with _reading(path, error):
        file = pyarrow.memory_map(str(path))
        wanted = _wanted(pyarrow.ipc.open_stream(file).schema.names, columns, path, error)
        file.seek(0)
        count = sum(_rows_of_message(message, path, error) for message in pyarrow.ipc.MessageReader.open_stream(file))

    def rows() -> Iterator[Row]:
        row = 0
        with _reading(path, error):
            file.seek(0)
            for batch in pyarrow.ipc.open_stream(file):
                batch = batch.select(wanted)
                batch.validate(full=True)  # pyarrow trusts the offsets in a file; wrong ones would end the process
                for start in range(0, batch.num_rows, BATCH):
                    yield from _bounded(batch.slice(start, BATCH), path, row + start, error)
                row += batch.num_rows

    return Table(count, rows())


def _rows_of_message(message: Any, path: Path, error: Error) -> int:
    """The number of rows in a message of the Arrow stream format; 0 for a schema or a dictionary.

    Raises ``error`` for a decompression bomb. pyarrow decompresses a whole message at once, without a limit.
    """
    metadata, body = message.metadata.to_pybytes(), message.body

    def number(kind: str, at: int) -> int:
        return int(struct.unpack_from(kind, metadata, at)[0])

    def field(table: int, index: int) -> int:
        """The place of a field in a table of Flatbuffers, or 0 if the table does not have it."""
        fields = table - number("<i", table)
        offset = number("<H", fields + 4 + 2 * index) if 6 + 2 * index <= number("<H", fields) else 0
        return table + offset if offset else 0

    def target(at: int) -> int:
        return at + number("<I", at)

    # The tables and their fields are those of Arrow's Message.fbs.
    if message.type not in ("record batch", "dictionary"):
        return 0
    batch = target(field(target(0), 2))
    if message.type == "dictionary":
        batch = target(field(batch, 1))
    if field(batch, 3):  # compressed: each buffer starts with its size when decompressed, or -1
        buffers = target(field(batch, 2))
        entries = struct.iter_unpack("<qq", metadata[buffers + 4 :][: 16 * number("<I", buffers)])
        size = sum(max(0, *struct.unpack_from("<q", body, place)) for place, length in entries if length)
        if size > max(BOMB_BYTES, MAX_COMPRESSION * body.size):
            raise error(f"{path}: refused, because {body.size} bytes would expand to {size} in memory")
    length = field(batch, 0)
    return number("<q", length) if length and message.type == "record batch" else 0


_SHARING = {"DELTA_BYTE_ARRAY", "PLAIN_DICTIONARY", "RLE_DICTIONARY"}
"""Encodings in which several texts share what is written once."""


def _rows_at_once(group: Any, deltas: set[str], place: str, error: Error) -> int:
    """The number of rows to read at once from a Parquet row group. Raises ``error`` for a decompression bomb.

    ``deltas``: columns of texts that are written out for each row, although the file may have them once.
    """
    size = values = shared = 0
    for column in (group.column(i) for i in range(group.num_columns)):
        written, read = column.total_compressed_size, column.total_uncompressed_size
        if read > max(BOMB_BYTES, MAX_COMPRESSION * written):
            raise error(f"{place}: refused, because {written} bytes would expand to {read} in memory")
        size, values = size + read, values + column.num_values
        if column.path_in_schema in deltas and _SHARING & set(column.encodings):
            shared += read  # each text may be this long
    each = max(size, 8 * values) // max(group.num_rows, 1)
    if each > RECORD_BYTES:
        raise error(f"{place}: rows of {each} bytes; the limit is {RECORD_BYTES}")
    return int(max(1, min(BATCH, BATCH_BYTES // max(each + shared, 1))))


def _bounded(batch: Any, path: Path, first: int, error: Error) -> Iterator[Row]:
    """The rows of a batch, split until the parts fit in memory. ``first``: number of rows before the batch."""
    size = sum(map(_size, batch.columns))
    if batch.num_rows == 1 and size > RECORD_BYTES:
        raise error(f"{path}: row {first + 1} has {size} bytes; the limit is {RECORD_BYTES}")
    if batch.num_rows < 2 or size <= BATCH_BYTES:
        yield from batch.to_pylist()
    else:
        half = batch.num_rows // 2
        yield from _bounded(batch.slice(0, half), path, first, error)
        yield from _bounded(batch.slice(half), path, first + half, error)


def _size(array: Any) -> int:
    """Bytes of an array when each of its values is written out."""
    import pyarrow
    from pyarrow import compute

    types, kind = pyarrow.types, array.type
    if isinstance(array, pyarrow.ExtensionArray):
        return _size(array.storage)
    if types.is_dictionary(kind) and not types.is_primitive(kind.value_type):
        lengths = compute.binary_length(array.dictionary).take(array.indices)
        return int(compute.sum(lengths).as_py() or 0) + int(array.indices.nbytes)
    if types.is_string_view(kind) or types.is_binary_view(kind):
        lengths = memoryview(array.buffers()[1]).cast("i")[4 * array.offset :: 4]  # of the 4 integers of each view
        return sum(lengths[: len(array)]) + 16 * len(array)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind) or types.is_map(kind):
        return _size(array.flatten()) + 8 * len(array)
    if types.is_struct(kind):
        return sum(map(_size, array.flatten())) + 8 * len(array)
    if types.is_nested(kind) or types.is_run_end_encoded(kind):
        raise pyarrow.ArrowNotImplementedError(f"columns of type {kind} are not supported")
    return max(int(array.nbytes), 8 * len(array))


def write_table(rows: Callable[[], Iterator[Row]], path: Path, new: Path, error: Error) -> None:
    """Write rows to a Parquet file or, if ``path`` has no suffix, to a folder like one from ``save_to_disk``.

    It is made at ``new``, where nothing may be, and then replaces existing output atomically. ``rows`` is called twice,
    the first time to find the types of the columns.
    Raises ``error`` for a column with several types, FileExistsError for a folder that is not a dataset.
    """
    require("pyarrow", "tables")
    import pyarrow

    if path.is_dir() and not saved_dataset(path, error):
        raise FileExistsError(17, "this folder is not a dataset and will not be replaced", str(path))
    schema = pyarrow.schema([])
    try:
        for batch in _batches(rows()):
            found = pyarrow.RecordBatch.from_pylist(batch).schema
            schema = pyarrow.unify_schemas([schema, found], promote_options="permissive")
        tables = (pyarrow.Table.from_pylist(batch, schema) for batch in _batches(rows()))
        (_write_parquet if path.suffix else _write_dataset)(tables, schema, new)
    except pyarrow.ArrowException as why:
        raise error(f"{path}: these rows do not form a table ({why})") from why
    if path.is_dir() and not path.is_symlink():
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

    folder.mkdir()
    name = "data-00000-of-00001.arrow"
    with pyarrow.OSFile(str(folder / name), "wb") as sink, pyarrow.ipc.new_stream(sink, schema) as writer:
        for table in tables:
            writer.write_table(table)
    state: Row = {
        "_data_files": [{"filename": name}],
        "_fingerprint": uuid4().hex[:16],
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
    """Add the file's name to errors from pyarrow, and to those for metadata that make no sense."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, OverflowError, struct.error) as why:
        raise error(f"{path}: cannot read this file ({why})") from why
