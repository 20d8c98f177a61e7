"""Equality of mathematical answers: pairs judged by hand, general properties, and a worker that is restarted."""

import csv
import json
import os
import re
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from math_pairs import Pair, gold_pairs, pairs

import agentdistill
from agentdistill.grading.grade import grade
from agentdistill.grading.math_equality import UndecidedError, math_equal
from agentdistill.grading.mathematics.comparing import equal
from agentdistill.grading.mathematics.reading import read
from agentdistill.grading.mathematics.values import UnreadError
from agentdistill.grading.mathematics.worker import WORKER
from agentdistill.tasks.loading import load_tasks
from agentdistill.tasks.task import Task

GOLDEN = Path(__file__).parents[1] / "golden"


def rows(name: str) -> list[list[str]]:
    lines = (GOLDEN / name).read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines if line and not line.startswith("#")]


PAIRS = rows("math_answers.tsv")
DIFFERENCES = rows("math_answers_differences.tsv")


def test_pairs_judged_by_hand() -> None:
    """All pairs except known differences. A known difference that no longer exists must be removed from their file."""
    assert len(PAIRS) >= 700 and {relation for _, relation, *_ in PAIRS} == {"=", "!="}
    assert len({(reference, answer) for reference, _, answer, *_ in PAIRS}) == len(PAIRS)
    differing = [
        (reference, answer)
        for reference, relation, answer, *_ in PAIRS
        if math_equal(reference, answer, seconds=60) != (relation == "=")
    ]
    assert differing == [(reference, answer) for reference, answer, _ in DIFFERENCES]


@pytest.mark.parametrize("seed", [1, 2])
def test_pairs_of_typed_values(seed: int) -> None:
    """30 kinds of values: no wrong answer is accepted, and less than 1 % of correct answers are refused."""
    assert_graded(pairs(1_000, seed))


def test_pairs_of_gold_answers(shared_data: Path) -> None:
    """Answers of MATH and GSM8K, in other notations and with one change."""
    assert_graded(gold_pairs(shared_data, 600))


def assert_graded(made: list[Pair]) -> None:
    graded = [(pair, math_equal(pair.reference, pair.answer, seconds=60)) for pair in made]
    assert [pair for pair, is_equal in graded if is_equal and not pair.is_right] == []
    refused = [pair for pair, is_equal in graded if pair.is_right and not is_equal]
    assert len(refused) < sum(pair.is_right for pair in made) / 100, refused


@pytest.mark.parametrize("answer", ["", " ", "5" * 3000])
def test_no_answer_is_wrong(answer: str) -> None:
    assert not math_equal("5", answer)
    assert math_equal("5", "\n5\n") and math_equal("7" * 5000, "7" * 5000)


@given(st.integers(), st.integers())
def test_integers_are_equal_if_they_are(one: int, other: int) -> None:
    for text in (str(other), f"{other:,}", f"${other}$", rf"\boxed{{{other}}}"):
        assert math_equal(str(one), text) == (one == other)
        assert math_equal(str(other), text)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_is_what_python_prints(number: float) -> None:
    assert math_equal(str(number), repr(number))
    assert math_equal(f"{number:.10f}", repr(number)) or abs(number) < 1e-9


@given(st.text(max_size=40))
def test_no_text_is_an_error(text: str) -> None:
    assert math_equal("5", text) in (True, False)
    assert not text.strip() or math_equal(text, text)


def test_every_answer_of_the_paper_is_itself(shared_data: Path) -> None:
    tasks = [task for path in sorted((shared_data / "tasks").glob("*math*")) for task in load_tasks(path)]
    wrong = [
        (task.answer, dressed)
        for task in tasks
        for dressed in (rf"\boxed{{{task.answer}}}", f"The answer is ${task.answer}$.")
        if grade(task, dressed).score != 1
    ]
    assert not wrong


def test_answers_of_the_paper_are_not_those_of_their_neighbours(shared_data: Path) -> None:
    answers = [str(e["answer"]) for e in json.loads(next((shared_data / "tasks").glob("gsm*")).read_text())["examples"]]
    assert [pair for pair in pairwise(answers) if math_equal(*pair)] == [p for p in pairwise(answers) if p[0] == p[1]]


HARD = ("x", "9^{9^{9^{9^{9}}}}+x")


def test_a_comparison_beyond_its_limit_is_not_graded_and_the_next_one_works(caplog: pytest.LogCaptureFixture) -> None:
    assert math_equal(r"\sqrt{8}", r"2\sqrt{2}")
    with pytest.raises(UndecidedError, match="processor time"):
        math_equal(*HARD, seconds=0.5)
    assert math_equal(r"\sqrt{8}", r"2\sqrt{2}")


def test_what_is_not_decided_is_neither_right_nor_wrong(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("agentdistill.grading.grade.math_equal", partial(math_equal, seconds=0.5))
    assert grade(Task("7", "?", HARD[0], kind="math"), HARD[1]).score is None
    assert "task '7'" in caplog.text and "not graded" in caplog.text


def test_a_worker_that_died_is_replaced() -> None:
    assert math_equal(r"\sqrt{8}", r"2\sqrt{2}")
    process = WORKER._process
    assert process is not None
    process.kill()
    process.wait()
    assert math_equal(r"\sqrt{18}", r"3\sqrt{2}")


FORKED = """
import os, sys
from agentdistill import math_equal
assert math_equal("x+1", "1+x")
child = os.fork() == 0
for n in range(40):
    if child:
        assert not math_equal(f"sqrt(2)+{n}", f"sqrt(3)+{n}")
    else:
        assert math_equal(rf"\\frac{{x+{n}}}{{2}}", f"({n}+x)/2")
if child:
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_a_forked_child_has_a_worker_of_its_own(tmp_path: Path) -> None:
    """Neither worker imports a json.py in the working folder: the program prints nothing."""
    (tmp_path / "json.py").write_text("print('run')")
    (tmp_path / "sympy.py").write_text("print('run')")
    environment = {**os.environ, "PYTHONPATH": str(Path(agentdistill.__file__).parents[1])}
    program = f"import sys; sys.path.remove('')\n{FORKED}"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "text", ["5-", r"4\sqrt", "(1", r"\frac{1}", "3 + ", "2 3", r"\foo{3}", "__import__('os')", "x y ? z"]
)
def test_what_is_not_read_whole_is_refused(text: str) -> None:
    with pytest.raises(UnreadError):
        read(text)
    assert math_equal(text, text)


LETTERS = st.sampled_from("abcdkmnrtxyz")
NUMBERS = st.integers(0, 30).map(str)
EXPRESSIONS = st.recursive(
    LETTERS | NUMBERS,
    lambda inner: (
        st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda parts: f"({''.join(parts)})")
        | st.tuples(inner, st.integers(2, 3)).map(lambda parts: f"({parts[0]})**{parts[1]}")
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=100)
@given(EXPRESSIONS, EXPRESSIONS)
def test_expressions_are_equal_if_sympy_says_so(one: str, other: str) -> None:
    """The oracle is sympy's own parser and expansion."""
    same = sympy.expand(sympy.sympify(one, locals=SYMBOLS) - sympy.sympify(other, locals=SYMBOLS)) == 0
    assert equal(one, other) == same
    assert equal(one, sympy.latex(sympy.expand(sympy.sympify(one, locals=SYMBOLS))))


SYMBOLS = {letter: sympy.Symbol(letter) for letter in "abcdkmnrtxyz"}


def test_cases_of_public_reports(shared_data: Path) -> None:
    file = shared_data.parent / "cases" / "public_reports.tsv"
    if not file.is_file():
        pytest.skip(f"there are no public cases at {file}")
    with file.open(newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines, delimiter="\t") if row["area"] == "math"]
    wrong = []
    for row in rows:
        said = re.fullmatch(r"reference '(.*)', answer '(.*)'", row["input"], re.DOTALL)
        assert said, row
        reference, answer = (side.replace("\\\\", "\\").replace("\\n", "\n") for side in said.groups())
        if math_equal(reference, answer, seconds=60) != (row["expected"] == "equal"):
            wrong.append(row["id"])
    assert len(rows) > 30 and not wrong
