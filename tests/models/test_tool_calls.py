"""Tool calls as text: what a model reads, and which calls are in what it writes."""

import json
from typing import Any

import pytest

from agentdistill.models.model import Message
from agentdistill.models.tool_calls import as_texts, split_calls

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "x"}}\n</tool_call>'
LOOKED = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": "x"}'}}

# What a model wrote -> its text, and the arguments of its calls.
WRITTEN: dict[str, tuple[str, list[Any]]] = {
    f"I look.\n{CALL}": ("I look.", [{"at": "x"}]),
    f"{CALL}\n{CALL}": ("", [{"at": "x"}] * 2),
    CALL.removesuffix("\n</tool_call>"): ("", [{"at": "x"}]),
    '<tool_call>{"name": "look"}</tool_call>': ("", [{}]),
    " no call ": (" no call ", []),
    **dict.fromkeys(["<tool_call>{</tool_call>", f"{CALL}<tool_call>[]</tool_call>"]),  # type: ignore[dict-item]
    **dict.fromkeys(['<tool_call>{"name": 1}</tool_call>', "<tool_call>" + "[" * 100_000]),  # type: ignore[dict-item]
    '<tool_call>{"name": "look", "arguments": "x"}</tool_call>': None,  # type: ignore[dict-item]
}


@pytest.mark.parametrize("text", WRITTEN, ids=range(len(WRITTEN)))
def test_calls_in_a_completion(text: str) -> None:
    said, arguments = WRITTEN[text] or (text, [])  # one that is not valid is text
    left, calls = split_calls(text)
    assert (left, [json.loads(call["function"]["arguments"]) for call in calls]) == (said, arguments)
    assert len({call["id"] for call in calls}) == len(calls)


def test_a_conversation_with_calls_as_texts() -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": "I look.", "tool_calls": [LOOKED]},
        {"role": "tool", "content": "here", "tool_call_id": "1"},
    ]
    turns = [
        Message("user", "Where?"),
        Message("assistant", f"I look.\n{CALL}"),
        Message("user", "<tool_response>\nhere\n</tool_response>"),
    ]
    assert as_texts(messages) == [Message("system", "Be brief."), *turns]
    [system, *others] = as_texts(messages, [TOOL], required=True)
    assert others == turns and system.content.startswith("Be brief.\n\n") and json.dumps(TOOL) in system.content
    assert split_calls(turns[1].content)[1][0]["function"] == LOOKED["function"]
