"""``agentdistill sandbox``: an interactive Python prompt in the sandbox, and a runner for files.

Input is neither run nor parsed in this process. The sandbox's own Python decides whether an input is complete, because
it knows its own grammar. Not here: tools, limits, and arguments of a script.
"""

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from agentdistill._core import AgentDistillError, Observation, Sandbox, State
from agentdistill.rollouts.session import Session
from agentdistill.terminal import say, tell, write

BANNER = "Python in a sandbox: no files, no network. :help lists the commands; Ctrl-D exits."

HELP = """\
:undo        undo the last cell, :reset or :load; can be repeated
:reset       start again from an empty State
:save FILE   write the State to a file
:load FILE   continue from the State in a file
:help        show this help
Ctrl-C       interrupt the cell and keep the State before it
Ctrl-D       exit"""


class Repl:
    """Reads cells from standard input and runs them. A terminal gets a prompt, and Ctrl-C there stops only the cell."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._session = Session(sandbox)
        self._terminal = sys.stdin.isatty()

    def run(self) -> None:
        """Run until the input ends."""
        for text in self._inputs():
            try:
                if text.startswith(":"):
                    self._command(text)
                elif text.strip():
                    show(self._session.run(text))
            except KeyboardInterrupt:
                if not self._terminal:
                    raise
                tell("Interrupted. The cell has changed nothing.")
            except BrokenPipeError:
                raise  # the reader of the output is gone
            except (AgentDistillError, ValueError, OSError) as error:
                tell(error)

    def _inputs(self) -> Iterator[str]:
        """Yield complete cells and commands."""
        if self._terminal:
            with suppress(ImportError):
                import readline  # noqa: F401 - gives input() line editing and a history
            say(BANNER)
        lines = list[str]()
        while True:
            try:
                lines.append(input((">>> ", "... ")[bool(lines)] if self._terminal else ""))
                if lines[0].startswith(":") or self._is_complete("\n".join(lines)):
                    yield "\n".join(lines)
                    lines.clear()
            except KeyboardInterrupt:
                if not self._terminal:
                    raise
                lines.clear()
                say("")
            except EOFError:
                break
        yield "\n".join(lines)
        if self._terminal:
            say("")

    def _is_complete(self, text: str) -> bool:
        """Whether the input needs no further lines. Invalid Python is complete."""
        check = f"import codeop\ncodeop.compile_command({text!r}) is None"
        observation, _ = self._sandbox.run(self._sandbox.initial, check)
        return observation.value != "True"

    def _command(self, text: str) -> None:
        match text[1:].strip().split(maxsplit=1):
            case ["undo"]:
                self._session.undo()
            case ["reset"]:
                self._session.add(self._sandbox.initial)
            case ["save", file]:
                Path(file).expanduser().write_bytes(self._session.state().to_bytes())
            case ["load", file]:
                self._session.add(State.from_bytes(Path(file).expanduser().read_bytes()))
            case ["help"]:
                say(HELP)
            case _:
                raise ValueError(f"unknown command {text}; :help lists the commands")


def run_file(sandbox: Sandbox, path: Path) -> bool:
    """Run a file ("-": standard input) as one cell, print its output, and return whether it succeeded.

    Raises OSError if the file cannot be read, ValueError if it is not UTF-8 text.
    """
    source = sys.stdin.buffer.read() if path == Path("-") else path.read_bytes()
    try:
        code = source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    return show(sandbox.run(sandbox.initial, code)[0])


def show(observation: Observation) -> bool:
    """Print a cell's output and value as a notebook does, and its error to standard error. Return whether it
    succeeded."""
    output = observation.stdout
    if observation.value is not None:
        output = f"{_ended(output)}{observation.value}\n"
    if observation.final_answer is not None:
        output = f"{_ended(output)}Final answer: {observation.final_answer}\n"
    write(output, sys.stdout)
    if observation.error is not None:
        write(_ended(observation.error), sys.stderr)
    return observation.error is None


def _ended(text: str) -> str:
    """Add a line end to ``text`` if it has none; empty text stays empty."""
    return f"{text}\n" if text and not text.endswith("\n") else text
