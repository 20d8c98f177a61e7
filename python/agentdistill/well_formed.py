"""What becomes of half a character, which JSON and Python can say and UTF-8 cannot?

A task, a completion or a request may have one (a surrogate without its other half): it is data, and is read as U+FFFD,
as the core reads every text of Python's. What passes a ``Task``, a ``Completion`` or a ``Message`` has none.
"""

import re

_HALF = re.compile("[\ud800-\udfff]")


def well_formed(text: str) -> str:
    """``text`` with U+FFFD for each half of a character."""
    return text if text.isascii() else _HALF.sub("\ufffd", text)
