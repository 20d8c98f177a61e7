"""The forms in which a model may write its actions, and how a conversation in each of them goes.

The core's ``parse_action`` reads them (rust/action.rs). Not here: what the model is told about them (rollout/prompts).
"""

from typing import Literal, NamedTuple

ActionFormat = Literal["code", "tool_call", "search_tags", "code_tags", "react"]
"""The form in which a model writes its actions: the paper's Thought and Code; JSON between ``<tool_call>`` tags
(Hermes, Qwen); a query between ``<search>`` tags (Search-R1); Python between ``<execute>`` tags (CodeAct);
``Action: Search[...]`` (ReAct). rust/action.rs reads them."""


class Form(NamedTuple):
    """How a conversation in one of these forms goes."""

    stop: tuple[str, ...]
    """Where a completion is stopped: what comes next is not the model's to write."""
    observation: str
    """The message after an action, with {} for what it did."""


FORMS: dict[ActionFormat, Form] = {
    "code": Form(("<end_code>", "\nObservation:"), "Observation:\n{}"),
    "tool_call": Form(("<tool_response>",), "<tool_response>\n{}\n</tool_response>"),
    "search_tags": Form(("<information>", "<|begin_of_documents|>"), "<information>\n{}\n</information>"),
    "code_tags": Form(("\nObservation:", "<|execution|>"), "Observation:\n{}"),
    "react": Form(("\nObservation",), "Observation: {}"),
}
