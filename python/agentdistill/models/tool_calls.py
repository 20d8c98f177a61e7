"""Tool calls of OpenAI's protocol as text, for models that run in this process.

``Model.generate`` reads and writes texts. The tools are described in the system prompt, and calls and results are
written between tags, in the form of Hermes and Qwen: ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>`` and
``<tool_response>...</tool_response>``. Not here: servers, which use the form of their own model (forwarding.py), and
the actions of an agent, which are parsed by the core.

This is a second parser of ``<tool_call>`` besides the core's ``parse_action``, because their results differ. The core
returns Python code for the sandbox, in which names are made Python's ("get-weather" becomes ``get_weather``) and JSON
becomes literals. The client of a server has tools of its own, so it needs their names and arguments as the model wrote
them. This parser is strict, because it reads only the form that the prompt here asks for: anything else is text.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from agentdistill.models.model import Message

_CALL = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)

_PROMPT = """\
You can call these tools:
<tools>
{tools}
</tools>

To call one, write its name and its arguments as JSON, and stop after the closing tag:
<tool_call>
{{"name": "NAME", "arguments": {{"ARGUMENT": "VALUE"}}}}
</tool_call>
You are then sent what it returned, between <tool_response> and </tool_response>."""


_REQUIRED = "\n\nEach of your replies must call a tool."


def as_texts(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = (), *, required: bool = False
) -> list[Message]:
    """A conversation with tool calls as texts. The content of each message must be text or None. ``required``: ask for
    a call in each reply."""
    turns: list[Message] = []
    for message in messages:
        role, content = message["role"], message.get("content") or ""
        if role in ("tool", "function"):
            turns.append(Message("user", f"<tool_response>\n{content}\n</tool_response>"))
        else:
            calls = [_as_text(call["function"]) for call in message.get("tool_calls") or ()]
            role = "system" if role == "developer" else role
            turns.append(Message(role, "\n".join(filter(None, [content, *calls]))))
    if tools:
        instructions = [turn.content for turn in turns if turn.role == "system"]
        instructions.append(_PROMPT.format(tools="\n".join(map(json.dumps, tools))) + _REQUIRED * required)
        turns = [Message("system", "\n\n".join(instructions)), *(turn for turn in turns if turn.role != "system")]
    return turns


def split_calls(text: str) -> tuple[str, list[dict[str, Any]]]:
    """Split a completion into its text and its calls, in the protocol's form. A completion in which one is not valid
    has none, and is returned whole.

    >>> text, calls = split_calls('I look.<tool_call>{"name": "look", "arguments": {"up": 1}}</tool_call>')
    >>> text, calls[0]["function"]
    ('I look.', {'name': 'look', 'arguments': '{"up": 1}'})
    """
    calls = []
    for found in _CALL.finditer(text):
        try:
            call = json.loads(found[1])
            name, arguments = call["name"], call.get("arguments", {})
        except (ValueError, RecursionError, TypeError, KeyError):
            return text, []
        if not isinstance(name, str) or not isinstance(arguments, dict):
            return text, []
        function = {"name": name, "arguments": json.dumps(arguments)}
        calls.append({"id": f"call_{uuid4().hex}", "type": "function", "function": function})
    return (_CALL.sub("", text).strip(), calls) if calls else (text, [])


def _as_text(function: Mapping[str, Any]) -> str:
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        arguments = function["arguments"]  # as the model wrote them
    call = json.dumps({"name": function["name"], "arguments": arguments})
    return f"<tool_call>\n{call}\n</tool_call>"
