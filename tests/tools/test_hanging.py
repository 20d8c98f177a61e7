"""Tools that never return: neither Ctrl-C nor the end of a process waits for them.

Each case is a process whose tool hangs forever, with a time limit of a million seconds. The process must end, else the
test would not.
"""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = '''
import threading
from agentdistill import Sandbox, Task, rollout
from agentdistill.models.scripted import ScriptedModel
from agentdistill.rollouts.player import Player, RolloutConfig
from agentdistill.serving.chat import Conversation, show_answer
from agentdistill.tools.retriever import Retriever
from agentdistill.tools.tool import python_tool, sandbox_tools, web_search

def hang(query: str = "", k: int = 3) -> str:
    """Hang."""
    print("in the tool", flush=True)
    threading.Event().wait()

def code(cell):
    return f"Thought: x\\nCode:\\n```py\\n{{cell}}\\n```<end_code>"

model = ScriptedModel("m", lambda messages, prefix, index: code({cell!r}.replace("INDEX", str(index))))
tool, tasks = python_tool(hang), [Task(str(i), "q", "1") for i in range({tasks})]
{work}
'''

# What is interrupted -> the code of its cells, the number of tasks, and the program's work.
ROLLOUT = "rollout(tasks, model, [tool], RolloutConfig(tool_seconds=1e6, **MORE), progress=False)"
CASES = {
    "a rollout": ("hang()", 1, ROLLOUT.replace("**MORE", "")),
    "a stubborn cell": (
        "while True:\n    try: hang()\n    except BaseException: pass",
        1,
        ROLLOUT.replace("**MORE", ""),
    ),
    "many candidates of many": ("hang('INDEX')", 40, ROLLOUT.replace("**MORE", "candidates=8, temperature=0.5")),
    "a cell of the sandbox": ("", 1, "s = Sandbox(sandbox_tools([tool], 1e6)); s.run(s.initial, 'hang()')"),
    "a conversation": (
        "hang()",
        1,
        "with Player(model, [tool], RolloutConfig(tool_seconds=1e6)) as player:\n"
        "    show_answer(Conversation(player), 'q')",
    ),
    "a search for passages": (
        "",
        1,
        "class Hanging(Retriever):\n    page = None\n    def search_batch(self, queries, k): return hang()\n"
        "tool = web_search(Hanging())\n" + ROLLOUT.replace("**MORE", "kind='cot', passages=2"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_ctrl_c_waits_for_no_tool(case: str) -> None:
    cell, tasks, work = CASES[case]
    program = PROGRAM.format(cell=cell, tasks=tasks, work=work)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        while b"in the tool" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGINT, said.decode()
    assert b"KeyboardInterrupt" in said


def test_the_end_of_a_process_waits_for_no_tool() -> None:
    work = (
        "called = threading.Event()\n"
        "def hang() -> str:\n    'Hang.'\n    called.set()\n    threading.Event().wait()\n"
        "play = lambda: rollout(tasks, model, [python_tool(hang)], RolloutConfig(tool_seconds=1e6), progress=False)\n"
        "threading.Thread(target=play, daemon=True).start()\ncalled.wait()"
    )
    program = PROGRAM.format(cell="hang()", tasks=1, work=work)
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_ctrl_c_waits_for_no_mcp_server(tmp_path: Path) -> None:
    pytest.importorskip("mcp", reason="needs agentdistill[mcp]")
    (tmp_path / "server.py").write_text(
        "import threading\nfrom mcp.server import MCPServer\ns = MCPServer('x')\n"
        f"def hang() -> str:\n    'Hang.'\n    open({str(tmp_path / 'called')!r}, 'w').close()\n"
        "    threading.Event().wait()\ns.add_tool(hang); s.run()\n"
    )
    work = (
        "from agentdistill.tools.mcp import mcp_tools\n"
        f"with mcp_tools(['{sys.executable} {tmp_path / 'server.py'}'], 1e6) as tools:\n"
        "    print('ready', flush=True)\n"
        "    rollout(tasks, model, tools, RolloutConfig(tool_seconds=1e6), progress=False)"
    )
    program = PROGRAM.format(cell="hang()", tasks=1, work=work)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while not (tmp_path / "called").exists():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert b"KeyboardInterrupt" in said
