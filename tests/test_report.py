"""Tables, plots and pages say what the rows say, and a page cannot be broken by what a model wrote."""

import struct
from html.parser import HTMLParser
from pathlib import Path

import pytest

from agentdistill import Candidate, Observation, Step, Trajectory
from agentdistill.report import Row, page, plot, table

ROWS = [
    Row("cot", "S", 300_000, "facts", 0.1, 50, 1.0),
    Row("cot", "S", 300_000, "sums", 0.3, 50, 1.0),
    Row("agent", "S", 300_000, "facts", 0.5, 50, 2.0),
    Row("agent", "S", 300_000, "sums", 1.0, 50, 2.0),
]


def test_table_has_a_line_for_each_size_and_arm() -> None:
    assert table(ROWS).splitlines() == [
        "size  parameters  arm    facts    sums   mean",
        "----  ----------  -----  -----  ------  -----",
        "S         0.30 M  cot    10.0%   30.0%  20.0%",
        "S         0.30 M  agent  50.0%  100.0%  75.0%",
    ]


class Reader(HTMLParser):
    """Collects the tags and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_holds_everything_and_escapes_what_models_wrote(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs agentdistill[train]")
    hostile = "</pre><script>alert(1)</script>"
    step = Step([Candidate(f"Thought: {hostile}", observation=Observation("value", stdout=hostile))], message=hostile)
    trajectory = Trajectory("1", hostile, reference="42", steps=[step], answer=hostile, score=0.0)
    plot(ROWS, tmp_path / "plot.png")
    page("Title", "One.\n\nTwo.", ROWS, {"Agent": [trajectory]}, tmp_path / "page.html", plots=[tmp_path / "plot.png"])

    reader = Reader()
    reader.feed((tmp_path / "page.html").read_text())
    assert "script" not in reader.tags
    assert reader.text.count(hostile) == 4
    assert all(word in reader.text for word in ["One.", "Two.", "75.0%", "The right answer: 42"])
    assert [source[:22] for source in reader.sources] == ["data:image/png;base64,"], "nothing is loaded from outside"


def test_plot_is_a_png_of_some_size(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs agentdistill[train]")
    plot(ROWS, tmp_path / "plot.png")
    data = (tmp_path / "plot.png").read_bytes()
    width, height = struct.unpack(">II", data[16:24])
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert width > 800 and height > 300
