"""Compare two arms on the same tasks by a paired test: is one better, or is the difference due to chance?

A paired test is more sensitive than two separate intervals, since only tasks that one of the two got right count. The
difference, its interval and p all refer to the mean over the task sets, each with the same weight. Not here: intervals
of one accuracy (evaluation.py).
"""

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Difference(NamedTuple):
    """One arm compared with another, on the tasks that both have."""

    n: int
    only_first: int
    """Tasks that only the first arm got right."""
    only_second: int
    difference: float
    """Mean accuracy of the first minus that of the second, with the same weight for each task set."""
    low: float
    """Lower end of the difference's 95 % interval (Agresti and Min 2005, set by set)."""
    high: float
    p: float
    """Probability of a difference at least this large if the arms were equally good (:func:`sign_flips`)."""


def compare(first: Mapping[tuple[str, str], bool], second: Mapping[tuple[str, str], bool]) -> Difference | None:
    """Compare two arms, given as ``(task set, task) -> whether it was right``. None if they share no task."""
    shared = first.keys() & second.keys()
    if not shared:
        return None
    sizes = Counter(task_set for task_set, _ in shared)
    won = Counter(key[0] for key in shared if first[key] and not second[key])
    lost = Counter(key[0] for key in shared if second[key] and not first[key])
    difference = sum((won[name] - lost[name]) / n for name, n in sizes.items()) / len(sizes)
    # Add half a task to each of the four cells. Otherwise two arms that never differ would have an interval of width 0.
    middle = variance = 0.0
    for name, size in sizes.items():
        n, b, c = size + 2, won[name] + 0.5, lost[name] + 0.5
        middle += (b - c) / n / len(sizes)
        variance += (b + c - (b - c) ** 2 / n) / n**2 / len(sizes) ** 2
    half = 1.959964 * math.sqrt(variance)
    return Difference(
        len(shared),
        won.total(),
        lost.total(),
        difference,
        max(-1.0, middle - half),
        min(1.0, middle + half),
        sign_flips([(size, won[name], lost[name]) for name, size in sizes.items()]),
    )


DRAWS = 100_000
"""Samples of the test for sets of different sizes. At p = 0.05 the standard error is about 0.0007."""


def sign_flips(sets: Sequence[tuple[int, int, int]]) -> float:
    """p of the two-sided paired permutation test of a mean over task sets with equal weights.

    A set is its size and the numbers of tasks that only the first and only the second arm got right. If the arms were
    equally good, each of these tasks would be equally likely to belong to either arm. p is the share of all assignments
    that make the absolute mean at least this large. If all sets have the same size, this is the exact McNemar test;
    otherwise it is estimated from ``DRAWS`` samples with a fixed seed.

    >>> sign_flips([(10, 1, 5)])
    0.21875
    """
    by_size: dict[int, tuple[int, int]] = {}
    for size, won, lost in sets:
        before = by_size.get(size, (0, 0))
        by_size[size] = before[0] + won, before[1] + lost
    if len(by_size) == 1:
        return mcnemar(*next(iter(by_size.values())))
    common = math.lcm(*by_size)
    groups = [(common // size, won + lost) for size, (won, lost) in sorted(by_size.items()) if won + lost]
    seen = abs(sum((won - lost) * common // size for size, (won, lost) in by_size.items()))
    chance, reached = random.Random(0), 0
    for _ in range(DRAWS):
        drawn = sum(weight * (2 * chance.getrandbits(n).bit_count() - n) for weight, n in groups)
        reached += abs(drawn) >= seen
    return (reached + 1) / (DRAWS + 1)


def mcnemar(only_first: int, only_second: int) -> float:
    """p of the exact two-sided McNemar test: the probability of a split at least this uneven with a fair coin.

    >>> mcnemar(1, 5)
    0.21875
    """
    n = only_first + only_second
    tail, ways = 0, 1  # ways: n over k
    for k in range(min(only_first, only_second) + 1):
        tail += ways
        ways = ways * (n - k) // (k + 1)
    return min(1.0, 2 * tail / (1 << n))


def holm(ps: Sequence[float]) -> list[float]:
    """p values of several tests, adjusted for the number of tests (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    raised, least = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        least = max(least, min(1.0, (len(ps) - rank) * ps[i]))
        raised[i] = least
    return raised
