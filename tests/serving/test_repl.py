"""The sandbox on its own: as an interactive prompt, piped and in a terminal, and as a runner of files."""

import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agentdistill import Sandbox
from agentdistill.serving.repl import Repl, run_file

COMMAND = [sys.executable, "-m", "agentdistill", "sandbox"]

# The input, the output, and the last line of each error on standard error.
TYPED: dict[str, tuple[str, str, list[str]]] = {
    "nothing": ("", "", []),
    "values": ("x = 41\nx + 1\n\n'a'\nNone\n", "42\n'a'\n", []),
    "output without an end of line": ("print('a', end='')\n1\n", "a1\n", []),
    "output, then a value": ("x = print('a', end='') or 1; x\n", "a\n1\n", []),
    "blocks": ("for i in range(2):\n    print(i)\n\nif False:\n    1\nelse:\n    2\n\n", "0\n1\n", []),
    "a block without an end": ("def f():\n    return 3", "", []),
    "open brackets and strings": ("x = (1,\n\n2)\ny = '''a\n\nb'''\nx, y\n", "((1, 2), 'a\\n\\nb')\n", []),
    "a decorator": ("from functools import cache\n@cache\ndef f(): return 5\n\nf()\n", "5\n", []),
    "grammar newer than the host's": ("def f[T](x: T) -> T:\n    return x\n\nf(6)\n", "6\n", []),
    "errors": ("1 / 0\n1 +\nx\n2\n", "2\n", ["ZeroDivisionError", "SyntaxError", "NameError"]),
    "an error in a cell": ("print(1); 1 / 0\n_ = 3\n", "1\n", ["ZeroDivisionError"]),
    "a final answer": ("final_answer(42)\n1\n", "Final answer: 42\n1\n", []),
    "no reading of input": ("input()\n1\n", "1\n", ["EOFError"]),
    "undo": ("x = 1\nx = 2\nx += 5\n:undo\nx\n:undo\n:undo\nx\n", "2\n1\n", []),
    "undo of an error": ("x = [1]\nx.append(2); 1 / 0\n:undo\nx\n", "[1]\n", ["ZeroDivisionError"]),
    "undo of nothing": (":undo\n1\n:undo\n:undo\n", "1\n", ["nothing to undo"] * 2),
    "reset": ("x = 1\n:reset\nx\n:undo\n:undo\nx\n", "1\n", ["NameError"]),
    "save and load": ("x = 1\n:save a b\nx = 2\n:reset\n:load a b\nx\n:undo\n:undo\n:undo\nx\n", "1\n2\n", []),
    "no such file": (":load nowhere\n1\n", "1\n", ["nowhere"]),
    "not a State": (":load other\n1\n", "1\n", ["not the bytes of a State"]),
    "commands there are not": (":nope\n:\n:save\n:undo 3\n1\n", "1\n", ["unknown command"] * 4),
    "a command in a string": ("x = '''\n:undo\n'''\nx\n", "'\\n:undo\\n'\n", []),
}


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a text on standard input."""
    return lambda text: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


@pytest.mark.parametrize("case", TYPED)
def test_what_is_piped_in_is_run_cell_by_cell(
    case: str,
    typed: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text, printed, errors = TYPED[case]
    monkeypatch.chdir(tmp_path)
    Path("other").write_bytes(b"something else" * 20)
    typed(text)
    Repl(Sandbox()).run()
    out, err = capsys.readouterr()
    assert out == printed, err
    last_lines = [line for line in err.splitlines() if line[:1] not in ("", " ", "T")]
    assert len(last_lines) == len(errors)
    assert all(error in line for error, line in zip(errors, last_lines, strict=True)), last_lines


def test_help_names_every_command(typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]) -> None:
    typed(":help\n")
    Repl(Sandbox()).run()
    said = capsys.readouterr().out
    assert all(command in said for command in (":undo", ":reset", ":save FILE", ":load FILE", ":help", "Ctrl-C"))


def test_a_file_is_one_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good.py").write_text("\ufeffdef f():\n\n    return '\u00e9'\n\nprint(f(), end='')\n")
    (tmp_path / "bad.py").write_text("print(1)\n\nraise ValueError('no')\n")
    assert run_file(Sandbox(), tmp_path / "good.py")
    assert capsys.readouterr() == ("\u00e9", "")
    assert not run_file(Sandbox(), tmp_path / "bad.py")
    assert capsys.readouterr() == (
        "1\n",
        'Traceback (most recent call last):\n  File "<cell 1>", line 3, in <module>\n'
        "    raise ValueError('no')\nValueError: no\n",
    )


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "picture.py").write_bytes(b"\xff\xd8")
    with pytest.raises(ValueError, match=r"picture\.py is not UTF-8 text"):
        run_file(Sandbox(), tmp_path / "picture.py")


# The file, the flags, and the result: status, output, words of the error.
FILES = [
    ("final_answer({'a': 1})", [], 0, "Final answer: {'a': 1}\n", ""),
    ("while True: pass", ["--seconds", "0.2"], 1, "", "TimeoutError"),
    ("x = bytearray(100 << 20)", ["--memory-mb", "32"], 1, "", "MemoryError"),
    ("x = bytearray(100 << 20)\nprint('a' * 200_000)", [], 0, "a" * 200_000 + "\n", ""),
    ("1\x00", [], 1, "", "null bytes"),
]


@pytest.mark.parametrize(("code", "flags", "status", "printed", "error"), FILES)
def test_a_file_on_standard_input(code: str, flags: list[str], status: int, printed: str, error: str) -> None:
    done = subprocess.run([*COMMAND, "-", *flags], input=code, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (status, printed)
    assert error in done.stderr if error else not done.stderr


def test_in_a_terminal_there_are_prompts_and_nothing_is_obeyed() -> None:
    ours, theirs = pty.openpty()
    command = [*COMMAND, "--seconds", "600"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "dumb"})
    os.close(theirs)
    seen = b""

    def until(text: bytes) -> bytes:
        nonlocal seen
        while text not in seen:
            assert select.select([ours], [], [], 60)[0], seen
            seen += os.read(ours, 4096)
        before, _, seen = seen.partition(text)
        return before

    def type_in(text: bytes) -> None:
        os.write(ours, text)

    def stat() -> list[str]:
        return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()

    def processor_seconds() -> float:
        return sum(map(int, stat()[11:13])) / os.sysconf("SC_CLK_TCK")

    assert b"Ctrl-D exits" in until(b">>> ")
    type_in(b"for i in range(1):\n")
    until(b"... ")
    type_in(b"    print('\\x1b]0;title\\x07', i)\n\n")
    assert rb"\x1b]0;title\x07 0" in until(b">>> ")
    type_in(b"x = (1,\n")
    until(b"... ")
    while stat()[0] != "S":  # between the prompt and the wait for input, a signal is only noticed with the next input
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)  # at the prompt: the typed text is discarded
    until(b">>> ")
    type_in(b"x = 1\n")
    until(b">>> ")
    before = processor_seconds()
    type_in(b"while True: x += 1\n\n")
    while processor_seconds() < before + 0.3:  # wait until the cell is running
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert b"Interrupted. The cell has changed nothing." in until(b">>> ")
    type_in(b"x\n")
    assert b"\n1\r\n" in until(b">>> ")
    type_in(b"\x04")
    assert process.wait(60) == 0
    os.close(ours)
