"""The vote compared with a slow reference in Python, which parses literals with Python's own parser."""

import ast
import json
import math
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentdistill._core import Observation, ParseFailure, vote

FAILURES = ["exception", "timeout", "out_of_memory", "tool_error", "killed"]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.sampled_from(["1", "1.0", " 1e3", "Paris", "paris", "a  b", " a b", "007", "True", "é\n", "'", '"', "\\", "🙂"]),
    st.text(max_size=5),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
    ),
    max_leaves=6,
)


def normal(value: Any) -> Any:
    """A hashable form that is equal for values that count as the same."""
    match value:
        case bool() | None:
            return ("name", str(value))
        case float() if not math.isfinite(value):
            return ("name", str(value))
        case int() | float():
            return normal(str(value))
        case str():
            text = " ".join(value.split())
            try:
                number = Decimal(text)
            except ArithmeticError:
                return text
            digits = text.lstrip("+-").split("e")[0].split("E")[0].split(".")[0]
            plain = text.isascii() and "_" not in text and " " not in text and number.is_finite()
            padded = len(digits) > 1 and digits.startswith("0")
            return ("number", number + 0) if plain and not padded else text
        case list() | tuple():
            return ("list", *map(normal, value))
        case dict():
            return ("dict", frozenset((normal(key), normal(item)) for key, item in value.items()))
    raise TypeError(value)


@given(values)
@example({"": None, "\r": []})  # keys that differ only in white space
def test_a_value_is_itself_however_written(value: Any) -> None:
    """As its repr, as JSON, and with its dictionaries in reverse order."""

    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(item) for key, item in reversed(value.items())}
        return list(map(turned, value)) if isinstance(value, list | tuple) else value

    same = [Observation("value", value=repr(each)) for each in (value, turned(value))]
    assert vote(same).agreement == 1
    answers = [
        Observation("final_answer", final_answer=str(value), final_answer_json=json.dumps(each, ensure_ascii=ascii))
        for each, ascii in ((value, True), (turned(value), False))
    ]
    assert vote(answers).agreement == 1


@given(values, values)
@example(True, "True")
@example([], "[]")
def test_values_are_the_same_when_the_reference_says_so(one: Any, other: Any) -> None:
    """Within a list. On its own, a text equals whatever prints the same: "True" and True."""
    result = vote([Observation("value", value=repr([each])) for each in (one, other)])
    assert (result.agreement == 1) == (normal(one) == normal(other)), result.counts


@pytest.mark.parametrize("name", ["float64", "float32", "int64", "uint8", "bool_", "str_", "longdouble"])
def test_scalars_of_numpy_are_what_they_hold(name: str) -> None:
    """In the repr of numpy 2: alone, in a list, and as an answer."""
    numpy = pytest.importorskip("numpy")
    scalar = getattr(numpy, name)(1)
    plain = scalar.item() if name != "longdouble" else 1.0
    for one, other in ((repr(scalar), repr(plain)), (repr([scalar, scalar]), repr([plain, plain]))):
        assert vote([Observation("value", value=one), Observation("value", value=other)]).agreement == 1, one
        wrong = [Observation("value", value=text) for text in (one, other.replace("1", "2").replace("True", "False"))]
        assert vote(wrong).agreement == 0.5, one
    answers = [Observation("final_answer", final_answer=text) for text in (repr(scalar), str(plain))]
    assert vote(answers).agreement == 1


@pytest.mark.parametrize("text", ["np.float64(3.0", "np.array(3)", "np.float64()", "np.float64(3.0) + 1", "npx(3)"])
def test_what_is_no_scalar_stays_text(text: str) -> None:
    assert vote([Observation("value", value=text), Observation("value", value="3.0")]).agreement == 0.5


outcomes = st.sampled_from(["1", "1.0", "2", "'a b'", "'a  b'", "x y", None])
candidates = st.one_of(
    st.builds(lambda kind: Observation(kind, stdout="1"), st.sampled_from(FAILURES)),
    st.just(ParseFailure("no_action", "")),
    st.builds(
        lambda value, out: Observation("value", value=value, stdout=out), outcomes, st.sampled_from(["", "1", "1.0\n"])
    ),
    st.builds(
        lambda answer: Observation("final_answer", final_answer=answer, stdout="noise"),
        st.sampled_from(["1", "1.0", "b"]),
    ),
)


@given(st.lists(candidates, max_size=12), st.booleans())
def test_the_majority_wins(observations: list[Observation | ParseFailure], reference: bool) -> None:
    def outcome(observation: Observation) -> Any:
        def read(text: str) -> Any:
            try:
                return normal(ast.literal_eval(text.strip()))
            except (ValueError, SyntaxError):
                return normal(text)

        if reference:
            return observation.stdout
        if observation.final_answer is not None:
            return ("answer", read(observation.final_answer))
        value = None if observation.value is None else (read(observation.value),)
        return ("ran", read(observation.stdout), value)

    did = {
        index: outcome(observation)
        for index, observation in enumerate(observations)
        if isinstance(observation, Observation) and observation.kind in ("value", "final_answer")
    }
    result = vote(observations, compat="reference" if reference else None)
    assert result.dropped == [index for index in range(len(observations)) if index not in did]
    counts = Counter(did.values()).most_common()
    assert [votes for _, votes in result.counts] == [votes for _, votes in counts]
    if counts:
        best, votes = counts[0]  # ties: first seen first
        assert result.winner == next(index for index, outcome in did.items() if outcome == best)
        assert result.agreement == votes / len(did)
    else:
        assert result.winner == (0 if reference and observations else None)
        assert result.agreement == 0


def test_compat_is_reference_or_nothing() -> None:
    with pytest.raises(ValueError, match='compat is "reference" or None, not "paper"'):
        vote([], compat="paper")  # type: ignore[arg-type]
