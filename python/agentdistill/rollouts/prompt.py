"""Convert a task into messages, and what an action did into the message about it. All text that a model reads is here
or in prompts/, except for the form of the paper's code (reference.py).

A prompt is a text file with marks in double braces: ``{{tools}}`` (Python signatures), ``{{imports}}``,
``{{max_steps}}``. The long ``teacher_agent`` shows the Thought / Code / Observation cycle by examples. The short
``student_agent`` is for training and running a student, which learns the cycle from training (as in the paper; the
wording is our own).

Not here: how messages become tokens (the model's chat template), and parsing of completions (the core's
``parse_action``).
"""

import ast
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Literal

from agentdistill._core import Action, Candidate, Observation, ParseFailure, Sandbox
from agentdistill.action_format import FORMS, ActionFormat
from agentdistill.models.model import Message
from agentdistill.well_formed import well_formed

_STANDARD = (
    "math, cmath, statistics, fractions, decimal, random, itertools, functools, collections, re, string, datetime, "
    "calendar, json, heapq, bisect, operator"
)
IMPORTS = ", ".join([_STANDARD, *Sandbox.packages])
"""Modules that prompts list. The sandbox's guest also holds the rest of the standard library."""

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_NOTHING = "(Nothing was printed. Print what you want to see.)"
_SAME_AGAIN = "You ran exactly this code before, and it failed then too. Do something else now."
_CUT = "Your reply was cut after {} tokens, before its end, so nothing of it was run. Write a shorter one."
_LAST_WORD = (
    "There are no steps left, and no more code will be run. Give your final answer to the question now, as text: the "
    "answer alone, in \\boxed{} if it is mathematical."
)


def opening(question: str, prompt: str, *, kind: str = "agent", tools: str = "", max_steps: int = 0) -> list[Message]:
    """The messages before the first step: the prompt as the system message (none if it is empty), then the question.

    ``prompt`` is a text as returned by :func:`load_prompt`, ``tools`` the signatures for its ``{{tools}}``.
    """
    system = filled_in(prompt, tools=tools, imports=IMPORTS, max_steps=max_steps)
    return ([Message("system", system)] if system else []) + [Message("user", question)]


def filled_in(prompt: str, *, tools: str, imports: str, max_steps: int) -> str:
    """The prompt with its marks replaced."""
    marks = {"tools": tools, "imports": imports, "max_steps": str(max_steps)}
    return _PLACEHOLDER.sub(lambda mark: marks[mark[1]], prompt).strip()


def default_prompt(
    who: Literal["student", "teacher"], kind: Literal["agent", "cot"] = "agent", action_format: ActionFormat = "code"
) -> str:
    """Name of the default prompt. For action formats other than the paper's, teacher and student have the same one,
    since such a model has learnt its format elsewhere."""
    return f"{who}_{kind}" if kind == "cot" or action_format == "code" else f"{action_format}_agent"


def with_passages(question: str, passages: str) -> str:
    """A question after passages that may help with it (the paper's baseline CoT + RAG)."""
    return f"Passages:\n\n{passages}\n\nQuestion: {question}"


def load_prompt(prompt: str) -> str:
    """Load the text of a prompt: by the name of a built-in one ("student_agent"), by the path of a file, or as itself.

    A single word is a name or a path; "" is the empty prompt; anything with white space is the text itself. Raises
    ValueError for a name that is neither, and for an unknown mark.
    """
    if not prompt or any(c.isspace() for c in prompt):
        text = prompt
    elif (ours := resources.files("agentdistill.rollouts") / "prompts" / f"{prompt}.txt").is_file():
        text = ours.read_text(encoding="utf-8")
    elif Path(prompt).is_file():
        try:
            text = Path(prompt).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"the prompt {prompt}: byte {error.start} is not UTF-8: save the file as UTF-8") from error
    else:
        names = sorted(
            f.name.removesuffix(".txt") for f in (resources.files("agentdistill.rollouts") / "prompts").iterdir()
        )
        raise ValueError(f"no prompt {prompt!r}: give a file, a text of several words, or one of {', '.join(names)}")
    if unknown := set(_PLACEHOLDER.findall(text)) - {"tools", "imports", "max_steps"}:
        raise ValueError(
            f"the prompt has the unknown placeholder {unknown.pop()!r}: the known ones are tools, imports and max_steps"
        )
    return well_formed(text)


def assistant_turn(chosen: Candidate) -> str:
    """The conversation's record of a completion: the action in the canonical form that students learn.

    Text after the code is dropped, and an open fence is closed. The rollout and the training examples both use this, so
    that a student is trained on what it will see. Actions in formats other than "code" are kept as they were written.
    """
    action = chosen.action
    if isinstance(action, ParseFailure):
        return chosen.text.strip()[:2_000]  # not worth learning, and often endless
    if action is None or action.code is None or action.format != "code":
        return chosen.text.strip()
    thought = f"Thought: {action.thought.strip()}\n" if action.thought.strip() else ""
    code = action.code.strip("\n")
    return f"{thought}Code:\n```py\n{code}\n```<end_code>"


def is_cut(chosen: Candidate) -> bool:
    """Whether the token limit cut the action off. Even an action that parses may end in half a number then."""
    if chosen.finish_reason != "length" or not isinstance(chosen.action, Action):
        return chosen.finish_reason == "length"
    return max(end for _, _, end in chosen.action.spans) >= len(chosen.text.rstrip())


def observation_message(
    chosen: Candidate,
    *,
    number: int = 1,
    repeated: bool = False,
    cut_at: int | None = None,
    action_format: ActionFormat = "code",
) -> str:
    """The user message after a step, in its format: what the code did, or what was wrong with the completion.

    ``number`` is the step's, from 1. ``repeated``: the same code failed before. ``cut_at``: the token limit that cut
    the completion off.
    """
    if cut_at is not None:
        content = _CUT.format(cut_at)
    elif isinstance(chosen.action, ParseFailure):
        content = chosen.action.message
    else:
        content = what_it_did(chosen.observation) if chosen.observation else _NOTHING
    content = f"{content}\n{_SAME_AGAIN}" if repeated else content
    return FORMS[action_format].observation.format(content)


def last_word(message: str, question: str) -> str:
    """The message after the last step, extended by the request for the answer."""
    return f"{message}\n\n{_LAST_WORD}"


def asked_last(messages: Sequence[Message]) -> list[Message]:
    """The conversation that the model gets for its last word; its last message asks for the answer."""
    return list(messages)


def what_it_did(observation: Observation) -> str:
    """Describe what a cell did, for a model to read."""
    parts = [observation.stdout.rstrip("\n")]
    if observation.value is not None:
        parts.append(f"Value: {readable(observation.value)}")
    if observation.kind == "final_answer":
        parts.append(f"Final answer: {observation.final_answer}")
    parts.append(what_went_wrong(observation))
    return "\n".join(filter(None, parts)) or _NOTHING


def what_went_wrong(observation: Observation) -> str:
    """Describe how a cell failed, for a model to read; "" if it did not fail."""
    match observation.kind:
        case "timeout":
            return "Error: the code took too long and was stopped. Use a quicker way, or a smaller input."
        case "out_of_memory":
            return "Error: the code used too much memory. Use a way that keeps less of it at once."
        case "killed":
            return "Error: the code had to be killed, and what it had changed is undone. Try in a different way."
        case "exception" | "tool_error":
            error = (observation.error or observation.error_type or "").rstrip()
            return f"Error:\n{error}\nRead the last line of the error, and try again in a different way."
        case "final_answer" | "value":
            return ""


def readable(value: str) -> str:
    """A value as a model reads it best: a string without the quotes and escapes of its repr."""
    if not value.startswith(("'", '"')):
        return value
    try:
        text = str(ast.literal_eval(value))
        text.encode()  # a message cannot hold a lone surrogate
        return text
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):  # cut, or not a string literal
        return value
