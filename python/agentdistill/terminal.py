"""Write text to a terminal: in columns, without secrets, and with control characters escaped.

Everything that a command shows goes through here. Text from a model, a cell, a file or a server may contain control
characters, which move the cursor or set the window's title or the clipboard, and marks that change the direction of
writing. They are escaped, so that they become visible. Standard output that is not a terminal is data for a program,
and stays unchanged.
"""

import contextlib
import io
import json
import logging
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from agentdistill.redaction import redacted

_NOT_SHOWN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 and C1 control characters, except tab and newline
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # directions, lines, invisible
    "\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"  # surrogates, other controls
)


def printable(text: str) -> str:
    """``text`` without secrets, and with a Python escape for each control character and each invisible one.

    >>> print(printable("a\\x1b[2Jb\\u202ec"))
    a\\x1b[2Jb\\u202ec
    """
    return _NOT_SHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), redacted(text))


def write(text: str, stream: TextIO) -> None:
    """Write untrusted text. It is unchanged if ``stream`` is standard output and not a terminal."""
    stream.write(text if stream is sys.stdout and not stream.isatty() else printable(text))
    stream.flush()


def say(*texts: object) -> None:
    """Print lines of a command's result."""
    write("".join(f"{text}\n" for text in texts), sys.stdout)


def tell(*texts: object) -> None:
    """Print lines about progress and problems to standard error."""
    write("".join(f"{text}\n" for text in texts), sys.stderr)


def json_for_people(value: Any) -> str:
    """``value`` as a line of JSON, with JSON escapes for the characters that :func:`printable` escapes."""
    line = json.dumps(value, ensure_ascii=False)
    return _NOT_SHOWN.sub(lambda found: json.dumps(found[0])[1:-1], line)


def prepare() -> None:
    """Make standard output, standard error and the log of this process safe for any text."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # lone surrogates, and characters that the encoding lacks
    sys.excepthook = lambda *raised: tell("".join(traceback.format_exception(*raised)).rstrip())
    if logging.lastResort:  # it shows warnings if logging is not configured
        logging.lastResort.setFormatter(_Printable("%(message)s"))


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


@contextlib.contextmanager
def library_output_escaped() -> Iterator[None]:
    """Write what a library prints in the block to standard error, escaped."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            yield
    finally:
        write(output.getvalue(), sys.stderr)


def in_columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows with the same number of cells as aligned text, one line per row."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
