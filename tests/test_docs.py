"""The documentation is correct: its blocks run, its commands are valid, and its figures were measured.

Fenced blocks, ```python and ```sh, run one after another, in one folder per page. Indented commands need a GPU, a
server or a real model and are only parsed.
"""

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import agentdistill
from agentdistill import cli

ROOT = Path(__file__).parents[1]
DOCS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
PAGES = DOCS | {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "recipes/paper/README.md")}

BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^ *(?:torchrun .*)?agentdistill (.+)$", re.MULTILINE)
NUMBER = re.compile(r"\d[\d,.]*\d|\d")


@pytest.mark.parametrize("page", [name for name, text in DOCS.items() if BLOCK.search(text)])
def test_the_blocks_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl", reason="needs agentdistill[train]")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    names = {"__name__": page}
    for language, block in BLOCK.findall(DOCS[page]):
        if language == "sh":
            subprocess.run(["bash", "-euo", "pipefail", "-c", block], check=True, timeout=60)
        else:
            exec(compile(block, page, "exec"), names)


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_are_valid(page: str) -> None:
    for command in COMMAND.findall(BLOCK.sub("", PAGES[page])):
        try:
            cli.parse(shlex.split(command, comments=True))
        except SystemExit as error:
            pytest.fail(f"{page}: agentdistill {command}: {error}")


EXPECTED = {
    "own_tools.py": r"Answer: 500 \(right\)",
    "own_task_set.py": r"wrong: How many days does a leap year have\? 365, not 366",
    "own_api.py": r"before\n.*\nparts +30 +0\.0% (?s:.*)\nafter\n.*\nparts +30 +[5-9]\d\.\d%",
}
"""Output of each example."""


@pytest.mark.parametrize("example", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_an_example_works(example: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl", reason="needs agentdistill[train]")
    monkeypatch.setattr(sys, "argv", [example])
    runpy.run_path(str(ROOT / "examples" / example), run_name="__main__")
    assert re.search(EXPECTED[example], capsys.readouterr().out)


def test_the_reference_is_complete() -> None:
    described = set(re.findall(r"^::: agentdistill\.(\w+)$", DOCS["reference.md"], re.MULTILINE))
    assert described == set(agentdistill.__all__) - {"__version__"}


def test_figures_are_those_of_the_benchmarks() -> None:
    measured = set(NUMBER.findall((ROOT / "BENCHMARKS.md").read_text(encoding="utf-8")))
    used = set(NUMBER.findall(re.sub(r"\]\([^)]*\)", "", DOCS["comparison.md"])))
    assert used <= measured
