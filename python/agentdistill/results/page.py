"""Results and trajectories as HTML: for the report, the demo's page, and notebooks.

Trajectories hold what models wrote and what they read, so all text is escaped but what this package made as
:class:`Html`. Nothing on a page is fetched from elsewhere. Not here: the viewer's page, which is built in the browser
(pages/viewer.html), and plots (plots.py).
"""

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources

from agentdistill._core import Trajectory
from agentdistill.rollouts.prompt import assistant_turn
from agentdistill.trajectories import is_right, is_undecided


class Html(str):
    """Text that is HTML already. (markupsafe's idea, in two lines: notebooks show trajectories without any extra.)"""


def html(text: str) -> Html:
    """The text, escaped unless it is HTML already."""
    return text if isinstance(text, Html) else Html(escape(text))


def load(name: str) -> str:
    """A file of ``pages/``."""
    return (resources.files("agentdistill.results") / "pages" / name).read_text(encoding="utf-8")


def page(title: str, parts: Iterable[Html]) -> str:
    """A self-contained page."""
    style = "".join(map(load, ("style.css", "document.css", "episode.css")))
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html(title)}</title>\n<style>\n{style}</style>\n<main>\n{chr(10).join(parts)}\n</main>\n</html>\n"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Html:
    """A table; the first column is that of names."""
    top = "".join(f"<th>{html(cell)}</th>" for cell in head)
    lines = "".join(f"<tr>{''.join(f'<td>{html(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
    return Html(f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>\n{lines}</tbody></table></div>')


def episode(trajectory: Trajectory) -> Html:
    """A trajectory: what the model wrote and what it was told, under its question, which unfolds it."""
    mark = "right" if is_right(trajectory) else "wrong"
    blocks = []
    for step in trajectory.steps:
        chosen = step.candidates[step.winner]
        if chosen.reasoning:
            thought = f'<pre class="model">{html(chosen.reasoning)}</pre>'
            blocks.append(f"<details><summary>Thinking</summary>{thought}</details>")
        blocks.append(f'<pre class="model">{html(assistant_turn(chosen))}</pre>')
        if len(step.candidates) > 1 and step.votes:
            blocks.append(f"<i>{step.votes[0][1]} of {len(step.candidates)} candidates agreed</i>")
        if step.message:
            blocks.append(f'<pre class="world">{html(step.message)}</pre>')
    said = f"answer {html(trajectory.answer)}" if trajectory.answer else f"no answer: {trajectory.outcome}"
    said += {None: ", not graded" if is_undecided(trajectory) else "", 1.0: ", which is right"}.get(
        trajectory.score, f"; right is {html(trajectory.reference or '')}"
    )
    title = html(f"{trajectory.task_set}: {trajectory.question}" if trajectory.task_set else trajectory.question)
    return Html(f'<details class="episode {mark}"><summary>{title}</summary>{"".join(blocks)}<p>{said}</p></details>')


def in_notebook(trajectory: Trajectory) -> str:
    """A trajectory as a notebook shows it: unfolded."""
    shown = episode(trajectory).replace("<details", "<details open", 1)
    return f"<style>{load('episode.css')}</style>{shown}"
