"""Convert trajectories from and to the formats of other programs, in files and tables.

The formats are "agentdistill" (ours), "reference" (logs of the paper's code), "smolagents" (an agent's memory),
"openai" (messages with tool calls), "messages" and "prompt-completion" (TRL), "sharegpt" (LLaMA-Factory) and "atif"
(Harbor). rust/formats/ converts them, and documents the fields and limits of each. A file has one record per line, a
JSON list of records, or one record; it may be compressed. Tables are Parquet files and folders saved by ``datasets``.
In tables, fields without fixed columns are JSON strings.

Not here: selecting trajectories (distillation.py).
"""

import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from agentdistill._core import TrajectoryError, iter_trajectories, read_header
from agentdistill._core import convert as convert_files
from agentdistill.files.hub import data_files, is_id
from agentdistill.files.replacing import refuse_foreign, refuse_overwriting
from agentdistill.files.tables import expand, read_table, saved_dataset, write_table
from agentdistill.progress import FileProgress

Format = Literal[
    "agentdistill", "reference", "smolagents", "openai", "messages", "prompt-completion", "sharegpt", "atif"
]
COLUMNS = {"messages", "prompt", "completion", "conversations", "tools"}
"""What becomes nested columns of a table; all else that is nested becomes strings of JSON."""
_NESTED = ("messages", "steps", "sampling", "usage", "aliases")
"""Fields of a trajectory that are strings of JSON in a table."""
JSON_LINES = (".json", ".jsonl", ".ndjson")
_FILES = (*JSON_LINES, ".parquet", ".arrow", ".gz", ".zst")
"""What a path that is not there may end in without being taken for an id of the hub."""


class Converted(NamedTuple):
    """The amount of data that was converted."""

    read: int
    """Trajectories."""
    written: int
    """Records."""

    def __str__(self) -> str:
        return f"{self.read} trajectories read, {self.written} records written"


def convert(
    inputs: Sequence[str | Path] | str | Path,
    output: str | Path,
    *,
    source: Format | None = None,
    target: Format = "agentdistill",
    progress: bool = True,
) -> Converted:
    """Convert trajectories from one or several formats to another.

    ``inputs`` are files, patterns, datasets saved by Hugging Face's library, and ids of datasets on the hub.
    ``source`` is their format; by default it is detected from the first record of each file. ``output`` is a
    ``.jsonl``, ``.json`` (a list) or ``.parquet`` file or, without a suffix, a folder that ``datasets.load_from_disk``
    reads. Existing output is replaced once the new one is complete, if it is one that ``convert`` can read. Records
    without a task are identified by their question; several of one task are samples, of which ``select`` keeps one.
    Formats for training get the winner of each step, as in the conversation; a trajectory without steps is left out.

    Raises TrajectoryError, with file and line, for a record that cannot be read; ValueError if the output is an input;
    OSError; AgentDistillError if tables need a library that is not installed.
    """
    paths = [Path(inputs)] if isinstance(inputs, str | Path) else [Path(path) for path in inputs]
    output = Path(output)
    if not paths:
        raise ValueError("nothing to convert: give files of trajectories")
    if output.suffix not in (*JSON_LINES, ".parquet", ""):
        raise ValueError(f"{output}: name it .jsonl, .json or .parquet, or without a suffix for a dataset's folder")
    files = [file for path in paths for name in expand(path) for file in _files(name)]
    refuse_overwriting([*paths, *files], output)
    run = json.dumps({"convert": {"inputs": [path.name for path in files], "source": source}})
    shown = FileProgress("convert", "trajectories", "", visible=progress)
    is_table = output.suffix not in JSON_LINES
    with tempfile.TemporaryDirectory(dir=output.absolute().parent, prefix=f".{output.name}.") as folder, shown:
        refuse_foreign(output, lambda file: _is_readable(file, Path(folder)))
        lines = [_as_lines(file, Path(folder) / f"{i}.in") if _is_table(file) else file for i, file in enumerate(files)]
        written = Path(folder) / "out.jsonl" if is_table else output
        try:
            done = Converted(*convert_files(lines, written, source=source, target=target, run=run, progress=shown))
        except TrajectoryError as error:
            raise _named(error, dict(zip(lines, files, strict=True))) from error
        if is_table:
            write_table(lambda: _rows(written), output, Path(folder) / "table", TrajectoryError)
    return done


def _files(path: Path) -> list[Path]:
    if is_id(str(path)) and path.suffix not in _FILES:
        return data_files(str(path))
    if not path.is_dir():
        return [path]
    if not (files := saved_dataset(path, TrajectoryError)):
        raise TrajectoryError(f"{path}: this folder is not a saved dataset: give the files in it")
    return files


def _is_table(path: Path) -> bool:
    return path.suffix in (".parquet", ".arrow")


def _named(error: TrajectoryError, files: dict[Path, Path]) -> TrajectoryError:
    """The error with the names of tables instead of the temporary files with their rows."""
    message = str(error)
    for lines, table in files.items():
        message = message.replace(f"{lines}:", f"{table}: row ") if lines != table else message
    return TrajectoryError(message)


def _is_readable(file: Path, folder: Path) -> bool:
    """Whether the first record of a file is a trajectory. ``folder`` is for temporary files."""
    try:
        lines = _as_lines(file, folder / "first.in", 1) if _is_table(file) else file
        return next(iter_trajectories(lines), None) is not None or read_header(lines) is not None
    except TrajectoryError:
        return False


def _as_lines(table: Path, lines: Path, most: int | None = None) -> Path:
    """Write a table's rows, or the first ones, to a JSON Lines file."""
    with lines.open("w", encoding="utf-8") as file:
        for number, row in enumerate(islice(read_table(table, TrajectoryError).rows, most), 1):
            row = _without_nulls(row)
            try:
                if "outcome" in row:  # ours
                    row |= {name: json.loads(row[name]) for name in _NESTED if name in row}
                file.write(json.dumps(row, default=str) + "\n")
            except (ValueError, TypeError, RecursionError) as error:
                raise TrajectoryError(f"{table}: row {number}: not a trajectory: {error}") from error
    return lines


def _without_nulls(value: Any) -> Any:
    """Remove null fields: a table has every field in every row. Null may be NaN, as in pandas; JSON has no infinity."""
    match value:
        case dict():
            fields = ((name, _without_nulls(field)) for name, field in value.items())
            return {name: field for name, field in fields if field is not None}
        case list():
            return [_without_nulls(item) for item in value]
        case float() if not math.isfinite(value):
            return None if math.isnan(value) else str(value)
    return value


def _rows(lines: Path) -> Iterator[dict[str, Any]]:
    with lines.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if row.get("agentdistill") == "trajectories":
                continue  # the header
            ours = "outcome" in row
            yield {name: value if name in COLUMNS and not ours else _flat(value) for name, value in row.items()}


def _flat(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
