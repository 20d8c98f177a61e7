"""Parsing of completions: the golden cases that the Rust tests also use, and real outputs of many models."""

import ast
import gzip
import json
import keyword
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agentdistill._core import Action, ParseFailure, parse_action
from agentdistill.action_format import ActionFormat

GOLDEN = [
    pytest.param(case, id=f"{file.stem}: {case['name']}")
    for file in sorted((Path(__file__).parents[1] / "golden/actions").glob("*.json"))
    for case in json.loads(file.read_text(encoding="utf-8"))
]

MARKS = {
    "code": "```py",
    "tool_call": "<tool_call>",
    "search_tags": "<search>",
    "code_tags": "<execute>",
    "react": "Action: ",
}

OUTCOMES = {
    # Formats with Python actions: every one is found.
    "python_fence+output_fence": {"code": 1208},
    "smolagents_llm_output": {"code": 13},
    # Plain answers, <answer> or \boxed, of models with another action language.
    "search_query_tags": {"answer": 899},
    "think+tool_call_json": {"answer": 101, "no_action": 106},
    "mathcoder_blocks": {"answer": 3003, "no_action": 389, "repetition": 28, "code": 1},
    # Other action languages, and code without any mark, are not guessed. (Two of the SQL models wrote Python fences.)
    "react_thought_action": {"no_action": 755},
    "react_numbered": {"no_action": 286},
    "bare_fence": {"no_action": 71},
    "swe_other": {"no_action": 22},
    "intercode_action": {"no_action": 5535, "repetition": 18, "code": 2},
    "smolagents_parsed_code_only": {"no_action": 26},
}
"""Outcomes of the 12,463 outputs in model_outputs.jsonl.gz, by format."""


@pytest.mark.parametrize("case", GOLDEN)
def test_golden(case: dict[str, Any]) -> None:
    action_format = case.get("format", "code")
    found = parse_action(case["completion"], action_format)
    if "failure" in case:
        assert isinstance(found, ParseFailure)
        assert found.kind == case["failure"]
        assert MARKS[action_format] in found.message, "the message says what to write instead"
        return
    assert isinstance(found, Action)
    expected = case["action"]
    spans = [tuple(span) for span in expected["spans"]]
    assert found == Action(
        expected["thought"], expected.get("code"), expected.get("final_answer"), spans, action_format
    )
    if action_format not in ("code", "code_tags"):
        return  # for other formats, the code is generated from the text
    for kind, start, end in found.spans:
        said = {"thought": found.thought, "code": found.code, "final_answer": found.final_answer}[kind]
        lines = case["completion"][start:end].splitlines()
        assert said is not None and all(line.strip() in said for line in lines)


def test_real_outputs(shared_data: Path) -> None:
    outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    with gzip.open(shared_data / "model_outputs.jsonl.gz", "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            found = parse_action(row["output"])
            action = "code" if isinstance(found, Action) and found.code is not None else "answer"
            outcomes[row["format"]][found.kind if isinstance(found, ParseFailure) else action] += 1
    assert {name: dict(counts) for name, counts in outcomes.items()} == OUTCOMES


def call_of(code: str) -> tuple[str, list[Any], dict[str, Any]]:
    """The call in the cell ``print(tool(...))``, parsed by Python's own parser."""
    [shown] = ast.parse(code).body
    assert isinstance(shown, ast.Expr) and isinstance(shown.value, ast.Call)
    [call] = shown.value.args
    assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    named = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    return call.func.id, [ast.literal_eval(argument) for argument in call.args], named


def said(text: str, action_format: ActionFormat) -> Any:
    """The call or the answer that a turn is parsed as."""
    found = parse_action(text, action_format)
    if isinstance(found, ParseFailure):
        return found.kind
    if action_format == "code_tags" or found.code is None:
        return found.code or found.final_answer
    return call_of(found.code)


def tool_calls(row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    text = row["output"].partition("</think>")[2].strip()
    if found := re.fullmatch(r"<tool_call>(.*)</tool_call>", text, re.DOTALL):
        call = json.loads(found[1])
        yield row["output"], (call["name"], [], call["arguments"])
    else:
        yield row["output"], text.removeprefix("<answer>").removesuffix("</answer>").strip()


def queries(row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """A record is a whole episode: its turns are the texts between the documents."""
    for turn in re.split(r"<\|begin_of_documents\|>.*?<\|end_of_documents\|>", row["output"], flags=re.DOTALL):
        if query := re.search(r"<\|begin_of_query\|>(.*?)<\|end_of_query\|>", turn, re.DOTALL):
            yield turn, ("web_search", [query[1].strip()], {})
        elif "<answer>" in turn:
            yield turn, row["pred"].strip()


def react_actions(row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    turns = re.split(r"^Observation(?: \d+)?:.*?(?=^Thought)", row["output"], flags=re.DOTALL | re.MULTILINE)
    for turn in turns:
        if found := re.search(r"^Action(?: \d+)?:\s*(\w+)\[(.*)\]\s*$", turn, re.MULTILINE):
            name, argument = found[1].lower(), found[2].strip()
            tool = "web_search" if name == "search" else name
            yield turn, argument if name == "finish" else (tool, [argument], {})


def code_blocks(row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    if found := re.search(r"<\|code\|>(.*?)<\|endofblock\|>", row["output"], re.DOTALL):
        yield row["output"], found[1].strip()


SOURCES: dict[str, tuple[ActionFormat, Callable[[dict[str, Any]], Iterator[tuple[str, Any]]], int]] = {
    "think+tool_call_json": ("tool_call", tool_calls, 200),
    "search_query_tags": ("search_tags", queries, 3000),
    "react_thought_action": ("react", react_actions, 2000),
    "react_numbered": ("react", react_actions, 500),
    "mathcoder_blocks": ("code_tags", code_blocks, 3000),
}
"""For sources that record the action: the format to parse, the recorded action, and the minimum number of actions."""


@pytest.mark.parametrize("source", SOURCES)
def test_real_actions_are_what_their_source_says(source: str, shared_data: Path) -> None:
    action_format, actions, least = SOURCES[source]
    with gzip.open(shared_data / "model_outputs.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if row["format"] == source]
    known = [action for row in rows for action in actions(row)]
    agree = sum(said(turn, action_format) == action for turn, action in known)
    assert len(known) >= least
    assert agree >= 0.99 * len(known)


@pytest.mark.parametrize("action_format", MARKS)
def test_all_real_outputs_are_read_in_every_form(action_format: ActionFormat, shared_data: Path) -> None:
    with gzip.open(shared_data / "model_outputs.jsonl.gz", "rt", encoding="utf-8") as lines:
        found = [parse_action(json.loads(line)["output"], action_format) for line in lines]
    assert len(found) == 12_463
    assert all(isinstance(each, ParseFailure) or (each.code is None) != (each.final_answer is None) for each in found)


TEXT = st.characters(codec="utf-8")

ARGUMENTS = st.dictionaries(
    st.from_regex(r"[a-z]{1,5}", fullmatch=True).filter(lambda name: not keyword.iskeyword(name) and name != "code"),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(TEXT),
        lambda values: st.lists(values) | st.dictionaries(st.text(TEXT), values),
        max_leaves=8,
    ),
)


@given(ARGUMENTS, st.sampled_from(["json", "text", "raw", "python", "commas"]))
def test_a_call_is_what_its_json_says(arguments: dict[str, Any], spelling: str) -> None:
    """The oracle is Python's own parser of JSON and of literals, in each spelling that models use."""
    call = {"name": "f", "arguments": json.dumps(arguments) if spelling == "text" else arguments}
    match spelling:
        case "python":
            written = repr(call)
            assume(not re.search(r"\\[xU]", written))  # not escapes in JSON
        case "raw":
            written = re.sub(r"(?<!\\)\\n", "\n", json.dumps(call, ensure_ascii=False))
            call["arguments"] = json.loads(written, strict=False)["arguments"]
        case "commas":
            written = json.dumps(call, indent=0, separators=(",", ":")).replace("\n}", ",\n}")
        case _:
            written = json.dumps(call)
    expected = arguments if spelling == "text" else call["arguments"]
    found = said(f"<tool_call>{written}</tool_call>", "tool_call")
    assert found == ("f", [], expected)


ACTIONS: dict[ActionFormat, str] = {
    "code": "Code:\n```py\nprint({}(1))\n```<end_code>",
    "tool_call": '<tool_call>{{"name": "{}", "arguments": "1"}}</tool_call>',
    "code_tags": "<execute>print({}(1))</execute>",
    "react": "Action: {}[1]",
    "search_tags": "<search>{}</search>",
}


@pytest.mark.parametrize("action_format", ACTIONS)
@given(
    st.lists(st.sampled_from(["think", "answer", "template"]), min_size=1, max_size=4), st.text("ab \n.'\"", max_size=9)
)
def test_no_action_in_the_thinking_is_carried_out(action_format: ActionFormat, blocks: list[str], words: str) -> None:
    inside, outside = (ACTIONS[action_format].format(name) for name in ("inside", "outside"))
    thinking = {
        "think": f"<think>{words}\n{inside}\n</think>\n",
        "answer": f"<think>\n<answer>inside</answer>{words}</think>\n",
        "template": f"[THINK]\n{words}\n{inside}\n[/THINK]\n",
    }
    for start in ("", f"{words}\n{inside}\n</think>\n"):  # the template may have written the first tag
        found = parse_action(start + "".join(thinking[block] for block in blocks) + outside, action_format)
        assert isinstance(found, Action) and found.code is not None
        assert "outside" in found.code and "inside" not in found.code
        assert "inside" in found.thought


@given(st.text(st.characters(codec=None)))
def test_any_string_of_python_is_understood(completion: str) -> None:
    """Includes lone surrogates, which UTF-8 cannot represent: spans still count Python's characters."""
    found = parse_action(f"Thought: {completion}\nCode:\n```py\nprint('é')\n```<end_code>")
    assert isinstance(found, Action | ParseFailure)
    assert isinstance(parse_action(completion), Action | ParseFailure)


def test_spans_count_characters_after_a_lone_surrogate() -> None:
    completion = "Thought: \ud800 é\n```py\nx = 1\n```"
    found = parse_action(completion)
    assert isinstance(found, Action)
    assert [completion[start:end] for _, start, end in found.spans] == ["\ud800 é", "x = 1"]
