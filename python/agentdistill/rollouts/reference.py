"""The conversation form of the paper's own code (Nardien/agent-distillation).

Its logs, its students and its published adapters use this form: the parts of each message, their order, and the marks
between them ("New task:", "Execution logs:", "===== Document 0"). The sentences are our own; to use those of the
paper's code, give its prompt as a file (``--prompt``).

Not here: the choice of a rollout's form (wording.py), the format of passages (the core's ``for_reading``), and the vote
(the core's ``vote``).
"""

import ast
import re
from collections.abc import Sequence

from agentdistill._core import Candidate, Observation, ParseFailure
from agentdistill.action_format import ActionFormat
from agentdistill.models.model import Message
from agentdistill.rollouts.prompt import IMPORTS, filled_in, is_cut, readable, what_went_wrong
from agentdistill.tools.tool import FINAL_ANSWER, Tool, schema

STOP = ("<end_code>", "Observation:", "Calling tools:")
PRINTED, VALUE = 50_000, 20_000
"""Maximum number of characters shown of what a cell prints, and of its value."""

_REMINDER = (
    "\n\nIMPORTANT: Each step needs a 'Thought:' sequence, and a 'Code:\n```py' sequence that ends with "
    "'```<end_code>'; anything else fails. For math problems that are not multiple-choice, give the final answer in "
    "LaTeX \\boxed{}, and exactly (e.g., \\boxed{\\frac{9}{14}}), not as a decimal (e.g., \\boxed{0.642857})."
)
_RETRY = "\nNow let's retry: do not repeat an error, and after several attempts try a completely different way.\n"
_NO_CODE = "Error in code parsing:\n{}\nGive a code block in the right form."
_CUT = "The reply was cut before its code block ended."
_INSTEAD = (
    "An agent was asked by a user, and got stuck before it had an answer. You are to give the answer in its place. "
    "What the agent remembers:"
)
_LAST_WORD = "From all this, give an answer to the user's task:\n{}"

_SEARCH = Tool(
    "web_search",
    "(query: str) -> str",
    "Finds the parts of the Wikipedia of 2018 that come closest in meaning to your query.",
    str,
)
_ARGUMENTS = {
    (
        "web_search",
        "query",
    ): "What to search for, close in meaning to the text that you want: a statement, not a question.",
    ("final_answer", "answer"): "The final answer to the problem",
}


def default_prompt(who: str, kind: str, action_format: ActionFormat) -> str:
    """Name of the default prompt. Teacher and student share one for chains of thought."""
    return "reference_cot" if kind == "cot" else f"reference_{who}_agent"


def opening(question: str, prompt: str, *, kind: str = "agent", tools: str = "", max_steps: int = 0) -> list[Message]:
    """The messages before the first step, as for prompt.opening."""
    imports = str(sorted(IMPORTS.split(", ")))
    system = filled_in(prompt, tools=tools, imports=imports, max_steps=max_steps)
    asked = question if kind == "cot" else f"New task:\n{question}{_REMINDER}"
    return ([Message("system", system)] if system else []) + [Message("user", asked)]


def with_passages(question: str, passages: str) -> str:
    """A question after passages that may help with it."""
    return f"{passages}\n{question}"


def describe_tools(tools: Sequence[Tool], action_format: ActionFormat = "code") -> str:
    """The list of tools for the system message, ``final_answer`` last."""
    known = {_SEARCH.name: _SEARCH}
    return "\n".join(_described(known.get(tool.name, tool)) for tool in (*tools, FINAL_ANSWER))


def _described(tool: Tool) -> str:
    function = schema(tool)["function"]
    inputs = {}
    for name, given in function["parameters"]["properties"].items():
        said = _ARGUMENTS.get((tool.name, name))
        inputs[name] = {"type": given.get("type", "any")} | ({"description": said} if said else {})
    returns = re.search(r"->\s*(\w+)", tool.signature)
    output = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}.get(
        returns[1] if returns else "", "any"
    )
    description = " ".join(tool.description.split())
    return f"- {tool.name}: {description}\n    Takes inputs: {inputs}\n    Returns an output of type: {output}"


def assistant_turn(chosen: Candidate) -> str:
    """The conversation's record of a completion: the whole text, with its code marked as ended."""
    ends = chosen.text.strip().endswith("```")
    return (chosen.text + "<end_code>" if ends else chosen.text).strip()


def observation_message(
    chosen: Candidate,
    *,
    number: int,
    repeated: bool = False,
    cut_at: int | None = None,
    action_format: ActionFormat = "code",
) -> str:
    """The user message after a step, as for prompt.observation_message. What a cell printed before it failed directly
    precedes its error."""
    call = f"Call id: call_{number}\n"
    if cut_at is not None or isinstance(chosen.action, ParseFailure) or chosen.observation is None:
        why = _CUT if is_cut(chosen) or not isinstance(chosen.action, ParseFailure) else chosen.action.message
        return f"Error:\n{_NO_CODE.format(why)}{_RETRY}"
    seen = chosen.observation
    logs = f"{call}Observation:\nExecution logs:\n{seen.stdout}"
    if what_went_wrong(seen):
        error = f"{call}Error:\n{_error(seen, _code(chosen))}{_RETRY}"
        return logs + error if seen.stdout else error
    value = seen.final_answer if seen.kind == "final_answer" else None if seen.value is None else readable(seen.value)
    return f"{logs}Last output from code snippet:\n{_within(str(value), VALUE)}"


def last_word(message: str, question: str) -> str:
    """The message after the last step, extended by the request for the answer."""
    return message + _LAST_WORD.format(question)


def asked_last(messages: Sequence[Message]) -> list[Message]:
    """The conversation that the model gets for its last word, with another system message."""
    return [Message("system", _INSTEAD), *(message for message in messages if message.role != "system")]


def in_our_form(message: str) -> str:
    """The same message with its passages in this package's format."""
    shown = r"(\nRetrieved documents:)?\n\n===== Document (\d+), similarity: -?[\d.]+ =====\n\"?(.*?)\"?\n"

    def heading(mark: re.Match[str]) -> str:
        return ("" if mark[1] else "\n") + f"[{int(mark[2]) + 1}] {mark[3]}\n"

    return re.sub(shown, heading, message)


def _code(chosen: Candidate) -> str:
    return getattr(chosen.action, "code", None) or ""


def _error(seen: Observation, code: str) -> str:
    """How a cell failed, with the statement that raised the error."""
    said = (seen.error or "").rstrip()
    if seen.error_type is None and said:  # the text of another program's log
        return said
    if seen.kind in ("out_of_memory", "killed"):
        return f"Code execution failed due to: {what_went_wrong(seen)}"
    last = said.rpartition(f"{seen.error_type}:")[2].strip() or str(seen.error_type)
    at = re.search(r'File "<cell[^"]*>", line (\d+)', said)
    try:
        statements = ast.parse(code).body
    except SyntaxError as error:
        shown = f"{error.text}{' ' * (error.offset or 0)}^"
        return f"Code parsing failed on line {error.lineno} due to: {type(error).__name__}\n{shown}\nError: {error}"
    except (ValueError, RecursionError, MemoryError):
        statements = []
    line = int(at[1]) if at else 0
    failed = next((node for node in statements if node.lineno <= line <= (node.end_lineno or node.lineno)), None)
    source = ast.get_source_segment(code, failed) if failed else None
    return f"Code execution failed at line '{source or code.strip()}' due to: {seen.error_type}: {last}"


def _within(text: str, most: int) -> str:
    """The text, without its middle if it is longer than ``most`` characters."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}\n..._{len(text) - most} characters are left out here_...\n{text[-(most // 2) :]}"
