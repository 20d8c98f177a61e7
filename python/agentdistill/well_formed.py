"""Replace surrogates, which JSON and Python strings can contain and UTF-8 cannot.

A task, a completion or a request may contain one without its other half. It is data, and is read as U+FFFD, as the core
reads every string from Python. Two halves, such as those that a stream sends one after the other, are their character.
No ``Task``, ``Completion`` or ``Message`` contains a surrogate.
"""

import re

_SURROGATE = re.compile("[\ud800-\udfff]")


def well_formed(text: str) -> str:
    """``text`` with its character for each pair of surrogates, and U+FFFD for each lone one."""
    if text.isascii() or not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
