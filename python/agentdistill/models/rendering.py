"""What text and which token ids does a chat template make of a conversation? For the engines in this process and for
training.

Each step of an episode repeats the conversation and adds a little. A tokenizer splits a text at its control tokens and
encodes each piece separately, so the ids of pieces, such as turns, are cached.

Templates differ in what they support. Without a system role, the system prompt goes to the beginning of the first
question. If roles must alternate, consecutive messages of one role are merged. A template that prints the date gets
that of the run (``date``), so that prompts are the same after midnight.

Not here: the messages themselves (prompt.py), what a student learns from them (examples.py).
"""

import logging
import re
from array import array
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import cached_property, lru_cache
from typing import Any

from agentdistill.models.control_tokens import ControlTokens, unmarked
from agentdistill.models.model import Message, ModelError
from agentdistill.models.thoughts import closing, opened_thinking

_log = logging.getLogger(__name__)

_PIECES = 8192
"""So many pieces are remembered, the last used: those of a few hundred episodes, at four bytes a token."""


class Renderer:
    """Renders conversations with the chat template of ``tokenizer``, a transformers tokenizer. ``template``: more
    arguments for the chat template, such as ``enable_thinking``."""

    def __init__(self, tokenizer: Any, template: Mapping[str, Any] | None = None) -> None:
        self.date = date.today()
        """The date for chat templates that print one."""
        self._tokenizer = tokenizer
        self._template = dict(template or {})
        if "strftime_now" in str(getattr(tokenizer, "chat_template", "")):
            self._template["strftime_now"] = lambda form: self.date.strftime(form)
        self._control = ControlTokens(tokenizer)
        self._remembered: Callable[[str], array[int]] = lru_cache(_PIECES)(self._piece)
        self._added: re.Pattern[str] | None = None
        if (added := _apart(tokenizer)) is not None:
            self._added = re.compile(f"({'|'.join(map(re.escape, added)) or '(?!)'})")
            probe = "".join(between.join(["", *added, ""]) for between in ("a b\n", " a \n"))
            whole = self._encode(probe)  # first: it also takes off limits and padding that the file may ask for
            if [token for piece in self._added.split(probe) if piece for token in self._piece(piece)] != whole:
                self._added = None  # this tokenizer looks beyond a piece: at where a text begins, say

    def __call__(self, messages: Sequence[Message], prefix: str = "") -> list[int]:
        """The token ids that ask for the next turn of ``messages``, beginning with ``prefix``.

        They are those of the text as a whole, as servers have them for ``continue_final_message``. Raises ModelError
        when the template refuses the conversation.
        """
        text = self.text(messages)
        return self.ids(text + (closing(text) + unmarked(prefix) if prefix else ""))

    def text(self, messages: Sequence[Message], *, ask: bool = True) -> str:
        """A conversation as text, with marks before the template's control tokens (control_tokens.py).

        ``ask``: include the beginning of the model's next turn. Raises ModelError if the template refuses the messages.
        """
        return self._rendered([message._asdict() for message in self._fitting(messages)], ask=ask)

    def ids(self, text: str) -> list[int]:
        """The ids of a marked text."""
        if self._added is None:
            return self._control.encode(text)
        ids: list[int] = []
        for piece, says_control_tokens in self._control.pieces(text):
            if says_control_tokens:
                ids += self._control.encode(piece)
            else:
                ids += (token for part in self._added.split(piece) if part for token in self._remembered(part))
        return ids

    @cached_property
    def opens_thinking(self) -> str:
        """The opening tag, with the white space after it, that the template begins the model's turn with, or ""."""
        return opened_thinking(self.text([Message("user", "x")]))

    def _rendered(self, conversation: Sequence[dict[str, str]], *, ask: bool = False) -> str:
        def template(guarded: list[dict[str, str]]) -> str:
            made = self._tokenizer.apply_chat_template(
                guarded, tokenize=False, add_generation_prompt=ask, **self._template
            )
            return str(made)

        try:
            return self._control.render(conversation, template)
        except Exception as error:  # templates are programs, and raise what they like
            raise ModelError(f"the chat template refuses these messages: {error}") from error

    def _fitting(self, messages: Sequence[Message]) -> list[Message]:
        """The messages with roles that the template supports."""
        roles = [role for role, _ in messages]
        if "system" in roles and not self._knows_system:
            messages = without_system(messages)
        if any(map(str.__eq__, roles, roles[1:])) and not self._knows_repeats:
            messages = alternating(messages)
        return list(messages)

    @cached_property
    def _knows_system(self) -> bool:
        knows = self._shows([("system", "instructions"), ("user", "question")])
        if not knows and self._shows([("user", "question")]):
            model = getattr(self._tokenizer, "name_or_path", "")
            _log.warning("the chat template of %s has no system role: the prompt begins the first question", model)
        return knows

    @cached_property
    def _knows_repeats(self) -> bool:
        return self._shows([("user", "question"), ("user", "instructions")])

    def _shows(self, turns: Sequence[tuple[str, str]]) -> bool:
        """Whether the template accepts these turns and prints each of them."""
        try:
            shown = self._rendered([{"role": role, "content": content} for role, content in turns])
        except ModelError:
            return False
        return all(content in shown for _, content in turns)

    def _piece(self, text: str) -> "array[int]":
        """Of an added token, or a text without one. By the tokenizer's core: its Python takes as long again."""
        (piece,) = self._tokenizer.backend_tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return array("I", piece.ids)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def without_system(messages: Sequence[Message]) -> list[Message]:
    """The messages with the system prompt moved to the beginning of the first user message."""
    system = [content for role, content in messages if role == "system"]
    others = [message for message in messages if message[0] != "system"]
    said = [*system, others.pop(0)[1]] if others and others[0][0] == "user" else system
    return [Message("user", "\n\n".join(filter(None, said))), *others]


def alternating(messages: Sequence[Message]) -> list[Message]:
    """The messages with consecutive ones of the same role merged."""
    made: list[Message] = []
    for role, content in messages:
        if made and made[-1].role == role:
            made[-1] = Message(role, f"{made[-1].content}\n\n{content}")
        else:
            made.append(Message(role, content))
    return made


def _apart(tokenizer: Any) -> list[str] | None:
    """The tokens at which the tokenizer splits a text first, longest first; None if it also does other things."""
    added = tokenizer.added_tokens_decoder.values() if tokenizer.is_fast else []
    if not added or any(token.lstrip or token.rstrip or token.single_word for token in added):
        return None
    return sorted((token.content for token in added if not token.normalized), key=len, reverse=True)
