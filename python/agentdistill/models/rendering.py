"""Render a conversation as text and token ids with a chat template, for the in-process engines and for training.

Each step of an episode repeats the conversation and adds a little. A tokenizer splits text at its control tokens and
encodes each piece separately, so the ids of pieces, such as turns, are cached.

Templates differ in the roles they support. If a template has no system role, the system prompt is moved to the
beginning of the first user message. If it requires alternating roles, consecutive messages of one role are merged. A
template that prints the date gets the date of the run (``date``), so prompts do not change at midnight.

Not here: writing the messages (prompt.py) and selecting the tokens that a student learns (examples.py).
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
"""Size of the LRU cache of pieces. It holds those of a few hundred episodes, at four bytes per token."""


class Renderer:
    """Renders conversations with the chat template of ``tokenizer``, a transformers tokenizer. ``template``: additional
    arguments of the chat template, such as ``enable_thinking``."""

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
            whole = self._encode(probe)  # first: it also turns off truncation and padding set in the tokenizer's file
            if [token for piece in self._added.split(probe) if piece for token in self._piece(piece)] != whole:
                self._added = None  # this tokenizer uses context beyond a piece, such as the beginning of the text

    def __call__(self, messages: Sequence[Message], prefix: str = "") -> list[int]:
        """The prompt's token ids: ``messages``, then the beginning of the next assistant turn with ``prefix``.

        Conversation and prefix are encoded as one text, as servers do with ``continue_final_message``. Raises
        ModelError if the template refuses the conversation.
        """
        text = self.text(messages)
        return self.ids(text + (closing(text) + unmarked(prefix) if prefix else ""))

    def text(self, messages: Sequence[Message], *, ask: bool = True) -> str:
        """Render a conversation as text, with marks before the template's control tokens (control_tokens.py).

        ``ask``: append the beginning of the model's next turn. Raises ModelError if the template refuses the messages.
        """
        return self._rendered([message._asdict() for message in self._fitting(messages)], ask=ask)

    def ids(self, text: str) -> list[int]:
        """Encode marked text."""
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
        """The opening tag with which the template begins the model's turn, and the white space after it; else ""."""
        return opened_thinking(self.text([Message("user", "x")]))

    def _rendered(self, conversation: Sequence[dict[str, str]], *, ask: bool = False) -> str:
        def template(guarded: list[dict[str, str]]) -> str:
            made = self._tokenizer.apply_chat_template(
                guarded, tokenize=False, add_generation_prompt=ask, **self._template
            )
            return str(made)

        try:
            return self._control.render(conversation, template)
        except Exception as error:  # templates are programs and can raise anything
            raise ModelError(f"the chat template rejects these messages: {error}") from error

    def _fitting(self, messages: Sequence[Message]) -> list[Message]:
        """The messages, rewritten to use only roles that the template supports."""
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
            _log.warning(
                "the chat template of %s has no system role: the prompt is put before the first question", model
            )
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
        """Encode an added token, or text without added tokens. Calls the tokenizer's Rust core, because the Python
        wrapper doubles the time."""
        (piece,) = self._tokenizer.backend_tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return array("I", piece.ids)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def has_vocabulary(tokenizer: Any) -> bool:
    """Whether there was a tokenizer to load. If there is none, transformers makes one of special tokens alone."""
    return len(tokenizer) > len(tokenizer.all_special_tokens)


def require_vocabulary(tokenizer: Any, path_or_id: str) -> None:
    """Raises ModelError if the model has no tokenizer."""
    if not has_vocabulary(tokenizer):
        raise ModelError(f"{path_or_id} has no tokenizer: add its tokenizer.json, which is that of the base model")


def require_template(tokenizer: Any, path_or_id: str) -> None:
    """Raises ModelError if the model has no tokenizer or no chat template."""
    require_vocabulary(tokenizer, path_or_id)
    if not tokenizer.chat_template:
        raise ModelError(
            f"{path_or_id} has no chat template: use an instruction-tuned model, or add chat_template.jinja"
        )


def without_system(messages: Sequence[Message]) -> list[Message]:
    """Move the system prompt to the beginning of the first user message."""
    system = [content for role, content in messages if role == "system"]
    others = [message for message in messages if message[0] != "system"]
    first = [*system, others.pop(0)[1]] if others and others[0][0] == "user" else system
    return [Message("user", "\n\n".join(filter(None, first))), *others]


def alternating(messages: Sequence[Message]) -> list[Message]:
    """Merge consecutive messages of the same role."""
    made: list[Message] = []
    for role, content in messages:
        if made and made[-1].role == role:
            made[-1] = Message(role, f"{made[-1].content}\n\n{content}")
        else:
            made.append(Message(role, content))
    return made


def _apart(tokenizer: Any) -> list[str] | None:
    """The tokens at which the tokenizer splits text before anything else, longest first.

    None for a slow tokenizer, and for one with added tokens that strip white space or match only whole words.
    """
    added = tokenizer.added_tokens_decoder.values() if tokenizer.is_fast else []
    if not added or any(token.lstrip or token.rstrip or token.single_word for token in added):
        return None
    return sorted((token.content for token in added if not token.normalized), key=len, reverse=True)
