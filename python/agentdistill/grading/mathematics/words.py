"""Is an answer written in words? Then it is compared as words, and not as mathematics."""

import re

TEXT_COMMAND = r"\\(?:text|textnormal|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}"
TEXT = re.compile(TEXT_COMMAND)
_WORD = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{3,}+(?!\()")
_NAMES = re.compile(
    r"(?:Interval|Union|Reals|Integers|EmptySet|True|False|arc|"
    r"sqrt|sin|cos|tan|cot|sec|csc|log|exp|infinity|inf|infty|pi|pmatrix|cdot|frac)+",
    re.IGNORECASE,
)


def is_prose(text: str) -> bool:
    """Whether there are words in it that are not names of functions: such an answer is compared as words."""
    return any(not _NAMES.fullmatch(word) for word in _WORD.findall(text))
