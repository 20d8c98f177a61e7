"""The demo's results to look at: two plots (PNG), and one self-contained page with trajectories to read.

Not here: how the results came about (run.py). matplotlib is imported when the plots are drawn.
"""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from agentdistill._core import Trajectory, read_trajectories
from agentdistill.prompt import assistant_turn

ARM_NAMES = {"cot": "CoT distillation", "agent": "agent distillation", "agent+sag": "agent distillation + SAG"}
COLOURS = {"cot": "#9aa5b1", "agent": "#2f6f9f", "agent+sag": "#d1792c"}

WHAT_THIS_IS = """
<h2>What is generated, and what this does and does not show</h2>
<p><b>Real:</b> the search index, the sandbox the code ran in, the parsing and voting, the selection, the training
(every student learnt on this machine, minutes ago) and the evaluation. They are the parts used for large models.</p>
<p><b>Generated:</b> the encyclopaedia (invented names, linked in clusters of ten), the questions (a few wordings), the
word problems, and the teacher: a script that reads the question and the observations, plans, searches, codes, and errs
in a given share of its episodes. The students are a thousand times smaller than the paper's smallest; their bases have
read other generated text (records, calls, sums, tables) with other names, numbers and relations, and no Thought, search
or final_answer. Its records are worded like the encyclopaedia's passages ("Its flag is ..."), lists of words in it hold
those of the demo, on whose wording the tokenizer was made too; and two heads of a base's first layer begin by looking
one and two tokens back, which so small a model takes long to find.</p>
<p><b>It shows</b> the paper's mechanism: a student that acts need not know the facts or do the sums, only how to find
and compute them. The two in-domain sets are meant for a chain of thought: facts that training has told, sums of small
numbers. So small, students learn those in part, so chain of thought is a weaker rival here than in the paper, and
the difference says little about its size there. <b>It does not show</b> how large the effect is with
language models on real questions: there, passages do not answer in one wording, teachers err in richer ways, and a
chain of thought knows much of the world. Nor is it a fair race in tokens: an agent writes and reads more.</p>
"""


def write_page(rows: Sequence[dict[str, Any]], claims: Sequence[str], output: Path, sets: Sequence[str]) -> Path:
    """Draw ``means.png`` and ``sets.png`` and write ``index.html`` into ``output``; return the page."""
    plots = [_plot_means(rows, output / "means.png"), _plot_sets(rows, output / "sets.png", sets)]
    images = "".join(f'<img alt="{path.stem}" src="data:image/png;base64,{_base64(path)}">' for path in plots)
    said = "".join(f"<li>{escape(claim)}</li>" for claim in claims)
    parts = [f"<h1>The paper in miniature</h1><ul>{said}</ul>{images}", _table(rows, sets), WHAT_THIS_IS]
    parts.append("<h2>Trajectories to read</h2>")
    parts.append("<p>Of the smallest student: for each arm and set, one that is right and one that is not.</p>")
    smallest = rows[0]["size"]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        parts.append(f"<h3>{escape(ARM_NAMES[arm])}</h3>")
        for name in sets:
            parts += [
                _episode(t) for t in _samples(output / "results" / f"{smallest}-{arm}" / name / "trajectories.jsonl")
            ]
    page = output / "index.html"
    page.write_text(_PAGE.replace("BODY", "\n".join(parts)), encoding="utf-8")
    return page


def _samples(path: Path) -> list[Trajectory]:
    """The first that is right and the first that is wrong."""
    trajectories = read_trajectories(path)
    right = [t for t in trajectories if t.score == 1][:1]
    return right + [t for t in trajectories if t.score != 1][:1]


def _episode(trajectory: Trajectory) -> str:
    mark = "right" if trajectory.score == 1 else "wrong"
    blocks = []
    for step in trajectory.steps:
        chosen = step.candidates[step.winner]
        votes = (
            f" <i>{step.votes[0][1]} of {len(step.candidates)} candidates agreed</i>"
            if len(step.candidates) > 1 and step.votes
            else ""
        )
        blocks.append(f'<pre class="model">{escape(assistant_turn(chosen))}</pre>{votes}')
        if step.message:
            blocks.append(f'<pre class="world">{escape(step.message)}</pre>')
    answer = f"answer {escape(trajectory.answer or 'none')}, which is {mark}" + (
        f" (it is {escape(trajectory.reference or '')})" if mark == "wrong" else ""
    )
    title = f"{escape(trajectory.task_set)}: {escape(trajectory.question)}"
    return f'<details class="{mark}"><summary>{title}</summary>{"".join(blocks)}<p>{answer}</p></details>'


def _table(rows: Sequence[dict[str, Any]], sets: Sequence[str]) -> str:
    accuracy = {(row["size"], row["arm"], row["task_set"]): row for row in rows}
    head = "".join(f"<th>{escape(name)}</th>" for name in ("student", "parameters", "arm", *sets, "mean"))
    lines = []
    for size, arm in dict.fromkeys((row["size"], row["arm"]) for row in rows):
        line = [accuracy[size, arm, name] for name in (*sets, "all")]
        cells = "".join(f"<td>{row['accuracy']:.0%}</td>" for row in line)
        lines.append(
            f"<tr><td>{size}</td><td>{line[0]['parameters']:,}</td><td>{escape(ARM_NAMES[arm])}</td>{cells}</tr>"
        )
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _plot_means(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """Mean accuracy against the number of parameters, a line per arm: the paper's first figure."""
    figure, axes = _figure(1)
    means = [row for row in rows if row["task_set"] == "all"]
    for arm in dict.fromkeys(row["arm"] for row in means):
        line = [row for row in means if row["arm"] == arm]
        axes[0].plot(
            [row["parameters"] for row in line],
            [row["accuracy"] for row in line],
            marker="o",
            color=COLOURS[arm],
            label=ARM_NAMES[arm],
        )
    axes[0].set(xscale="log", xlabel="parameters", ylabel="mean accuracy", ylim=(0, 1))
    axes[0].legend()
    return _save(figure, path)


def _plot_sets(rows: Sequence[dict[str, Any]], path: Path, sets: Sequence[str]) -> Path:
    """Accuracy by task set, bars per size and arm."""
    figure, axes = _figure(len(sets))
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    accuracy = {(row["size"], row["arm"], row["task_set"]): row["accuracy"] for row in rows}
    for axis, name in zip(axes, sets, strict=True):
        for i, arm in enumerate(arms):
            places = [number + (i - 1) * 0.27 for number in range(len(sizes))]
            axis.bar(
                places, [accuracy[size, arm, name] for size in sizes], 0.25, color=COLOURS[arm], label=ARM_NAMES[arm]
            )
        axis.set(title=name, xticks=range(len(sizes)), xticklabels=sizes, ylim=(0, 1))
    axes[0].legend(fontsize="small")
    return _save(figure, path)


def _figure(columns: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure  # not pyplot, which keeps figures and may look for a screen

    figure = Figure(figsize=(2 + 4 * columns, 4), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=110)
    return path


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>agentdistill: the paper in miniature</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1d2733; }
img { max-width: 100%; } table { border-collapse: collapse; } td, th { padding: .2rem .7rem; border-bottom: 1px solid
#d5dbe1; text-align: right; } pre { padding: .5rem .8rem; border-radius: 4px; white-space: pre-wrap; margin: .3rem 0; }
.model { background: #eef4f9; } .world { background: #f5f2ec; } details { border-left: 4px solid #b34; padding-left:
.8rem; margin: .5rem 0; } .right { border-color: #2a8a4a; } summary { cursor: pointer; } </style>
<body>
BODY
</body></html>
"""
