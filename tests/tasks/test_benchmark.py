"""Benchmarks by name: the paper's files, data sets as saved by Hugging Face's library, the hub (a small local one, with
the real client), and errors when a benchmark is missing."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agentdistill import Task, load_tasks
from agentdistill.tasks.benchmark import BENCHMARKS, located

NAMES = ["hotpotqa", "bamboogle", "musique", "2wiki", "math500", "gsm_hard", "aime", "olymmath"]

# A row of each benchmark on the hub, shortened, and the task that it becomes.
ROWS: dict[str, tuple[dict[str, Any], Task]] = {
    "hotpotqa": (
        {"id": "5a8", "question": "Who?", "answer": "Ann", "level": "hard", "context": {"title": ["A"]}},
        Task("5a8", "Who?", "Ann", "hotpotqa", "fact"),
    ),
    "bamboogle": ({"Question": "Who?", "Answer": "1887"}, Task("0", "Who?", "1887", "bamboogle", "fact")),
    "musique": (
        {"id": "2hop__1", "paragraphs": [{"idx": 0}], "question": "Who?", "answer": "Ann", "answer_aliases": ["A"]},
        Task("2hop__1", "Who?", "Ann", "musique", "fact", ("A",)),
    ),
    "2wiki": (
        {"id": "8813", "question": "Who?", "answer": "no", "supporting_facts": {"title": ["A"]}},
        Task("8813", "Who?", "no", "2wiki", "fact"),
    ),
    "math500": (
        {"problem": "What?", "solution": "...", "answer": "(3,4)", "level": 2, "unique_id": "test/algebra/1.json"},
        Task("test/algebra/1.json", "What?", "(3,4)", "math500", "math"),
    ),
    "gsm_hard": (
        {"input": "How many?", "code": "...", "target": 13138980.0},
        Task("0", "How many?", "13138980.0", "gsm_hard", "math"),
    ),
    "aime": (
        {"id": 0, "problem": "Find it.", "solution": "...", "answer": "033", "url": "..."},
        Task("0", "Find it.", "033", "aime", "math"),
    ),
    "olymmath": (
        {"problem": "Find it.", "answer": "$2\\pi$", "subject": "Geometry", "unique_id": "OlymMATH-HARD-0-EN"},
        Task("OlymMATH-HARD-0-EN", "Find it.", "$2\\pi$", "olymmath", "math"),
    ),
}


def test_there_are_the_papers_eight() -> None:
    assert list(BENCHMARKS) == NAMES == list(ROWS)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_data_set(name: str, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs agentdistill[benchmarks]")
    row, expected = ROWS[name]
    saved = datasets.DatasetDict({BENCHMARKS[name].split: datasets.Dataset.from_list([row])})
    saved.save_to_disk(tmp_path / name)
    (task,) = load_tasks(tmp_path / name)
    assert task == expected
    assert not any(isinstance(value, list | dict) for value in task.metadata.values())
    assert load_tasks(tmp_path / name, "mine", kind="fact")[0].task_set == "mine"


SUBSETS = {"en-easy": "An easy one.", "en-hard": "A hard one.", "zh-hard": "Another language."}
CARD = "".join(f"- config_name: {n}\n  data_files:\n  - split: test\n    path: {n}.jsonl\n" for n in SUBSETS)
REPOSITORY = {"README.md": f"---\nconfigs:\n{CARD}---\n"} | {
    f"{name}.jsonl": json.dumps({"problem": problem, "answer": "1"}) + "\n" for name, problem in SUBSETS.items()
}
"""OlymMATH, laid out as in its repository on the hub."""
OLYMMATH = [("0", "An easy one."), ("1", "A hard one.")]
"""Its tasks; rows without an id are numbered."""


def test_a_folder_as_the_hub_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets", reason="needs agentdistill[benchmarks]")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "olymmath"
    folder.mkdir()
    for name, text in REPOSITORY.items():
        (folder / name).write_text(text)
    tasks = load_tasks(folder)
    assert [(task.id, task.question) for task in tasks] == OLYMMATH
    assert load_tasks(folder, limit=1) == tasks[:1]


class Hub(BaseHTTPRequestHandler):
    """A hub that holds only OlymMATH, with the endpoints that loading it needs."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        _, _, rest = self.path.partition("/RUC-AIBOX/OlymMATH/")
        action, _, where = rest.partition("/")
        name = where.partition("/")[2]
        digests = {file: hashlib.sha1(text.encode()).hexdigest() for file, text in REPOSITORY.items()}
        headers = {"X-Repo-Commit": "a" * 40, "Content-Type": "application/json"}
        files = [{"type": "file", "path": f, "oid": digests[f], "size": len(t)} for f, t in REPOSITORY.items()]
        match action:
            case "resolve" if name in REPOSITORY:
                self.send(200, REPOSITORY[name], headers | {"ETag": f'"{digests[name]}"'})
            case "revision":
                siblings = [{"rfilename": file} for file in REPOSITORY]
                self.send(200, json.dumps({"id": "RUC-AIBOX/OlymMATH", "sha": "a" * 40, "siblings": siblings}), headers)
            case "tree":
                self.send(200, json.dumps(files), headers)
            case _:
                self.send(404, "", headers | {"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET

    def send(self, code: int, body: str, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


def test_the_hub(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="needs agentdistill[benchmarks]")
    code = "from agentdistill import load_tasks; print([(t.id, t.question) for t in load_tasks('olymmath')])"
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub:
        threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        known = {"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path), "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}"}
        command = [sys.executable, "-c", code]  # in its own process, because the library reads these when imported
        run = subprocess.run(command, env=os.environ | known, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        hub.shutdown()
    assert run.stdout == f"{OLYMMATH}\n", run.stderr


def test_a_data_set_of_ones_own(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs agentdistill[benchmarks]")
    rows = [
        {"question": "How many?", "answer": 5, "kind": "math"},
        {"question": "Who?", "answer": "Ann", "kind": "fact"},
    ]
    datasets.Dataset.from_list([{**row, "answer": str(row["answer"])} for row in rows]).save_to_disk(tmp_path / "mine")
    assert [(t.answer, t.kind, t.task_set) for t in load_tasks(tmp_path / "mine")] == [
        ("5", "math", "mine"),
        ("Ann", "fact", "mine"),
    ]
    gsm8k = [{"question": "How many?", "answer": "3+4=<<3+4=7>>7 apples.\n#### 7"}]
    datasets.Dataset.from_list(gsm8k).save_to_disk(tmp_path / "gsm8k")
    assert [(t.answer, t.kind) for t in load_tasks(tmp_path / "gsm8k")] == [("7", "math")]
    golden = [{"question": "Who?", "golden_answers": ["Ann", "Anne"], "aliases": ["A."]}]
    datasets.Dataset.from_list(golden).save_to_disk(tmp_path / "golden")
    assert [task.answers for task in load_tasks(tmp_path / "golden")] == [("Ann", "Anne", "A.")]
    datasets.Dataset.from_list([{"question": "Who?", "answer": ["Ann"]}]).save_to_disk(tmp_path / "lists")
    with pytest.raises(ValueError, match="lists: row 0: its answer is a list"):
        load_tasks(tmp_path / "lists")
    two = datasets.DatasetDict({name: datasets.Dataset.from_list(rows[:1]) for name in ("train", "test")})
    two.save_to_disk(tmp_path / "two")
    assert len(load_tasks(tmp_path / "two" / "test")) == 1
    with pytest.raises(ValueError, match="two has several splits, train, test"):
        load_tasks(tmp_path / "two")


FOLDERS: dict[str, dict[str, str]] = {
    "empty": {},
    "no_table": {"notes.xyz": "hello"},
    "not_parquet": {"x.parquet": "garbage"},
    "unlike_columns": {"x.jsonl": '{"question": "q"}', "y.jsonl": '{"other": ["q"]}'},
    "broken_state": {"state.json": "{"},
    "missing_split": {"dataset_dict.json": '{"splits": ["train"]}'},
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_is_no_data_set(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / name
    folder.mkdir()
    for file, text in FOLDERS[name].items():
        (folder / file).write_text(text)
    with pytest.raises(ValueError, match=rf"{name}: this folder cannot be loaded as a data set \(.+\): give a folder"):
        load_tasks(folder)


def test_the_papers_file_in_a_folder(tmp_path: Path) -> None:
    for date, answer in (("20250507", "old"), ("20260101", "new")):
        row = {"id": 1, "question": "Who?", "answer": answer, "dataset_name": "bamboogle/of/the/file"}
        (tmp_path / f"bamboogle_125_{date}.json").write_text(json.dumps({"examples": [row]}))
    assert located(tmp_path / "bamboogle") == tmp_path / "bamboogle_125_20260101.json"
    assert load_tasks(tmp_path / "bamboogle") == [Task("1", "Who?", "new", "bamboogle", "fact")]
    assert located(tmp_path / "none") == tmp_path / "none"


SHARED = {"hotpotqa": "fact", "2wiki": "fact", "math500": "math", "gsm_hard": "math"}


@pytest.mark.parametrize("name", SHARED)
def test_the_papers_files(name: str, shared_data: Path) -> None:
    tasks = load_tasks(shared_data / "tasks" / name)
    assert (len(tasks), {t.task_set for t in tasks}, {t.kind for t in tasks}) == (500, {name}, {SHARED[name]})


def test_what_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets", reason="needs agentdistill[benchmarks]")
    with pytest.raises(FileNotFoundError, match=r"has no musique: give FOLDER/musique, .* musique_500_\*\.json"):
        load_tasks(tmp_path / "musique")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        OSError, match=r"musique: dgslibisey/MuSiQue cannot be loaded from the hub .* go online once, or give"
    ):
        load_tasks("musique")
    with pytest.raises(ValueError, match="benchmarks are hotpotqa, bamboogle"):
        load_tasks("hotpot")
