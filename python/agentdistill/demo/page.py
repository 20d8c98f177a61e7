"""Show the demo's results: two plots (PNG), and one self-contained page with sample trajectories.

Not here: computing the results (run.py).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentdistill._core import Trajectory, read_trajectories
from agentdistill.results.page import Html, episode, html, page, table
from agentdistill.results.plots import figure, save, svg, within_page
from agentdistill.trajectories import is_right

ARM_NAMES = {"cot": "CoT distillation", "agent": "agent distillation", "agent+sag": "agent distillation + SAG"}
COLOURS = {"cot": "#9aa5b1", "agent": "#2f6f9f", "agent+sag": "#d1792c"}

WHAT_THIS_IS = Html("""
<h2>What is generated, and what this does and does not show</h2>
<p><b>Real:</b> the search index, the sandbox, parsing and voting, selection, training (on this machine, minutes ago)
and evaluation. They are the same parts as for large models.</p>
<p><b>Generated:</b> the encyclopaedia (invented names, linked in clusters of ten), the questions (a few wordings), the
word problems, and the teacher: a script that reads the question and the observations, plans, searches, writes code, and
makes mistakes in a given share of its episodes. The students are a thousand times smaller than the paper's smallest.
Their bases were trained on other generated text (records, calls, sums, tables) with other names, numbers and relations,
and without Thought, search or final_answer. The base got some help: its records are worded like the encyclopaedia's
passages ("Its flag is ..."), its word lists contain the demo's words, for which the tokenizer was made, and two heads
of its first layer were initialized to look one and two tokens back, which a small model takes long to learn.</p>
<p><b>It shows</b> the paper's mechanism: a student that acts need not know the facts or do the sums, only how to
find and compute them. The two in-domain sets are meant for chain of thought: facts from training, sums of small
numbers. Students this small learn them only in part, so chain of thought is a weaker baseline than in the paper.
<b>It does not show</b> how large the effect is with language models on real questions. There, passages are worded in
many ways, teachers make more varied mistakes, and a chain of thought knows much of the world. The comparison does not
equalize tokens either: an agent reads and writes more.</p>
""")


def write_page(rows: Sequence[dict[str, Any]], claims: Sequence[str], output: Path, sets: Sequence[str]) -> Path:
    """Draw ``means.png`` and ``sets.png`` and write ``index.html`` into ``output``; return the page."""
    plots = {"means": _plot_means(rows), "sets": _plot_sets(rows, sets)}
    parts = [Html("<h1>The paper in miniature</h1>")]
    parts.append(Html(f"<ul>{''.join(f'<li>{html(claim)}</li>' for claim in claims)}</ul>"))
    for name, plot in plots.items():
        save(plot, output / f"{name}.png")
        parts.append(within_page(svg(plot), f"accuracy: {name}"))
    parts += [_table(rows, sets), WHAT_THIS_IS, Html("<h2>Sample trajectories</h2>")]
    parts.append(Html("<p>From the smallest student: for each arm and set, one right and one wrong.</p>"))
    smallest = rows[0]["size"]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        parts.append(Html(f"<h3>{html(ARM_NAMES[arm])}</h3>"))
        for name in sets:
            samples = _samples(output / "results" / f"{smallest}-{arm}" / name / "trajectories.jsonl")
            parts += [episode(trajectory) for trajectory in samples]
    made = output / "index.html"
    made.write_text(page("agentdistill: the paper in miniature", parts), encoding="utf-8")
    return made


def _samples(path: Path) -> list[Trajectory]:
    """The first right and the first wrong trajectory."""
    trajectories = read_trajectories(path)
    right = [t for t in trajectories if is_right(t)][:1]
    return right + [t for t in trajectories if t.score != 1][:1]


def _table(rows: Sequence[dict[str, Any]], sets: Sequence[str]) -> Html:
    accuracy = {(row["size"], row["arm"], row["task_set"]): row for row in rows}
    lines = []
    for size, arm in dict.fromkeys((row["size"], row["arm"]) for row in rows):
        line = [accuracy[size, arm, name] for name in (*sets, "all")]
        cells = [f"{row['accuracy']:.0%}" for row in line]
        lines.append([size, f"{line[0]['parameters']:,}", ARM_NAMES[arm], *cells])
    return table(("student", "parameters", "arm", *sets, "mean"), lines)


def _plot_means(rows: Sequence[dict[str, Any]]) -> Any:
    """Mean accuracy by number of parameters, with a line per arm, as in the paper's first figure."""
    with figure(width=6.0) as (plot, (axis,)):
        means = [row for row in rows if row["task_set"] == "all"]
        for arm in dict.fromkeys(row["arm"] for row in means):
            line = [row for row in means if row["arm"] == arm]
            sizes, accuracies = [row["parameters"] for row in line], [row["accuracy"] for row in line]
            axis.plot(sizes, accuracies, marker="o", color=COLOURS[arm], label=ARM_NAMES[arm])
        axis.set(xscale="log", xlabel="parameters", ylabel="mean accuracy", ylim=(0, 1))
        axis.legend()
    return plot


def _plot_sets(rows: Sequence[dict[str, Any]], sets: Sequence[str]) -> Any:
    """Accuracy by task set, bars per size and arm."""
    with figure(len(sets), width=3.0) as (plot, axes):
        sizes = list(dict.fromkeys(row["size"] for row in rows))
        arms = list(dict.fromkeys(row["arm"] for row in rows))
        accuracy = {(row["size"], row["arm"], row["task_set"]): row["accuracy"] for row in rows}
        for axis, name in zip(axes, sets, strict=True):
            for i, arm in enumerate(arms):
                places = [number + (i - 1) * 0.27 for number in range(len(sizes))]
                heights = [accuracy[size, arm, name] for size in sizes]
                axis.bar(places, heights, 0.25, color=COLOURS[arm], label=ARM_NAMES[arm])
            axis.set(title=name, xticks=range(len(sizes)), xticklabels=sizes, ylim=(0, 1))
        axes[0].legend(fontsize="small")
    return plot
