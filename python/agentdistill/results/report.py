"""Compare evaluations on one page: accuracy, significance, cost, failures, agreement and learning curves.

Each run is an arm, named after its folder or file. Next to ``report.html``, a folder ``report_files`` has the paper's
table (Markdown, LaTeX) and each plot (SVG, PNG). Not here: the data of an arm (arms.py), the paper's table
(paper_table.py), significance tests (comparison.py), and the look of pages (page.py, plots.py).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations, cycle
from pathlib import Path
from typing import Any

from agentdistill.files.replacing import refuse_foreign
from agentdistill.results.arms import Arm, finished_training, load_arm, result_of, run_names, task_sets
from agentdistill.results.comparison import Difference, compare, holm
from agentdistill.results.evaluation import wilson_interval
from agentdistill.results.page import Html, html, page, table
from agentdistill.results.paper_table import latex_table, markdown_table
from agentdistill.results.plots import COLOURS, figure, plot_losses, save, svg, within_page

_TITLE = "Evaluation report"
_TITLE_LINE = f"<title>{_TITLE}</title>".encode()

SIGNIFICANT = 0.05


def write_report(runs: Sequence[str | Path], output: str | Path) -> Path:
    """Write a page that compares ``runs``, and the files next to it. Return the page.

    A run is a folder that ``evaluate`` wrote, a folder of several, or a trajectory file. A folder that ``train`` wrote
    adds its losses. Raises ValueError for a run with episodes of different settings, a duplicate task, or a task
    without an answer; AgentDistillError without agentdistill[report]; OSError and TrajectoryError for files that cannot
    be read or written.
    """
    results = {run: result for run in map(Path, runs) if (result := finished_training(run))}
    learnt = {name: results[run] for run, name in run_names(list(results)).items()}
    played = run_names([run for run in map(Path, runs) if run not in results])
    arms = [load_arm(run, name) for run, name in played.items()]
    if not arms:
        raise ValueError("nothing to report: give folders that evaluate wrote, or trajectory files")
    output = Path(output)
    refuse_foreign(output, lambda file: _TITLE_LINE in file.read_bytes()[:1024])
    beside = output.with_name(f"{output.stem}_files")
    beside.mkdir(parents=True, exist_ok=True)
    markdown, latex = markdown_table(arms), latex_table(arms)
    (beside / "table.md").write_text(markdown, encoding="utf-8")
    (beside / "table.tex").write_text(latex, encoding="utf-8")

    def plot(name: str, description: str, made: Any) -> Html:
        markup = svg(made)
        (beside / f"{name}.svg").write_text(markup, encoding="utf-8")
        save(made, beside / f"{name}.png")
        return within_page(markup, description)

    parts = [Html("<h1>Evaluation report</h1>"), _opening(arms)]
    parts += _accuracy(arms, plot)
    parts += _differences(arms)
    parts += _costs(arms, plot)
    parts += _failures(arms, plot)
    parts += _agreement(arms, plot)
    if learnt:
        parts += [Html("<h2>Learning curves</h2>"), plot("losses", "Loss by step", plot_losses(learnt))]
        parts.append(_training_table(learnt))
    parts.append(Html("<h2>The table as text</h2>"))
    for kind, text in (("Markdown", markdown), ("LaTeX (booktabs)", latex)):
        parts.append(Html(f"<details><summary>{kind}</summary><pre>{html(text)}</pre></details>"))
    parts += _settings(arms)
    output.write_text(page(_TITLE, parts), encoding="utf-8")
    return output


# ---- the page, part by part ----------------------------------------------------------------------

Plot = Callable[[str, str, Any], Html]
"""Saves a plot under a name, with a description, and returns it as a part of the page."""


def _opening(arms: Sequence[Arm]) -> Html:
    best = max(arms, key=lambda arm: arm.evaluation.accuracy)
    sets, tasks = len(task_sets(arms)), len({key for arm in arms for key in arm.right})
    summary = f"{_counted(len(arms), 'arm')} on {_counted(tasks, 'task')} of {_counted(sets, 'set')}."
    if len(arms) > 1:
        summary += f" {best.name} has the best mean, {best.evaluation.accuracy:.1%}."
    graders = {tuple(arm.evaluation.graders) for arm in arms}
    warning = " Their graders differ: these scores are not comparable." if len(graders) > 1 else ""
    if apart := [f"{a.name} and {b.name}" for a, b in combinations(arms, 2) if not a.right.keys() & b.right.keys()]:
        warning += (
            f" No task in common: {', '.join(apart)}. Tasks are matched by set and id: give their files the same names."
        )
    if undecided := sum(result.undecided for arm in arms for result in arm.evaluation.sets):
        warning += f" Not graded, and counted as wrong: {_counted(undecided, 'answer')}."
    return Html(f'<p class="soft">{html(summary)}<b>{html(warning)}</b></p>')


def _accuracy(arms: Sequence[Arm], plot: Plot) -> list[Html]:
    sets = task_sets(arms)
    best = {name: max(result.accuracy for arm in arms if (result := result_of(arm, name))) for name in sets}
    best_mean = max(arm.evaluation.accuracy for arm in arms)

    def cell(arm: Arm, name: str) -> Html:
        if (result := result_of(arm, name)) is None:
            return Html("")
        ends = f"{100 * result.low:.0f} to {100 * result.high:.0f}"
        return Html(f"{_bold(f'{result.accuracy:.1%}', result.accuracy == best[name])}<small>{ends}</small>")

    rows = []
    for arm in arms:
        mean = _bold(f"{arm.evaluation.accuracy:.1%}", arm.evaluation.accuracy == best_mean)
        rows.append([arm.name, *(cell(arm, name) for name in sets), *([mean] if len(sets) > 1 else [])])
    head = ["", *(_with_n(name, arms) for name in sets), *(["mean"] if len(sets) > 1 else [])]
    return [
        Html("<h2>Accuracy</h2>"),
        Html('<p class="soft">Below each accuracy: its 95 % interval (Wilson). All sets have the same weight.</p>'),
        table(head, rows),
        plot("accuracy", "Accuracy by task set and arm, with intervals", _plot_accuracy(arms, sets)),
    ]


def _plot_accuracy(arms: Sequence[Arm], sets: Sequence[str]) -> Any:
    """A dot with an interval for each arm, with the sets side by side."""
    with figure(len(sets), width=max(2.2, 8.0 / len(sets)), height=1.0 + 0.32 * len(arms), sharey=True) as (made, axes):
        for axis, name in zip(axes, sets, strict=True):
            for place, (arm, colour) in enumerate(zip(arms, cycle(COLOURS), strict=False)):
                if result := result_of(arm, name):
                    reach = _reach([result.accuracy], [(result.low, result.high)])
                    axis.errorbar([result.accuracy], [place], xerr=reach, fmt="o", color=colour, elinewidth=2)
            axis.set(
                title=_readable(name),
                xlim=(-0.03, 1.03),
                yticks=range(len(arms)),
                yticklabels=[arm.name for arm in arms],
            )
            axis.set_xticks([0, 0.5, 1], ["0", "50", "100 %"])
            axis.grid(axis="y", visible=False)
        axes[0].set_ylim(len(arms) - 0.4, -0.6)
    return made


def _differences(arms: Sequence[Arm]) -> list[Html]:
    """Each pair of arms."""
    pairs = {(a.name, b.name): d for a, b in combinations(arms, 2) if (d := compare(a.right, b.right))}
    if not pairs:
        return []
    raised = dict(zip(pairs, holm([difference.p for difference in pairs.values()]), strict=True))

    def cell(row: Arm, column: Arm) -> Html:
        key = (row.name, column.name) if (row.name, column.name) in pairs else (column.name, row.name)
        if key not in pairs:
            return Html("")
        points = 100 * pairs[key].difference * (1 if key[0] == row.name else -1)
        kind = ("better" if points > 0 else "worse") if raised[key] < SIGNIFICANT else "soft"
        return Html(f'<span class="{kind}">{points:+.1f}</span>')

    def line(pair: tuple[str, str], found: Difference) -> list[str]:
        points = (f"{100 * value:+.1f}" for value in (found.difference, found.low, found.high))
        counts = (str(found.n), str(found.only_first), str(found.only_second))
        return [f"{pair[0]} over {pair[1]}", "{} ({} to {})".format(*points), *counts, _p(found.p), _p(raised[pair])]

    head = ("pair", "points (95 % interval)", "tasks", "only the first correct", "only the second", "p", "p, Holm")
    return [
        Html("<h2>Differences</h2>"),
        Html(
            "<p class=\"soft\">Mean accuracy of the row's arm minus the column's, in percentage points, over the "
            f"tasks that both have. Coloured if significant: p below {SIGNIFICANT} in the paired "
            "permutation test of the same mean, corrected for the number of comparisons (Holm).</p>"
        ),
        table(["", *(arm.name for arm in arms)], [[row.name, *(cell(row, column) for column in arms)] for row in arms]),
        Html(f"<details><summary>Each pair</summary>{table(head, [line(*one) for one in pairs.items()])}</details>"),
    ]


def _costs(arms: Sequence[Arm], plot: Plot) -> list[Html]:
    rows = []
    for arm in arms:
        episodes, tokens, spent = len(arm.right), arm.cost["tokens"], arm.cost["seconds_of_episodes"]
        right, total = sum(arm.right.values()), sum(spent.values())
        seconds = sum(result.seconds * result.n for result in arm.evaluation.sets) / episodes
        each = [f"{tokens[kind] / episodes:,.0f}" for kind in ("prompt", "completion")]
        each.append(f"{tokens['completion'] / right:,.0f}" if right else "")
        shares = [f"{spent[kind] / total:.0%}" if total else "" for kind in ("model", "sandbox", "tools", "waiting")]
        rows.append([arm.name, *each, f"{arm.cost['steps'] / episodes:.2f}", f"{seconds:.2f} s", *shares])
    head = ("", "prompt tokens", "new tokens", "per correct answer", "steps", "time")
    return [
        Html("<h2>Cost</h2>"),
        Html(
            '<p class="soft">Per episode. The time is from question to answer, while other episodes run concurrently; '
            "the last columns show how it was spent.</p>"
        ),
        table([*head, "model", "sandbox", "tools", "waiting"], rows),
        plot("cost", "Mean accuracy against new tokens per episode", _plot_cost(arms)),
    ]


def _plot_cost(arms: Sequence[Arm]) -> Any:
    with figure(width=6.4) as (made, (axis,)):
        for arm, colour in zip(arms, cycle(COLOURS), strict=False):
            tokens = arm.cost["tokens"]["completion"] / len(arm.right)
            axis.plot([tokens], [arm.evaluation.accuracy], "o", color=colour, markersize=8, label=arm.name)
        axis.set(xlabel="new tokens per episode", ylabel="mean accuracy", ylim=(-0.02, 1.02), xscale="symlog")
        axis.margins(x=0.15)
        made.legend(loc="outside right upper")
    return made


def _failures(arms: Sequence[Arm], plot: Plot) -> list[Html]:
    outcomes = {arm.name: Counter[str]() for arm in arms}
    for arm in arms:
        for result in arm.evaluation.sets:
            outcomes[arm.name].update(result.outcomes)
    ends = {name: {_readable(kind): n for kind, n in counter.items()} for name, counter in outcomes.items()}
    steps = {arm.name: {str(n): count for n, count in sorted(arm.steps.items())} for arm in arms}
    cells = {arm.name: {_readable(kind): n for kind, n in arm.cells.items()} for arm in arms if arm.cells}
    with figure(2, width=4.6, height=1.3 + 0.34 * len(arms), sharey=True) as (made, axes):
        _plot_shares(axes[0], "how they ended", ends)
        _plot_shares(axes[1], "steps", steps)
    parts = [
        Html("<h2>How episodes went</h2>"),
        plot("episodes", "Shares of outcomes, and of numbers of steps, by arm", made),
        Html("<h3>How they ended</h3>"),
        _counts(ends),
    ]
    if cells:
        parts += [Html("<h3>Outcomes of all candidates, in all steps</h3>"), _counts(cells)]
    return parts


def _plot_shares(axis: Any, title: str, counts: dict[str, dict[str, int]]) -> None:
    """A bar for each arm, divided by outcome."""
    left = [0.0] * len(counts)
    for kind, colour in zip(_kinds(counts), cycle(COLOURS), strict=False):
        shares = [counter.get(kind, 0) / sum(counter.values()) for counter in counts.values()]
        axis.barh(list(counts), shares, 0.62, left=left, color=colour, label=kind)
        left = [start + share for start, share in zip(left, shares, strict=True)]
    axis.set(title=title, xlim=(0, 1), ylim=(len(counts) - 0.4, -0.6))
    axis.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    axis.grid(axis="y", visible=False)
    axis.legend(fontsize="small", ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14), handlelength=1)


def _counts(counts: dict[str, dict[str, int]]) -> Html:
    kinds = _kinds(counts)
    return table(["", *kinds], [[name, *(f"{of.get(kind, 0):,}" for kind in kinds)] for name, of in counts.items()])


def _kinds(counts: dict[str, dict[str, int]]) -> list[str]:
    """All kinds: numbers in order, names by frequency."""
    total = sum((Counter(of) for of in counts.values()), Counter[str]())
    return sorted(total, key=lambda kind: (kind.isdigit() and int(kind), -total[kind]))


BINS = ((0.0, 0.5), (0.5, 0.75), (0.75, 1.0), (1.0, 2.0))
"""Ranges of agreement, without their upper ends."""


def _agreement(arms: Sequence[Arm], plot: Plot) -> list[Html]:
    """How accurate are answers, by agreement of the candidates?"""
    voting = [arm for arm in arms if arm.agreement]
    if not voting:
        return []
    names = ["under 50 %", "50 to 75 %", "75 to 99 %", "all"]
    rows = []
    for arm in voting:
        mean = sum(share for share, _ in arm.agreement) / len(arm.agreement)
        shares = (f"{right / n:.0%} of {n:,}" if n else "" for right, n in _by_agreement(arm))
        rows.append([arm.name, f"{mean:.0%}", *shares])
    return [
        Html("<h2>Agreement of candidates</h2>"),
        Html('<p class="soft">Share of correct answers, by the share of candidates that agreed in the last step.</p>'),
        table(["", "mean agreement", *names], rows),
        plot("agreement", "Accuracy by agreement of the candidates", _plot_agreement(arms, names)),
    ]


def _by_agreement(arm: Arm) -> list[tuple[int, int]]:
    """For each bin, the number of correct answers, and of all answers."""
    bins = ([right for share, right in arm.agreement if low <= share < high] for low, high in BINS)
    return [(sum(right), len(right)) for right in bins]


def _plot_agreement(arms: Sequence[Arm], names: Sequence[str]) -> Any:
    with figure(width=6.4) as (made, (axis,)):
        for i, (arm, colour) in enumerate(zip(arms, cycle(COLOURS), strict=False)):
            known = [
                (place + 0.05 * (i - len(arms) / 2), right, n)
                for place, (right, n) in enumerate(_by_agreement(arm))
                if n
            ]
            values = [right / n for _, right, n in known]
            ends = [wilson_interval(right, n) for _, right, n in known]
            if known:
                places = [place for place, _, _ in known]
                axis.errorbar(places, values, yerr=_reach(values, ends), marker="o", color=colour, label=arm.name)
        axis.set(xlabel="candidates that agreed in the last step", ylabel="accuracy", ylim=(-0.02, 1.02))
        axis.set_xticks(range(len(BINS)), names)
        axis.set_xlim(-0.3, len(BINS) - 0.7)
        made.legend(loc="outside right upper")
    return made


def _training_table(results: dict[str, dict[str, Any]]) -> Html:
    rows = []
    for name, result in results.items():
        held_out = f"{min(result['held_out_losses']):.3f}" if result["held_out_losses"] else ""
        last = f"{result['losses'][-1]:.3f}" if result["losses"] else ""
        rows.append([name, result["method"], f"{result['examples']:,}", f"{result['steps']:,}", last, held_out])
    return table(("", "method", "examples", "steps", "last loss", "lowest held-out loss"), rows)


def _settings(arms: Sequence[Arm]) -> list[Html]:
    """The settings: those that differ between arms, and those that all share."""
    every = {}
    for arm in arms:
        known = {"model": arm.evaluation.model, **arm.evaluation.settings, "graders": ", ".join(arm.evaluation.graders)}
        every[arm.name] = {key: str(value) for key, value in known.items()}
    keys = list(dict.fromkeys(key for settings in every.values() for key in settings))
    differing = [key for key in keys if len({settings.get(key) for settings in every.values()}) > 1]
    shared = ", ".join(f"{key} {every[arms[0].name][key] or '(empty)'}" for key in keys if key not in differing)
    parts = [Html("<h2>Settings</h2>"), Html(f'<p class="soft">{html(f"Of all arms: {shared}.")}</p>')]
    if differing:
        rows = [[name, *(settings.get(key, "") for key in differing)] for name, settings in every.items()]
        parts.append(table(["", *differing], rows))
    return parts


# ---- small things --------------------------------------------------------------------------------


def _with_n(name: str, arms: Sequence[Arm]) -> Html:
    """The name of a set, and the number of its tasks in the arms."""
    sizes = sorted({result.n for arm in arms if (result := result_of(arm, name))})
    return Html(f"{html(_readable(name))} <br><small>n = {' to '.join(map(str, {sizes[0], sizes[-1]}))}</small>")


def _reach(values: Sequence[float], ends: Sequence[tuple[float, float]]) -> list[list[float]]:
    """Lengths of intervals below and above their values, as matplotlib wants them (never negative by rounding)."""
    pairs = list(zip(values, ends, strict=True))
    below = [max(0.0, value - low) for value, (low, _) in pairs]
    return [below, [max(0.0, high - value) for value, (_, high) in pairs]]


def _bold(text: str, is_best: bool) -> Html:
    return Html(f"<b>{text}</b>" if is_best else text)


def _readable(name: str) -> str:
    return name.replace("_", " ")


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
