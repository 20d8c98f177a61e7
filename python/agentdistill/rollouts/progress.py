"""Progress of a rollout: counts, rates and costs of its episodes, shown to the user and written as JSON."""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.progress import MofNCompleteColumn

from agentdistill._core import Trajectory
from agentdistill.files.replacing import replacing
from agentdistill.progress import Shown
from agentdistill.trajectories import is_undecided, steps_given

METRICS_SECONDS = 2.0
"""Minimum interval between two writes of the JSON file, which is also written at the end."""


class Metrics:
    """Outcomes, costs and times of the episodes so far."""

    def __init__(self, total: int, before: Sequence[Trajectory] = (), retried: Callable[[], int] = lambda: 0) -> None:
        """``before``: the episodes of ``total`` that an earlier run finished. They count only towards outcomes and
        accuracy. ``retried`` returns the number of the model's requests that were retried."""
        self.total = total
        self._retried = retried
        self.outcomes: Counter[str] = Counter()
        self.before = len(before)
        self._graded, self._score, self._undecided = 0, 0.0, 0
        self._steps = self._prompt_tokens = self._completion_tokens = self._cached_tokens = 0
        self._cells: Counter[str] = Counter()
        self._seconds = dict.fromkeys(("model", "sandbox", "tools", "waiting"), 0.0)
        self._start = time.monotonic()
        for trajectory in before:
            self._judge(trajectory)

    def add(self, trajectory: Trajectory) -> None:
        """Add an episode that has ended."""
        self._judge(trajectory)
        prompt, completion = trajectory.usage
        self._prompt_tokens += prompt
        self._completion_tokens += completion
        for step in trajectory.steps[steps_given(trajectory) :]:
            ran = [candidate.observation for candidate in step.candidates if candidate.observation]
            tools = sum(call.seconds for observation in ran for call in observation.tool_calls)
            cells = sum(observation.seconds for observation in ran) - tools
            self._steps += 1
            self._cached_tokens += step.cached_tokens
            self._cells.update(observation.kind for observation in ran)
            self._seconds["model"] += step.model_seconds
            self._seconds["sandbox"] += cells
            self._seconds["tools"] += tools
            # Candidates run in parallel, so the sum of their times may exceed the step's.
            self._seconds["waiting"] += max(0.0, step.seconds - step.model_seconds - cells - tools)

    @property
    def done(self) -> int:
        """Number of episodes that have ended, including those of an earlier run."""
        return self.outcomes.total()

    @property
    def accuracy(self) -> float | None:
        """Mean score of the graded episodes."""
        return self._score / self._graded if self._graded else None

    def to_dict(self) -> dict[str, Any]:
        """All metrics, with units in their names. ``seconds_of_episodes`` are sums over the episodes, which run
        concurrently. "waiting" is the rest of their time: waiting for a free core, for the rest of the model's
        batch, or for the vote."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        here = self.done - self.before
        return {
            "episodes": {"total": self.total, "done": self.done, "of_an_earlier_run": self.before},
            "outcomes": dict(self.outcomes.most_common()),
            "accuracy": self.accuracy,
            "not_graded": self._undecided,
            "seconds": seconds,
            "episodes_per_second": here / seconds,
            "steps": self._steps,
            "cells": dict(self._cells.most_common()),
            "requests_retried": self._retried(),
            "tokens": {
                "prompt": self._prompt_tokens,
                "prompt_cached": self._cached_tokens,
                "completion": self._completion_tokens,
                "completion_per_second": self._completion_tokens / seconds,
            },
            "seconds_of_episodes": dict(self._seconds),
        }

    def state(self) -> str:
        """One line with accuracy, rates, time left and the outcomes of episodes without an answer."""
        known = self.to_dict()
        parts = [f"accuracy {self.accuracy:.1%}"] if self.accuracy is not None else []
        if rate := known["episodes_per_second"]:
            left = timedelta(seconds=round((self.total - self.done) / rate))
            parts.append(f"{rate:.1f}/s" if rate >= 1 else f"{rate * 60:.1f}/min")
            if self._completion_tokens:
                parts.append(f"{known['tokens']['completion_per_second']:,.0f} tokens/s")
            parts.append(f"{left} left")
        parts += [f"{kind} {n}" for kind, n in self.outcomes.most_common() if kind != "final_answer"]
        if self._undecided:
            parts.append(f"not_graded {self._undecided}")
        if retried := self._retried():
            parts.append(f"{retried} requests retried")
        return ", ".join(parts)

    def summary(self) -> str:
        """One line about where time went and how many cells timed out; "" if no episode ended in this run."""
        total = sum(self._seconds.values())
        if not total:
            return ""
        parts = [f"{name} {seconds / total:.0%}" for name, seconds in self._seconds.items()]
        cached = f"; {self._cached_tokens / self._prompt_tokens:.0%} of prompts cached" if self._cached_tokens else ""
        late = (
            f"; {self._cells['timeout']:,} of {self._cells.total():,} cells timed out" if self._cells["timeout"] else ""
        )
        return f"time of episodes: {', '.join(parts)}{cached}{late}"

    def _judge(self, trajectory: Trajectory) -> None:
        self.outcomes[trajectory.outcome] += 1
        if trajectory.score is not None:
            self._graded += 1
            self._score += trajectory.score
        self._undecided += is_undecided(trajectory)


class EpisodeProgress(Shown):
    """Shows episodes as they end."""

    def __init__(self, title: str, metrics: Metrics, file: Path | None = None, *, visible: bool = True) -> None:
        """``file``: the metrics are written to it as JSON, from time to time and at the end."""
        super().__init__(title, metrics.total, MofNCompleteColumn(), visible=visible)
        self._metrics = metrics
        self._file = file
        self._last_file = time.monotonic()

    def advance(self, trajectory: Trajectory) -> None:
        """Count an episode that has ended."""
        self._metrics.add(trajectory)
        self.show()
        if time.monotonic() - self._last_file >= METRICS_SECONDS:
            self._last_file = time.monotonic()
            self._write()

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        if self._visible and (summary := self._metrics.summary()):
            self._print(summary)
        self._write()

    def _done(self) -> float:
        return self._metrics.done

    def _state(self) -> str:
        return self._metrics.state()

    def _line(self) -> str:
        return f"{self._metrics.done}/{self._metrics.total}, {self._metrics.state()}"

    def _write(self) -> None:
        if self._file is not None:
            with replacing(self._file) as new:  # a reader never sees half a file
                new.write_text(json.dumps(self._metrics.to_dict(), indent=1) + "\n", encoding="utf-8")
