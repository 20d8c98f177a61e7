"""What of a completion is thinking, and what does the model say?

A reasoning model thinks before it speaks: between tags, which a chat template may have opened, or in a field of its own
behind a server. What it thought is kept apart from what it said (``Completion.reasoning``), so that nothing reads an
action, an answer or a first thought from it. Not here: texts of others, in which thinking may still stand (the core's
``parse_action``).
"""

import re

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


def apart(text: str) -> tuple[str, str]:
    """The thinking that a completion begins with, its tags included, and what the model says after it: nothing, where
    the thinking has not ended.

    >>> apart("<think>\\nSix sevens.\\n</think>\\n\\n42")
    ('<think>\\nSix sevens.\\n</think>\\n\\n', '42')
    """
    if begins := _BEGINS.match(text):
        ended = text.find(_TAGS[begins[1]], begins.end())
        end = len(text) if ended < 0 else ended + len(_TAGS[begins[1]])
    else:
        # A server's template may have opened it: then its end stands alone, and is the first tag of all.
        first, alone = _ANY.search(text), _LONE_END.search(text)
        end = alone.end() if first and alone and alone.start() <= first.start() else 0
    spoken = text[end:].lstrip() if end else text
    return text[: len(text) - len(spoken)], spoken


def thinks_on(text: str) -> bool:
    """Whether a completion is thinking that has not ended."""
    begins = _BEGINS.match(text)
    return begins is not None and _TAGS[begins[1]] not in text[begins.end() :]


def end_of_thinking(text: str) -> str:
    """What ends the thinking that a completion is."""
    begins = _BEGINS.match(text)
    return f"\n{_TAGS[begins[1]]}\n\n" if begins else ""


def reasoning(thinking: str) -> str:
    """What is thought between the tags.

    >>> reasoning("<think>\\nSix sevens.\\n</think>\\n\\n")
    'Six sevens.'
    """
    return _ANY.sub("", thinking).strip()


def between_tags(reasoning: str) -> str:
    """Thinking as most models write it; "" for none."""
    return f"<think>\n{reasoning}\n</think>\n\n" if reasoning else ""


def opened_thinking(prompt: str) -> str:
    """The end of a prompt that lets the model think at once; "" where it does not."""
    opened = _OPENED.search(prompt)
    return opened[0] if opened else ""


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
        return between_tags(reasoning)
    return ("\n" if opened[0] == opened[1] else "") + f"{reasoning}\n{_TAGS[opened[1]]}\n\n"


def without_thinking(prompt: str) -> str:
    """A prompt without the thinking that it ends with: opened, or empty."""
    return _AT_THE_END.sub("", prompt)
