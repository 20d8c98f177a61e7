"""In which form does an agent converse: in this package's own, or in that of the paper's code?

A :class:`Wording` is all of a conversation that is not the model's: what it is told, when it is stopped, and what is
kept of what it wrote. There are two, by the setting ``compat``; teacher and student, training and evaluation have the
same one.

Not here: the words themselves (prompt.py, reference.py).
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from agentdistill.action_format import FORMS, ActionFormat
from agentdistill.models.model import Message
from agentdistill.rollouts import prompt, reference
from agentdistill.tools.tool import describe_tools

Compat = Literal["reference"]
"""Whose form: "reference" is the paper's published code."""


class ConversationForm(NamedTuple):
    """What of a conversation has to be the same in training and in evaluation."""

    prompt: str
    """Text of the system prompt, its marks not filled in."""
    tools: str
    """What the prompt says of the tools."""
    compat: Compat | None
    action_format: ActionFormat

    def differences(self, other: "ConversationForm") -> list[str]:
        """Names of what is not the same."""
        return [name.replace("_", " ") for name, a, b in zip(self._fields, self, other, strict=True) if a != b]


class Wording(NamedTuple):
    """How a conversation goes."""

    default_prompt: Callable[..., str]
    """Who, kind and action format -> the name of the prompt where none is given."""
    opening: Callable[..., list[Message]]
    """Question, prompt, kind, tools and most steps -> the messages before the first step."""
    with_passages: Callable[[str, str], str]
    """A question and passages -> what is asked in a chain of thought with retrieval."""
    describe_tools: Callable[..., str]
    """Tools and action format -> what the prompt says of them."""
    assistant_turn: Callable[..., str]
    """The chosen candidate -> what the conversation keeps of it."""
    observation_message: Callable[..., str]
    """The chosen candidate -> the message after it."""
    last_word: Callable[[str, str], str]
    """The message after the last step, and the question -> the message that asks for the answer alone."""
    asked_last: Callable[..., list[Message]]
    """The conversation with that message -> what the model is given then."""
    stop: Callable[[ActionFormat], tuple[str, ...]]
    """Where a completion is stopped."""
    stops_last_word: bool
    """Whether a last word is stopped there, too."""
    gives_up: bool
    """Whether an episode is ended when it makes no progress: unusable completions, or the same failing code, three
    times."""
    output_chars: int
    """Most characters shown of what a cell prints, where the configuration does not say."""


WORDINGS: dict[Compat | None, Wording] = {
    None: Wording(
        default_prompt=prompt.default_prompt,
        opening=prompt.opening,
        with_passages=prompt.with_passages,
        describe_tools=describe_tools,
        assistant_turn=prompt.assistant_turn,
        observation_message=prompt.observation_message,
        last_word=prompt.last_word,
        asked_last=prompt.asked_last,
        stop=lambda action_format: FORMS[action_format].stop,
        stops_last_word=True,
        gives_up=True,
        output_chars=10_000,
    ),
    "reference": Wording(
        default_prompt=reference.default_prompt,
        opening=reference.opening,
        with_passages=reference.with_passages,
        describe_tools=reference.describe_tools,
        assistant_turn=reference.assistant_turn,
        observation_message=reference.observation_message,
        last_word=reference.last_word,
        asked_last=reference.asked_last,
        stop=lambda action_format: reference.STOP,
        stops_last_word=False,
        gives_up=False,
        output_chars=reference.PRINTED,
    ),
}
