"""The published experiment: its tables are what its trajectories say, and the documents repeat the tables."""

import gzip
import json
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from agentdistill.results.arms import load_arm

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "results" / "laptop"
TRAJECTORIES = sorted((FOLDER / "trajectories").glob("*.jsonl.gz"))
TABLES = (FOLDER / "tables.md").read_text(encoding="utf-8")
PAGES = [(FOLDER / "README.md", "# Results on real models"), (ROOT / "README.md", "## What a small model gains")]
"""The documents that show the tables, and where they do."""


@pytest.fixture(scope="module")
def publish() -> Any:
    spec = spec_from_file_location("publish", ROOT / "recipes" / "laptop" / "publish.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_made_from_the_trajectories(publish: Any) -> None:
    assert publish.tables(FOLDER) == TABLES


@pytest.mark.parametrize("file", TRAJECTORIES, ids=lambda file: file.name.removesuffix(".jsonl.gz"))
def test_the_results_are_those_of_the_trajectories(file: Path) -> None:
    name = file.name.removesuffix(".jsonl.gz")
    said = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))["arms"][name]
    evaluation = load_arm(file, name).evaluation
    assert said["accuracy"] == pytest.approx(evaluation.accuracy)
    assert [(s["task_set"], s["n"], s["correct"]) for s in said["sets"]] == [
        (s.task_set, s.n, s.correct) for s in evaluation.sets
    ]


@pytest.mark.parametrize(("page", "section"), PAGES, ids=["page", "readme"])
def test_a_page_repeats_the_tables(page: Path, section: str) -> None:
    """Each row about a student or the teacher is a row of the tables, and each decimal in the text stands in them."""
    text = page.read_text(encoding="utf-8")
    about = text[text.index(section) :].partition(f"\n{section.partition(' ')[0]} ")[0]
    rows = re.findall(r"^\| (?:0\.5B|1\.5B|135M|agent|cot|ftp)[ ,].*$", about, re.MULTILINE)
    assert rows and not [row for row in rows if row not in TABLES]
    prose = "\n".join(line for line in about.splitlines() if not line.startswith("|"))
    said = set(re.findall(r"\d+\.\d+(?= points| ?%)", prose))
    assert said <= set(re.findall(r"\d+\.\d+", TABLES))


def test_nothing_published_names_a_machine() -> None:
    for file in [*TRAJECTORIES, *(FOLDER / "teacher").glob("*.jsonl.gz")]:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                said = json.loads(line)
                assert not str(said.get("model", "")).startswith(("/", "vllm:/"))
    assert not re.search(r'"model": "/', (FOLDER / "results.json").read_text(encoding="utf-8"))
