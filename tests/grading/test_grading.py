"""Grading: facts by their words, tasks by their kind, and with user functions."""

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdistill import Trajectory, evaluate, rollout
from agentdistill.grading.grade import Grade, function_grader, grade, task_of
from agentdistill.grading.graders import grader_of, judge_of
from agentdistill.grading.squad import exact_match, f1, normalize
from agentdistill.models.scripted import ScriptedModel
from agentdistill.rollouts.player import RolloutConfig
from agentdistill.tasks.task import Task
from scripted_server import raw, serving

FACTS = [
    ("Cahiers du cinéma", "cahiers du cinéma", 1, 1.0),
    ("the late 12th Century", "Late 12th century.", 1, 1.0),
    ('"The Marshall Mathers LP 2"', "Marshall Mathers LP 2", 1, 1.0),
    ("Pirate's Cove", "Pirates Cove", 1, 1.0),
    ("2,523", "2523", 1, 1.0),
    ("Pirate's Cove", "Pirate\u2019s Cove", 1, 1.0),
    ("\u201cHeroes\u201d", '"Heroes"', 1, 1.0),
    ("cin\u00e9ma", "cine\u0301ma", 1, 1.0),
    ("10\u00b2", "102", 0, 0.0),
    ("0\u20136", "0-6", 1, 1.0),
    ("France\u2013Switzerland border", "France-Switzerland border", 1, 1.0),
    ("Mary Had a Little\u2026", "Mary Had a Little", 1, 1.0),
    ("\uff21\uff22\uff23\uff11", "ABC1", 1, 1.0),
    ("Stra\u00dfe", "STRASSE", 1, 1.0),
    ("New\u00a0York\u200b", "New York", 1, 1.0),
    ("$5.5 million", "5.5 million.", 1, 1.0),
    ("5.5 million", "55 million", 0, 0.5),
    ("3.14", "(3.14).", 1, 1.0),
    ("3.14", "314", 0, 0.0),
    ("\u22125 \u00b0C", "-5\u00b0C", 1, 1.0),
    ("\u22125", "(-5)", 1, 1.0),
    ("-5", "5", 0, 0.0),
    ("-$5", "-5", 1, 1.0),
    ("0-6", "06", 0, 0.0),
    ("9:24", "924", 0, 0.0),
    ("1,234,567.50", "1234567.50", 1, 1.0),
    ("1,2", "12", 0, 0.0),
    ("F-16", "F16", 1, 1.0),
    ("1990s-era", "1990sera", 1, 1.0),
    ("Paris", r"\boxed{\text{Paris}}", 1, 1.0),
    ("Paris", r"$\mathrm{Paris}$.", 1, 1.0),
    ("Paris", "**Paris**", 1, 1.0),
    ("text", r"\text", 1, 1.0),
    ("yes", "Yes.", 1, 1.0),
    ("yes", "Yes, it is", 0, 0.0),
    ("no", "yes", 0, 0.0),
    ("President Richard Nixon", "Richard Nixon", 0, 0.8),
    ("Richard Nixon", "Nixon Nixon", 0, 0.5),
    ("Ann", "Ann Ann Ann", 0, 0.5),
    ("Todd Phillips", "Phillips, Todd", 0, 1.0),
    ("Ann", "Bob", 0, 0.0),
    ("The The", "The The", 1, 1.0),
    ("The The", "A", 0, 0.0),
    ("A", "", 0, 0.0),
    (".5", "5", 0, 0.0),
    (".5", "0.5", 1, 1.0),
    ("-.5", ".5", 0, 0.0),
    ("batted .300.", "batted 0.300", 1, 1.0),
    ("C++", "C", 0, 0.0),
    ("C++", "C#", 0, 0.0),
    ("C#", "C#.", 1, 1.0),
    ("C\u266f minor", "C# minor", 1, 1.0),
    ("A+", "A", 0, 0.0),
    ("A-", "A", 0, 0.0),
    ("A-", "A+", 0, 0.0),
    ("a B- grade", "B-, grade", 1, 1.0),
    ("blood type AB\u2212.", "blood type AB-", 1, 1.0),
    ("blood type AB-", "blood type AB", 0, 2 / 3),
    ("Plan A - the first", "plan A the first", 1, 1.0),
    ("18+", "18", 0, 0.0),
    ("#1", "1", 1, 1.0),
    ("<5", ">5", 0, 0.0),
    ("<5", "< 5", 1, 1.0),
    ("<b>5</b>", "b 5 b", 0, 0.0),
    ("Vitamin A", "Vitamin", 0, 2 / 3),
    ("Vitamin A", "the vitamin A.", 1, 1.0),
    ("A Beautiful Mind", "Beautiful Mind, A", 1, 1.0),
    ("Beatles, The", "the Beatles", 1, 1.0),
    ("1990\u20131995", "1990 - 1995", 1, 1.0),
    ("1990\u20131995", "19901995", 0, 0.0),
    ("AT&T", "AT&amp;T", 1, 1.0),
    ("Johnson & Johnson", "Johnson and Johnson", 1, 1.0),
    ("CO\u2082", "CO2", 1, 1.0),
    ("\u00bd", "1/2", 1, 1.0),
    ("1\u2044\u2082", "1/2", 1, 1.0),
    ("2\u00bd", "21/2", 0, 0.0),
    ("Louis \u2163", "Louis IV", 1, 1.0),
    ("\u0663", "3", 1, 1.0),
    ("12,34,567", "1234567", 1, 1.0),
    ("20\u00a0000", "20,000", 1, 1.0),
    ("20\u00a0000", "20", 0, 0.0),
    ("!!!", "!!!", 1, 1.0),
    ("!!!", "???", 0, 0.0),
]


@pytest.mark.parametrize("reference, answer, exact, overlap", FACTS)
def test_facts(reference: str, answer: str, exact: int, overlap: float) -> None:
    assert exact_match(reference, answer) == bool(exact)
    assert f1(reference, answer) == pytest.approx(overlap)
    task = Task("1", "?", reference)
    assert grade(task, answer) == Grade(float(exact), "exact_match-5")


@given(st.text(), st.text())
def test_facts_are_symmetric_and_bounded(one: str, other: str) -> None:
    assert 0 <= f1(one, other) == f1(other, one) <= 1
    assert normalize(normalize(one)) == normalize(one) or not exact_match(one, one)
    if one.strip():
        assert exact_match(one, one)


def test_any_of_its_answers_is_right() -> None:
    task = Task("1", "Who?", "Richard Nixon", "facts", aliases=("Nixon", "the 37th president"))
    assert [grade(task, answer).score for answer in ("nixon", "37th President", "Ford", None)] == [1, 1, 0, 0]
    config = RolloutConfig(kind="cot")
    answers = ScriptedModel("m", lambda messages, prefix, index: "The answer is \\boxed{37th president Nixon}.")
    evaluation = evaluate([task], answers, config=config, progress=False)
    assert (evaluation.accuracy, evaluation.sets[0].f1) == (0, pytest.approx(0.8))
    [trajectory] = rollout([task], answers, config=config, progress=False)
    assert task_of(Trajectory.from_json(trajectory.to_json())) == task


def test_grades() -> None:
    task = Task("1", "?", "5", kind="math")
    assert grade(task, "5.0").score == 1
    assert grade(task, "6").score == grade(task, None).score == 0
    assert grade(task, "5").grader.startswith("math-5+sympy-")
    with pytest.raises(ValueError, match="'2' has no answer to compare with"):
        grade(Task("2", "?"), "5")


AS_THE_PAPER = [
    (r"\frac{9}{14}", "0.642857", True),
    (r"\frac{9}{14}", "0.643", False),
    ("50", "0.5", True),
    ("50", "5000", True),
    ("50", "500", False),
    ("0.5", r"50\%", True),
    ("3.14159", r"\pi", True),
    ("(0,1]", "[0,1)", True),
    ("(1, 2)", "(1.00001, 2)", True),
    ("(1, 2)", "(2, 1)", False),
    (r"\text{Even}", "even", True),
    (r"\sqrt{2}", "1.4142", True),
    (r"\sqrt{2}", "1.41", False),
    ("x+1", "1+x", True),
    ("5", "", False),
]


@pytest.mark.parametrize("reference, answer, is_right", AS_THE_PAPER)
def test_mathematics_as_the_paper_compares_it(reference: str, answer: str, is_right: bool) -> None:
    with grader_of("math-reference", None) as grader:
        found = asyncio.run(grader(Task("1", "?", reference, kind="math"), answer))  # type: ignore[arg-type]
        assert asyncio.run(grader(Task("1", "?", "Ann"), "ann.")) == Grade(1.0, "exact_match-5")  # type: ignore[arg-type]
    assert found.score == is_right and found.grader.startswith("math-reference-1+sympy-")


REPLY = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": '{"score": 1}'}}


@pytest.mark.parametrize(
    "name, mathematics, score", [("judge:{}", "math-5", 0), ("math-reference+judge:{}", "math-reference", 1)]
)
async def test_a_judge_grades_facts_and_another_grader_mathematics(
    name: str, mathematics: str, score: float, tmp_path: Path
) -> None:
    fact, problem = Task("1", "?", "Richard Nixon"), Task("2", "?", "0.5", kind="math")
    with serving(raw(json.dumps({"id": "1", "object": "chat.completion", "model": "j", "choices": [REPLY]}))) as server:
        spec = name.format(model := f"openai:http://127.0.0.1:{server.server_port}/v1:small")
        with grader_of(spec, tmp_path / "graded.jsonl") as grader:
            judged, compared = await grader(fact, "Nixon"), await grader(problem, "50")
        assert judge_of(spec) == model and len(server.requests) == 1
    assert judged.grader.startswith("judge-") and judged.score == 1
    assert compared.grader.startswith(mathematics) and compared.score == score


def test_a_grader_without_a_judge_has_no_model() -> None:
    assert [judge_of(name) for name in (None, "math-reference", "mine.py:judge", "math-reference+mine.py:f")] == [
        None
    ] * 4


FUNCTIONS = """
def same(task, answer):
    return answer.lower() == task.answer

def half(task, answer):
    return 0.5

def text(task, answer):
    return "right"

nothing = None
"""


def test_a_function_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, task = tmp_path / "mine.py", Task("1", "?", "ann")
    file.write_text(FUNCTIONS)

    def graded(name: str, answer: str | None) -> Grade:
        return asyncio.run(function_grader(name)(task, answer))  # type: ignore[arg-type]

    right = graded(f"{file}:same", "Ann")
    assert right.score == 1 and right.grader.startswith("mine:same@")
    assert graded(f"{file}:same", "Bob") == graded(f"{file}:same", " ") == Grade(0, right.grader)
    assert graded(f"{file}:half", "Ann").score == 0.5
    with pytest.raises(ValueError, match=r"mine\.py:text says 'right' of task '1': it is to return a score"):
        graded(f"{file}:text", "Ann")
    monkeypatch.syspath_prepend(tmp_path)
    assert graded("mine:same", "Ann") == right
    file.write_text(FUNCTIONS + "# changed")
    assert graded(f"{file}:same", "Ann").grader != right.grader, "its version is that of its file"


@pytest.mark.parametrize("name", ["nowhere:f", "f", "", "math:nothing", "math:pi", "sys:exit"])
def test_a_name_without_a_function(name: str) -> None:
    with pytest.raises(ValueError, match=r"FILE\.py:FUNCTION or MODULE:FUNCTION"):
        function_grader(name)


def test_a_file_without_a_function(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    with pytest.raises(ValueError, match=r"mine\.py has no function 'nothing'"):
        function_grader(f"{tmp_path / 'mine.py'}:nothing")
    with pytest.raises(FileNotFoundError, match=r"none\.py"):
        function_grader(f"{tmp_path / 'none.py'}:f")


def test_a_function_that_fails_names_the_task_and_the_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def f(task, answer):\n    return 1 / 0\n\n\ndef g(task):\n    return 1\n")
    said = {"f": r"ZeroDivisionError: division by zero, at .*mine\.py:2", "g": "TypeError: g.. takes 1 positional"}
    for name, message in said.items():
        with pytest.raises(ValueError, match=rf"mine\.py:{name} fails on task '1': {message}"):
            asyncio.run(function_grader(f"{tmp_path / 'mine.py'}:{name}")(Task("1", "?", "ann"), "Ann"))  # type: ignore[arg-type]


FAILING_MODULES = {
    "x = {}\nx['y']": r"raises KeyError: 'y', at .*mine\.py:2",
    "def f(:": r"raises SyntaxError: .*mine\.py, line 1",
    "import sys\nsys.exit(3)": "raises SystemExit: 3, at",
    "import nowhere": r"FILE\.py:FUNCTION",
}


@pytest.mark.parametrize("text", FAILING_MODULES)
def test_a_file_that_cannot_be_imported(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ValueError, match=rf"no function '.*mine\.py:f'.*{FAILING_MODULES[text]}"):
        function_grader(f"{tmp_path / 'mine.py'}:f")


def test_deeply_nested_commands_end_soon() -> None:
    """Each level costs a pass over the text: without a limit, this would take minutes."""
    assert normalize(r"\text{" * 40_000 + "Paris" + "}" * 40_000).endswith("paris")
    assert normalize(r"\text{" * 40 + "Paris" + "}" * 40) == "paris"
