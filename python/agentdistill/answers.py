r"""Find the answer in a text that a model wrote: in ``<answer>`` tags, or in ``\boxed{}``.

Not here: whether the answer is right (``grading/``), and answers that an agent's code gives (the sandbox).
"""

import re


def extract_answer(text: str) -> str | None:
    r"""The last answer that ``text`` marks: in ``<answer>`` tags, else in ``\boxed{}``.

    >>> extract_answer(r"Half of it. <answer>\boxed{\frac{1}{2}}</answer>")
    '\\frac{1}{2}'
    """
    tagged = re.findall(r"<answer>(.*?)(?:</answer>|\Z)", text, re.DOTALL | re.IGNORECASE)
    answer = tagged[-1].strip() if tagged else ""
    return last_boxed(answer or text) or answer or None


def last_boxed(text: str) -> str | None:
    r"""The content of the last ``\boxed{...}`` that is not empty, with balanced braces; else None.

    An empty box only repeats the instruction.
    """
    end = len(text)
    while (start := text.rfind(r"\boxed{", 0, end)) >= 0:
        begin, depth = start + len(r"\boxed{"), 1
        for at in range(begin, len(text)):
            depth += (text[at] == "{") - (text[at] == "}")
            if depth == 0:
                break
        else:
            return None
        if inside := text[begin:at].strip():
            return inside
        end = start
    return None
