"""Separate a completion's thinking from its reply.

A reasoning model thinks before it replies. It writes its thinking between tags, and the chat template may have written
the opening tag. A server may return the thinking in a separate field. Thinking is stored in ``Completion.thinking``,
so no action, answer or first thought is parsed from it. Not here: thinking inside the text of other programs'
trajectories (the core's ``parse_action``).
"""

import re

_TAGS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "[THINK]": "[/THINK]",
    "<seed:think>": "</seed:think>",
}
"""``<think>``: Qwen, DeepSeek, SmolLM3 and most others. ``[THINK]``: Magistral. ``<seed:think>``: Seed-OSS."""

_OPENS = "|".join(map(re.escape, _TAGS))
_BEGINS = re.compile(rf"\s*({_OPENS})")
_OPENED = re.compile(rf"({_OPENS})\s*\Z")
_AT_THE_END = re.compile(rf"(?:{_OPENS})\s*(?:(?:{'|'.join(map(re.escape, _TAGS.values()))})\s*)?\Z")
_LONE_END = re.compile(rf"^[ \t]*(?:{'|'.join(map(re.escape, _TAGS.values()))})[ \t]*$", re.MULTILINE)
_ANY = re.compile(rf"{_OPENS}|{'|'.join(map(re.escape, _TAGS.values()))}")


def split_thinking(text: str) -> tuple[str, str]:
    """Split a completion into its thinking, including the tags, and its reply. The reply is empty if the thinking is
    unfinished.

    >>> split_thinking("<think>\\nSix sevens.\\n</think>\\n\\n42")
    ('<think>\\nSix sevens.\\n</think>\\n\\n', '42')
    """
    if begins := _BEGINS.match(text):
        ended = text.find(_TAGS[begins[1]], begins.end())
        end = len(text) if ended < 0 else ended + len(_TAGS[begins[1]])
    else:
        # If a server's template wrote the opening tag, the first tag is a closing tag on its own line.
        first, alone = _ANY.search(text), _LONE_END.search(text)
        end = alone.end() if first and alone and alone.start() <= first.start() else 0
    spoken = text[end:].lstrip() if end else text
    return text[: len(text) - len(spoken)], spoken


def is_unfinished_thinking(text: str) -> bool:
    """Whether a completion ends inside its thinking."""
    begins = _BEGINS.match(text)
    return begins is not None and _TAGS[begins[1]] not in text[begins.end() :]


def end_of_thinking(text: str) -> str:
    """The text that closes unfinished thinking; "" if there is none."""
    begins = _BEGINS.match(text)
    return f"\n{_TAGS[begins[1]]}\n\n" if begins else ""


def reasoning(thinking: str) -> str:
    """Remove the tags from thinking.

    >>> reasoning("<think>\\nSix sevens.\\n</think>\\n\\n")
    'Six sevens.'
    """
    return _ANY.sub("", thinking).strip()


def between_tags(reasoning: str) -> str:
    """Put ``<think>`` tags around thinking; "" if it is empty."""
    return f"<think>\n{reasoning}\n</think>\n\n" if reasoning else ""


def opened_thinking(prompt: str) -> str:
    """The opening tag at the end of a prompt, including the white space after it; "" if there is none."""
    opened = _OPENED.search(prompt)
    return opened[0] if opened else ""


def closing(prompt: str) -> str:
    """The text that closes the thinking opened at the end of a prompt; "" if none is open."""
    opened = _OPENED.search(prompt)
    if opened is None:
        return ""
    return ("\n" if opened[0] == opened[1] else "") + f"\n{_TAGS[opened[1]]}\n\n"


def thinking(prompt: str, reasoning: str) -> str:
    """The text that a model writes after ``prompt`` if its thinking is ``reasoning``, up to its reply."""
    opened = _OPENED.search(prompt)
    if opened is None:
        return between_tags(reasoning)
    return ("\n" if opened[0] == opened[1] else "") + f"{reasoning}\n{_TAGS[opened[1]]}\n\n"


def without_thinking(prompt: str) -> str:
    """Remove open or empty thinking from the end of a prompt."""
    return _AT_THE_END.sub("", prompt)
