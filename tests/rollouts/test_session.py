"""A session keeps its States within a memory limit, and a recorded episode can be continued from any step."""

import json
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentdistill import (
    Action,
    Observation,
    Sandbox,
    SandboxError,
    Task,
    Trajectory,
    read_trajectories,
    rollout,
    state_before,
)
from agentdistill.models.model import Message
from agentdistill.models.scripted import ScriptedModel
from agentdistill.rollouts import session
from agentdistill.rollouts.player import RolloutConfig, sandbox_of
from agentdistill.rollouts.session import Session
from agentdistill.tools.tool import Tool


def test_the_oldest_states_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Session(Sandbox())
    kept.run("x = 0; y = bytes(range(256)) * 4096")
    monkeypatch.setattr(session, "MAX_STATE_BYTES", 4 * kept.state().nbytes)
    for _ in range(9):
        kept.run("x += 1")
    assert kept.step == 10
    assert kept.run("x").value == "9"
    with pytest.raises(ValueError, match=r"no step 5: the steps kept are 0 and (\d+) to 11"):
        kept.run("x", from_step=5)
    assert kept.run("x", from_step=0).error_type == "NameError"
    with pytest.raises(ValueError, match="nothing to undo"):
        for _ in range(12):
            kept.undo()
    assert kept.step > 5  # never back across a gap to a State that is not the previous one


def test_a_state_larger_than_the_memory_for_all_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MAX_STATE_BYTES", 1)
    kept = Session(Sandbox())
    assert [kept.run(code).value for code in ("x = 1", "x += 1", "x")] == [None, None, "2"]


# ---- a recorded episode --------------------------------------------------------------------------

CELLS = (
    "import random\nrows = [random.random()]\nlook(len(rows))",
    "rows += [look(n)['n'] for n in range(3)]\nprint(rows)",
    "rows.clear()\n1 / 0",
    "big = bytearray(20_000_000)\nbig[::4096] = b'x' * len(big[::4096])",
    "final_answer(rows + [len(big)])",
)
CONFIG = RolloutConfig(candidates=3, seed=7, keep_states=True)
LOOK = Tool("look", "(n: int) -> dict", "Looks.", lambda n: {"n": n})


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with an episode of all CELLS, each with a second candidate that raises an error and so has no vote."""

    def policy(messages: Sequence[Message], prefix: str, index: int) -> str:
        done = sum(message.role == "assistant" for message in messages)
        cell = CELLS[done] + (f" # {index}" if index else "\nraise ValueError")
        return f"Thought: I act.\nCode:\n```py\n{cell}\n```<end_code>"

    file = tmp_path_factory.mktemp("recorded") / "t.jsonl"
    rollout([Task("t", "?")], ScriptedModel("m", policy), [LOOK], CONFIG, output=file, progress=False)
    return file


def did(observation: Observation) -> dict[str, Any]:
    """An observation without its time."""

    def without_seconds(fields: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in fields.items() if name != "seconds"}

    fields = without_seconds(json.loads(observation.to_json()))
    return fields | {"tool_calls": [without_seconds(call) for call in fields.get("tool_calls", [])]}


def test_any_step_is_entered_again_and_does_what_it_did(recorded: Path) -> None:
    [trajectory], sandbox = read_trajectories(recorded), sandbox_of(CONFIG, [LOOK])
    assert (trajectory.outcome, len(trajectory.steps)) == ("final_answer", len(CELLS))
    for number, step in enumerate(trajectory.steps):
        state = state_before(trajectory, number, sandbox)
        for candidate in step.candidates:
            assert isinstance(candidate.action, Action) and candidate.action.code and candidate.observation
            observation, _ = sandbox.run(state, candidate.action.code)
            assert did(observation) == did(candidate.observation)
    after, _ = sandbox.run(state_before(trajectory, len(CELLS), sandbox), "rows, len(big)")
    assert after.value == "([], 20000000)"


def test_another_process_enters_a_step(recorded: Path) -> None:
    script = (
        "import sys\nfrom test_session import *\n"
        "[t], sandbox = read_trajectories(sys.argv[1]), sandbox_of(CONFIG, [LOOK])\n"
        "print(sandbox.run(state_before(t, 2, sandbox), 'len(rows)')[0].value)"
    )
    command, folder = [sys.executable, "-c", script, str(recorded)], Path(__file__).parent
    assert subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout == b"4\n"


def test_a_recorded_state_is_small(recorded: Path) -> None:
    [trajectory] = read_trajectories(recorded)
    sizes = [len(step.state or b"") for step in trajectory.steps]
    assert all(0 < size < 32_768 for size in sizes), sizes
    assert json.loads(recorded.read_text().splitlines()[1])["task_id"] == "t"


@pytest.mark.parametrize(
    ("change", "config", "step", "error", "said"),
    [
        ("guest", CONFIG, 1, SandboxError, "another build of the guest"),
        ("damage", CONFIG, 1, SandboxError, "damaged"),
        ("none", CONFIG, 1, ValueError, "t was recorded without its States: record it with keep_states"),
        ("nothing", RolloutConfig(seed=8), 1, SandboxError, "a sandbox with the same tools and seed"),
        ("nothing", RolloutConfig(seed=7, memory_mb=16), 5, SandboxError, "Limits.memory_mb"),
        ("nothing", CONFIG, 6, ValueError, "no step 6 in t, which has 5 steps"),
        ("nothing", CONFIG, -1, ValueError, "no step -1 in t"),
    ],
)
def test_what_cannot_be_entered_is_refused(
    recorded: Path, change: str, config: RolloutConfig, step: int, error: type[Exception], said: str
) -> None:
    fields = json.loads(recorded.read_text().splitlines()[1])
    data = bytearray(b64decode(fields["steps"][0]["state"]))
    data[{"guest": 8, "damage": -1}.get(change, 0)] ^= change in ("guest", "damage")
    fields["steps"][0]["state"] = None if change == "none" else b64encode(data).decode()
    trajectory = Trajectory.from_json(json.dumps(fields))
    with pytest.raises(error, match=said):
        state_before(trajectory, step, sandbox_of(config, [LOOK]))
