"""Compare evaluations on one page: accuracy, significance, cost, failures, agreement and learning curves.

Each run is an arm, named after its folder or file. Next to ``report.html``, a folder ``report_files`` has the paper's
table (Markdown, LaTeX) and each plot (SVG, PNG). Not here: significance tests (comparison.py), the look of pages
(page.py, plots.py), and evaluation itself.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, cycle
from os.path import commonpath
from pathlib import Path
from typing import Any, NamedTuple

from agentdistill._core import ParseFailure, Step, Trajectory, read_trajectories
from agentdistill.grading.grade import task_of
from agentdistill.results.comparison import Difference, compare, holm
from agentdistill.results.evaluation import Evaluation, SetResult, summarize, wilson_interval
from agentdistill.results.page import Html, html, page, table
from agentdistill.results.plots import COLOURS, figure, plot_losses, save, svg, within_page
from agentdistill.results.viewer import trajectory_files
from agentdistill.rollouts.progress import Metrics
from agentdistill.trajectories import is_right

SIGNIFICANT = 0.05


class Arm(NamedTuple):
    """One run in the comparison, with the data to show."""

    name: str
    evaluation: Evaluation
    right: dict[tuple[str, str], bool]
    """(task set, task id) -> whether its answer was right."""
    cost: dict[str, Any]
    """As in ``metrics.json``."""
    steps: Counter[int]
    """Number of steps -> number of episodes."""
    cells: Counter[str]
    """Outcome of a candidate ("value", "final_answer", or a failure) -> number of candidates."""
    agreement: list[tuple[float, bool]]
    """For each episode with several candidates: the share that agreed in the last step, and whether the answer was
    right."""


def write_report(runs: Sequence[str | Path], output: str | Path) -> Path:
    """Write a page that compares ``runs``, and the files next to it. Return the page.

    A run is a folder that ``evaluate`` wrote, a folder of several, or a trajectory file. A folder that ``train`` wrote
    adds its losses. Raises ValueError for a run with episodes of different settings, a duplicate task, or a task
    without an answer; AgentDistillError without agentdistill[report]; OSError and TrajectoryError for files that cannot
    be read or written.
    """
    results = {run: result for run in map(Path, runs) if (result := _training(run))}
    learnt = {name: results[run] for run, name in run_names(list(results)).items()}
    played = run_names([run for run in map(Path, runs) if run not in results])
    arms = [load_arm(run, name) for run, name in played.items()]
    if not arms:
        raise ValueError("nothing to report: give folders that evaluate wrote, or trajectory files")
    output = Path(output)
    beside = output.with_name(f"{output.stem}_files")
    beside.mkdir(parents=True, exist_ok=True)
    markdown, latex = _markdown(arms), _latex(arms)
    (beside / "table.md").write_text(markdown, encoding="utf-8")
    (beside / "table.tex").write_text(latex, encoding="utf-8")

    def plot(name: str, description: str, made: Any) -> Html:
        drawn = svg(made)
        (beside / f"{name}.svg").write_text(drawn, encoding="utf-8")
        save(made, beside / f"{name}.png")
        return within_page(drawn, description)

    parts = [Html("<h1>Evaluation report</h1>"), _opening(arms)]
    parts += _accuracy(arms, plot)
    parts += _differences(arms)
    parts += _costs(arms, plot)
    parts += _failures(arms, plot)
    parts += _agreement(arms, plot)
    if learnt:
        parts += [Html("<h2>Learning curves</h2>"), plot("losses", "Loss by step", plot_losses(learnt))]
        parts.append(_training_table(learnt))
    parts.append(Html("<h2>The table, to take along</h2>"))
    for kind, text in (("Markdown", markdown), ("LaTeX (booktabs)", latex)):
        parts.append(Html(f"<details><summary>{kind}</summary><pre>{html(text)}</pre></details>"))
    parts += _settings(arms)
    output.write_text(page("Evaluation report", parts), encoding="utf-8")
    return output


# ---- what is in a run ----------------------------------------------------------------------------


def _how(trajectory: Trajectory) -> dict[str, Any]:
    """The settings of an episode without its date."""
    return {name: value for name, value in trajectory.sampling.items() if name != "date"}


def load_arm(run: Path, name: str) -> Arm:
    """Load the trajectories of one run."""
    trajectories = [trajectory for path in trajectory_files(run) for trajectory in read_trajectories(path)]
    if not trajectories:
        raise ValueError(f"{run} has no trajectories: was its evaluation stopped at once?")
    first, right = trajectories[0], dict[tuple[str, str], bool]()
    for trajectory in trajectories:
        key = trajectory.task_set, trajectory.task_id
        if (trajectory.model, _how(trajectory)) != (first.model, _how(first)):
            raise ValueError(f"{run} contains runs with different settings: give each folder separately")
        if trajectory.reference is None:
            raise ValueError(f"{run}: task {trajectory.task_id!r} has no correct answer to compare with")
        if key in right:
            raise ValueError(f"{run} has task {trajectory.task_id!r} of {trajectory.task_set!r} twice")
        right[key] = is_right(trajectory)
    metrics = Metrics(len(trajectories))
    for trajectory in trajectories:
        metrics.add(trajectory)
    settings = {key: value for key, value in first.sampling.items() if key != "tools"}
    voted = [(t, agreement) for t in trajectories if t.steps and (agreement := _agreed(t.steps[-1])) is not None]
    return Arm(
        name,
        summarize(list(map(task_of, trajectories)), trajectories, first.model, settings),
        right,
        metrics.to_dict(),
        Counter(len(trajectory.steps) for trajectory in trajectories),
        Counter(kind for trajectory in trajectories for kind in _cells(trajectory)),
        [(agreement, is_right(trajectory)) for trajectory, agreement in voted],
    )


def run_names(runs: Sequence[Path]) -> dict[Path, str]:
    """Short, distinct names for the runs, from the ends of their paths."""
    if twice := {str(run) for run in runs if runs.count(run) > 1}:
        raise ValueError(f"{', '.join(sorted(twice))} is given twice")
    bare = [run.resolve().with_suffix("") if run.is_file() else run.resolve() for run in runs]
    if len({path.name for path in bare}) == len(runs):
        return {run: path.name for run, path in zip(runs, bare, strict=True)}
    common = commonpath(bare)
    return {run: str(path.relative_to(common)) for run, path in zip(runs, bare, strict=True)}


def _training(run: Path) -> dict[str, Any] | None:
    """The content of ``train.json`` if the run is a finished training run."""
    record = run / "train.json"
    if not record.is_file():
        return None
    known = json.loads(record.read_text(encoding="utf-8"))
    if not (result := known["result"]):
        raise ValueError(f"{run} is an unfinished training run: finish it or leave it out")
    # The first versions recorded only losses, which they logged at step 1 and at every fifth step.
    at = [max(1, 5 * number) for number in range(len(result["losses"]))]
    unsaid = {"teacher": None, "logged_at": at, "held_out_losses": [], "held_out_at": []}
    return {**unsaid, **known["run"], **result}


def _agreed(step: Step) -> float | None:
    """The share of a step's candidates that agreed with the winner; None if there was only one candidate."""
    if len(step.candidates) < 2:
        return None
    return step.votes[0][1] / len(step.candidates) if step.votes else 0.0


def _cells(trajectory: Trajectory) -> Iterator[str]:
    """The outcome of each candidate."""
    for step in trajectory.steps:
        for candidate in step.candidates:
            if isinstance(candidate.action, ParseFailure):
                yield candidate.action.kind
            elif candidate.observation is not None:
                yield candidate.observation.kind


# ---- the page, part by part ----------------------------------------------------------------------

Plot = Callable[[str, str, Any], Html]
"""Saves a plot under a name, with a description, and returns it as a part of the page."""


def _opening(arms: Sequence[Arm]) -> Html:
    best = max(arms, key=lambda arm: arm.evaluation.accuracy)
    sets, tasks = len(_sets(arms)), len({key for arm in arms for key in arm.right})
    said = f"{_many(len(arms), 'arm')} on {_many(tasks, 'task')} of {_many(sets, 'set')}."
    if len(arms) > 1:
        said += f" {best.name} has the best mean, {best.evaluation.accuracy:.1%}."
    graders = {tuple(arm.evaluation.graders) for arm in arms}
    warning = " Their graders differ: these scores are not comparable." if len(graders) > 1 else ""
    if apart := [f"{a.name} and {b.name}" for a, b in combinations(arms, 2) if not a.right.keys() & b.right.keys()]:
        warning += (
            f" No task in common: {', '.join(apart)}. Tasks are matched by set and id: give their files the same names."
        )
    if undecided := sum(result.undecided for arm in arms for result in arm.evaluation.sets):
        warning += f" Not graded, and counted as wrong: {_many(undecided, 'answer')}."
    return Html(f'<p class="soft">{html(said)}<b>{html(warning)}</b></p>')


def _accuracy(arms: Sequence[Arm], plot: Plot) -> list[Html]:
    sets = _sets(arms)
    best = {name: max(result.accuracy for arm in arms if (result := _result(arm, name))) for name in sets}
    best_mean = max(arm.evaluation.accuracy for arm in arms)

    def cell(arm: Arm, name: str) -> Html:
        if (result := _result(arm, name)) is None:
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
        Html(
            '<p class="soft">Under each accuracy its 95 % interval (Wilson). Each set counts the same in the mean.</p>'
        ),
        table(head, rows),
        plot("accuracy", "Accuracy by task set and arm, with intervals", _plot_accuracy(arms, sets)),
    ]


def _plot_accuracy(arms: Sequence[Arm], sets: Sequence[str]) -> Any:
    """A dot with an interval for each arm, with the sets side by side."""
    with figure(len(sets), width=max(2.2, 8.0 / len(sets)), height=1.0 + 0.32 * len(arms), sharey=True) as (made, axes):
        for axis, name in zip(axes, sets, strict=True):
            for place, (arm, colour) in enumerate(zip(arms, cycle(COLOURS), strict=False)):
                if result := _result(arm, name):
                    reach = _reach([result.accuracy], [(result.low, result.high)])
                    axis.errorbar([result.accuracy], [place], xerr=reach, fmt="o", color=colour, elinewidth=2)
            axis.set(
                title=_said(name), xlim=(-0.03, 1.03), yticks=range(len(arms)), yticklabels=[arm.name for arm in arms]
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

    head = ("pair", "points (95 % interval)", "tasks", "only the first right", "only the second", "p", "p, Holm")
    return [
        Html("<h2>Differences</h2>"),
        Html(
            '<p class="soft">Points of mean accuracy by which the arm of the row is above that of the column, over the '
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
    head = ("", "prompt tokens", "new tokens", "for a right answer", "steps", "time")
    return [
        Html("<h2>Cost</h2>"),
        Html(
            '<p class="soft">Per episode. Its time is that from question to answer, with others under way beside it; '
            "behind it, where it went.</p>"
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
    ends = {name: {_said(kind): n for kind, n in counter.items()} for name, counter in outcomes.items()}
    steps = {arm.name: {str(n): count for n, count in sorted(arm.steps.items())} for arm in arms}
    cells = {arm.name: {_said(kind): n for kind, n in arm.cells.items()} for arm in arms if arm.cells}
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
        parts += [Html("<h3>What candidates did, all of every step</h3>"), _counts(cells)]
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
        Html('<p class="soft">How many answers were right, by how many candidates agreed in the last step.</p>'),
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


# ---- the table of the paper's form ---------------------------------------------------------------


def _markdown(arms: Sequence[Arm]) -> str:
    head, rows = _cells_of_paper(arms, bold="**{}**")
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines) + "\n"


def _latex(arms: Sequence[Arm]) -> str:
    """A table for the LaTeX package booktabs."""
    head, rows = _cells_of_paper(arms, bold=r"\textbf{{{}}}", name=_in_latex)
    body = "\n".join(f"{' & '.join(row)} \\\\" for row in rows)
    columns = "l" + "r" * (len(head) - 1)
    top = f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{' & '.join(head)} \\\\\n\\midrule\n"
    return f"{top}{body}\n\\bottomrule\n\\end{{tabular}}\n"


def _cells_of_paper(
    arms: Sequence[Arm], bold: str, name: Callable[[str], str] = str
) -> tuple[list[str], list[list[str]]]:
    """Accuracies in percent: a row per arm, a column per set and for the mean, with the best of each column in bold."""
    sets = _sets(arms)
    columns = [[result.accuracy if (result := _result(arm, of)) else None for arm in arms] for of in sets]
    columns.append([arm.evaluation.accuracy for arm in arms])
    rows = [[name(arm.name)] for arm in arms]
    for column in columns:
        best = max(value for value in column if value is not None)
        for row, value in zip(rows, column, strict=True):
            text = "" if value is None else f"{100 * value:.2f}"
            row.append(bold.format(text) if value == best else text)
    return ["Method", *(name(of or "tasks") for of in sets), "Avg."], rows


_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def _in_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


# ---- small things --------------------------------------------------------------------------------


def _sets(arms: Sequence[Arm]) -> list[str]:
    """All task sets, in the order of the arms."""
    return list(dict.fromkeys(result.task_set for arm in arms for result in arm.evaluation.sets))


def _result(arm: Arm, task_set: str) -> SetResult | None:
    return next((result for result in arm.evaluation.sets if result.task_set == task_set), None)


def _with_n(name: str, arms: Sequence[Arm]) -> Html:
    """The name of a set, and the number of its tasks in the arms."""
    sizes = sorted({result.n for arm in arms if (result := _result(arm, name))})
    return Html(f"{html(_said(name))} <br><small>n = {' to '.join(map(str, {sizes[0], sizes[-1]}))}</small>")


def _reach(values: Sequence[float], ends: Sequence[tuple[float, float]]) -> list[list[float]]:
    """Lengths of intervals below and above their values, as matplotlib wants them (never negative by rounding)."""
    pairs = list(zip(values, ends, strict=True))
    below = [max(0.0, value - low) for value, (low, _) in pairs]
    return [below, [max(0.0, high - value) for value, (_, high) in pairs]]


def _bold(text: str, is_best: bool) -> Html:
    return Html(f"<b>{text}</b>" if is_best else text)


def _said(name: str) -> str:
    return name.replace("_", " ")


def _many(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
