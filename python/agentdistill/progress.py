"""How a rollout is doing: a bar where there is a terminal, a line now and then where there is none. All on standard
error."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from agentdistill._core import Trajectory

LINE_SECONDS = 15.0
"""Without a terminal, at most one line in so many seconds."""


class EpisodeProgress:
    """Counts episodes as they end; as a context manager, shows them meanwhile and a summary at the end."""

    def __init__(self, title: str, total: int, before: Sequence[Trajectory] = (), *, visible: bool = True) -> None:
        """``before``: what an earlier run had done of the ``total``. It counts for all but the rate."""
        self.total = total
        self.done = 0
        self._title = title
        self._visible = visible
        self._graded = self._score = 0.0
        self._outcomes: Counter[str] = Counter()
        for trajectory in before:
            self._count(trajectory)
        self._before = self.done
        self._start = self._last_line = time.monotonic()
        console = Console(stderr=True)
        self._bar: Progress | None = None
        if visible and console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=16),
                MofNCompleteColumn(),
                TextColumn("{task.fields[state]}"),
            )
            self._bar = Progress(*columns, console=console)
            self._task = self._bar.add_task(title, total=total, completed=self.done, state=self._state())

    def advance(self, trajectory: Trajectory) -> None:
        """One more has ended."""
        self._count(trajectory)
        if self._bar:
            self._bar.update(self._task, completed=self.done, state=self._state())
        elif self._visible and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._print_line()

    def __enter__(self) -> "EpisodeProgress":
        self._start = self._last_line = time.monotonic()
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()
        elif self._visible:
            self._print_line()

    def _count(self, trajectory: Trajectory) -> None:
        self.done += 1
        self._outcomes[trajectory.outcome] += 1
        if trajectory.score is not None:
            self._graded += 1
            self._score += trajectory.score

    def _state(self) -> str:
        """Accuracy so far, rate, time left, and how episodes failed."""
        seconds = time.monotonic() - self._start
        here = self.done - self._before
        parts = [f"accuracy {self._score / self._graded:.1%}"] if self._graded else []
        if here:
            rate = here / max(seconds, 1e-9)
            left = timedelta(seconds=round((self.total - self.done) / rate))
            parts += [f"{rate:.1f}/s" if rate >= 1 else f"{rate * 60:.1f}/min", f"{left} left"]
        parts += [f"{kind} {n}" for kind, n in self._outcomes.most_common() if kind != "final_answer"]
        return ", ".join(parts)

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        print(f"{self._title}: {self.done}/{self.total}, {self._state()}".rstrip(", "), file=sys.stderr, flush=True)
