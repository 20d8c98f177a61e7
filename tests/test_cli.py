"""The commands: each has help with an example, and bad input gives a one-line error, a non-zero exit, and no data
loss."""

import json
import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from agentdistill import (
    Bm25Index,
    Candidate,
    RetrievalServer,
    Step,
    Task,
    Trajectory,
    cli,
    extras,
    read_trajectories,
    rollout,
)
from agentdistill._core import TrajectoryWriter
from agentdistill.cli.evaluate import Evaluate
from agentdistill.models.scripted import ScriptedModel
from agentdistill.rollouts.player import RolloutConfig

COMMANDS = [
    ("index",),
    ("index", "build"),
    ("index", "info"),
    ("index", "search"),
    ("index", "add"),
    ("index", "delete"),
    ("index", "merge"),
    ("index", "check"),
    ("index", "encode"),
    ("serve-retrieval",),
    ("convert",),
    ("generate",),
    ("select",),
    ("correct",),
    ("inspect",),
    ("improve",),
    ("train",),
    ("evaluate",),
    ("grade",),
    ("report",),
    ("view",),
    ("run",),
    ("ask",),
    ("chat",),
    ("serve",),
    ("record",),
    ("serve-environment",),
    ("sandbox",),
    ("mcp",),
    ("demo",),
]

TASK = {"id": "1", "question": "What is 6 * 7?", "answer": "42"}
PASSAGE = {"id": "1", "title": "Paris", "text": "Paris is the capital of France."}


def agentdistill(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agentdistill", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, env=None)


def write_lines(path: Path, *lines: object) -> Path:
    path.write_text("".join(line + "\n" if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_an_example(command: tuple[str, ...], tmp_path: Path) -> None:
    run = agentdistill(*command, "--help", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert f"agentdistill {' '.join(command)}" in re.sub(r"\s+", " ", run.stdout).split("Example:")[1]


WITHOUT_EFFECT = {
    "ask": {"--keep-states", "--checkpoints", "--ray", "--concurrency"},
    "chat": {"--keep-states", "--checkpoints", "--ray", "--concurrency"},
    "serve": {"--keep-states", "--checkpoints", "--ray"},
    "correct": {"--kind", "--passages", "--checkpoints", "--ray"},
    "improve": {"--candidates", "--adaptive", "--kind", "--passages", "--checkpoints", "--ray"},
    "evaluate": set[str](),
    "generate": set[str](),
}


@pytest.mark.parametrize("command", WITHOUT_EFFECT)
def test_help_lists_only_options_with_an_effect(command: str, tmp_path: Path) -> None:
    options = set(re.findall(r"^│ (--[\w-]+)", agentdistill(command, "--help", cwd=tmp_path).stdout, re.MULTILINE))
    agents = set[str]().union(*WITHOUT_EFFECT.values())
    assert agents - options == WITHOUT_EFFECT[command]


def test_help_lists_all_commands_by_group(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])
    shown = capsys.readouterr().out
    assert stopped.value.code == 0
    assert re.findall(r"^(\w+):$", shown, re.MULTILINE) == ["Data", "Distil", "Evaluate", "Serve", "Tools", "Example"]
    listed = re.findall(r"^  ([\w-]+) +[A-Z].*\.$", shown.partition("Example:")[0], re.MULTILINE)
    assert sorted(listed) == sorted({command for command, *_ in COMMANDS})
    assert max(map(len, shown.splitlines())) <= 80
    for example in re.findall(r"^  agentdistill (.+)$", shown, re.MULTILINE):
        cli.parse(shlex.split(example))


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("usage: agentdistill COMMAND")


@pytest.mark.parametrize("flags", [["--sag", "8"], ["--sag=8"], ["--candidates=8"]])
def test_the_papers_abbreviations(flags: list[str]) -> None:
    command = cli.parse(["evaluate", "--tasks", "t.jsonl", "--model", "m", "-o", "r", *flags])
    assert isinstance(command, Evaluate) and command.config.candidates == 8


def test_index_build_info_search(tmp_path: Path) -> None:
    write_lines(tmp_path / "corpus.jsonl", PASSAGE, {**PASSAGE, "id": "2", "title": "Rome", "text": "A city in Italy."})
    built = agentdistill("index", "build", "corpus.jsonl", "-o", "wiki", cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    assert re.search(r"documents +2\b", built.stdout)
    found = agentdistill("index", "search", "wiki", 'capital AND "(of', "-k", 1, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "[1] Paris" in found.stdout
    found = agentdistill("index", "search", "wiki", "capital", "--json", cwd=tmp_path)
    assert [json.loads(line).pop("title") for line in found.stdout.splitlines()] == ["Paris"]


def test_an_index_is_changed(tmp_path: Path) -> None:
    write_lines(tmp_path / "corpus.jsonl", PASSAGE, {**PASSAGE, "id": "2", "title": "Rome", "text": "A city in Italy."})
    write_lines(tmp_path / "new.jsonl", {"id": "2", "text": "Roma"})
    commands = [
        (["build", "corpus.jsonl", "-o", "wiki"], r"documents +2\nsegments +1\ndeleted +0\n"),
        (["add", "wiki", "new.jsonl"], r"documents +2\nsegments +1\ndeleted +0\n"),
        (["search", "wiki", "Roma"], r"\[2\] \nRoma\n"),
        (["delete", "wiki", "1"], r"documents +1\nsegments +\d\ndeleted +\d\n"),
        (["merge", "wiki"], r"documents +1\nsegments +1\ndeleted +0\n"),
    ]
    for command, said in commands:
        run = agentdistill("index", *command, cwd=tmp_path)
        assert run.returncode == 0 and re.search(said, run.stdout), (command, run.stdout, run.stderr)
    run = agentdistill("index", "delete", "wiki", "1", cwd=tmp_path)
    assert run.returncode == 1 and 'not in the index, for example "1"; nothing is deleted' in run.stderr, run.stderr
    assert run.stderr.count("\n") == 1


def test_a_damaged_index_is_found(tmp_path: Path) -> None:
    write_lines(tmp_path / "corpus.jsonl", PASSAGE)
    assert agentdistill("index", "build", "corpus.jsonl", "-o", "wiki", cwd=tmp_path).returncode == 0
    whole = agentdistill("index", "check", "wiki", cwd=tmp_path)
    assert (whole.returncode, whole.stdout) == (0, "wiki: all checksums match\n"), whole.stderr
    largest = max((tmp_path / "wiki").iterdir(), key=lambda file: file.stat().st_size)
    damaged = bytearray(largest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    largest.write_bytes(damaged)
    run = agentdistill("index", "check", "wiki", cwd=tmp_path)
    assert run.returncode == 1 and largest.name in run.stderr and run.stderr.count("\n") == 1, run.stderr


def test_index_build_of_several_files(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", PASSAGE, "no passage")
    write_lines(tmp_path / "b.jsonl", {"id": "2", "contents": '"Rom"\nDie Stra\u00dfen von Rom.'})
    options = ["-o", "wiki", "--skip-bad", "--language", "german", "--memory", 100]
    built = agentdistill("index", "build", "[a-z].jsonl", *options, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    assert all(re.search(said, built.stdout) for said in (r"documents +2\b", r"skipped +1\b", r"language +german\b"))
    assert re.search(r"index: 2 passages, [\d,]+/s, merging\n", built.stderr)
    assert "[2] Rom" in agentdistill("index", "search", "wiki", "Strasse strasse Straße", cwd=tmp_path).stdout


def test_search_over_http(tmp_path: Path) -> None:
    index = Bm25Index.build([("1", "Paris", "Paris is the capital of France.")], tmp_path / "wiki")
    write_lines(tmp_path / "cell.py", "print(web_search('capital'))")
    with RetrievalServer(index, port=0) as server:
        ran = agentdistill("sandbox", "cell.py", "--retriever", server.url, cwd=tmp_path)
    assert ran.stdout == "[1] Paris\nParis is the capital of France.\n", ran.stderr


def test_functions_of_ones_own_are_tools_by_name(tmp_path: Path) -> None:
    write_lines(tmp_path / "parts.py", "def stock(part):", "    'How many there are.'", "    return {'nut': 75}[part]")
    write_lines(tmp_path / "cell.py", "print(stock('nut') + 1)")
    ran = agentdistill("sandbox", "cell.py", "--tool", "parts.py:stock", cwd=tmp_path)
    assert ran.stdout == "76\n", ran.stderr


# What is wrong -> the existing files, the command, and what its error must say.
BAD_INPUT: dict[str, tuple[dict[str, list[object]], list[str], list[str]]] = {
    "no tasks file": (
        {},
        ["generate", "--tasks", "none.jsonl", "--model", "recorded:x", "-o", "t.jsonl"],
        ["none.jsonl"],
    ),
    "a malformed line of tasks": (
        {"tasks.jsonl": [TASK, '{"question": "half'], "t.jsonl": []},
        ["generate", "--tasks", "tasks.jsonl", "--model", "recorded:t.jsonl", "-o", "o.jsonl"],
        ["tasks.jsonl:2"],
    ),
    "a task without an answer field": (
        {"tasks.jsonl": [{"question": "why?"}]},
        ["evaluate", "--tasks", "tasks.jsonl", "--model", "recorded:t.jsonl", "-o", "out"],
        ["tasks.jsonl:1", "answer"],
    ),
    "a model of no known form": (
        {"tasks.jsonl": [TASK]},
        ["evaluate", "--tasks", "tasks.jsonl", "--model", "gpt:4", "-o", "out"],
        ["gpt:4", "openai:URL:NAME"],
    ),
    "a model that is not there": (
        {"tasks.jsonl": [TASK]},
        ["evaluate", "--tasks", "tasks.jsonl", "--model", "transformers:./nowhere", "-o", "out"],
        ["./nowhere"],
    ),
    "no index": (
        {"tasks.jsonl": [TASK], "t.jsonl": []},
        ["evaluate", "--tasks", "tasks.jsonl", "--model", "recorded:t.jsonl", "--index", "wiki", "-o", "out"],
        ["wiki"],
    ),
    "a corpus line that is not JSON": (
        {"corpus.jsonl": [PASSAGE, "not json"]},
        ["index", "build", "corpus.jsonl", "-o", "wiki"],
        ["corpus.jsonl:2"],
    ),
    "no corpus": ({}, ["index", "build", "none.jsonl", "-o", "wiki"], ["none.jsonl"]),
    "no trajectories": ({}, ["select", "none.jsonl", "-o", "kept.jsonl"], ["none.jsonl"]),
    "not a file of trajectories": ({"t.jsonl": [TASK]}, ["select", "t.jsonl", "-o", "kept.jsonl"], ["t.jsonl"]),
    "no results": ({}, ["grade", "none", "-o", "graded"], ["none"]),
    "a grader that is none": ({"t.jsonl": []}, ["grade", "t.jsonl", "--grader", "nice"], ["nice", "judge:MODEL"]),
    "a judge without an output": (
        {"t.jsonl": []},
        ["grade", "t.jsonl", "--grader", "judge:recorded:t.jsonl"],
        ["output"],
    ),
    "a benchmark that is not there": (
        {"t.jsonl": []},
        ["evaluate", "--tasks", "data/aime", "--model", "recorded:t.jsonl", "-o", "out"],
        ["data has no aime", "aime_90_*.json"],
    ),
    "a tool that is not there": ({}, ["sandbox", "none.py", "--tool", "os:nothing"], ["nothing", "FILE.py:FUNCTION"]),
    "no script": ({}, ["sandbox", "none.py"], ["none.py"]),
    "a limit that cannot be": ({}, ["sandbox", "none.py", "--memory-mb", "1"], ["memory_mb"]),
    "a negative limit": (
        {"corpus.jsonl": [PASSAGE]},
        ["index", "build", "corpus.jsonl", "-o", "wiki", "--memory", "-3"],
        ["out of range", "memory"],
    ),
    "a port that cannot be": ({"t.jsonl": []}, ["view", "t.jsonl", "--port", "99999"], ["out of range", "port"]),
    "no retriever": (
        {},
        ["mcp", "--retriever", "http://127.0.0.1:9"],
        ["the retriever at http://127.0.0.1:9/retrieve"],
    ),
    "no name of a tasks file": (
        {},
        ["generate", "--tasks", "--model", "recorded:x", "-o", "t.jsonl"],
        ["no tasks: give"],
    ),
    "an option that a server does not have": (
        {"tasks.jsonl": [TASK]},
        ["generate", "--tasks", "tasks.jsonl", "--model", "openai:http://127.0.0.1:9/v1:m,tries=3", "-o", "t.jsonl"],
        ["no option 'tries'", "retries, timeout"],
    ),
    "a folder for the metrics": (
        {"tasks.jsonl": [TASK]},
        ["generate", "--tasks", "tasks.jsonl", "--model", "recorded:none", "-o", "t.jsonl", "--metrics", "."],
        ["this is a folder: give a file for the metrics"],
    ),
    "an index and a retriever": ({}, ["mcp", "--index", "wiki", "--retriever", "http://x"], ["not both"]),
    "a language that is not known": (
        {"corpus.jsonl": [PASSAGE]},
        ["index", "build", "corpus.jsonl", "-o", "wiki", "--language", "klingon"],
        ["klingon", "english", "cjk", "none"],
    ),
    "no index to serve": ({}, ["serve-retrieval", "wiki"], ["wiki"]),
    "an MCP server without its index": ({}, ["mcp", "--index", "wiki"], ["wiki"]),
    "nothing to train on": ({}, ["train", "none.jsonl", "--model", "x", "-o", "student"], ["none.jsonl"]),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gets_one_clear_line(case: str, tmp_path: Path) -> None:
    files, command, said = BAD_INPUT[case]
    for name, lines in files.items():
        write_lines(tmp_path / name, *lines)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    run = agentdistill(*command, cwd=tmp_path)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    assert all(word in run.stderr for word in ["agentdistill: ", *said]), run.stderr
    assert before == {path: path.read_bytes() for path in before}, "what was there has changed"
    assert not (tmp_path / "wiki").exists()


@pytest.mark.parametrize("prices", [["-1", "1"], ["1", "nan"], ["inf", "0"]])
def test_prices_are_numbers(prices: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parse(["generate", "--tasks", "t.jsonl", "--model", "m", "-o", "r", "--cost", *prices])
    assert "give 0 or more" in re.sub(r"\s+", " ", capsys.readouterr().err)


@pytest.mark.parametrize("command", ["generate", "evaluate"])
def test_prices_say_what_a_model_cost(command: str, tmp_path: Path) -> None:
    step = Step([Candidate("<answer>x</answer>", token_ids=[1] * 400)], prompt_token_ids=[1] * 900)
    replies = Trajectory("1", "What?", steps=[step])
    with TrajectoryWriter(tmp_path / "r.jsonl", "{}") as writer:
        writer.append([replies])
    (tmp_path / "t.json").write_text('[{"id": "1", "question": "What?", "answer": "x"}]')
    asked = ("--tasks", "t.json", "--model", "recorded:r.jsonl", "--kind", "cot", "-o", "out.jsonl")
    run = agentdistill(command, *asked, "--cost", "1000", "5e3", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "cost: 2.90 (900 tokens read, 400 written)" in run.stdout


def test_grade_says_what_changed(tmp_path: Path) -> None:
    model = ScriptedModel("m", lambda messages, prefix, index: "<answer>an Apple</answer>")
    config = RolloutConfig(kind="cot")
    rollout(
        [Task("1", "What?", "apple|pear", "fruit")], model, config=config, output=tmp_path / "t.jsonl", progress=False
    )
    page = (Path(__file__).parents[1] / "docs/evaluation.md").read_text(encoding="utf-8")
    function, *_ = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "mine.py").write_text(function.replace("answer.strip()", "answer.strip().split()[-1]"))
    run = agentdistill("grade", "t.jsonl", "--grader", "mine.py:score", "-o", "runs/new/g.jsonl", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "0 -> 1  1: 'an Apple' for 'apple|pear'" in run.stdout
    (graded,) = read_trajectories(tmp_path / "runs/new/g.jsonl")  # in folders that were made for it
    assert graded.score == 1 and str(graded.grader).startswith("mine:score@")


def test_a_terminal_does_not_obey_a_model(tmp_path: Path) -> None:
    model = ScriptedModel("m", lambda messages, prefix, index: "Final answer: \x1b]0;title\x07 42")
    rollout([Task("ask", "Why?")], model, output=tmp_path / "t.jsonl", progress=False)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "agentdistill", "ask", "Why?", "--model", "recorded:t.jsonl"]
    subprocess.run(command, cwd=tmp_path, stdout=theirs, check=True, timeout=300)
    os.close(theirs)
    said = os.read(ours, 65_536)
    assert said.count(rb"\x1b]0;title\x07 42") == 2 and b"\x1b" not in said, said
    os.close(ours)


def test_an_index_of_another_version_is_refused(tmp_path: Path) -> None:
    Bm25Index.build([("1", "Paris", "Paris is the capital of France.")], tmp_path / "wiki")
    metadata = tmp_path / "wiki" / "agentdistill.json"
    metadata.write_text(re.sub(r'"version":\s*\d+', '"version": 999', metadata.read_text()))
    run = agentdistill("index", "search", "wiki", "Paris", cwd=tmp_path)
    assert run.returncode == 1
    assert "999" in run.stderr and "build" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as left:
        cli.main(["mcp"])
    assert left.value.code == 1
    assert capsys.readouterr() == ("", "agentdistill: mcp is not installed: pip install 'agentdistill[mcp]'\n")


def test_a_server_that_is_down_is_retried_then_named(tmp_path: Path) -> None:
    write_lines(tmp_path / "tasks.jsonl", TASK)
    model = "openai:http://127.0.0.1:9/v1:tiny"  # the discard port, on which nothing listens
    run = agentdistill("evaluate", "--tasks", "tasks.jsonl", "--model", model, "-o", "out", cwd=tmp_path)
    assert run.returncode == 1
    assert "http://127.0.0.1:9/v1 does not answer after 3 tries" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_error_of_one_line(tmp_path: Path) -> None:
    write_lines(tmp_path / "corpus.jsonl", PASSAGE)
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [sys.executable, "-m", "agentdistill", "index", "build", "corpus.jsonl", "-o", "wiki"],
            cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300,
        )  # fmt: skip
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
