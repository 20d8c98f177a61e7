"""Results to look at: a table for the terminal, a plot, and one self-contained page with trajectories to read.

Not here: how results come about (evaluation.py), and a viewer for whole trajectory files.
"""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from agentdistill._core import Observation, Trajectory
from agentdistill.evaluation import wilson_interval


class Row(NamedTuple):
    """The accuracy of one arm (a way to train and run) at one size on one task set."""

    arm: str
    size: str
    parameters: int
    task_set: str
    accuracy: float
    n: int
    """Tasks."""
    seconds: float
    """Time that the evaluation took."""


def table(rows: Sequence[Row]) -> str:
    """A line for each size and arm, a column for each task set, and their mean (each set counting the same)."""
    sets = _distinct(row.task_set for row in rows)
    lines = [("size", "parameters", "arm", *sets, "mean")]
    for (size, arm), cells in _lines(rows).items():
        accuracies = [f"{cells[s].accuracy:.1%}" if s in cells else "" for s in sets]
        parameters = f"{next(iter(cells.values())).parameters / 1e6:.2f} M"
        lines.append((size, parameters, arm, *accuracies, f"{mean(cells.values()):.1%}"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = tuple("-" * width for width in widths)
    aligned = [
        "  ".join(
            cell.ljust(w) if i in (0, 2) else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in [lines[0], rule, *lines[1:]]
    ]
    return "\n".join(line.rstrip() for line in aligned)


def mean(rows: Iterable[Row]) -> float:
    """The mean accuracy over task sets, each counting the same, as the paper averages."""
    accuracies = [row.accuracy for row in rows]
    return sum(accuracies) / len(accuracies)


def plot(rows: Sequence[Row], output: str | Path) -> None:
    """A PNG: accuracy by size, a line for each arm; one panel for the mean, and one for each task set with 95 % intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sets, arms, sizes = (_distinct(getattr(row, name) for row in rows) for name in ("task_set", "arm", "size"))
    panels: list[tuple[str, list[Row]]] = [("mean", list(rows))]
    panels += [(task_set, [row for row in rows if row.task_set == task_set]) for task_set in sets]
    columns = min(3, len(panels))
    height = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * height), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (title, shown) in enumerate(panels, start=1):
        axes = figure.add_subplot(height, columns, number)
        for arm in arms:
            points = {size: [r for r in shown if r.arm == arm and r.size == size] for size in sizes}
            here = [size for size in sizes if points[size]]
            values = [mean(points[size]) for size in here]
            ends = [_interval(points[size]) for size in here]
            errors = [
                [v - low for v, (low, _) in zip(values, ends, strict=True)],
                [high - v for v, (_, high) in zip(values, ends, strict=True)],
            ]
            axes.errorbar(here, values, yerr=errors, marker="o", capsize=3, label=arm)
        axes.set_title(title)
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.grid(alpha=0.3)
        if number == 1:
            axes.legend()
    figure.savefig(output, dpi=120)


def page(
    title: str,
    introduction: str,
    rows: Sequence[Row],
    trajectories: Mapping[str, Sequence[Trajectory]],
    output: str | Path,
    *,
    plots: Sequence[str | Path] = (),
) -> None:
    """Write one HTML file that needs nothing else: the introduction (paragraphs), the table, plots, and trajectories by heading."""
    parts = [f"<p>{html.escape(paragraph)}</p>" for paragraph in introduction.strip().split("\n\n")]
    parts.append(f"<h2>Accuracy</h2>{_html_table(rows)}")
    for path in plots:
        image = base64.b64encode(Path(path).read_bytes()).decode()
        parts.append(f'<img alt="{html.escape(Path(path).stem)}" src="data:image/png;base64,{image}">')
    for heading, shown in trajectories.items():
        parts.append(f"<h2>{html.escape(heading)}</h2>")
        parts += [_html_trajectory(trajectory) for trajectory in shown]
    text = _PAGE.format(title=html.escape(title), body="\n".join(parts))
    Path(output).write_text(text, encoding="utf-8")


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --line: color-mix(in srgb, currentColor 20%, transparent); --soft: color-mix(in srgb, currentColor 6%, transparent); }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; }}
th, td {{ padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right; }}
th:nth-child(-n+3), td:nth-child(-n+3) {{ text-align: left; }}
img {{ max-width: 100%; background: white; border-radius: .4rem; }}
details {{ border: 1px solid var(--line); border-radius: .4rem; padding: .5rem .8rem; margin: .6rem 0; }}
summary {{ cursor: pointer; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft); border-radius: .4rem; padding: .5rem .7rem; margin: .4rem 0; font-size: .85rem; }}
.right {{ color: #1a7f37; }} .wrong {{ color: #cf222e; }} .role {{ font-size: .8rem; opacity: .7; }}
</style>
<h1>{title}</h1>
{body}
</html>
"""


def _html_table(rows: Sequence[Row]) -> str:
    sets = _distinct(row.task_set for row in rows)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("size", "parameters", "arm", *sets, "mean"))
    lines = [f"<tr>{head}</tr>"]
    for (size, arm), cells in _lines(rows).items():
        shown = [size, f"{next(iter(cells.values())).parameters / 1e6:.2f} M", arm]
        for task_set in sets:
            if task_set not in cells:
                shown.append("")
                continue
            low, high = _interval([cells[task_set]])
            shown.append(f"{cells[task_set].accuracy:.1%} ({low:.0%}-{high:.0%})")
        shown.append(f"{mean(cells.values()):.1%}")
        lines.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in shown) + "</tr>")
    return f"<table>{''.join(lines)}</table><p>In brackets: 95 % intervals (Wilson).</p>"


def _html_trajectory(trajectory: Trajectory) -> str:
    right = (trajectory.score or 0) >= 1
    verdict = f'<span class="{"right" if right else "wrong"}">{"right" if right else "wrong"}</span>'
    said = trajectory.answer if trajectory.answer is not None else f"no answer ({trajectory.outcome})"
    summary = f"{html.escape(trajectory.question)} &rarr; <b>{html.escape(said)}</b> {verdict}"
    parts = []
    for number, step in enumerate(trajectory.steps, start=1):
        chosen = step.candidates[step.winner]
        votes = ", ".join(f"{outcome!r}: {count}" for outcome, count in step.votes)
        label = f"step {number}" + (f", votes {votes}" if len(step.candidates) > 1 else "")
        parts.append(f'<div class="role">{html.escape(label)}</div><pre>{html.escape(chosen.text)}</pre>')
        told = step.message or _last_words(chosen.observation)
        if told:
            parts.append(f'<div class="role">what came back</div><pre>{html.escape(told)}</pre>')
    parts.append(f"<p>The right answer: {html.escape(trajectory.reference or '')}</p>")
    return f"<details><summary>{summary}</summary>{''.join(parts)}</details>"


def _last_words(observation: Observation | None) -> str:
    """What the last step of an episode did, which no message tells."""
    return "" if observation is None else observation.stdout


def _lines(rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, Row]]:
    """The rows by size and arm, and then by task set, in the order in which they come."""
    lines: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        lines.setdefault((row.size, row.arm), {})[row.task_set] = row
    return lines


def _interval(rows: Sequence[Row]) -> tuple[float, float]:
    """The 95 % interval of the accuracy over all tasks of ``rows``, around their mean."""
    n = sum(row.n for row in rows)
    low, high = wilson_interval(round(mean(rows) * n), n)
    return min(low, mean(rows)), max(high, mean(rows))


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
