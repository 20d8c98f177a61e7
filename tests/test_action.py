"""Completions and what they mean: the golden cases that the Rust tests read too, and real outputs of many models."""

import gzip
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdistill._core import Action, ParseFailure, parse_action

GOLDEN = [
    pytest.param(case, id=f"{file.stem}: {case['name']}")
    for file in sorted((Path(__file__).parent / "golden/actions").glob("*.json"))
    for case in json.loads(file.read_text(encoding="utf-8"))
]

OUTCOMES = {
    # Formats with Python actions: every one is found.
    "python_fence+output_fence": {"code": 1208},
    "smolagents_llm_output": {"code": 13},
    # Plain answers, <answer> or \boxed, of models with another action language.
    "search_query_tags": {"answer": 899},
    "think+tool_call_json": {"answer": 101, "no_action": 106},
    "mathcoder_blocks": {"answer": 2979, "no_action": 413, "repetition": 28, "code": 1},
    # Other action languages, and code without any mark: not guessed at. (Two of the SQL models wrote Python fences.)
    "react_thought_action": {"no_action": 755},
    "react_numbered": {"no_action": 286},
    "bare_fence": {"no_action": 71},
    "swe_other": {"no_action": 22},
    "intercode_action": {"no_action": 5535, "repetition": 18, "code": 2},
    "smolagents_parsed_code_only": {"no_action": 26},
}
"""What the 12,463 outputs of model_outputs.jsonl.gz give, by their format."""


@pytest.mark.parametrize("case", GOLDEN)
def test_golden(case: dict[str, Any]) -> None:
    found = parse_action(case["completion"])
    if "failure" in case:
        assert isinstance(found, ParseFailure)
        assert found.kind == case["failure"]
        assert "```py" in found.message, "the message says what to write instead"
        return
    assert isinstance(found, Action)
    expected = case["action"]
    spans = [tuple(span) for span in expected["spans"]]
    assert found == Action(expected["thought"], expected.get("code"), expected.get("final_answer"), spans)
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


@given(st.text(st.characters(codec=None)))
def test_any_string_of_python_is_understood(completion: str) -> None:
    """Lone surrogates too, which UTF-8 cannot say: spans still count Python's characters."""
    found = parse_action(f"Thought: {completion}\nCode:\n```py\nprint('é')\n```<end_code>")
    assert isinstance(found, Action | ParseFailure)
    assert isinstance(parse_action(completion), Action | ParseFailure)


def test_spans_count_characters_after_a_lone_surrogate() -> None:
    completion = "Thought: \ud800 é\n```py\nx = 1\n```"
    found = parse_action(completion)
    assert isinstance(found, Action)
    assert [completion[start:end] for _, start, end in found.spans] == ["\ud800 é", "x = 1"]
