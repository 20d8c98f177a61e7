"""Which texts end a turn, or begin one, and how does nobody but the chat template say them?

A tokenizer reads ``<|im_end|>`` as a control token wherever it stands. What a tool, a passage or a question says is
text, so there it must become the tokens of its letters. A rendered conversation is therefore kept with marks: a control
token counts where the template wrote it, which a mark before it says, and is text everywhere else
(:class:`ControlTokens`).

A server renders and tokenizes by itself, and cannot be told: such texts are broken by a character without width
(:func:`broken`). Tokens that no turn is made of, such as ``<think>`` or ``<tool_call>``, are left as they are.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

MARK = "\ufdd0"
"""Before a control token that the template wrote. Unicode promises never to make a character of it, or of the next."""

_GUARD = "\ufdd1"
"""Within the text of one that it did not."""

_WIDTHLESS = "\u200b"

_INSIDE_TURNS = re.compile(r"</?(?:think|thinking|thought|seed:think|tool_\w+)>|\[/?THINK\]|\s*")
"""What a template may write within a turn: never what turns are made of."""

_USUAL = re.compile(
    r"<(?=\|[^|<>\s]{1,40}\|>|\uff5c[^\uff5c<>\s]{1,40}\uff5c>|/?(?:start|end)_of_(?:turn|role|text|image)>|/?s>"
    r"|(?:bos|eos|pad|unk|mask)>)|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\])"
)
"""The beginnings of control tokens as models have them, where the tokenizer is not known."""


def broken(text: str) -> str:
    """A text for a tokenizer out of reach, whose control tokens are none any more, but look the same."""
    return _USUAL.sub(lambda begins: begins[0] + _WIDTHLESS, text)


def unmarked(text: str) -> str:
    """A text without marks: all of it is text."""
    return text.replace(MARK, "").replace(_GUARD, "")


class ControlTokens:
    """Those of one tokenizer of transformers: the tokens that it calls special, and those that its template makes turns
    of."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        known = sorted(_control_tokens(tokenizer), key=len, reverse=True)
        either = "|".join(map(re.escape, known)) or r"(?!)"
        self._any = re.compile(either)
        self._within = re.compile(f"(?=(?:{either}))(.)", re.DOTALL)
        self._marked_or_not = re.compile(f"{MARK}({either})|(?=(?:{either}))(.)", re.DOTALL)
        self._split = re.compile(f"({MARK}(?:{either}))")

    def render(self, conversation: Sequence[dict[str, str]], template: Callable[[list[dict[str, str]]], str]) -> str:
        """What ``template`` makes of a conversation, with marks."""
        guarded = [{name: self._guarded(text) for name, text in message.items()} for message in conversation]
        return self._any.sub(lambda token: MARK + token[0], template(guarded)).replace(_GUARD, "")

    def pieces(self, text: str) -> Iterator[tuple[str, bool]]:
        """A rendered conversation taken apart at its control tokens; with each text, whether it has such a token in
        it, as text."""
        for number, piece in enumerate(self._split.split(text)):
            yield (piece, self._any.search(piece) is not None) if number % 2 == 0 else (piece[1:], False)

    def encode(self, text: str) -> list[int]:
        """The ids of a text in which a control token counts only where it is marked."""
        guarded = self._marked_or_not.sub(lambda found: found[1] or found[2] + _GUARD, text)
        if _GUARD not in guarded:
            return list(self._tokenizer(guarded, add_special_tokens=False)["input_ids"])
        if not self._tokenizer.is_fast:
            return list(self._tokenizer(guarded.replace(_GUARD, _WIDTHLESS), add_special_tokens=False)["input_ids"])
        return list(self._guarding.encode(guarded, add_special_tokens=False).ids)

    def _guarded(self, text: str) -> str:
        """A message's text, no control token in it, and nothing that looks like a mark."""
        text = unmarked(text)
        return self._within.sub(rf"\1{_GUARD}", text) if self._any.search(text) else text

    @cached_property
    def _guarding(self) -> Any:
        """The tokenizer's core with one more step, first of all after control tokens were found: guards vanish."""
        from tokenizers import Tokenizer

        core = json.loads(self._tokenizer.backend_tokenizer.to_str())
        drop = {"type": "Replace", "pattern": {"String": _GUARD}, "content": ""}
        core["normalizer"] = {"type": "Sequence", "normalizers": [drop, *filter(None, [core["normalizer"]])]}
        for token in core["added_tokens"]:
            token["normalized"] &= not self._any.fullmatch(token["content"])  # else it is looked for after that step
        return Tokenizer.from_str(json.dumps(core))


def _control_tokens(tokenizer: Any) -> set[str]:
    added = [*tokenizer.added_tokens_decoder.values()] if hasattr(tokenizer, "added_tokens_decoder") else []
    special = {token.content for token in added if token.special} | {*getattr(tokenizer, "all_special_tokens", ())}
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
    try:
        structure = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # no template, or one that wants other turns: what is special is known without it
        structure = ""
    made_of = {token.content for token in added if token.content in structure}
    return {token for token in special | made_of if not _INSIDE_TURNS.fullmatch(token)}
