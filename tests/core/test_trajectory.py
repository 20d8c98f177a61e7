"""Trajectory files from Python: no loss under kill -9 or a full disk. tests/rust/trajectory.rs tests the format."""

import json
import pickle
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentdistill._core import (
    Candidate,
    Observation,
    Step,
    Trajectory,
    TrajectoryError,
    TrajectoryWriter,
    parse_action,
    read_header,
    read_trajectories,
)

WRITER = """
import sys
from agentdistill._core import Trajectory, TrajectoryWriter
path, tasks = sys.argv[1], int(sys.argv[2])
with TrajectoryWriter(path, '{"n": 8}') as writer:
    left = [f"task-{i}" for i in range(tasks) if f"task-{i}" not in writer.done]
    for start in range(0, len(left), 3):
        writer.append([Trajectory(task, "question " * 3000, answer=task) for task in left[start : start + 3]])
"""


def test_a_killed_writer_leaves_whole_lines_and_each_task_once(tmp_path: Path) -> None:
    path, tasks = tmp_path / "t.jsonl", 3000
    command = [sys.executable, "-c", WRITER, str(path), str(tasks)]
    chance = random.Random(0)
    for _ in range(20):
        writer = subprocess.Popen(command)
        before = path.stat().st_size if path.exists() else 0
        while writer.poll() is None and (not path.exists() or path.stat().st_size == before):
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.02))
        writer.kill()
        writer.wait()
        done = [trajectory.task_id for trajectory in read_trajectories(path)]
        assert len(done) == len(set(done))
    assert 0 < len(done) < tasks, "the kills came in the middle of the work"
    subprocess.run(command, check=True)
    lines = path.read_text().splitlines()
    assert json.loads(lines[0]) == {"agentdistill": "trajectories", "version": 1, "run": {"n": 8}}
    assert sorted(json.loads(line)["task_id"] for line in lines[1:]) == sorted(f"task-{i}" for i in range(tasks))
    assert {trajectory.answer for trajectory in read_trajectories(path)} == {f"task-{i}" for i in range(tasks)}


FULL_DISK = """
import os, resource, signal, sys
from agentdistill._core import Trajectory, TrajectoryWriter, read_trajectories
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = sys.argv[1]
writer = TrajectoryWriter(path, "{}")
writer.append([Trajectory("small", "q")])
size = os.path.getsize(path)
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1000, resource.RLIM_INFINITY))
try:
    writer.append([Trajectory("fits", "q"), Trajectory("large", "q" * 5000), Trajectory("after", "q")])
except OSError as error:
    assert error.filename == path and error.errno, error
else:
    raise SystemExit("it was written")
assert writer.done == {"small", "fits"}
writer.append([Trajectory("tiny", "q")])
assert [trajectory.task_id for trajectory in read_trajectories(path)] == ["small", "fits", "tiny"]
"""


def test_a_write_that_fails_leaves_what_fitted(tmp_path: Path) -> None:
    """A limit on the file size simulates a full disk: the write is short."""
    subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path / "t.jsonl")], check=True)


def test_python_sees_what_was_written(tmp_path: Path) -> None:
    text = "Thought: I add.\nCode:\n```py\n1 + 1\n```<end_code>"
    candidate = Candidate(
        text,
        prefix="Thought: ",
        token_ids=[1, 2],
        logprobs=[-0.1, -2.5e-7],
        finish_reason="stop",
        action=parse_action(text),
        observation=Observation("value", value="2", seconds=0.25),
    )
    failed = Candidate("hm", action=parse_action("hm"))
    step = Step([failed, candidate], winner=1, votes=[("=> 2", 1)], prompt_token_ids=[7], message="Observation: 2")
    trajectory = Trajectory(
        "t", "1 + 1?", reference="2", kind="agent", messages=[("user", "1 + 1?")], steps=[step], outcome="out_of_steps",
        score=0.0, sampling={"temperature": 0.4, "stop": ["<end_code>"], "seed": None}, usage=(10, 20), seconds=1.5,
    )  # fmt: skip
    path = tmp_path / "t.jsonl"
    with TrajectoryWriter(path, '{"n": 1}') as writer:
        writer.append([trajectory])
        assert writer.done == {"t"}
    with pytest.raises(ValueError, match="closed"):
        writer.append([])
    [read] = read_trajectories(path)
    assert read == trajectory == pickle.loads(pickle.dumps(trajectory)) == Trajectory.from_json(trajectory.to_json())
    assert read.steps[0].candidates == [failed, candidate] and read.steps[0].candidates[0] != candidate
    assert read.steps[0].candidates[1].action == parse_action(text)
    assert (read.version, read.sampling, read.usage) == (1, trajectory.sampling, (10, 20))
    assert json.loads(read_header(path) or "") == {"n": 1}


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with TrajectoryWriter(path, "{}") as writer:
        writer.append([Trajectory("t", "q")])
        with pytest.raises(TrajectoryError, match="another process is writing"):
            TrajectoryWriter(path, "{}")
    with pytest.raises(TrajectoryError, match="other settings: n "):
        TrajectoryWriter(path, '{"n": 1}')
    empty = tmp_path / "empty.jsonl"
    TrajectoryWriter(empty, "{}").close()
    TrajectoryWriter(empty, '{"n": 1}').close()
    assert json.loads(read_header(empty) or "") == {"n": 1}
    with pytest.raises(FileNotFoundError):
        read_trajectories(tmp_path / "absent")
    with pytest.raises(ValueError, match="unknown variant `done`, expected"):
        Trajectory("t", "q", outcome="done")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="winner is 1, but there are 1 candidates"):
        Step([Candidate("a")], winner=1)
