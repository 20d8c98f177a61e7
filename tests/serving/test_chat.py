"""Questions to one agent: its work is shown while it runs, and each question remembers the ones before."""

import asyncio
import io
import os
import pty
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agentdistill import AgentDistillError, Task, rollout
from agentdistill.models.model import Generation, Message, Model, ModelError
from agentdistill.models.scripted import ScriptedModel
from agentdistill.rollouts.player import Player, RolloutConfig
from agentdistill.serving.chat import Conversation, chat
from agentdistill.tools.tool import Tool, python_tool
from slow_run import code

# The last message of a conversation -> what the model writes.
REPLIES = {
    "first": code("x = 41\nprint('set')"),
    "Observation:\nset": code("final_answer(x)"),
    "second": code("final_answer(x + 1)"),
}


def replies(messages: Sequence[Message], prefix: str, index: int) -> str:
    if messages[-1].content == "breaks":
        raise ModelError("it is down")
    return REPLIES.get(messages[-1].content, code("final_answer('nothing')"))


MODEL = ScriptedModel("m", replies)


@contextmanager
def talking(model: Model = MODEL, tools: Sequence[Tool] = (), **config: object) -> Iterator[Player]:
    with Player(model, tools, RolloutConfig(**config)) as player:  # type: ignore[arg-type]
        yield player


def test_a_question_finds_what_those_before_it_left() -> None:
    with talking() as player:
        conversation, shown = Conversation(player), list[str]()
        first = conversation.ask("first", shown.append)
        assert (first.answer, len(shown)) == ("41", 3)
        with pytest.raises(AgentDistillError, match="it is down"):
            conversation.ask("breaks", shown.append)
        second = conversation.ask("second", shown.append)
        assert (second.answer, second.usage, len(second.steps)) == ("42", (0, 0), 1)
        assert second.messages[:2] == first.messages
        assert [role for role, _ in second.messages] == ["system", "user", "assistant", "user", "assistant", "user"]
        conversation.forget()
        assert conversation.ask("second", shown.append).answer == "nothing"
        assert "NameError: name 'x' is not defined" in shown[-2]


@pytest.mark.parametrize("candidates", [1, 3])
def test_all_is_shown_as_soon_as_it_is_there(candidates: int) -> None:
    shown, steps = threading.Event(), list[str]()

    def wait() -> bool:
        """Wait."""
        return shown.wait(30)

    def show(said: str) -> None:
        steps.append(said)
        if "wait" in said or candidates > 1:
            shown.set()

    policy = {"Q?": code("print('one')"), "Observation:\none": code("final_answer(wait())")}
    model = ScriptedModel("m", lambda messages, prefix, index: policy[messages[-1].content])
    with talking(model, [python_tool(wait)], candidates=candidates) as player:
        assert Conversation(player).ask("Q?", show).answer == "True"
    assert [said.partition(":")[0] for said in steps] == ["Thought", "Observation", "Thought"]


def test_chains_of_thought_are_shown_and_each_is_alone() -> None:
    model = ScriptedModel("m", lambda messages, prefix, index: f"{len(messages)}. <answer>4</answer>")
    with talking(model, kind="cot") as player:
        conversation, shown = Conversation(player), list[str]()
        assert [conversation.ask(question, shown.append).answer for question in ("a", "b")] == ["4", "4"]
    assert shown == ["2. <answer>4</answer>\n\n"] * 2


def test_lines_of_standard_input_are_questions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("first\n\n breaks\nsecond\n:new\nsecond"))
    with talking(max_steps=1) as player:
        chat(player)
    out, err = capsys.readouterr()
    assert [line for line in out.splitlines() if "nswer:" in line] == [
        "Answer: nothing",
        "Answer: 42",
        "Answer: nothing",
    ]
    assert err == "it is down\n"


def test_the_command(tmp_path: Path) -> None:
    rollout([Task("t", "first")], MODEL, output=tmp_path / "t.jsonl", progress=False)
    command = [sys.executable, "-m", "agentdistill", "chat", "--model", "recorded:t.jsonl"]
    done = subprocess.run(command, cwd=tmp_path, input="first\nwhat?", capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.count("recorded episode has 2 steps")) == (
        0,
        1,
    )  # the conversation continues
    assert done.stdout.endswith(
        "Observation:\nset\n\nThought: I act.\nCode:\n```py\nfinal_answer(x)\n```\n\nAnswer: 41\n"
    )


class Never(ScriptedModel):
    """A model that never responds."""

    def __init__(self) -> None:
        super().__init__("never", replies)

    async def generate(self, *args: Any, **kwargs: Any) -> Generation:
        await asyncio.Event().wait()
        raise AssertionError


IN_A_TERMINAL = """
import sys
sys.path[:0] = sys.argv[1:]
from agentdistill.serving.chat import chat
from test_chat import Never, talking
with talking(Never()) as player:
    chat(player)
"""


def test_in_a_terminal_ctrl_c_stops_an_answer_and_no_more() -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", IN_A_TERMINAL, str(Path(__file__).parent), str(Path(__file__).parents[1])],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "dumb"},
    )
    os.close(theirs)

    def until(text: bytes) -> bytes:
        seen = b""
        while text not in seen:
            assert select.select([ours], [], [], 60)[0], seen
            seen += os.read(ours, 4096)
        return seen

    assert b"Ctrl-D exits" in until(b"> ")
    os.write(ours, b"Q?\n")
    until(b"Q?\r\n")
    process.send_signal(signal.SIGINT)
    assert b"The last question is not part of the conversation" in until(b"> ")
    os.write(ours, b"\x04")
    assert process.wait(60) == 0
    os.close(ours)
