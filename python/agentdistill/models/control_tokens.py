"""Only the chat template can write control tokens; message text cannot inject them.

A tokenizer parses ``<|im_end|>`` as a control token wherever it occurs. In text from a tool, a passage or a question it
must be encoded as ordinary characters. :class:`ControlTokens` therefore puts a mark before each token that the template
wrote. A control token without a mark is text.

A server renders and tokenizes the conversation itself. For servers, :func:`neutralized` inserts a zero-width character
into such text. Tokens that do not delimit turns, such as ``<think>`` and ``<tool_call>``, are left unchanged.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

MARK = "\ufdd0"
"""Precedes a control token written by the template. This and ``_GUARD`` are Unicode noncharacters, never assigned."""

_GUARD = "\ufdd1"
"""Inserted into text that looks like a control token while the template is rendered."""

_WIDTHLESS = "\u200b"

_INSIDE_TURNS = re.compile(r"</?(?:think|thinking|thought|seed:think|tool_\w+)>|\[/?THINK\]|\s*")
"""Tokens that a template writes inside a turn. They do not delimit turns."""

_USUAL = re.compile(
    r"<(?=\|[^|<>\s]{1,40}\|>|\uff5c[^\uff5c<>\s]{1,40}\uff5c>|/?(?:start|end)_of_(?:turn|role|text|image)>|/?s>"
    r"|(?:bos|eos|pad|unk|mask)>)|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\])"
)
"""Matches the first character of common control tokens. For servers, whose tokenizer is unknown."""


def neutralized(text: str) -> str:
    """Insert a zero-width space after the first character of everything in ``text`` that looks like a control token."""
    return _USUAL.sub(lambda begins: begins[0] + _WIDTHLESS, text)


def unmarked(text: str) -> str:
    """Remove marks and guards from ``text``."""
    return text.replace(MARK, "").replace(_GUARD, "")


class ControlTokens:
    """The control tokens of a transformers tokenizer: its special tokens, and the tokens with which its chat template
    delimits turns."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        known = sorted(_control_tokens(tokenizer), key=len, reverse=True)
        either = "|".join(map(re.escape, known)) or r"(?!)"
        self._any = re.compile(either)
        self._within = re.compile(f"(?=(?:{either}))(.)", re.DOTALL)
        self._marked_or_not = re.compile(f"{MARK}({either})|(?=(?:{either}))(.)", re.DOTALL)
        self._split = re.compile(f"({MARK}(?:{either}))")

    def render(self, conversation: Sequence[dict[str, str]], template: Callable[[list[dict[str, str]]], str]) -> str:
        """Render a conversation with ``template`` and mark the control tokens that the template wrote."""
        guarded = [{name: self._guarded(text) for name, text in message.items()} for message in conversation]
        return self._any.sub(lambda token: MARK + token[0], template(guarded)).replace(_GUARD, "")

    def pieces(self, text: str) -> Iterator[tuple[str, bool]]:
        """Split marked text at its control tokens. The flag is True if the piece contains a control token as ordinary
        text."""
        for number, piece in enumerate(self._split.split(text)):
            yield (piece, self._any.search(piece) is not None) if number % 2 == 0 else (piece[1:], False)

    def encode(self, text: str) -> list[int]:
        """Encode marked text. Control tokens without a mark are encoded as ordinary characters."""
        guarded = self._marked_or_not.sub(lambda found: found[1] or found[2] + _GUARD, text)
        if _GUARD not in guarded:
            return list(self._tokenizer(guarded, add_special_tokens=False)["input_ids"])
        if not self._tokenizer.is_fast:
            return list(self._tokenizer(guarded.replace(_GUARD, _WIDTHLESS), add_special_tokens=False)["input_ids"])
        return list(self._guarding.encode(guarded, add_special_tokens=False).ids)

    def _guarded(self, text: str) -> str:
        """Remove marks from a message's text, and break up its control tokens with guards."""
        text = unmarked(text)
        return self._within.sub(rf"\1{_GUARD}", text) if self._any.search(text) else text

    @cached_property
    def _guarding(self) -> Any:
        """The tokenizer with an extra normalizer that deletes guards. It runs after control tokens were matched."""
        from tokenizers import Tokenizer

        core = json.loads(self._tokenizer.backend_tokenizer.to_str())
        drop = {"type": "Replace", "pattern": {"String": _GUARD}, "content": ""}
        core["normalizer"] = {"type": "Sequence", "normalizers": [drop, *filter(None, [core["normalizer"]])]}
        for token in core["added_tokens"]:
            token["normalized"] &= not self._any.fullmatch(
                token["content"]
            )  # a normalized token would be matched after the guards are deleted
        return Tokenizer.from_str(json.dumps(core))


def _control_tokens(tokenizer: Any) -> set[str]:
    added = [*tokenizer.added_tokens_decoder.values()] if hasattr(tokenizer, "added_tokens_decoder") else []
    special = {token.content for token in added if token.special} | {*getattr(tokenizer, "all_special_tokens", ())}
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
    try:
        structure = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # no template, or it rejects these turns: use only the special tokens
        structure = ""
    made_of = {token.content for token in added if token.content in structure}
    return {token for token in special | made_of if not _INSIDE_TURNS.fullmatch(token)}
