"""IDEA 1: what a teacher makes, and what is kept of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentdistill import Candidate, ParseFailure, Step, Task, Trajectory, generate, read_trajectories, select
from agentdistill._core import TrajectoryWriter
from agentdistill.distillation import GenerateConfig
from agentdistill.engine import rollout
from agentdistill.model import Message, ScriptedModel
from agentdistill.prompt import load_prompt


def code(text: str, thought: str = "I act.") -> str:
    return f"Thought: {thought}\nCode:\n```py\n{text}\n```<end_code>"


# ---- the teacher ---------------------------------------------------------------------------------


def teacher(messages: Sequence[Message], prefix: str, index: int) -> str:
    """Reasons in words when asked to; else acts, going on from its first thought when it is given one."""
    if "<answer>" in messages[0].content:
        return "First I add the two.\n\nThat is 5.\n\n<answer>\\boxed{5}</answer>"
    if messages[-1].role == "user" and len(messages) == 2:
        return f"{'' if prefix else 'Thought:'} Now in code.\nCode:\n```py\nx = 2 + 3\nprint(x)\n```"
    return code("final_answer(x)")


TASK = Task("q", "What is 2 + 3?", "5", "sums", "math")


@pytest.mark.parametrize(
    ("config", "first_turn"),
    [
        (GenerateConfig(), "Thought: Now in code.\n"),
        (GenerateConfig(first_thought_prefix=True), "Thought: First I add the two. Now in code.\n"),
        (GenerateConfig(kind="cot"), "First I add the two.\n\nThat is 5."),
    ],
)
def test_a_teacher_generates(config: GenerateConfig, first_turn: str, tmp_path: Path) -> None:
    output = tmp_path / "t.jsonl"
    [trajectory] = generate([TASK], ScriptedModel("teacher", teacher), config=config, output=output, progress=False)
    assert (trajectory.answer, trajectory.score, trajectory.kind) == ("5", 1.0, config.kind)
    [candidate] = trajectory.steps[0].candidates
    assert candidate.text.startswith(first_turn)
    assert candidate.prefix == ("Thought: First I add the two." if config.first_thought_prefix else "")
    assert trajectory.messages[0][1].startswith(load_prompt(f"teacher_{config.kind}")[:60])
    assert read_trajectories(output) == [trajectory]


def test_a_chain_of_thought_has_no_first_thought_of_an_agent() -> None:
    with pytest.raises(ValueError, match="cot"):
        GenerateConfig(kind="cot", first_thought_prefix=True)


# ---- selection -----------------------------------------------------------------------------------

FAILED = ParseFailure("no_action", "Write code.")


def trajectory(task_id: str, actions: Sequence[object] = ("1",), **fields: Any) -> Trajectory:
    steps = [
        Step([Candidate("Hm.", action=action) if isinstance(action, ParseFailure) else Candidate(str(action))])
        for action in actions
    ]
    return Trajectory(task_id, "Q?", steps=steps, **({"answer": "1", "score": 1.0} | fields))


MADE = [
    (trajectory("right"), None),
    (trajectory("wrong", score=0.0), "wrong_answer"),
    (trajectory("not parsed once", ["1", FAILED, "1"]), "parse_failure"),
    (trajectory("never parsed", [FAILED], outcome="parse_failure", score=0.0), "parse_failure"),
    (trajectory("slow", outcome="out_of_steps", score=0.0), "out_of_steps"),
    (trajectory("cut", outcome="cut_completion", score=0.0), "cut_completion"),
    (trajectory("asked only", score=None), "not_graded"),
]


def test_the_paper_s_rule(tmp_path: Path) -> None:
    made, output = [t for t, _ in MADE], tmp_path / "kept.jsonl"
    selection = select(made, output)
    assert [t.task_id for t in selection.kept] == ["right"]
    reasons = [reason for _, reason in MADE if reason]
    assert selection.dropped == {reason: reasons.count(reason) for reason in reasons}
    assert next(iter(selection.dropped)) == "parse_failure"
    assert str(selection).startswith("1 of 7 trajectories kept; dropped: parse_failure 2")
    assert read_trajectories(output) == selection.kept
    with TrajectoryWriter(tmp_path / "made.jsonl", "{}") as writer:
        writer.append(made)
    assert select(tmp_path / "made.jsonl", output) == selection  # replaced, not appended to
    assert read_trajectories(output) == selection.kept
    assert {path.name for path in tmp_path.iterdir()} == {"kept.jsonl", "made.jsonl"}


def test_the_order_of_a_file_does_not_matter() -> None:
    made = [trajectory(name) for name in "bca"]
    assert [t.task_id for t in select(made).kept] == ["a", "b", "c"]


def test_steps_that_raised_are_kept() -> None:
    def recovers(messages: Sequence[Message], prefix: str, index: int) -> str:
        return code("1/0") if len(messages) == 2 else code("final_answer(5)")

    made = rollout([TASK], ScriptedModel("teacher", recovers), progress=False)
    assert len(select(made).kept[0].steps) == 2
