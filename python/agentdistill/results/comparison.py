"""Is one arm better than another, or was it luck? Two arms that worked on the same tasks, compared task by task.

Pairing tells more than two intervals side by side: what counts is the tasks that only one of the two got right. Not
here: intervals of one accuracy (evaluation.py).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Difference(NamedTuple):
    """One arm against another, over the tasks that both have."""

    n: int
    only_first: int
    """Tasks that only the first got right."""
    only_second: int
    difference: float
    """Mean accuracy of the first less that of the second, each task set counting the same."""
    low: float
    """Lower end of the difference's 95 % interval (Agresti and Min 2005, set by set)."""
    high: float
    p: float
    """Probability of tasks at least so unevenly shared, if the arms were equally good (exact McNemar test, all sets
    together)."""


def compare(first: Mapping[tuple[str, str], bool], second: Mapping[tuple[str, str], bool]) -> Difference | None:
    """Compare two arms: ``(task set, task) -> whether it was right``. None when they share no task."""
    shared = first.keys() & second.keys()
    if not shared:
        return None
    sizes = Counter(task_set for task_set, _ in shared)
    won = Counter(key[0] for key in shared if first[key] and not second[key])
    lost = Counter(key[0] for key in shared if second[key] and not first[key])
    difference = sum((won[name] - lost[name]) / n for name, n in sizes.items()) / len(sizes)
    # Half a task more in each of the four cells: without it, two arms that never differ would be equal for certain.
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
        mcnemar(won.total(), lost.total()),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """p of the exact two-sided McNemar test: of a fair coin that fell at least so unevenly.

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
    """The p of several tests, each raised so that all that stay under a level are right together at it (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    raised, least = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        least = max(least, min(1.0, (len(ps) - rank) * ps[i]))
        raised[i] = least
    return raised
