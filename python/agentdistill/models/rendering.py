"""The token ids of a conversation, for models that run in this process.

Each step of an episode asks with all that was said before and a little more. A tokenizer takes a text apart at its
special tokens and does each piece by itself, so a piece, such as a turn, need be done only once.

Not here: which messages there are (prompt.py), training examples (examples.py).
"""

import re
from array import array
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from agentdistill.models.model import Message, ModelError

_PIECES = 8192
"""So many pieces are remembered, the last used: those of a few hundred episodes, at four bytes a token."""


class Renderer:
    """Renders conversations by a model's chat template. ``tokenizer`` is one of transformers."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._remembered: Callable[[str], array[int]] = lru_cache(_PIECES)(self._piece)
        special = _special_tokens(tokenizer)
        self._special = re.compile(f"({'|'.join(map(re.escape, special))})") if special else None
        probe = "".join(between.join(["", *special, ""]) for between in ("a b\n", " a \n"))
        whole = self._encode(probe)  # first: it also takes off limits and padding that the tokenizer's file may ask for
        if self._ids(probe) != whole:
            self._special = None  # this tokenizer looks beyond a piece: at where a text begins, say

    def __call__(self, messages: Sequence[Message], prefix: str) -> list[int]:
        """The token ids that ask for the next turn of ``messages``, beginning with ``prefix``.

        They are those of the text as a whole, as servers have them for ``continue_final_message``. Raises ModelError
        when the template refuses the conversation (some know no system role).
        """
        conversation = [{"role": role, "content": content} for role, content in messages]
        try:
            text = self._tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # templates are programs, and raise what they like
            raise ModelError(f"the chat template refuses these messages: {error}") from error
        return self._ids(text + prefix)

    def _ids(self, text: str) -> list[int]:
        if self._special is None:
            return self._encode(text)
        return [token for piece in self._special.split(text) if piece for token in self._remembered(piece)]

    def _piece(self, text: str) -> "array[int]":
        """Of a special token, or a text without one. By the tokenizer's core: its Python takes as long again."""
        (piece,) = self._tokenizer.backend_tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return array("I", piece.ids)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def _special_tokens(tokenizer: Any) -> list[str]:
    """What takes a text apart before anything else is done to it, the longest first; none where it is not so."""
    added = tokenizer.added_tokens_decoder.values() if tokenizer.is_fast else []
    if any(token.lstrip or token.rstrip or token.single_word for token in added):
        return []
    return sorted((token.content for token in added if not token.normalized), key=len, reverse=True)
