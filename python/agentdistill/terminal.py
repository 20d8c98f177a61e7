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
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls of C0 and C1, but for tab and newline
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # directions, lines, nothing
    "\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"  # halves of characters, and tags
)


def printable(text: str) -> str:
    """``text`` without secrets, and with an escape of Python's for each character that a terminal would obey or that
    is not seen.

    >>> print(printable("a\\x1b[2Jb\\u202ec"))
    a\\x1b[2Jb\\u202ec
    """
    return _NOT_SHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), redacted(text))


def write(text: str, stream: TextIO) -> None:
    """Write what others said, as it comes: standard output that is no terminal gets it as it is."""
    stream.write(text if stream is sys.stdout and not stream.isatty() else printable(text))
    stream.flush()


def say(*texts: object) -> None:
    """Print lines of a command's result."""
    write("".join(f"{text}\n" for text in texts), sys.stdout)


def tell(*texts: object) -> None:
    """Print lines about what goes on, to standard error."""
    write("".join(f"{text}\n" for text in texts), sys.stderr)


def json_for_people(value: Any) -> str:
    """``value`` as a line of JSON in which what :func:`printable` escapes is escaped as JSON does it."""
    line = json.dumps(value, ensure_ascii=False)
    return _NOT_SHOWN.sub(lambda found: json.dumps(found[0])[1:-1], line)


def prepare() -> None:
    """Make standard output, standard error and the log of this process safe for any text."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # half a character, or one that the terminal's encoding lacks
    sys.excepthook = lambda *raised: tell("".join(traceback.format_exception(*raised)).rstrip())
    if logging.lastResort:  # what shows warnings where nobody has said how to
        logging.lastResort.setFormatter(_Printable("%(message)s"))


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


@contextlib.contextmanager
def others_messages() -> Iterator[None]:
    """Have what a library prints in the block shown as what others said."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield
    finally:
        write(said.getvalue(), sys.stderr)


def in_columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows with the same number of cells as aligned text, one line per row."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
