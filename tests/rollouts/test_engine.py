"""Many concurrent episodes, and interruptions: kill -9, Ctrl-C, a server that goes away, a file of another run.

One file of more than 500 lines, because its runs share a server and a process to kill.
"""

import asyncio
import json
import multiprocessing
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agentdistill import (
    AgentDistillError,
    Limits,
    ModelError,
    Sandbox,
    Task,
    Trajectory,
    TrajectoryError,
    load_model,
    read_trajectories,
    rollout,
)
from agentdistill.event_loop import run_blocking
from agentdistill.models.model import Generation, Message, Sampling
from agentdistill.models.scripted import ScriptedModel
from agentdistill.rollouts.checkpoint import Checkpoints, UnfinishedEpisode
from agentdistill.rollouts.engine import MAX_FAILURES_IN_A_ROW
from agentdistill.rollouts.player import RolloutConfig
from agentdistill.tools.tool import python_tool
from slow_run import MID_EPISODE, THREES, Logged, add_slowly, adds, code, count_slowly, counts, sums

ADDER = ScriptedModel("adder", adds)
QUIET = {"progress": False}


BAD_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"seed": -1}, r"seed is -1: give 0 to 2\^64 - 1"),
    ({"seed": 1 << 64}, "seed is 18446744073709551616: give"),
    ({"date": "tomorrow"}, "date is 'tomorrow': give one such as 2026-11-30"),
    ({"date": ""}, "date is ''"),
    ({"tool_seconds": -1}, "tool_seconds is -1: give more than 0"),
    ({"tool_seconds": float("nan")}, "tool_seconds is nan"),
    ({"cell_seconds": float("nan")}, "seconds is NaN; it must be more than 0"),
    ({"memory_mb": 1}, "memory_mb is 1; it must be between"),
]


@pytest.mark.parametrize("settings, message", BAD_SETTINGS, ids=str)
def test_settings_are_checked_before_a_model_is_loaded(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RolloutConfig(**settings)


def test_hundreds_of_episodes_at_once() -> None:
    trajectories = rollout(sums(300), ADDER, **QUIET)
    assert [trajectory.task_id for trajectory in trajectories] == [f"t{i}" for i in range(300)]
    assert {(t.outcome, t.score, len(t.steps), t.task_set, t.model, t.kind) for t in trajectories} == {
        ("final_answer", 1.0, 2, "sums", "adder", "agent")
    }
    assert [trajectory.answer for trajectory in trajectories] == [str(2 * i) for i in range(300)]


def test_no_more_than_so_many_at_once() -> None:
    under_way, most = 0, 0

    class Counting(ScriptedModel):
        async def generate(
            self, messages: Sequence[Message], sampling: Sampling, *, n: int = 1, prefix: str = ""
        ) -> Generation:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.01)
            under_way -= 1
            return await super().generate(messages, sampling, n=n, prefix=prefix)

    rollout(sums(20), Counting("counting", adds), config=RolloutConfig(concurrency=3), **QUIET)
    assert most == 3


def test_a_chain_of_thought_is_one_completion() -> None:
    model = ScriptedModel("m", lambda messages, prefix, index: "It is even.\n\n<answer>\\boxed{4}</answer>")
    [right, wrong] = rollout(sums(4)[2:], model, config=RolloutConfig(kind="cot"), **QUIET)
    assert (right.kind, right.answer, right.score, len(right.steps)) == ("cot", "4", 1.0, 1)
    assert (wrong.answer, wrong.score) == ("4", 0.0)
    assert right.steps[0].candidates[0].action is None


def test_a_question_without_an_answer_is_not_graded() -> None:
    [trajectory] = rollout([Task("q", "What is 2 + 3?")], ADDER, **QUIET)
    assert (trajectory.answer, trajectory.score, trajectory.grader) == ("5", None, None)


def test_tools_are_called_and_shown() -> None:
    def double(number: int) -> int:
        """Twice the number."""
        return 2 * number

    def policy(messages: Sequence[Message], prefix: str, index: int) -> str:
        assert 'def double(number: int) -> int:\n    """Twice the number."""' in messages[0].content
        return code("final_answer(double(21))")

    [trajectory] = rollout([Task("q", "?", "42")], ScriptedModel("m", policy), [python_tool(double)], **QUIET)
    assert (trajectory.answer, trajectory.score) == ("42", 1.0)


def test_episodes_wait_for_slow_tools_side_by_side() -> None:
    together = threading.Barrier(16)

    def meet() -> str:
        """Come back when sixteen have called."""
        together.wait(timeout=30)
        return "met"

    model = ScriptedModel("m", lambda messages, prefix, index: code("final_answer(meet())"))
    done = rollout(sums(16), model, [python_tool(meet)], **QUIET)
    assert {trajectory.answer for trajectory in done} == {"met"}


def test_candidates_wait_for_slow_tools_side_by_side() -> None:
    together = threading.Barrier(8)

    def meet(number: int) -> str:
        """Come back when eight have called."""
        together.wait(timeout=30)
        return "met"

    model = ScriptedModel("m", lambda messages, prefix, index: code(f"final_answer(meet({index}))"))
    [done] = rollout(sums(1), model, [python_tool(meet)], RolloutConfig(candidates=8), **QUIET)
    assert done.steps[0].votes == [("final_answer(met)", 8)]


def test_it_runs_within_a_running_loop() -> None:
    async def notebook() -> int:
        return len(rollout(sums(3), ADDER, **QUIET))

    assert asyncio.run(notebook()) == 3


def test_all_rollouts_share_one_loop() -> None:
    async def loop() -> int:
        return id(asyncio.get_running_loop())

    assert run_blocking(loop()) == run_blocking(loop())


# ---- what is written -----------------------------------------------------------------------------


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    asked: list[str] = []

    def policy(messages: Sequence[Message], prefix: str, index: int) -> str:
        asked.append(messages[1].content)
        return adds(messages, prefix, index)

    model, output = ScriptedModel("adder", policy), tmp_path / "t.jsonl"
    first = rollout(sums(5), model, output=output, **QUIET)
    asked.clear()
    both = rollout(sums(8), model, output=output, **QUIET)
    assert set(asked) == {task.question for task in sums(8)[5:]}
    assert [t.task_id for t in both] == [f"t{i}" for i in range(8)]
    assert both[:5] == first
    assert sorted(t.task_id for t in read_trajectories(output)) == sorted(f"t{i}" for i in range(8))


@pytest.mark.parametrize(
    "other",
    [{"max_steps": 4}, {"candidates": 8}, {"kind": "cot"}, {"seed": 1}, {"prompt": "Use code."}, {"output_chars": 99}],
)
def test_a_file_of_another_run_is_refused(tmp_path: Path, other: dict[str, object]) -> None:
    output = tmp_path / "t.jsonl"
    rollout(sums(2), ADDER, output=output, **QUIET)
    before = output.read_bytes()
    with pytest.raises(TrajectoryError, match=str(output)):
        rollout(sums(4), ADDER, config=RolloutConfig(**other), output=output, **QUIET)  # type: ignore[arg-type]
    with pytest.raises(TrajectoryError, match="model"):
        rollout(sums(4), ScriptedModel("other", adds), output=output, **QUIET)
    assert output.read_bytes() == before


def test_a_finished_run_and_a_refused_one_load_no_model(tmp_path: Path) -> None:
    output, student = tmp_path / "t.jsonl", f"transformers:{tmp_path / 'student'}"
    first = rollout(sums(2), ScriptedModel(str(tmp_path / "student"), adds), output=output, **QUIET)
    assert rollout(sums(2), student, output=output, **QUIET) == first
    with pytest.raises(TrajectoryError, match="other settings: max_steps"):
        rollout(sums(3), student, config=RolloutConfig(max_steps=4), output=output, **QUIET)
    with pytest.raises(ValueError, match="'t1'"):
        rollout([*sums(2), Task("t1", "Another?", "1")], student, output=output, **QUIET)
    with pytest.raises(ModelError, match="student"):
        rollout(sums(3), student, output=output, **QUIET)


def test_a_run_without_an_episode_does_not_keep_its_file(tmp_path: Path) -> None:
    output = tmp_path / "t.jsonl"
    with pytest.raises(ModelError):
        rollout(sums(2), "transformers:nobody/nothing", output=output, **QUIET)
    assert len(output.read_text().splitlines()) == 1
    assert len(rollout(sums(2), ADDER, output=output, **QUIET)) == len(read_trajectories(output)) == 2


def test_a_student_that_was_trained_again_is_another_model(tmp_path: Path) -> None:
    student, output = tmp_path / "student", tmp_path / "t.jsonl"
    student.mkdir()
    (student / "model.safetensors").write_bytes(b"weights")
    model = ScriptedModel(str(student), adds)
    rollout(sums(1), model, output=output, **QUIET)
    rollout(sums(2), model, output=output, **QUIET)
    (student / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(TrajectoryError, match="weights"):
        rollout(sums(3), model, output=output, **QUIET)


def test_how_many_run_at_once_makes_no_other_run(tmp_path: Path) -> None:
    output = tmp_path / "t.jsonl"
    rollout(sums(2), ADDER, output=output, **QUIET)
    assert len(rollout(sums(3), ADDER, config=RolloutConfig(concurrency=1), output=output, **QUIET)) == 3


def test_tasks_with_one_id_are_refused() -> None:
    with pytest.raises(ValueError, match="'t1'"):
        rollout([*sums(2), Task("t1", "Another?", "1")], ADDER, **QUIET)


def test_another_question_under_the_same_id_is_not_taken_for_done(tmp_path: Path) -> None:
    rollout(sums(2), ADDER, output=tmp_path / "t.jsonl", **QUIET)
    with pytest.raises(ValueError, match="another question under the id 't1'"):
        rollout([Task("t1", "What is 9 + 9?", "18")], ADDER, output=tmp_path / "t.jsonl", **QUIET)


PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["slow_run"])


def start_slow_run(output: Path, n: int) -> "subprocess.Popen[str]":
    script = f"from pathlib import Path; from slow_run import add_slowly; add_slowly(Path({str(output)!r}), {n})"
    folder = str(Path(__file__).parents[1])
    return subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, cwd=folder)


def wait_for_lines(output: Path, lines: int) -> None:
    deadline = time.monotonic() + 60
    while not output.exists() or output.read_bytes().count(b"\n") < lines:
        assert time.monotonic() < deadline, "the run did not get on"
        time.sleep(0.005)


def test_kill_9_at_any_moment_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    output, n, luck = tmp_path / "t.jsonl", 3000, random.Random(0)
    kept: set[str] = set()
    for _ in range(100):
        process = PROCESSES.Process(target=add_slowly, args=(output, n))
        process.start()
        if luck.random() < 0.8:
            wait_for_lines(output, len(kept) + luck.randint(1, 20))
        time.sleep(luck.uniform(0, 0.1))
        process.kill()
        process.join()
        if output.exists():
            before, kept = kept, {trajectory.task_id for trajectory in read_trajectories(output)}
            assert before <= kept
    assert 500 < len(kept) < n
    trajectories = rollout(sums(n), ADDER, output=output, **QUIET)
    assert all(trajectory.score == 1 for trajectory in trajectories)
    assert sorted(t.task_id for t in read_trajectories(output)) == sorted(f"t{i}" for i in range(n))


def test_a_killed_run_goes_on_in_the_middle_of_its_episodes(tmp_path: Path) -> None:
    output, log, luck = tmp_path / "t.jsonl", tmp_path / "log", random.Random(0)
    log.touch()
    kills = 0
    for _ in range(10):
        process, asked = PROCESSES.Process(target=count_slowly, args=(output, log)), log.read_text().count("\n")
        process.start()
        while process.is_alive() and log.read_text().count("\n") < asked + 20:
            time.sleep(luck.uniform(0, 0.02))
        kills += process.is_alive()
        process.kill()
        process.join()
    assert kills > 5
    done = rollout(THREES, Logged(log), config=MID_EPISODE, output=output, **QUIET)
    assert [(t.answer, len(t.steps), t.score) for t in done] == [("3", 4, 1.0)] * len(THREES)
    assert len({len(t.messages) for t in done}) == 1
    asked: dict[str, list[str]] = {}
    for line in log.read_text().splitlines():
        task, turn = line.split()
        asked.setdefault(task, []).append(turn)
    assert {tuple(sorted(set(turns))) for turns in asked.values()} == {("0", "1", "2", "3")}
    # Only the step that was running when the kill came was requested again, none before it.
    assert all(turns == sorted(turns) for turns in asked.values())
    assert len(asked) == len(THREES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "t.jsonl"]


def test_half_done_episodes_that_do_not_fit_are_begun_anew(tmp_path: Path) -> None:
    output = tmp_path / "t.jsonl"
    down = ScriptedModel("m", lambda messages, prefix, index: counts(messages, prefix, index))

    async def goes_down(messages: Sequence[Message], *args: Any, **kwargs: Any) -> Generation:
        if len(messages) > 4:
            raise ModelError("gone")
        return await ScriptedModel.generate(down, messages, *args, **kwargs)

    down.generate = goes_down  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="gone"):
        rollout(THREES[:4], down, config=MID_EPISODE, output=output, **QUIET)
    first, second, third, _ = sorted(tmp_path.glob(".t.jsonl.half-done/*.episode"))
    first.write_bytes(first.read_bytes()[:-100])
    second.write_text("")
    third.write_text(third.read_text().replace("\n", "x\n", 1))
    up, turns = ScriptedModel("m", counts), Counter[int]()

    async def goes_on(messages: Sequence[Message], *args: Any, **kwargs: Any) -> Generation:
        turns[len(messages) // 2 - 1] += 1
        return await ScriptedModel.generate(up, messages, *args, **kwargs)

    up.generate = goes_on  # type: ignore[method-assign]
    done = rollout(THREES[:4], up, config=MID_EPISODE, output=output, **QUIET)
    assert [t.score for t in done] == [1.0] * 4
    assert turns == {0: 3, 1: 3, 2: 4, 3: 4}
    assert [path.name for path in tmp_path.iterdir()] == ["t.jsonl"]
    with pytest.raises(ValueError, match="checkpoints are stored beside the output"):
        rollout(THREES[:4], up, config=MID_EPISODE, **QUIET)


def test_a_half_done_episode_may_hold_any_text(tmp_path: Path) -> None:
    sandbox = Sandbox()
    _, state = sandbox.run(sandbox.initial, "x = 1")
    checkpoints = Checkpoints(tmp_path / "t.jsonl", "{}", Limits())
    question = "one\u2028two\x85three\x1c\r\nfour"
    checkpoints.keep(UnfinishedEpisode(Trajectory("t", question), state))
    kept = checkpoints.load("t", question)
    assert kept is not None and kept.trajectory.question == question
    assert sandbox.run(kept.state, "x")[0].value == "1"


def test_ctrl_c_keeps_what_has_ended_and_says_how_to_go_on(tmp_path: Path) -> None:
    output = tmp_path / "t.jsonl"
    process = start_slow_run(output, 500)
    wait_for_lines(output, 20)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    kept = read_trajectories(output)
    assert process.returncode not in (0, -signal.SIGKILL)
    assert (
        f"Interrupted. {len(kept)} of 500 episodes are kept in {output}. Run the same command again to resume." in said
    )
    assert 19 <= len(kept) < 500


def test_a_full_disk_stops_the_run_and_loses_nothing(tmp_path: Path) -> None:
    output = tmp_path / "t.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))  # no file may grow beyond this
    try:
        with pytest.raises(OSError, match=str(output)):
            rollout(sums(200), ADDER, output=output, **QUIET)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    kept = len(read_trajectories(output))
    assert 0 < kept < 200
    assert len(rollout(sums(200), ADDER, output=output, **QUIET)) == len(read_trajectories(output)) == 200


# ---- what goes wrong around episodes -------------------------------------------------------------


def test_a_failed_episode_stops_no_other_and_is_tried_again(tmp_path: Path) -> None:
    down = True

    def policy(messages: Sequence[Message], prefix: str, index: int) -> str:
        if down and messages[1].content == "What is 3 + 3?":
            raise ModelError("the server closed the connection")
        if down and messages[1].content == "What is 4 + 4?":
            raise RuntimeError("a fault of ours")
        return adds(messages, prefix, index)

    model, output = ScriptedModel("adder", policy), tmp_path / "t.jsonl"
    first = rollout(sums(50), model, output=output, **QUIET)
    assert [t.task_id for t in first if t.outcome != "final_answer"] == ["t3", "t4"]
    assert (first[3].outcome, first[3].error) == ("model_error", "the server closed the connection")
    assert first[4].outcome == "error" and "RuntimeError: a fault of ours" in (first[4].error or "")
    assert len(read_trajectories(output)) == 48
    down = False
    assert all(t.score == 1 for t in rollout(sums(50), model, output=output, **QUIET))


@pytest.mark.parametrize("tasks", [1, 5, 400])
def test_a_model_that_is_down_for_good_stops_the_run(tasks: int) -> None:
    asked = 0

    def down(messages: Sequence[Message], prefix: str, index: int) -> str:
        nonlocal asked
        asked += 1
        raise ModelError("nobody answers at http://127.0.0.1:1/v1")

    config = RolloutConfig(concurrency=8)
    in_a_row = "the model failed in .* episodes in a row, most recently with: " if tasks > 1 else ""
    with pytest.raises(ModelError, match=f"^{in_a_row}nobody answers at http://127.0.0.1:1/v1$"):
        rollout(sums(tasks), ScriptedModel("down", down), config=config, **QUIET)
    assert asked <= MAX_FAILURES_IN_A_ROW + 3 * config.concurrency


def test_a_model_that_goes_down_keeps_what_was_done(tmp_path: Path) -> None:
    answered = 0

    def policy(messages: Sequence[Message], prefix: str, index: int) -> str:
        nonlocal answered
        answered += 1
        if answered > 100:
            raise ModelError("gone")
        return adds(messages, prefix, index)

    output = tmp_path / "t.jsonl"
    with pytest.raises(
        ModelError, match=r"(?s)gone.*Finished episodes are kept\. Run the same command again to resume\."
    ):
        rollout(sums(300), ScriptedModel("adder", policy), config=RolloutConfig(concurrency=4), output=output, **QUIET)
    kept = read_trajectories(output)
    assert 45 <= len(kept) <= 50 and all(t.outcome == "final_answer" for t in kept)


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    """A real chat completions server that adds, and is overloaded after ``server.left`` responses."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.server.left -= 1  # type: ignore[attr-defined]
            if self.server.left < 0:  # type: ignore[attr-defined]
                self.send_error(503)
                return
            text = adds([Message(m["role"], m["content"]) for m in body["messages"]], "", 0)
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
            reply = {"id": "1", "object": "chat.completion", "created": 0, "model": "adder", "choices": [choice]}
            data = json.dumps(reply | {"usage": usage}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.left = 10**9  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_server_that_breaks_down_and_comes_back(server: Any, tmp_path: Path) -> None:
    output, url = tmp_path / "t.jsonl", f"http://127.0.0.1:{server.server_port}/v1"
    model = load_model(f"openai:{url}:adder", retries=0)
    config = RolloutConfig(concurrency=8)
    server.left = 100
    with pytest.raises(
        ModelError, match=r"(?s)503.*Finished episodes are kept\. Run the same command again to resume\."
    ):
        rollout(sums(120), model, config=config, output=output, **QUIET)
    assert 40 <= len(read_trajectories(output)) <= 50
    server.left = 10**9
    trajectories = rollout(sums(120), model, config=config, output=output, **QUIET)
    assert {(t.score, t.usage) for t in trajectories} == {(1.0, (14, 6))}
    assert len(read_trajectories(output)) == 120
    run_blocking(model.close())


def test_a_server_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    model = load_model(f"openai:http://127.0.0.1:{port}/v1:nobody", retries=0)
    with pytest.raises(ModelError, match=f"nobody at http://127.0.0.1:{port}/v1"):
        rollout(sums(1), model, **QUIET)
    run_blocking(model.close())


def test_faults_of_our_own_stop_the_run_too() -> None:
    def broken(messages: Sequence[Message], prefix: str, index: int) -> str:
        raise KeyError("x")

    with pytest.raises(AgentDistillError, match="KeyError"):
        rollout(sums(30), ScriptedModel("m", broken), **QUIET)


# ---- what is shown -------------------------------------------------------------------------------


def test_without_a_terminal_progress_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    def policy(messages: Sequence[Message], prefix: str, index: int) -> str:
        return "Hm." if messages[1].content == "What is 1 + 1?" else adds(messages, prefix, index)

    rollout(sums(4), ScriptedModel("m", policy), title="exam")
    said = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"exam: 4/4, accuracy 75.0%, [\d.]+/s, 0:00:00 left, parse_failure 1", said[-2])
    assert re.fullmatch(r"exam: time of episodes: model \d+%, sandbox \d+%, tools 0%, waiting \d+%", said[-1])


def test_metrics_say_what_happened_and_where_time_went(server: Any, tmp_path: Path) -> None:
    def slow() -> int:
        """Take some time."""
        time.sleep(0.05)
        return 1

    model = load_model(f"openai:http://127.0.0.1:{server.server_port}/v1:adder")
    output, metrics = tmp_path / "t.jsonl", tmp_path / "metrics.json"
    rollout(sums(3), model, [python_tool(slow)], output=output, metrics=metrics, **QUIET)
    rollout(sums(10), model, [python_tool(slow)], output=output, metrics=metrics, **QUIET)
    run_blocking(model.close())
    known = json.loads(metrics.read_text())
    assert known["episodes"] == {"total": 10, "done": 10, "of_an_earlier_run": 3}
    assert (known["outcomes"], known["accuracy"], known["steps"]) == ({"final_answer": 10}, 1.0, 14)
    assert (known["tokens"]["prompt"], known["tokens"]["completion"]) == (98, 42)
    assert known["seconds_of_episodes"]["model"] > 0 < known["seconds_of_episodes"]["sandbox"]

    calls = ScriptedModel("m", lambda messages, prefix, index: code("final_answer(slow())"))
    rollout(sums(2), calls, [python_tool(slow)], metrics=metrics, **QUIET)
    assert json.loads(metrics.read_text())["seconds_of_episodes"]["tools"] > 0.1
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_trajectories_say_how_they_were_made() -> None:
    config = RolloutConfig(candidates=2)
    [trajectory] = rollout(sums(1), ADDER, config=config, **QUIET)
    assert trajectory.sampling["candidates"] == 2
    assert "def final_answer(answer):" in trajectory.sampling["tools"]
    assert json.loads(trajectory.to_json())["sampling"] == trajectory.sampling
    assert [len(step.candidates) for step in trajectory.steps] == [2, 2]
