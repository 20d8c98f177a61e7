"""The formats in which a model can write its actions, and how a conversation in each is laid out.

The core's ``parse_action`` parses them (rust/action.rs). Not here: the prompts that explain them (rollouts/prompts).
"""

from typing import Literal, NamedTuple

ActionFormat = Literal["code", "tool_call", "search_tags", "code_tags", "react"]
"""The format of a model's actions: the paper's Thought and Code; JSON between ``<tool_call>`` tags
(Hermes, Qwen); a query between ``<search>`` tags (Search-R1); Python between ``<execute>`` tags (CodeAct);
``Action: Search[...]`` (ReAct)."""


class Form(NamedTuple):
    """What a conversation in one of these formats looks like."""

    stop: tuple[str, ...]
    """Stop strings, after which the model must not write."""
    observation: str
    """The message after an action, with {} for its outcome."""


FORMS: dict[ActionFormat, Form] = {
    "code": Form(("<end_code>", "\nObservation:"), "Observation:\n{}"),
    "tool_call": Form(("<tool_response>",), "<tool_response>\n{}\n</tool_response>"),
    "search_tags": Form(("<information>", "<|begin_of_documents|>"), "<information>\n{}\n</information>"),
    "code_tags": Form(("\nObservation:", "<|execution|>"), "Observation:\n{}"),
    "react": Form(("\nObservation",), "Observation: {}"),
}
