"""Style plots, save them, and embed them in pages.

matplotlib is imported with the first plot; it comes with agentdistill[report] and agentdistill[train]. Not here: what
the plots show (report.py, demo/page.py).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from itertools import cycle
from pathlib import Path
from typing import Any

from agentdistill.extras import require
from agentdistill.results.page import Html, html

COLOURS = (
    "#2f6f9f", "#d1792c", "#3f8f5f", "#8a5fa8", "#b8566b", "#8f8a2e", "#3a9a9a", "#7a5a3c", "#6d7a86",
)  # fmt: skip
"""Colours of arms, in order; distinguishable on white and on black."""

_INK, _SOFT, _GRID = "#20242c", "#5f6773", "#dcd8d0"
"""The colours of pages/style.css, whose variables replace them in a page."""

_LOOK = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "agentdistill",  # the same figure is the same file
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _SOFT,
    "axes.titlecolor": _INK,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


@contextmanager
def figure(
    columns: int = 1, *, width: float = 4.0, height: float = 3.6, **options: Any
) -> Iterator[tuple[Any, list[Any]]]:
    """An empty figure and its axes side by side, for drawing within the block.

    ``width`` (of each) and ``height`` are in inches; ``options`` go to matplotlib's ``subplots``. Raises
    AgentDistillError without matplotlib.
    """
    require("matplotlib", "report")
    import matplotlib
    from matplotlib.figure import Figure  # not pyplot, which keeps figures and may open a display

    with matplotlib.rc_context(_LOOK):
        made = Figure(figsize=(width * columns + 0.6, height), layout="constrained")
        yield made, list(made.subplots(1, columns, squeeze=False, **options)[0])


def save(made: Any, path: Path) -> None:
    """Write a figure to a file; its suffix (.png) decides the format."""
    import matplotlib

    with matplotlib.rc_context(_LOOK):
        made.savefig(path, dpi=150)


def svg(made: Any) -> str:
    """A figure as deterministic SVG without a background."""
    import matplotlib

    file = StringIO()
    with matplotlib.rc_context(_LOOK):
        made.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()


def within_page(markup: str, description: str) -> Html:
    """An SVG as a part of a page, in the page's colours. ``description`` is for screen readers."""
    markup = re.sub(r"^.*?(?=<svg)|<metadata>.*?</metadata>| xmlns(:\w+)?=\"[^\"]*\"", "", markup, flags=re.DOTALL)
    for colour, variable in ((_INK, "ink"), (_SOFT, "soft"), (_GRID, "grid")):
        markup = markup.replace(colour, f"var(--{variable})")
    markup = markup.replace("<svg", f'<svg role="img" aria-label="{html(description)}"', 1)
    return Html(f"<figure>{markup}</figure>")


def plot_steps(values: Sequence[float], measure: str) -> Any:
    """Plot a mean value of each step of training, such as the reward."""
    with figure(width=6.0) as (plot, (axis,)):
        axis.plot(range(1, len(values) + 1), values, color=COLOURS[0])
        axis.set(xlabel="step", ylabel=f"mean {measure}")
    return plot


def plot_losses(runs: Mapping[str, dict[str, Any]]) -> Any:
    """Plot the losses of training runs by name; a run has the settings and the result of train.json."""
    units = {"nats²" if run["teacher"] else "nats" for run in runs.values()}
    with figure(width=6.0) as (plot, (axis,)):
        for (name, run), colour in zip(runs.items(), cycle(COLOURS), strict=False):
            axis.plot(run["logged_at"], run["losses"], color=colour, label=name)
            if run["held_out_losses"]:
                held_out = {"color": colour, "linestyle": "--", "marker": "o", "label": f"{name}, held out"}
                axis.plot(run["held_out_at"], run["held_out_losses"], **held_out)
        axis.set(xlabel="step", ylabel=f"loss ({' or '.join(sorted(units))} per token)")
        axis.legend(fontsize="small")
    return plot
