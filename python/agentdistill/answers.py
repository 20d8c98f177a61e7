r"""Where is the answer in what a model wrote in words? In ``<answer>`` tags, or in ``\boxed{}``.

Not here: whether the answer is right (``grading/``), and answers that an agent's code gives (the sandbox).
"""

import re


def extract_answer(text: str) -> str | None:
    r"""The answer that ``text`` marks as such: in ``<answer>`` tags, else in ``\boxed{}``; the last one counts.

    >>> extract_answer(r"Half of it. <answer>\boxed{\frac{1}{2}}</answer>")
    '\\frac{1}{2}'
    """
    tagged = re.findall(r"<answer>(.*?)(?:</answer>|\Z)", text, re.DOTALL | re.IGNORECASE)
    answer = tagged[-1].strip() if tagged else ""
    return last_boxed(answer or text) or answer or None


def last_boxed(text: str) -> str | None:
    r"""What the last ``\boxed{...}`` holds, with the braces inside matched; None where there is none, or it is open."""
    start = text.rfind(r"\boxed{")
    if start < 0:
        return None
    begin, depth = start + len(r"\boxed{"), 1
    for i in range(begin, len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return text[begin:i].strip()
    return None
