"""Lone surrogates, which JSON and Python can represent but UTF-8 cannot, are data, whatever their source."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdistill import Bm25Index, Sandbox, Task, read_trajectories, rollout
from agentdistill._core import Action, Observation, ParseFailure, vote
from agentdistill.models.model import Completion
from agentdistill.models.scripted import ScriptedModel
from agentdistill.rollouts.player import RolloutConfig
from agentdistill.tools.tool import python_tool
from agentdistill.well_formed import well_formed

HALF, WHOLE = "half \ud83d x", "half \ufffd x"


@given(st.lists(st.text() | st.sampled_from(["\ud83d", "\ude00"])))
def test_whole_text_stays_and_halves_of_characters_are_joined_or_replaced(pieces: list[str]) -> None:
    joined = "".join(pieces).replace("\ud83d\ude00", "\U0001f600")
    assert well_formed("".join(pieces)) == joined.replace("\ud83d", "\ufffd").replace("\ude00", "\ufffd")


def test_tasks_and_completions() -> None:
    task = Task(HALF, HALF, HALF, HALF, aliases=(HALF,))
    assert (task.id, task.question, task.answer, task.task_set, *task.aliases) == (WHOLE,) * 5
    assert Completion(HALF).text == WHOLE


def test_what_the_core_keeps() -> None:
    observation = Observation("value", stdout=HALF, value=HALF, error=HALF)
    assert (observation.stdout, observation.value, observation.error) == (WHOLE, WHOLE, WHOLE)
    assert vote([observation]).winner == 0
    assert (Action(HALF, HALF).code, ParseFailure("empty", HALF).message) == (WHOLE, WHOLE)


def answer(text: str) -> str:
    """Answer."""
    if text == "raise":
        raise OSError(HALF)
    return HALF


CELLS = {
    f"'{HALF}'": ("value", repr(WHOLE)),
    f"# {HALF}\n1": ("value", "1"),
    "len(answer('x'))": ("value", "8"),
    "answer('x')": ("value", repr(HALF)),
    "answer('raise')": ("tool_error", None),
    "'\\ud83d'": ("value", repr("\ud83d")),
    "print(answer('x'))": ("value", None),
    "raise ValueError(answer('x'))": ("exception", None),
}


@pytest.mark.parametrize("cell", CELLS, ids=ascii)
def test_cells(cell: str) -> None:
    sandbox = Sandbox({"answer": answer})
    observation, _ = sandbox.run(sandbox.initial, cell)
    assert (observation.kind, observation.value) == CELLS[cell]
    [(again, _)] = sandbox.run_many([(sandbox.initial, cell)])
    assert (again.kind, again.value) == CELLS[cell]


CONFIGS: list[dict[str, Any]] = [{}, {"checkpoints": True}, {"kind": "cot"}, {"prompt": f"Think. {HALF}"}]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_an_episode(config: dict[str, Any], tmp_path: Path) -> None:
    cell = f"print(answer('x'))\nfinal_answer('{HALF}')"
    model = ScriptedModel(HALF, lambda *_: f"Thought: {HALF}\nCode:\n```py\n{cell}\n```<end_code>")
    tools = [] if "kind" in config else [python_tool(answer)]
    tasks = [Task(HALF, HALF, HALF, HALF), Task("2", "q", "1")]
    rollout(tasks, model, tools, RolloutConfig(**config), output=tmp_path / "t.jsonl", progress=False)
    [first] = [done for done in read_trajectories(tmp_path / "t.jsonl") if done.task_id == WHOLE]
    assert first.question == WHOLE
    assert "kind" in config or (first.answer, first.score) == (WHOLE, 1.0)
    json.loads((tmp_path / "t.jsonl").read_text(encoding="utf-8").splitlines()[1])


def test_search(tmp_path: Path) -> None:
    index = Bm25Index.build([(HALF, HALF, HALF)], tmp_path / "index")
    [found] = index.search(HALF)
    assert (found.id, found.title, found.text) == (WHOLE, WHOLE, WHOLE)
    assert index.search_text(HALF) == f"[1] {WHOLE}\n{WHOLE}"
