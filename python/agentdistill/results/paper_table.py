"""The table of the paper's form, accuracy by arm and task set, in Markdown and LaTeX."""

from collections.abc import Callable, Sequence

from agentdistill.results.arms import Arm, result_of, task_sets


def markdown_table(arms: Sequence[Arm]) -> str:
    """A table for Markdown, with the best of each column in bold."""
    head, rows = _cells(arms, bold="**{}**")
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines) + "\n"


def latex_table(arms: Sequence[Arm]) -> str:
    """A table for the LaTeX package booktabs."""
    head, rows = _cells(arms, bold=r"\textbf{{{}}}", name=_in_latex)
    body = "\n".join(f"{' & '.join(row)} \\\\" for row in rows)
    columns = "l" + "r" * (len(head) - 1)
    top = f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{' & '.join(head)} \\\\\n\\midrule\n"
    return f"{top}{body}\n\\bottomrule\n\\end{{tabular}}\n"


def _cells(arms: Sequence[Arm], bold: str, name: Callable[[str], str] = str) -> tuple[list[str], list[list[str]]]:
    """Accuracies in percent: a row per arm, a column per set and for the mean, with the best of each column in bold."""
    sets = task_sets(arms)
    columns = [[result.accuracy if (result := result_of(arm, of)) else None for arm in arms] for of in sets]
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
