"""Evaluation: rollouts and a grader give accuracies with intervals by task set, as files and as a table."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from agentdistill import AgentDistillError, Bm25Index, ModelError, Task, TrajectoryError, evaluate
from agentdistill.models.model import Message
from agentdistill.models.scripted import ScriptedModel
from agentdistill.results.evaluation import Evaluation, wilson_interval
from agentdistill.rollouts.player import RolloutConfig
from agentdistill.tools.tool import web_search


def code(text: str) -> str:
    return f"Thought: I act.\nCode:\n```py\n{text}\n```<end_code>"


def searches(messages: Sequence[Message], prefix: str, index: int) -> str:
    """Searches for where a person was born; adds the numbers of a sum."""
    question = messages[1].content
    if "+" in question:
        return code(f"final_answer({question})")
    born = rf"{question.split()[0]} was born in (\w+)"
    return code(f"import re\nfinal_answer(re.search({born!r}, web_search({question!r}))[1])")


TASKS = [
    Task("f1", "Ann born", "Paris", "facts"),
    Task("f2", "Bob born", "the old Rome", "facts"),
    Task("f3", "Cid born", "Oslo", "facts"),
    Task("m1", "123456 + 654321", "777777", "sums", "math"),
    Task("m2", "1 + 1", "3", "sums", "math"),
]


@pytest.fixture
def index(tmp_path: Path) -> Bm25Index:
    passages = [("1", "Ann", "Ann was born in Paris."), ("2", "Bob", "Bob was born in Rome.")]
    return Bm25Index.build(passages, tmp_path / "index")


def test_cells_that_timed_out_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def loops(messages: Sequence[Message], prefix: str, index: int) -> str:
        return code("while True: pass" if len(messages) == 2 and index < 2 else "final_answer(777777)")

    config = RolloutConfig(candidates=3, cell_seconds=0.05)
    evaluation = evaluate([TASKS[3]], ScriptedModel("m", loops), config=config, output=tmp_path, progress=True)
    assert evaluation.sets[0].timeouts == 2 and "cells timed out 2" in str(evaluation)
    assert json.loads((tmp_path / "metrics.json").read_text())["cells"] == {"timeout": 2, "final_answer": 1}
    assert "2 of 3 cells timed out" in "".join(capsys.readouterr())
    assert Evaluation.load(tmp_path / "results.json") == evaluation


def test_an_evaluation_by_task_set(index: Bm25Index, tmp_path: Path) -> None:
    output, model = tmp_path / "results", ScriptedModel("searcher", searches)
    evaluation = evaluate(TASKS, model, [web_search(index)], output=output, progress=False)
    facts, maths = evaluation.sets
    assert (facts.task_set, facts.n, facts.correct, facts.accuracy) == ("facts", 3, 1, pytest.approx(1 / 3))
    assert facts.f1 == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert facts.outcomes == {"final_answer": 2, "out_of_steps": 1}
    assert (maths.task_set, maths.n, maths.correct, maths.f1) == ("sums", 2, 1, None)
    assert evaluation.accuracy == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert (maths.low, maths.high) == wilson_interval(1, 2)
    saved = json.loads((output / "results.json").read_text())
    assert saved["model"] == "searcher" and saved["settings"]["max_steps"] == 5
    assert [result["accuracy"] for result in saved["sets"]] == [facts.accuracy, maths.accuracy]
    assert saved["graders"] == evaluation.graders and len(evaluation.graders) == 2
    lines = (output / "results.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["task", "facts", "sums", "mean"]
    assert "33.3%" in lines[1] and lines[1].endswith("out_of_steps 1") and "41.7%" in lines[3]


def test_while_episodes_are_missing_there_are_no_results(index: Bm25Index, tmp_path: Path) -> None:
    output, is_down = tmp_path / "results", True

    def policy(messages: Sequence[Message], prefix: str, index: int) -> str:
        if is_down and messages[1].content == "Bob born":
            raise ModelError("the server is down")
        return searches(messages, prefix, index)

    model, tools = ScriptedModel("searcher", policy), [web_search(index)]
    with pytest.raises(AgentDistillError, match=r"1 of 5 tasks .* f2, failed with: the server is down\nRun the"):
        evaluate(TASKS, model, tools, output=output, progress=False)
    assert not (output / "results.json").exists()
    allowed = evaluate(TASKS, model, tools, output=output, allow_missing=True, progress=False)
    assert (allowed.sets[0].n, allowed.sets[0].outcomes["model_error"]) == (3, 1)
    is_down = False
    assert "model_error" not in evaluate(TASKS, model, tools, output=output, progress=False).sets[0].outcomes


def test_an_evaluation_goes_on_where_it_was_and_is_never_mixed(index: Bm25Index, tmp_path: Path) -> None:
    asked: list[str] = []

    def policy(messages: Sequence[Message], prefix: str, index: int) -> str:
        asked.append(messages[1].content)
        return searches(messages, prefix, index)

    model, tools, output = ScriptedModel("searcher", policy), [web_search(index)], tmp_path / "results"
    evaluate(TASKS[:2], model, tools, output=output, progress=False)
    asked.clear()
    assert evaluate(TASKS, model, tools, output=output, progress=False).sets[0].n == 3
    assert not {"Ann born", "Bob born"} & set(asked)
    with pytest.raises(TrajectoryError, match="candidates"):
        evaluate(TASKS, model, tools, RolloutConfig(candidates=8), output=output, progress=False)


def test_self_consistent_actions_in_an_exam() -> None:
    answers = ["final_answer(1)", "final_answer(2)", "1/0", "final_answer(2)", "final_answer(3)"]
    model = ScriptedModel("m", lambda messages, prefix, index: code(answers[index]))
    tasks = [Task("q", "?", "2")]
    assert evaluate(tasks, model, config=RolloutConfig(candidates=5), progress=False).accuracy == 1
    assert evaluate(tasks, model, progress=False).accuracy == 0


def test_a_task_without_an_answer_cannot_be_graded() -> None:
    with pytest.raises(ValueError, match="'q' has no answer"):
        evaluate([Task("q", "?")], ScriptedModel("m", searches), progress=False)


# Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
INTERVALS = [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]


@pytest.mark.parametrize(("correct", "n", "low", "high"), INTERVALS)
def test_wilson_interval(correct: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(correct, n) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert wilson_interval(n - correct, n) == (pytest.approx(1 - high, abs=5e-5), pytest.approx(1 - low, abs=5e-5))


@given(st.integers(0, 2_000), st.integers(1, 2_000))
def test_wilson_interval_is_that_of_scipy(correct: int, n: int) -> None:
    correct = min(correct, n)
    expected = scipy.stats.binomtest(correct, n).proportion_ci(method="wilson")
    assert wilson_interval(correct, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_no_tasks_say_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
