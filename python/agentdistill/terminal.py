"""How is text shown at a terminal? In columns, and with control characters of model output escaped."""

import re
from collections.abc import Sequence
from typing import TextIO


def write(text: str, stream: TextIO) -> None:
    """Write output of a model or a cell. On a terminal, control characters are escaped so that they have no effect."""
    if stream.isatty():
        text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: repr(found[0])[1:-1], text)
    stream.write(text)
    stream.flush()


def in_columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows with the same number of cells as aligned text, one line per row."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
