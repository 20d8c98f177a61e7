"""``agentdistill sandbox``: a Python prompt whose every input is a cell, and a runner for files.

What is typed never runs in this process, nor is it parsed here: whether an input is complete is asked of the sandbox's
own Python, which knows its own grammar. Not here: tools, limits, and arguments of a script.
"""

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from agentdistill._core import AgentDistillError, Observation, Sandbox, State
from agentdistill.rollouts.session import Session
from agentdistill.terminal import say, tell, write

BANNER = "Python in a sandbox: no files, no network. :help says what else there is; Ctrl-D leaves."

HELP = """\
:undo        go back to the State before the last cell (and before :reset, :load); may be repeated
:reset       begin with a fresh State
:save FILE   write the State to a file
:load FILE   go on from the State in a file
:help        this
Ctrl-C       interrupt the cell; the State is then the one before it
Ctrl-D       leave"""


class Repl:
    """Reads standard input, cell by cell. A terminal is prompted, and its Ctrl-C ends no more than a cell."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._session = Session(sandbox)
        self._terminal = sys.stdin.isatty()

    def run(self) -> None:
        """Until the input ends."""
        for text in self._inputs():
            try:
                if text.startswith(":"):
                    self._command(text)
                elif text.strip():
                    show(self._session.run(text))
            except KeyboardInterrupt:
                if not self._terminal:
                    raise
                tell("Interrupted: the State is the one before this cell.")
            except BrokenPipeError:
                raise  # nobody reads what is printed
            except (AgentDistillError, ValueError, OSError) as error:
                tell(error)

    def _inputs(self) -> Iterator[str]:
        """Whole cells, and commands."""
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
        """Whether no further line belongs to this input; one that cannot be Python at all is complete."""
        asked = f"import codeop\ncodeop.compile_command({text!r}) is None"
        observation, _ = self._sandbox.run(self._sandbox.initial, asked)
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
                raise ValueError(f"there is no command {text}; :help lists those there are")


def run_file(sandbox: Sandbox, path: Path) -> bool:
    """Run a file ("-" is standard input) as one cell, show what it did, and return whether it ended well.

    Raises OSError for a file that cannot be read, ValueError for one that is no text.
    """
    source = sys.stdin.buffer.read() if path == Path("-") else path.read_bytes()
    try:
        code = source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text: {error}") from error
    return show(sandbox.run(sandbox.initial, code)[0])


def show(observation: Observation) -> bool:
    """Print what a cell did, as a notebook would, errors to standard error; return whether it ended well."""
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
    """``text`` as whole lines."""
    return f"{text}\n" if text and not text.endswith("\n") else text
