"""How far a rollout, or an index, is: a bar where there is a terminal, a line now and then where there is none. All on
standard error."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn

from agentdistill._core import Trajectory

LINE_SECONDS = 15.0
"""Without a terminal, at most one line in so many seconds."""


class Shown:
    """What is shown of something under way; a context manager, which shows a last line at the end."""

    def __init__(self, title: str, total: float, *columns: ProgressColumn, visible: bool = True) -> None:
        """``columns``: what stands between a terminal's bar and the state."""
        self._title = title
        self._visible = visible
        self._start = self._last_line = time.monotonic()
        console = Console(stderr=True)
        self._bar: Progress | None = None
        if visible and console.is_terminal:
            text = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=16),
                *columns,
                TextColumn("{task.fields[state]}"),
            )
            self._bar = Progress(*text, console=console)
            self._task = self._bar.add_task(title, total=total, state="")

    def _done(self) -> float:
        """How much of the total."""
        raise NotImplementedError

    def _state(self) -> str:
        """All else there is to say."""
        raise NotImplementedError

    def _line(self) -> str:
        """The state where there is no bar."""
        return self._state()

    def show(self) -> None:
        if self._bar:
            self._bar.update(self._task, completed=self._done(), state=self._state())
        elif self._visible and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._print_line()

    def __enter__(self) -> Self:
        self._start = self._last_line = time.monotonic()
        if self._bar:
            self.show()
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()
        elif self._visible and self._done():
            self._print_line()

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        print(f"{self._title}: {self._line()}".rstrip(", "), file=sys.stderr, flush=True)


class IndexProgress(Shown):
    """Passages as they are indexed. To be called as ``Bm25Index.build`` calls its ``progress``."""

    def __init__(self) -> None:
        super().__init__("index", 1.0)
        self._passages = 0
        self._share: float | None = None

    def __call__(self, passages: int, share: float | None) -> None:
        """``share``: of the files, how much has been read; None where it is not known."""
        self._passages, self._share = passages, share
        self.show()

    def _done(self) -> float:
        return self._share or 0.0

    def _state(self) -> str:
        """Passages so far, rate, and time left until all are read; then the parts of the index are merged."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        parts = [f"{self._passages:,} passages", f"{self._passages / seconds:,.0f}/s"]
        if self._share == 1:
            parts.append("merging")
        elif self._share:
            parts.append(f"{timedelta(seconds=round(seconds / self._share - seconds))} left")
        return ", ".join(parts)


class EpisodeProgress(Shown):
    """Episodes as they end, and a summary of them at the end."""

    def __init__(self, title: str, total: int, before: Sequence[Trajectory] = (), *, visible: bool = True) -> None:
        """``before``: what an earlier run had done of the ``total``. It counts for all but the rate."""
        super().__init__(title, total, MofNCompleteColumn(), visible=visible)
        self.total = total
        self.done = 0
        self._graded = self._score = 0.0
        self._outcomes: Counter[str] = Counter()
        for trajectory in before:
            self._count(trajectory)
        self._before = self.done

    def advance(self, trajectory: Trajectory) -> None:
        """One more has ended."""
        self._count(trajectory)
        self.show()

    def _done(self) -> float:
        return self.done

    def _line(self) -> str:
        return f"{self.done}/{self.total}, {self._state()}"

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
