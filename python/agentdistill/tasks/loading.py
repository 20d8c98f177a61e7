"""Load tasks from JSON, JSONL and CSV files, from Hugging Face data sets, and from benchmarks by name.

The fields are ``question`` and ``answer``. ``id``, ``task_set`` (or ``dataset_name``), ``kind`` and ``answer_aliases``
(or ``aliases``) are optional. All other fields are kept as metadata. Published files can be loaded unchanged: the
paper's own, objects with ``metadata`` and ``examples``; GSM8K's, where a rationale ends in the answer; those of MATH,
GSM-Hard and SVAMP, with other names of the fields; and FlashRAG's, with several ``golden_answers``.

Not here: where benchmarks are (``benchmark.py``).
"""

import ast
import contextlib
import csv
import hashlib
import json
import logging
import math
import re
import reprlib
import sys
from collections import Counter
from collections.abc import Iterator
from io import StringIO
from itertools import chain
from pathlib import Path
from typing import Any, Self, get_args

from agentdistill.tasks.benchmark import ALIASES, BENCHMARKS, dataset_rows, is_dataset, located
from agentdistill.tasks.task import Kind, Task, kind_of
from agentdistill.well_formed import well_formed

_log = logging.getLogger(__name__)


def load_tasks(
    path: str | Path, task_set: str | None = None, limit: int | None = None, *, kind: Kind | None = None
) -> list[Task]:
    """Load tasks from a ``.json``, ``.jsonl`` or ``.csv`` file, a folder with a data set, or a benchmark's name.

    Names are ``hotpotqa`` or ``data/hotpotqa``; see ``agentdistill.tasks.benchmark``. Only the first ``limit`` tasks
    are returned; of JSONL and CSV, no more than these are read. ``task_set`` and ``kind`` apply to all tasks; by
    default those of the benchmark, or of each task, are used. Otherwise the set is named after the file, and the kind
    depends on the set's name or on the answer: a number is mathematics. A task without an ``id`` gets one that is
    derived from its question, so that it does not change when the file grows. Tasks whose answer is null or empty are
    skipped with a warning (the paper's files have some).

    Raises OSError if the file or data set is not available, and ValueError, with the line or example, for malformed
    tasks, for two tasks with the same id, and if there are none.
    """
    path = Path(path)
    benchmark = BENCHMARKS.get(path.name)
    if benchmark:
        task_set, kind, path = task_set or path.name, kind or benchmark.kind, located(path)
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}: give at least 1 task")
    if kind is not None and kind not in get_args(Kind):
        raise ValueError(f"kind is {kind!r}: give one of {', '.join(get_args(Kind))}")
    suffix = path.suffix.lower()
    if not is_dataset(path) and suffix not in _READERS:
        raise ValueError(
            f"{path}: cannot load tasks from {f'a {suffix} file' if suffix else 'a file without a suffix'}: "
            f"give {', '.join(_READERS)} (not compressed); "
            f"benchmarks are {', '.join(BENCHMARKS)}{_of_the_hub(path)}"
        )
    rows = dataset_rows if is_dataset(path) else _READERS[suffix]
    tasks: list[Task] = []
    places: dict[str, str] = {}
    unanswered: list[str] = []
    for where, row in rows(path):
        task = _task(where, row, task_set, kind, path.stem)
        if task.id in places:
            same = f"the id {task.id!r}" if row.get("id") is not None else "the same question, without an id,"
            raise ValueError(f"{where}: {same} is already used by {places[task.id]}: give each task a unique id")
        places[task.id] = where
        if task.answer is None:
            unanswered.append(where)
            continue
        tasks.append(task)
        if len(tasks) == limit:
            break
    if unanswered:
        some = ", ".join(unanswered[:3]) + (", ..." if len(unanswered) > 3 else "")
        _log.warning(
            "skipping %d of %d tasks without an answer (null or empty): %s", len(unanswered), len(places), some
        )
    if not tasks:
        raise ValueError(f"{path} has no task with an answer")
    return tasks


def _of_the_hub(path: Path) -> str:
    """What to do for a path that looks like a data set's name on the hub."""
    name = path.as_posix()
    if path.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return ""
    if known := [short for short, benchmark in BENCHMARKS.items() if benchmark.hub == name]:
        return f". For {name} of the hub, give {known[0]}"
    code = f"from datasets import load_dataset; load_dataset('{name}', split='test').save_to_disk('{path.name}')"
    return (
        f". To use {name} from the hub, save one split, with the columns question and answer, and give its folder: "
        f'python -c "{code}" (if it has several subsets, add the name of one after its name)'
    )


def _texts_of_lines(path: Path) -> Iterator[str]:
    """The text of a file, line by line, so that what comes after the last wanted task is not read."""
    with path.open("rb") as file:
        at = 0
        for line in file:
            try:
                yield line.decode().removeprefix("\ufeff") if at == 0 else line.decode()
            except UnicodeDecodeError as error:
                compressed = line.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ", b"PK\x03\x04"))
                advice = "decompress it" if at == 0 and compressed else "save it as UTF-8"
                raise ValueError(f"{path}: byte {at + error.start} is not UTF-8: {advice}") from error
            at += len(line)


def _lines(path: Path, newline: str | None) -> Iterator[str]:
    """The lines of a file, each of which may also end in a carriage return. ``newline``: as of ``open``."""
    return (line for text in _texts_of_lines(path) for line in StringIO(text, newline=newline))


def _json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """The examples of ``{"metadata": ..., "examples": [...]}`` or of a plain list."""
    try:
        data = _json("".join(_texts_of_lines(path)))
    except json.JSONDecodeError as error:
        hint = "; name a file with one task per line .jsonl" if error.msg == "Extra data" else ""
        raise ValueError(f"{path}:{error.lineno}: not JSON: {error.msg}{hint}") from error
    except RecursionError as error:
        raise ValueError(f"{path}: its JSON is nested too deeply") from error
    examples = data.get("examples") if isinstance(data, dict) else data
    if not isinstance(examples, list):
        raise ValueError(f'{path}: not a task set: give a list of tasks, or an object with the list as "examples"')
    for number, row in enumerate(examples, start=1):
        yield f"{path}: example {number}", row


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(_lines(path, newline=None), start=1):
        if not line.strip():
            continue
        try:
            row = _json(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: not JSON: {error.msg} (column {error.colno})") from error
        except RecursionError as error:
            raise ValueError(f"{path}:{number}: its JSON is nested too deeply") from error
        if isinstance(row, list):
            raise ValueError(f"{path}:{number}: a list, but each line of .jsonl is a task: name a list of tasks .json")
        yield f"{path}:{number}", row


def _csv_rows(path: Path) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(1 << 30)  # a question may contain a whole document
    records = csv.reader(_lines(path, newline=""), strict=True, skipinitialspace=True)
    last = 0  # line of the last complete record
    try:
        names = [name.strip() for name in next(filter(None, records), [])]
        if names and not any({question, answer} <= set(names) for question, answer in _PUBLISHED):
            columns = ", ".join(names)
            raise ValueError(f"{path}: the columns are {columns!r}: give question and answer, separated by commas")
        if repeated := [name for name, n in Counter(names).items() if n > 1]:
            raise ValueError(f"{path}: the column {repeated[0]!r} occurs twice: give each column its own name")
        last = records.line_num
        for record in filter(None, records):
            last = records.line_num
            where = f"{path}:{last}"
            if len(record) != len(names):
                raise ValueError(f"{where}: the number of fields differs from the header ({', '.join(names)})")
            fields = zip(names, record, strict=True)
            yield where, {name: value for name, value in fields if value or name in ("question", "answer")}
    except csv.Error as error:
        raise ValueError(f"{path}:{last + 1}: not CSV: {error}") from error


_READERS = {".json": _json_rows, ".jsonl": _jsonl_rows, ".csv": _csv_rows}


def _json(text: str) -> Any:
    return json.loads(text, parse_int=_integer, parse_float=_Decimal)


def _integer(digits: str) -> int | str:
    """An integer. One with more digits than Python converts stays text."""
    return int(digits) if len(digits) <= sys.int_info.default_max_str_digits else digits


class _Decimal(float):
    """A number with the digits that it was written with."""

    def __new__(cls, written: str) -> Self:
        self = super().__new__(cls, written)
        self.written = written
        return self

    written: str

    def __str__(self) -> str:
        return self.written


_PUBLISHED = (
    ("question", "answer"),
    ("problem", "answer"),
    ("input", "target"),
    ("Question", "Answer"),
    ("question", "golden_answers"),
)
"""Names of question and answer, here and in published data sets."""


def _as_question_and_answer(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a published data set with its question and answer under these names."""
    for question, answer in _PUBLISHED:
        if "question" not in row and question in row and answer in row:
            text = row[question]
            if isinstance(text, str) and isinstance(body := row.get("Body"), str):
                text = f"{body.rstrip('. ')}. {text}"  # SVAMP
            others = {key: value for key, value in row.items() if key not in (question, answer, "Body")}
            return {"question": text, "answer": row[answer]} | others
    return row


_FINAL = re.compile(r"^#### *(\S.*?)\s*\Z", re.MULTILINE)


def _task(where: str, row: Any, task_set: str | None, kind: Kind | None, stem: str) -> Task:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: a task is an object with question and answer, not {_what(row)}")
    row = _as_question_and_answer(row)
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        found = _what(question) if "question" in row else ", ".join(row)
        raise ValueError(f"{where}: it has no question" + (f" but {found}" if found else ""))
    golden, *more = (_texts(where, name, row.get(name)) for name in ALIASES)
    if "answer" not in row and not golden:
        raise ValueError(f"{where}: the task has no answer, but {', '.join(row)}")
    given = row["answer"] if "answer" in row else golden[0]
    answer = _text(given)
    if answer and (final := _FINAL.search(answer)):
        answer = final[1]  # GSM8K's own files: a rationale, and the answer on its last line
    if answer is None and given not in (None, ""):
        raise ValueError(f"{where}: its answer is {_what(given)}: give a string or a number (others in answer_aliases)")
    identifier = _text(row.get("id"))
    if identifier is None and row.get("id") is not None:
        raise ValueError(f"{where}: its id is {_what(row['id'])}: give a string or a number")
    named = task_set or row.get("task_set") or row.get("dataset_name") or stem
    if not isinstance(named, str):
        raise ValueError(f"{where}: its task set is {_what(named)}: give a string")
    own = kind or row.get("kind") or kind_of(named, answer)
    if own not in get_args(Kind):
        raise ValueError(f"{where}: its kind is {own!r}: give one of {', '.join(get_args(Kind))}")
    known = ("id", "question", "answer", "task_set", "kind", *ALIASES)
    metadata = {key: value for key, value in row.items() if key not in known}
    question = well_formed(question)
    identifier = identifier or hashlib.sha256(question.encode()).hexdigest()[:12]
    aliases = chain((text for text in golden if text != answer), *more)
    return Task(identifier, question, answer, named, own, tuple(dict.fromkeys(aliases)), metadata)


def _texts(where: str, name: str, given: Any) -> list[str]:
    """The texts of a field with a list of answers, which may be absent. In CSV it is written as JSON or Python."""
    values = _list(given) if isinstance(given, str) else given
    if values is None or values == "":
        return []
    if not isinstance(values, list) or not all(type(value) in (str, int, float, _Decimal) for value in values):
        raise ValueError(
            f'{where}: its {name} are {reprlib.repr(given)}: give a list of strings or numbers, such as ["a", "b"]'
        )
    return [text for value in values if (text := _text(value))]


_ADJACENT_STRINGS = re.compile(r"""['"]\s+['"]""")
"""What numpy writes, without commas, which Python would read as one string."""


def _list(text: str) -> Any:
    """A list as JSON or as Python writes it, or else ``text``."""
    for read in (_json,) if _ADJACENT_STRINGS.search(text) else (_json, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            found = read(text)
            return list(found) if isinstance(found, tuple) else found
    return text


def _text(value: Any) -> str | None:
    """A text that is not empty, or a finite number as it was written; None for anything else."""
    if isinstance(value, str):
        return well_formed(value) if value.strip() else None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if number and (isinstance(value, _Decimal) or math.isfinite(value)) else None


def _what(value: Any) -> str:
    names = {str: "an empty string", dict: "an object", list: "a list", type(None): "null", bool: "a boolean"}
    return names.get(type(value), f"{value!r}")
