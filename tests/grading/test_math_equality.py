"""Equality of mathematical answers: pairs judged by hand, what must hold for all, and a worker that hangs, dies and
comes back."""

import json
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdistill.grading import math_equality
from agentdistill.grading.grade import grade
from agentdistill.grading.math_equality import math_equal
from agentdistill.tasks.loading import load_tasks

GOLDEN = Path(__file__).parents[1] / "golden"


def rows(name: str) -> list[list[str]]:
    lines = (GOLDEN / name).read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines if line and not line.startswith("#")]


PAIRS = rows("math_answers.tsv")
DIFFERENCES = rows("math_answers_differences.tsv")


def test_pairs_judged_by_hand() -> None:
    """All but the differences known: one that is gone is to be struck from their file."""
    assert len(PAIRS) >= 700 and {relation for _, relation, *_ in PAIRS} == {"=", "!="}
    assert len({(reference, answer) for reference, _, answer, *_ in PAIRS}) == len(PAIRS)
    differing = [
        (reference, answer)
        for reference, relation, answer, *_ in PAIRS
        if math_equal(reference, answer, seconds=60) != (relation == "=")
    ]
    assert differing == [(reference, answer) for reference, answer, _ in DIFFERENCES]


@pytest.mark.parametrize("answer", ["", " ", "5" * 3000])
def test_no_answer_is_wrong(answer: str) -> None:
    assert not math_equal("5", answer)
    assert math_equal("5", "\n5\n")


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
    worker = math_equality._math_verify._process
    assert worker is not None
    worker.kill()
    worker.wait()
    assert not math_equal(r"\sqrt{18}", r"3\sqrt{2}")  # this one is lost with it
    assert math_equal(r"\sqrt{18}", r"3\sqrt{2}")
