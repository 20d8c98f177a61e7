"""Replace lone surrogates, which JSON and Python strings can contain and UTF-8 cannot.

A task, a completion or a request may contain one (a surrogate without its other half). It is data, and is read as
U+FFFD, as the core reads every string from Python. No ``Task``, ``Completion`` or ``Message`` contains one.
"""

import re

_SURROGATE = re.compile("[\ud800-\udfff]")


def well_formed(text: str) -> str:
    """``text`` with U+FFFD for each lone surrogate."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)
