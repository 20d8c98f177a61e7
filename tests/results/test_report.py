"""The report: its figures are those of the evaluations, it is a single page, and it refuses what it cannot compare."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from agentdistill import Candidate, Step, Task, Trajectory, evaluate
from agentdistill.models.model import Message
from agentdistill.models.scripted import ScriptedModel
from agentdistill.results.arms import finished_training, load_arm, run_names
from agentdistill.results.page import html
from agentdistill.results.report import write_report
from agentdistill.rollouts.player import RolloutConfig

pytest.importorskip("matplotlib", reason="needs agentdistill[report]")

TASKS = [Task(f"s{i}", f"{i} + {i}", str(2 * i), "sums_100%", "math") for i in range(6)]
TASKS += [Task(f"w{i}", f"{'ab'[i % 2]} & {i}", "ab"[i % 2], "words") for i in range(4)]


def code(text: str) -> str:
    return f"Thought: I act.\nCode:\n```py\n{text}\n```<end_code>"


def knows_all(messages: Sequence[Message], prefix: str, index: int) -> str:
    question = messages[1].content
    return code(f"final_answer({question})" if "+" in question else f"final_answer({question[0]!r})")


def knows_sums(messages: Sequence[Message], prefix: str, index: int) -> str:
    """Some of its candidates fail; on questions about words, no two agree."""
    return (
        code("1/0")
        if index == 1
        else knows_all(messages, "", 0)
        if "+" in messages[1].content
        else code(f"final_answer({index})")
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two evaluations and a training run."""
    folder = tmp_path_factory.mktemp("runs")
    evaluate(TASKS, ScriptedModel("m", knows_all), output=folder / "greedy", progress=False)
    voting = RolloutConfig(candidates=3)
    evaluate(TASKS, ScriptedModel("m", knows_sums), config=voting, output=folder / "sag_<b>", progress=False)
    (folder / "student").mkdir()
    result = {"steps": 2, "losses": [2.0, 1.0], "logged_at": [1, 2], "held_out_losses": [1.5], "held_out_at": [2]}
    record = {"run": {"model": "base", "examples": 8, "method": "lora", "teacher": None}, "result": result}
    (folder / "student" / "train.json").write_text(json.dumps(record))
    return folder


def test_a_report_says_what_the_evaluations_found(runs: Path, tmp_path: Path) -> None:
    page = write_report([runs / "greedy", runs / "sag_<b>", runs / "student"], tmp_path / "report.html").read_text()
    beside = tmp_path / "report_files"
    plots = {
        f"{name}{kind}" for name in ("accuracy", "cost", "episodes", "agreement", "losses") for kind in (".svg", ".png")
    }
    assert {path.name for path in beside.iterdir()} == plots | {"table.md", "table.tex"}
    assert (beside / "table.md").read_text() == (
        "| Method | sums_100% | words | Avg. |\n| --- | ---: | ---: | ---: |\n"
        "| greedy | **100.00** | **100.00** | **100.00** |\n| sag_<b> | **100.00** | 0.00 | 50.00 |\n"
    )
    assert (beside / "table.tex").read_text() == (
        "\\begin{tabular}{lrrr}\n\\toprule\nMethod & sums\\_100\\% & words & Avg. \\\\\n\\midrule\n"
        "greedy & \\textbf{100.00} & \\textbf{100.00} & \\textbf{100.00} \\\\\n"
        "sag\\_<b> & \\textbf{100.00} & 0.00 & 50.00 \\\\\n\\bottomrule\n\\end{tabular}\n"
    )
    cells = re.findall(r"<td>(.*?)</td>", page)
    assert "<b>100.0%</b><small>61 to 100</small>" in cells  # Wilson, 6 of 6
    pair = cells.index("greedy over sag_&lt;b&gt;")
    assert cells[pair + 2 : pair + 5] == ["10", "4", "0"]
    assert float(cells[pair + 5]) == pytest.approx(2 / 2**4, abs=0.005)
    assert "100% of 6" in cells  # every sum had two of three votes
    assert not re.findall(r"https?:|<script|<link|@import|src=", page)  # the page fetches nothing
    assert page.count("<svg") == 5 and "held out" in page and "sag_&lt;b&gt;" in page and "sag_<b>" not in page


def test_a_report_of_one_arm_compares_nothing(runs: Path, tmp_path: Path) -> None:
    page = write_report([runs / "greedy"], tmp_path / "alone.html").read_text()
    assert "Accuracy" in page
    assert "Differences" not in page and "Agreement" not in page and "Learning curves" not in page


def test_arms_that_share_no_task_are_said_not_to(runs: Path, tmp_path: Path) -> None:
    renamed = [Task(f"file/{task.id}", task.question, task.answer, task.task_set, task.kind) for task in TASKS]
    evaluate(renamed, ScriptedModel("m", knows_all), output=tmp_path / "other", progress=False)
    page = write_report([runs / "greedy", tmp_path / "other"], tmp_path / "report.html").read_text()
    assert "No task in common: greedy and other." in page
    three = write_report([runs / "greedy", runs / "sag_<b>", tmp_path / "other"], tmp_path / "report.html").read_text()
    assert (
        "greedy over sag_&lt;b&gt;" in three
        and "No task in common: greedy and other, sag_&lt;b&gt; and other." in three
    )


@pytest.mark.parametrize("text", ["[1]", "{", "{}", '{"run": {}, "result": [1]}', '{"run": 1}', "\\", "[" * 10**5])
def test_a_training_record_that_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(ValueError, match=r"train\.json was not written by train \("):
        finished_training(tmp_path)


def test_a_training_of_the_first_versions_is_shown_too(runs: Path, tmp_path: Path) -> None:
    result = {"steps": 12, "losses": [2.0, 1.5, 1.125], "seconds": 1.0, "resumed_from": None}
    (tmp_path / "train.json").write_text(
        json.dumps({"run": {"model": "base", "examples": 8, "method": "lora"}, "result": result})
    )
    page = write_report([runs / "greedy", tmp_path], tmp_path / "r.html").read_text()
    assert "Learning curves" in page and "<td>1.125</td>" in page
    known = finished_training(tmp_path)
    assert known and known["logged_at"] == [1, 5, 10]


def test_runs_of_one_name_are_told_apart(runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "greedy.jsonl"
    file.touch()
    assert set(run_names([runs / "greedy", runs / "student"]).values()) == {"greedy", "student"}
    named = run_names([runs / "greedy", file])
    assert named[file].endswith(f"{tmp_path.name}/greedy") and named[runs / "greedy"].endswith(f"{runs.name}/greedy")


def test_a_run_may_take_several_days(tmp_path: Path) -> None:
    for day, tasks in (("2026-11-30", TASKS[:3]), ("2026-12-01", TASKS[3:])):
        config = RolloutConfig(date=day)
        evaluate(tasks, ScriptedModel("m", knows_all), config=config, output=tmp_path / "run" / day, progress=False)
    assert len(load_arm(tmp_path / "run", "run").right) == len(TASKS)


def test_what_cannot_be_compared_is_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="different settings"):
        load_arm(runs, "all")
    with pytest.raises(ValueError, match="given twice"):
        write_report([runs / "greedy", runs / "greedy"], tmp_path / "r.html")
    with pytest.raises(ValueError, match="nothing to report"):
        write_report([runs / "student"], tmp_path / "r.html")
    with pytest.raises(FileNotFoundError):
        write_report([runs / "missing"], tmp_path / "r.html")
    asked = Trajectory("q", "?")
    (tmp_path / "asked.jsonl").write_text(asked.to_json() + "\n")
    with pytest.raises(ValueError, match="'q' has no correct answer"):
        write_report([tmp_path / "asked.jsonl"], tmp_path / "r.html")
    graded = Trajectory("q", "?", reference="1", score=0.0).to_json() + "\n"
    (tmp_path / "twice.jsonl").write_text(graded * 2)
    with pytest.raises(ValueError, match="'q' of '' twice"):
        write_report([tmp_path / "twice.jsonl"], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_notebooks_show_trajectories_and_results(runs: Path) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    steps = [Step([Candidate("Done.", reasoning=hostile)])]
    shown = Trajectory("q", hostile, steps=steps, answer=hostile, reference="1", score=0.0)._repr_html_()
    assert hostile not in shown and shown.count(html(hostile)) == 3 and "<details open" in shown
    assert "<summary>Thinking</summary>" in shown
    table = evaluate(TASKS[:1], ScriptedModel("m", knows_all), progress=False)._repr_html_()
    assert "<td>100.0%</td>" in table
