"""The two forms of an agent's conversation: this package's own, and that of the paper's code.

A :class:`Wording` is everything about a conversation that does not come from the model: the messages it gets, its stop
strings, and what is kept of its completions. The setting ``compat`` selects the form. Teacher and student, training and
evaluation, should use the same one.

Not here: the texts themselves (prompt.py, reference.py).
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from agentdistill.action_format import FORMS, ActionFormat
from agentdistill.models.model import Message
from agentdistill.rollouts import prompt, reference
from agentdistill.tools.tool import describe_tools

Compat = Literal["reference"]
"""Name of another form: "reference" is that of the paper's published code."""


class ConversationForm(NamedTuple):
    """The parts of a conversation that must be the same in training and in evaluation."""

    prompt: str
    """Text of the system prompt, with placeholders."""
    tools: str
    """The prompt's description of the tools."""
    compat: Compat | None
    action_format: ActionFormat

    def differences(self, other: "ConversationForm") -> list[str]:
        """Names of the fields that differ."""
        return [name.replace("_", " ") for name, a, b in zip(self._fields, self, other, strict=True) if a != b]


class Wording(NamedTuple):
    """One form of a conversation."""

    default_prompt: Callable[..., str]
    """Who, kind and action format -> name of the default prompt."""
    opening: Callable[..., list[Message]]
    """Question, prompt, kind, tools and maximum number of steps -> the messages before the first step."""
    with_passages: Callable[[str, str], str]
    """Question and passages -> the question of a chain of thought with retrieval."""
    describe_tools: Callable[..., str]
    """Tools and action format -> their description in the prompt."""
    assistant_turn: Callable[..., str]
    """Chosen candidate -> its turn in the conversation."""
    observation_message: Callable[..., str]
    """Chosen candidate -> the message after it."""
    last_word: Callable[[str, str], str]
    """Message after the last step, and question -> the message that asks for the answer alone."""
    asked_last: Callable[..., list[Message]]
    """Conversation with that message -> the conversation that the model gets for its last word."""
    stop: Callable[[ActionFormat], tuple[str, ...]]
    """Action format -> stop strings of a completion."""
    stops_last_word: bool
    """Whether the stop strings also apply to a last word."""
    gives_up: bool
    """Whether three unusable completions, or three failures of the same code, end an episode."""
    output_chars: int
    """Default limit of the characters shown of what a cell prints."""


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
