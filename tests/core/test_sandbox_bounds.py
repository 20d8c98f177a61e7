"""Upper bounds on the resources that cells make the process use."""

import os
import subprocess
import sys

from agentdistill._core import Limits, Sandbox


def test_what_a_cell_hands_to_its_tools_is_bounded_and_so_is_the_record() -> None:
    received: list[int] = []

    def take(text: str) -> str:
        received.append(len(text))
        return text[:100_000]

    sandbox = Sandbox({"take": take}, Limits(seconds=30, tool_calls=64))
    code = "taken = 0\nfor i in range(64):\n    take('a' * 1_000_000)\n    taken += 1"
    observation, state = sandbox.run(sandbox.initial, code)
    assert observation.kind == "tool_error"
    assert "the arguments of all calls of a cell are at most 8388608 bytes" in (observation.error or "")
    assert sandbox.run(state, "taken")[0].value == str(len(received)) == "8"
    recorded = [text for call in observation.tool_calls for text in (call.arguments, call.result, call.error) if text]
    assert sum(map(len, recorded)) < 600_000
    assert observation.tool_calls[0].arguments.startswith('[["aaa') and "characters left out" in recorded[0]
    assert sandbox.run(state, "take('b')")[0].tool_calls[0].arguments == '[["b"], {}]'


def test_a_limit_of_address_space_is_named() -> None:
    script = """if True:
        import resource
        from agentdistill._core import Sandbox, SandboxError
        resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
        try:
            Sandbox()
        except SandboxError as error:
            print(error)
    """
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert "reserves 4 GiB of address space" in run.stdout, run.stdout + run.stderr
    assert "ulimit -v unlimited" in run.stdout


def test_a_process_that_cannot_see_its_pages_runs_cells() -> None:
    """As in gVisor, or where /proc is hidden; the other tests of the sandbox run this way too (Makefile)."""
    script = """if True:
        from agentdistill._core import Limits, Sandbox
        sandbox = Sandbox(limits=Limits(seconds=1, hard_seconds=0.5))
        _, state = sandbox.run(sandbox.initial, "x = list(range(100_000))")
        for _ in range(3):
            assert sandbox.run(state, "x.append(1); sum(x)")[0].value == str(sum(range(100_000)) + 1)
            assert sandbox.run(sandbox.initial, "x")[0].error_type == "NameError"
        long = "y = '" + "é" * 500_000 + "'; len(y)"
        assert sandbox.run(state, long)[0].value == "500000"
        assert sandbox.run(state, "import re; re.match('(a+)+$', 'a' * 40 + 'b')")[0].kind in ("killed", "timeout")
        print(sandbox.run(state, "len(x)")[0].value)
    """
    command = [sys.executable, "-c", script]
    run = subprocess.run(
        command, env={**os.environ, "AGENTDISTILL_PAGEMAP": "0"}, capture_output=True, text=True, timeout=120
    )
    assert run.stdout == "100000\n", run.stdout + run.stderr
