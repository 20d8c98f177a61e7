"""Grading: tricky pairs of both kinds, what must never be equal, and a worker that hangs, dies and comes back."""

import json
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdistill import grading
from agentdistill.grading import Grade, exact_match, f1, grade, math_equal, normalize
from agentdistill.task import Task, load_tasks

FACTS = [
    ("Cahiers du cinéma", "cahiers du cinéma", 1, 1.0),
    ("the late 12th Century", "Late 12th century.", 1, 1.0),
    ('"The Marshall Mathers LP 2"', "Marshall Mathers LP 2", 1, 1.0),
    ("Pirate's Cove", "Pirates Cove", 1, 1.0),
    ("2,523", "2523", 1, 1.0),
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
    ("!!!", "!!!", 1, 1.0),
    ("!!!", "???", 0, 0.0),
]


@pytest.mark.parametrize("reference, answer, exact, overlap", FACTS)
def test_facts(reference: str, answer: str, exact: int, overlap: float) -> None:
    assert exact_match(reference, answer) == bool(exact)
    assert f1(reference, answer) == pytest.approx(overlap)
    task = Task("1", "?", reference)
    assert grade(task, answer) == Grade(float(exact), pytest.approx(max(exact, overlap)), "exact_match-1")


@given(st.text(), st.text())
def test_facts_are_symmetric_and_bounded(one: str, other: str) -> None:
    assert 0 <= f1(one, other) == f1(other, one) <= 1
    assert normalize(normalize(one)) == normalize(one) or not exact_match(one, one)
    if one.strip():
        assert exact_match(one, one)


EQUAL = [
    # numbers, decided without math-verify
    *[
        ("13138980.0", number)
        for number in ("13138980", "13,138,980", "13138980.00", "1.313898e7", r"\boxed{13138980}")
    ],
    *[
        ("5", text)
        for text in ("$5", "$5$", r"\$5", "5.", "5.0", "x = 5", r"\(5\)", "5 apples", "The answer is 5.", "+5")
    ],
    *[("5", text) for text in ("**5**", "[5]", "\n5\n", r"\text{5}", r"The answer is $x = \boxed{5}$.")],
    ("-5", "\N{MINUS SIGN}5"),
    (r"\frac{14}{3}", "14/3"),
    (r"\frac{14}{3}", "Fraction(14, 3)"),
    (r"\dfrac{15}{56}", r"\frac{15}{56}"),
    (r"\frac45", "0.8"),
    (r"-\frac{11}{16}", "-11/16"),
    (r"1\frac{1}{2}", "1.5"),
    (r"1\frac12", "3/2"),
    (r"12,\!650", "12650"),
    (r"\$32,\!348", "$32,348"),
    ("30,951", "30951"),
    (r"10\%", "10"),
    (r"10\%", "10%"),
    (r"10\%", "0.1"),
    ("0.5", "50%"),
    (r"90^\circ", "90"),
    (r"90^\circ", "90 degrees"),
    (r"180\text{ miles}", "180"),
    (r"5.4 \text{ cents}", "5.4"),
    ("561161.7000000001", "561161.7"),
    ("5031.9785714286", "5031.97857142857"),
    ("3.509e-07", "3.50877e-07"),
    ("0.0000003509", "3.509*10^{-7}"),
    (r"1.5 \times 10^{3}", "1500"),
    # words
    (r"\text{Evelyn}", "Evelyn"),
    (r"\text{Evelyn}", "evelyn."),
    (r"\text{two lines}", "Two lines"),
    (r"\text{(C)}", "C"),
    ("(C)", r"\textbf{C}"),
    # everything else, decided by math-verify
    (r"3\sqrt{13}", "3*sqrt(13)"),
    (r"11\sqrt2", "11*sqrt(2)"),
    (r"4 \sqrt{2}", "4\N{SQUARE ROOT}2"),
    (r"\frac{\sqrt{3}}{3}", "1/sqrt(3)"),
    (r"\frac{3+\sqrt{5}}{2}", "(3 + sqrt(5))/2"),
    (r"70 \sqrt{2}", "98.99494936611666"),
    (r"\pi", "3.14159265358979"),
    (r"\frac{\pi}{6}", "pi/6"),
    ("6 - 5i", "6 - 5*I"),
    ("p - q", "-q + p"),
    ("x=5", "5"),
    (r"x^5 - x^4 + x^3", "x**5 - x**4 + x**3"),
    ("2^{2008} - 2", "2**2008 - 2"),
    ("(-9x^2+x+2)(9x^2+x+2)", "(9*x**2 + x + 2)*(-9*x**2 + x + 2)"),
    ("2x - y + 2z - 18 = 0", "2x-y+2z=18"),
    (r"\left( 3, \frac{\pi}{2} \right)", "(3, pi/2)"),
    (r"(-\infty,-8]\cup [8,\infty)", "(-oo, -8] U [8, oo)"),
    ("1,-2", "-2, 1"),
    ("3, 5, 7", "[3, 5, 7]"),
    (r"\begin{pmatrix}16 & -2 \\ 0 & 4 \end{pmatrix}", r"\begin{pmatrix} 16&-2\\0&4\end{pmatrix}"),
]

DIFFERENT = [
    ("13138980.0", "13138981"),
    ("561161.7", "561162"),
    ("1509980.5", "1509980.9"),
    ("33.333333333", "33.33"),
    ("3.509e-07", "0"),
    ("5", "-5"),
    ("63543858974818432", "63543858974818433"),
    ("9435680550.0", "9435680551"),
    ("5", "50"),
    ("0.5", "0.05"),
    (r"10\%", "1000"),
    ("12", "1,2"),
    ("1", "True"),
    ("0", "None"),
    ("5", "between 3 and 5"),
    ("5", "yes"),
    ("5", "x"),
    ("5", ""),
    ("5", " "),
    ("5", "5" * 3000),
    ("7", "1/0"),
    ("1", "1e999999999"),
    ("1", "__import__('os').abort()"),
    (r"\text{listen}", "silent"),
    (r"\frac{1}{2}", r"\frac{1}{3}"),
    ("(3,4)", "(4,3)"),
    ("[1,2)", "(1,2]"),
    ("x+1", "x-1"),
    (r"\sqrt{2}", "1.41"),
    ("1,2,3", "1,2"),
]


@pytest.mark.parametrize("reference, answer", EQUAL)
def test_equal_values(reference: str, answer: str) -> None:
    assert math_equal(reference, answer)


@pytest.mark.parametrize("reference, answer", DIFFERENT)
def test_different_values(reference: str, answer: str) -> None:
    assert not math_equal(reference, answer)


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
    start = time.monotonic()
    wrong = [
        (task.answer, dressed)
        for task in tasks
        for dressed in (rf"\boxed{{{task.answer}}}", f"The answer is ${task.answer}$.")
        if grade(task, dressed).score != 1
    ]
    assert not wrong
    assert time.monotonic() - start < 60


def test_answers_of_the_paper_are_not_those_of_their_neighbours(shared_data: Path) -> None:
    answers = [str(e["answer"]) for e in json.loads(next((shared_data / "tasks").glob("gsm*")).read_text())["examples"]]
    assert [pair for pair in pairwise(answers) if math_equal(*pair)] == [p for p in pairwise(answers) if p[0] == p[1]]


def test_a_comparison_that_hangs_is_not_equal_and_the_next_one_works() -> None:
    assert math_equal(r"\sqrt{8}", r"2\sqrt{2}")
    start = time.monotonic()
    assert not math_equal("x", "9^{9^{9^{9^{9}}}}+x", seconds=1)
    assert time.monotonic() - start < 10
    assert math_equal(r"\sqrt{8}", r"2\sqrt{2}")


def test_a_worker_that_died_is_replaced() -> None:
    assert math_equal(r"\sqrt{8}", r"2\sqrt{2}")
    worker = grading._math_verify._process
    assert worker is not None
    worker.kill()
    worker.wait()
    assert not math_equal(r"\sqrt{18}", r"3\sqrt{2}")  # this one is lost with it
    assert math_equal(r"\sqrt{18}", r"3\sqrt{2}")


def test_grades() -> None:
    task = Task("1", "?", "5", kind="math")
    assert grade(task, "5.0")[:2] == (1.0, 1.0)
    assert grade(task, "6")[:2] == grade(task, None)[:2] == (0.0, 0.0)
    assert grade(task, "5").grader.startswith("math-1+math-verify-")
    with pytest.raises(ValueError, match="'2' has no answer to compare with"):
        grade(Task("2", "?"), "5")
