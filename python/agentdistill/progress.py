"""Show progress: as a bar in a terminal or a notebook, and elsewhere as an occasional line on standard error.

Not here: the progress of rollouts, with its summary and its JSON file (rollouts/progress.py).
"""

import html
import sys
import time
from abc import ABC, abstractmethod
from datetime import timedelta
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from agentdistill.terminal import write

RESUME_HINT = "Run the same command again to resume."
"""The end of every message about work that was interrupted but saved."""

LINE_SECONDS = 15.0
"""Without a terminal, the minimum time between two lines, in seconds."""

NOTEBOOK_SECONDS = 0.25
"""In a notebook, the minimum time between two updates, in seconds."""


class Shown(ABC):
    """The progress of something; a context manager that shows a final line when it exits."""

    def __init__(self, title: str, total: float, *columns: ProgressColumn, visible: bool = True) -> None:
        """``columns`` are shown between a terminal's bar and the state."""
        self._title = title
        self._total = total
        self._visible = visible
        self._last_line = time.monotonic()
        console = Console(stderr=True)
        self._bar: Progress | None = None
        if visible and console.is_terminal:
            title_and_bar = TextColumn("{task.description}"), BarColumn(bar_width=16)
            self._bar = Progress(*title_and_bar, *columns, TextColumn("{task.fields[state]}"), console=console)
            self._task = self._bar.add_task(title, total=total, state="")
        self._in_notebook = visible and console.is_jupyter
        self._cell: Any = None  # the display handle there

    @abstractmethod
    def _done(self) -> float:
        """How much of the total is done."""

    @abstractmethod
    def _state(self) -> str:
        """Everything else to show."""

    def _line(self) -> str:
        """The text to show without a bar."""
        return self._state()

    def show(self) -> None:
        pause = NOTEBOOK_SECONDS if self._cell else LINE_SECONDS
        if self._bar:
            self._bar.update(self._task, completed=self._done(), state=self._state())
        elif self._visible and time.monotonic() - self._last_line >= pause:
            self._last_line = time.monotonic()
            self._show_line()

    def __enter__(self) -> Self:
        if self._bar:
            self.show()
            self._bar.start()
        elif self._in_notebook:
            from IPython.display import display  # installed, since this process is its kernel

            self._cell = display(self._displayed(self._line()), raw=True, display_id=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()
        elif self._visible and self._done():
            self._show_line()

    def _show_line(self) -> None:
        if self._cell:
            self._cell.update(self._displayed(self._line()), raw=True)
        else:
            self._print(self._line())

    def _displayed(self, line: str) -> dict[str, str]:
        """For a notebook: a line and, as HTML, a bar. Unlike a widget, it is saved in the notebook's file."""
        line = self._titled(line)
        bar = f'<progress max="{self._total}" value="{self._done()}"></progress>'
        return {"text/plain": line, "text/html": f"{bar} {html.escape(line)}"}

    def _print(self, line: str) -> None:
        write(f"{self._titled(line)}\n", sys.stdout if self._cell else sys.stderr)

    def _titled(self, line: str) -> str:
        return f"{self._title}: {line}".rstrip(", ")


class StepProgress(Shown):
    """Steps of a training run. The caller keeps ``step`` and ``value`` up to date."""

    def __init__(self, title: str, total: int, name: str = "loss") -> None:
        """``name`` says what ``value`` is."""
        super().__init__(title, total, MofNCompleteColumn(), TimeRemainingColumn())
        self.step = 0
        self.value = "?"
        self._name = name

    def _done(self) -> float:
        return self.step

    def _state(self) -> str:
        return f"{self._name} {self.value}"

    def _line(self) -> str:
        return f"step {self.step}/{self._total}, {self._state()}"


class GradeProgress(Shown):
    """Graded answers."""

    def __init__(self, total: int, *, visible: bool = True) -> None:
        super().__init__("grade", total, MofNCompleteColumn(), visible=visible)
        self._graded = 0

    def advance(self) -> None:
        """Count one more graded answer."""
        self._graded += 1
        self.show()

    def _done(self) -> float:
        return self._graded

    def _state(self) -> str:
        return ""

    def _line(self) -> str:
        return f"{self._graded}/{self._total}"


class FileProgress(Shown):
    """Records read from files. An instance can be the ``progress`` of ``Bm25Index.build``."""

    def __init__(self, title: str, records: str, last: str, *, visible: bool = True) -> None:
        """``records`` says what the records are, and ``last`` what happens after all are read."""
        super().__init__(title, 1.0, visible=visible)
        self._start = time.monotonic()
        self._records, self._last = records, last
        self._read = 0
        self._share: float | None = None

    def __call__(self, read: int, share: float | None) -> None:
        """``share`` of the files has been read; None if it is unknown."""
        self._read, self._share = read, share
        self.show()

    def _done(self) -> float:
        return self._share or 0.0

    def _state(self) -> str:
        """Records so far, rate, and remaining time; after reading, the last phase."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        parts = [f"{self._read:,} {self._records}", f"{self._read / seconds:,.0f}/s"]
        if self._share == 1:
            parts.append(self._last)
        elif self._share:
            parts.append(f"{timedelta(seconds=round(seconds / self._share - seconds))} left")
        return ", ".join(parts)
