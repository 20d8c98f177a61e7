"""Text for a person at a terminal: columns, and model output that a terminal must not obey."""

import re
from collections.abc import Sequence
from typing import TextIO


def write(text: str, stream: TextIO) -> None:
    """Write what a model or a cell said. A terminal would obey its control characters, so it is shown what they are."""
    if stream.isatty():
        text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: repr(found[0])[1:-1], text)
    stream.write(text)
    stream.flush()


def in_columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of as many cells each, as text, one line each."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
