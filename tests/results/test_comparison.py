"""Comparison of two arms: the exact test against counting all outcomes, and the interval against resampling."""

import random
from fractions import Fraction
from itertools import product

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from agentdistill.results.comparison import compare, holm, mcnemar, sign_flips


def by_counting(only_first: int, only_second: int) -> Fraction:
    """The share of all outcomes of this many fair coins that are at least this uneven."""
    n = only_first + only_second
    falls = [abs(n - 2 * sum(coins)) for coins in product((0, 1), repeat=n)]
    return Fraction(sum(fall >= abs(only_first - only_second) for fall in falls), len(falls))


@pytest.mark.parametrize(("only_first", "only_second"), [(b, n - b) for n in range(9) for b in range(n + 1)])
def test_mcnemar_is_exact(only_first: int, only_second: int) -> None:
    assert mcnemar(only_first, only_second) == float(by_counting(only_first, only_second))


@given(st.integers(0, 3_000), st.integers(0, 3_000))
def test_mcnemar_is_the_binomial_test_of_scipy(only_first: int, only_second: int) -> None:
    n = only_first + only_second
    expected = scipy.stats.binomtest(only_first, n).pvalue if n else 1.0
    assert mcnemar(only_first, only_second) == pytest.approx(expected, rel=1e-6)


def test_mcnemar_of_many_tasks() -> None:
    assert mcnemar(6_000, 4_000) < 1e-80
    assert mcnemar(5_000, 5_000) == 1.0


def all_ways(sets: list[tuple[int, int, int]]) -> float:
    """The share of all assignments of the tasks that only one arm got right with a mean at least this large."""
    weights = [Fraction(1, size) for size, won, lost in sets for _ in range(won + lost)]
    seen = abs(sum(Fraction(won - lost, size) for size, won, lost in sets))
    means = [
        abs(sum(map(Fraction.__mul__, weights, map(Fraction, signs))))
        for signs in product((-1, 1), repeat=len(weights))
    ]
    return float(Fraction(sum(mean >= seen for mean in means), len(means)))


SETS = {
    "the large set says one thing, the small one another": [(500, 6, 2), (20, 0, 2)],
    "both say the same": [(40, 4, 0), (10, 3, 0)],
    "sets of one size": [(10, 4, 1), (10, 0, 3)],
    "one set decides nothing": [(7, 2, 2), (30, 5, 1)],
    "no difference at all": [(7, 0, 0), (9, 0, 0)],
}


@pytest.mark.parametrize("case", SETS)
def test_the_test_of_a_mean_over_sets_is_the_share_of_all_ways(case: str) -> None:
    assert sign_flips(SETS[case]) == pytest.approx(all_ways(SETS[case]), abs=0.005)


def test_the_sign_of_a_difference_and_its_p_are_of_one_quantity() -> None:
    """Pooled, the first arm wins 12 to 4. By the mean over the sets, the second arm wins, and that mean is tested."""
    sizes = {"large": 1000, "small": 10}
    keys = [(name, str(i)) for name, size in sizes.items() for i in range(size)]
    only = {"first": {("large", str(i)) for i in range(12)}, "second": {("small", str(i)) for i in range(4)}}
    found = compare(*({key: key in only[arm] for key in keys} for arm in ("first", "second")))
    assert found is not None and found.difference < 0
    assert found.p == pytest.approx(all_ways([(1000, 12, 0), (10, 0, 4)]), abs=0.005) and found.p > mcnemar(12, 4)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_rejects_as_its_procedure_does(ps: list[float]) -> None:
    raised = holm(ps)
    for level in (0.01, 0.05, 0.3):
        rejected = set[int]()
        for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):  # from the smallest p upwards
            if (len(ps) - rank) * ps[i] > level:
                break
            rejected.add(i)
        assert {i for i, p in enumerate(raised) if p <= level} == rejected


Answers = dict[tuple[str, str], bool]
answers = st.dictionaries(st.tuples(st.sampled_from("xyz"), st.sampled_from("123456789")), st.booleans(), max_size=20)


@given(answers, answers)
def test_a_comparison_is_the_same_from_both_sides(first: Answers, second: Answers) -> None:
    one, other = compare(first, second), compare(second, first)
    if one is None or other is None:
        assert one is other is None and not first.keys() & second.keys()
        return
    assert (one.n, one.only_first, one.only_second, one.p) == (other.n, other.only_second, other.only_first, other.p)
    assert (one.difference, one.low, one.high) == pytest.approx((-other.difference, -other.high, -other.low))
    assert -1 <= one.low < one.high <= 1


def test_the_interval_is_that_of_resampling() -> None:
    chance = random.Random(1)
    sizes = {"small": 60, "large": 300}
    keys = [(name, str(i)) for name, size in sizes.items() for i in range(size)]
    first = {key: chance.random() < 0.6 for key in keys}
    second = {key: first[key] if chance.random() < 0.7 else chance.random() < 0.4 for key in keys}
    found = compare(first, second)
    assert found is not None

    def resampled() -> float:
        of = {name: [key for key in keys if key[0] == name] for name in sizes}
        means = [
            sum(first[k] - second[k] for k in chance.choices(of[name], k=size)) / size for name, size in sizes.items()
        ]
        return sum(means) / len(means)

    draws = sorted(resampled() for _ in range(2000))
    assert (found.low, found.high) == pytest.approx((draws[50], draws[1949]), abs=0.012)
    assert sum(draws) / len(draws) == pytest.approx(found.difference, abs=0.003)
