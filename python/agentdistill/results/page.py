"""Render results and trajectories as HTML, for the report, the demo's page, and notebooks.

Trajectories contain untrusted text, so all text is escaped except :class:`Html` from this package. Pages load nothing
from other hosts. Not here: the viewer's page, which is built in the browser (pages/viewer.html), and plots (plots.py).
"""

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources

from agentdistill._core import Trajectory
from agentdistill.rollouts.prompt import assistant_turn
from agentdistill.trajectories import is_right, is_undecided


class Html(str):
    """Text that is already HTML. (Like markupsafe, without the dependency: notebooks need no extra.)"""


def html(text: str) -> Html:
    """Escape the text, unless it is already HTML."""
    return text if isinstance(text, Html) else Html(escape(text))


def load(name: str) -> str:
    """Read a file of ``pages/``."""
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
    """A table whose first column has the names of the rows."""
    top = "".join(f"<th>{html(cell)}</th>" for cell in head)
    lines = "".join(f"<tr>{''.join(f'<td>{html(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
    return Html(f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>\n{lines}</tbody></table></div>')


def episode(trajectory: Trajectory) -> Html:
    """A trajectory: the question, which unfolds the turns of the model and the observations."""
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
    verdict = f"answer {html(trajectory.answer)}" if trajectory.answer else f"no answer: {trajectory.outcome}"
    verdict += {None: ", not graded" if is_undecided(trajectory) else "", 1.0: ", correct"}.get(
        trajectory.score, f"; the correct answer is {html(trajectory.reference or '')}"
    )
    title = html(f"{trajectory.task_set}: {trajectory.question}" if trajectory.task_set else trajectory.question)
    return Html(
        f'<details class="episode {mark}"><summary>{title}</summary>{"".join(blocks)}<p>{verdict}</p></details>'
    )


def in_notebook(trajectory: Trajectory) -> str:
    """An unfolded trajectory for a notebook."""
    shown = episode(trajectory).replace("<details", "<details open", 1)
    return f"<style>{load('episode.css')}</style>{shown}"
