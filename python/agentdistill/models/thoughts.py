"""What of a completion is thinking, and what does the model say?

A reasoning model thinks before it speaks: between tags, which a chat template may have opened, or in a field of its own
behind a server. What it thought is kept apart from what it said (``Completion.reasoning``), so that nothing reads an
action, an answer or a first thought from it. Not here: texts of others, in which thinking may still stand (the core's
``parse_action``).
"""

import re
from typing import NamedTuple

_TAGS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "[THINK]": "[/THINK]",
    "<seed:think>": "</seed:think>",
}
"""Of Qwen, DeepSeek, SmolLM3 and most others; of Magistral; of Seed-OSS."""

_OPENS = "|".join(map(re.escape, _TAGS))
_BEGINS = re.compile(rf"\s*({_OPENS})")
_OPENED = re.compile(rf"({_OPENS})\s*\Z")
_AT_THE_END = re.compile(rf"(?:{_OPENS})\s*(?:(?:{'|'.join(map(re.escape, _TAGS.values()))})\s*)?\Z")
_LONE_END = re.compile(rf"^[ \t]*(?:{'|'.join(map(re.escape, _TAGS.values()))})[ \t]*$", re.MULTILINE)
_ANY = re.compile(rf"{_OPENS}|{'|'.join(map(re.escape, _TAGS.values()))}")


class Spoken(NamedTuple):
    """A completion's two parts."""

    reasoning: str
    text: str
    thinks_on: bool = False
    """Whether the thinking has not ended."""


def apart(text: str, *, opened: bool = False) -> Spoken:
    """Part a completion. ``opened``: its thinking was begun by the chat template.

    >>> apart("<think>\\nSix sevens.\\n</think>\\n\\n42")
    Spoken(reasoning='Six sevens.', text='42', thinks_on=False)
    """
    if begins := _BEGINS.match(text):
        end, start = _TAGS[begins[1]], begins.end()
        ends = [at] if (at := text.find(end, start)) >= 0 else []
        if not ends:
            return Spoken(text[start:].strip(), "", True)
        return Spoken(text[start : ends[0]].strip(), text[ends[0] + len(end) :].lstrip())
    first = _ANY.search(text)
    if opened and (first is None or first[0] in _TAGS):
        return Spoken(text.strip(), "", True)
    # A server's template may have opened it: then its end stands alone, and is the first tag of all.
    if (
        first
        and first[0] not in _TAGS
        and (opened or ((alone := _LONE_END.search(text)) and alone.start() <= first.start()))
    ):
        return Spoken(text[: first.start()].strip(), text[first.end() :].lstrip())
    return Spoken("", text)


def whole(reasoning: str, text: str) -> str:
    """A completion as one text, its thinking between the usual tags."""
    return f"<think>\n{reasoning}\n</think>\n\n{text}" if reasoning else text


def opened_thinking(prompt: str) -> str | None:
    """The tag with which a prompt lets the model think at once."""
    opened = _OPENED.search(prompt)
    return opened[1] if opened else None


def closing(prompt: str) -> str:
    """What ends the thinking that a prompt has opened, so that the model speaks; "" when there is none."""
    opened = _OPENED.search(prompt)
    if opened is None:
        return ""
    return ("\n" if opened[0] == opened[1] else "") + f"\n{_TAGS[opened[1]]}\n\n"


def thinking(prompt: str, reasoning: str) -> str:
    """What a model that is given ``prompt`` writes to think so before it speaks."""
    opened = _OPENED.search(prompt)
    if opened is None:
        return whole(reasoning, "")
    return ("\n" if opened[0] == opened[1] else "") + f"{reasoning}\n{_TAGS[opened[1]]}\n\n"


def without_thinking(prompt: str) -> str:
    """A prompt without the thinking that it ends with: opened, or empty."""
    return _AT_THE_END.sub("", prompt)
