"""Runs cells inside the guest, and reports what they did.

This file runs once, while the guest is built. Its memory at the end is the image from which every State starts. So
cells can import what it imports, and caches that it fills stay filled. It protects nothing: a cell can change or break
all of it, which harms only the cell's own State. The host enforces the limits and the isolation.
"""

import _sitebuiltins
import ast
import asyncio
import builtins
import codecs
import contextlib
import functools
import gc
import io
import json
import linecache
import random
import socket
import sys
import time
import traceback
import types
import warnings

import preload
import wit_world
from wit_world import Answer, Failure, Kind, Report

OURS = __file__
TRACEBACK_CHARS = 10_000
RESERVE_PIECES, PIECE_BYTES = 16, 1 << 16


class FinalAnswer(BaseException):
    """Ends the cell. It is a BaseException, so that a cell's ``except Exception`` does not catch it."""


class Exited(BaseException):
    """The cell exited with a status other than 0."""


class ToolError(Exception):
    """A tool failed, with this message."""

    __module__ = "__main__"  # so that tracebacks show the name that cells use, ToolError


class Output(io.TextIOBase):
    """The output of a cell: its first and last characters up to a limit, and the number of those dropped between."""

    encoding = "utf-8"
    errors = "strict"

    def __init__(self, limit: int) -> None:
        self.head_room = limit - limit // 2
        self.tail_room = limit // 2
        self.head: list[str] = []
        self.tail: list[str] = []
        self.tail_size = 0
        self.dropped = 0

    @functools.cached_property
    def buffer(self) -> "OutputBytes":
        return OutputBytes(self)

    def reconfigure(self, **ignored) -> None:
        """Does nothing: encoding and line ends are fixed."""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        size = len(text)
        if size <= self.head_room:
            self.head.append(text)
            self.head_room -= size
            return size
        rest = text
        if self.head_room:
            self.head.append(text[: self.head_room])
            rest = text[self.head_room :]
            self.head_room = 0
        self.tail.append(rest)
        self.tail_size += len(rest)
        if self.tail_size > 2 * self.tail_room + 4096:
            self.trim()
        return size

    def trim(self) -> None:
        tail = "".join(self.tail)
        kept = tail[-self.tail_room :] if self.tail_room else ""
        self.dropped += len(tail) - len(kept)
        self.tail = [kept]
        self.tail_size = len(kept)

    def take(self) -> tuple[str, int]:
        if self.tail_size > self.tail_room:
            self.trim()
        gap = f"\n[... {self.dropped} characters left out ...]\n" if self.dropped else ""
        return "".join(self.head) + gap + "".join(self.tail), self.dropped


class OutputBytes(io.RawIOBase):
    """Takes output as UTF-8 bytes (``sys.stdout.buffer``)."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.output.write(self.decoder.decode(data))
        return memoryview(data).nbytes


def clip(text: str, limit: int) -> str:
    """The text, without its middle if it is longer than ``limit``."""
    if len(text) <= limit:
        return text
    output = Output(limit)
    output.write(text)
    return output.take()[0]


def sendable(text: str) -> str:
    """The text as UTF-8 can encode it for the host, with "?" for lone surrogates."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def plain(value):
    """The value with instances of subclasses of built-in types (str, int, list, ...) replaced by built-in ones.

    A subclass can define ``__str__`` and ``__iter__`` inconsistently, but an answer must be the same as text and as
    JSON.
    """
    kind = type(value)
    if issubclass(kind, str):
        return str.__getitem__(value, slice(None))
    if issubclass(kind, int) and kind is not bool:
        return int.__int__(value)
    if issubclass(kind, float):
        return float.__float__(value)
    if issubclass(kind, list):
        return [plain(item) for item in list.__iter__(value)]
    if issubclass(kind, tuple):
        return tuple(plain(item) for item in tuple.__iter__(value))
    if issubclass(kind, dict):
        return {plain(key): plain(item) for key, item in dict.items(value)}
    return value


def final_answer(answer):
    """Ends the task with this answer."""
    with contextlib.suppress(RecursionError, TypeError):  # it contains itself, or its keys become unhashable
        answer = plain(answer)
    text = str(answer)
    try:
        as_json = json.dumps(answer, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        as_json = None
    if not answers:
        answers.append((text, as_json))
    raise FinalAnswer


def tool(name: str):
    """Returns a function that calls the host's tool with this name."""

    def call(*args, **kwargs):
        try:
            arguments = json.dumps([args, kwargs], ensure_ascii=False)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name}() takes only values that JSON can represent: {error}") from None
        try:
            result = wit_world.call_tool(name, sendable(arguments))
        except Exception as error:
            raise ToolError(getattr(error, "value", None) or repr(error)) from None
        return json.loads(result)

    call.__name__ = call.__qualname__ = name
    return call


def sleep(seconds, /):
    """Advances the clock without waiting, since nothing else runs in the guest meanwhile."""
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    nanoseconds = int(seconds * 1e9)
    if nanoseconds >= 1 << 63:
        raise OverflowError("timestamp too large to convert to C PyTime_t")
    wit_world.sleep(nanoseconds)


def no_input(prompt="", /):
    raise EOFError("input() is not available in the sandbox; put the value into the code")


def no_network(*ignored, **also_ignored):
    raise OSError("there is no network in the sandbox")


class ClockSelector:
    """The selector of an event loop without sockets: waiting advances the clock."""

    def register(self, *ignored):
        no_network()

    def select(self, timeout):
        if timeout:
            sleep(timeout)
        return []

    def get_map(self):
        return {}

    def close(self):
        pass


class EventLoop(asyncio.SelectorEventLoop):
    """An asyncio loop without threads and sockets. Only tasks, timeouts and sleeping work."""

    def __init__(self):
        super().__init__(ClockSelector())

    def _make_self_pipe(self):
        pass  # the pipe would wake the loop from other threads and from signals

    def _close_self_pipe(self):
        pass


def execute_as_script(code: str):
    """Runs the cell. ``sys.exit`` ends it early, and is a failure only with a status other than 0."""
    try:
        return execute(code)
    except SystemExit as exit:
        status = exit.code
        if status is not None and not isinstance(status, int):
            print(status)
            status = 1
    if status:
        raise Exited(int(status))
    return None


def execute(code: str):
    """Runs the cell. Returns the value of its last statement if that is an expression, as a notebook does."""
    global cell_number
    cell_number += 1
    file = f"<cell {cell_number}>"
    linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)
    try:
        body, last = compile_cell(code, file)
    except (MemoryError, SystemError):  # CPython raises SystemError here where it should raise MemoryError
        reserve.clear()
        try:
            body, last = compile_cell(code, file)
        except SystemError:
            raise MemoryError from None
        keep_reserve()
    exec(body, namespace)
    if last is None:
        return None
    value = eval(last, namespace)
    if value is not None:
        namespace["_"] = value
    return value


def compile_cell(code: str, file: str) -> tuple[types.CodeType, types.CodeType | None]:
    """Returns the code of all statements except a last expression, and the code of that expression."""
    tree = ast.parse(code, file)
    if "final_answer" in code:
        keep_final_answer(tree)
    last = ast.Expression(tree.body.pop().value) if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    return compile(tree, file, "exec"), last and compile(last, file, "eval")


def keep_final_answer(tree: ast.Module) -> None:
    """Renames a variable called final_answer, which would hide the function from this cell and all later ones.

    Weak models write ``final_answer = x`` before ``final_answer(final_answer)``.
    """
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "final_answer"]
    if any(isinstance(name.ctx, ast.Store) for name in names):
        called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for name in names:
            if id(name) not in called:
                name.id = "final_answer_variable"


def run_cell(code: str, limit: int) -> Report:
    output = Output(limit)
    sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = output
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    answers.clear()
    keep_reserve()
    beacon[TIMED_OUT] = 0
    kind, value, failure = Kind.VALUE, None, None
    try:
        try:
            beacon[IN_CELL] = 1
            result = execute_as_script(code)
            if result is not None:
                value = sendable(clip(repr(result), limit))
        finally:
            beacon[IN_CELL] = 0
            result = None
            drain()
    except FinalAnswer:
        pass
    except BaseException as error:
        if isinstance(error, (MemoryError, SystemError)):
            reserve.clear()
        kind, failure = failed(error)
    answer = None
    if answers:
        text, as_json = answers[0]
        if as_json is not None:
            as_json = sendable(as_json) if len(as_json) <= limit else None
        answer = Answer(sendable(clip(text, limit)), as_json)
        kind, value, failure = Kind.FINAL_ANSWER, None, None
    stdout, dropped = output.take()
    return Report(kind, sendable(stdout), dropped, value, answer, failure)


def keep_reserve() -> None:
    """Reserves memory for the report of a cell that used up the rest, and for compiling a cell that may free some.

    The reserve is in pieces, because freed memory may be fragmented.
    """
    with contextlib.suppress(MemoryError):
        while len(reserve) < RESERVE_PIECES:
            reserve.append(bytearray(PIECE_BYTES))


def drain() -> None:
    """Catches a TimeoutError that the host sent just before the cell ended, so that it cannot interrupt the report."""
    try:
        while beacon[TIMED_OUT] == SENDING:
            pass
        for _ in range(2):
            pass
    except TimeoutError:
        pass


def failed(error: BaseException) -> tuple[Kind, Failure]:
    if isinstance(error, Exited):
        return Kind.EXCEPTION, Failure("SystemExit", f"SystemExit: the cell exited with status {error.args[0]}")
    name = type(error).__name__
    kind = Kind.EXCEPTION
    if isinstance(error, ToolError):
        kind = Kind.TOOL_ERROR
    elif isinstance(error, TimeoutError) and beacon[TIMED_OUT]:
        kind = Kind.TIMEOUT
        error.args = ("the cell took longer than its time limit",)
    elif isinstance(error, MemoryError):
        kind = Kind.OUT_OF_MEMORY
    elif isinstance(error, ModuleNotFoundError):
        packages = ", ".join(sorted(preload.OTHERS))
        error.add_note(f"Cells can import Python's standard library and {packages}; nothing can be installed.")
    frames = error.__traceback__
    while frames is not None and not is_cell(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    try:
        report = traceback.TracebackException(type(error), error, frames, lookup_lines=False, compact=True)
        hide_our_frames(report)
        text = "".join(report.format()).rstrip("\n")
    except BaseException:  # the exception's own __str__ fails, or memory is used up
        text = name
    return kind, Failure(*(sendable(clip(part, TRACEBACK_CHARS)) for part in (name, text)))


def is_cell(file: str) -> bool:
    return file.startswith("<cell ")


class Frames(traceback.StackSummary):
    """Formats equal frames only once: a deep recursion has a thousand, of which three are shown."""

    def format_frame_summary(self, frame, **options):
        key = (frame.filename, frame.lineno, frame.colno, frame.end_colno, frame.name)
        if key not in self.__dict__:
            self.__dict__[key] = super().format_frame_summary(frame, **options)
        return self.__dict__[key]


def hide_our_frames(report: traceback.TracebackException | None) -> None:
    while report is not None:
        report.stack = Frames(frame for frame in report.stack if frame.filename != OURS)
        report = report.__cause__ or report.__context__


class WitWorld(wit_world.WitWorld):
    """The functions that the host calls."""

    def set_up(self, seed: int, tools: list[str]) -> None:
        sys.argv = [""]  # argparse reads the program's name from it; componentize-py empties it as an instance starts
        random.seed(seed)
        if "numpy" in preload.OTHERS:
            sys.modules["numpy"].random.seed([seed & 0xFFFFFFFF, seed >> 32])
        for name in tools:
            namespace[name] = tool(name)

    def run(self, code: str, stdout_chars: int) -> Report:
        return run_cell(code, stdout_chars)


def make_beacon() -> bytearray:
    """Bytes that build.rs searches for in the image: a magic number, flags for "a cell is running" and "the host sent
    TimeoutError", and the address of the class TimeoutError.

    They are written one by one, so that memory contains no second copy of the magic number.
    """
    made = bytearray(64)
    for i in range(32):
        made[i] = (i * 37 + 11) & 255
    made[36:40] = id(TimeoutError).to_bytes(4, "little")
    return made


IN_CELL, TIMED_OUT = 32, 33
SENDING = 2  # the value of TIMED_OUT while the host is sending the exception
beacon = make_beacon()
answers: list[tuple[str, str | None]] = []
reserve: list[bytearray] = []
cell_number = 0

preload.preload()
warnings.simplefilter("ignore")
sys.setrecursionlimit(1000)
time.sleep = sleep
time.process_time = time.thread_time = time.monotonic  # one clock, which starts with the first State
builtins.input = no_input
builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D")
builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D")
builtins.help = _sitebuiltins._Helper()
socket.getaddrinfo = socket.gethostbyname = socket.socket.__init__ = no_network
asyncio.DefaultEventLoopPolicy._loop_factory = EventLoop

main = types.ModuleType("__main__")
main.__builtins__ = builtins
main.final_answer = final_answer
main.ToolError = ToolError
sys.modules["__main__"] = main
namespace = main.__dict__


def warm_up() -> None:
    """Runs typical code, so that its caches are in the image, and removes all other traces of it."""
    global cell_number
    kept = set(namespace)
    numpy_cell = "import numpy as np\na = np.arange(4.0).reshape(2, 2)\nprint(a.sum(axis=0), a @ a)\nnp.linalg.inv(a)"
    for _ in range(3):
        for cell in (
            "import math\nx = 1\nprint('a', x, math.sqrt(2))\nx + 1",
            "def f(n):\n    return n * 2\nsum(f(i) for i in range(100))",
            "class A:\n    def __init__(self):\n        self.b = [i for i in range(9)]\nprint(f'{len(A().b):>3}')",
            "1 / 0",
            "final_answer('x')",
            "from sympy import symbols, solve\ny = symbols('y')\nsolve(y**2 - 2)",
            numpy_cell if "numpy" in preload.OTHERS else "",
        ):
            run_cell(cell, 20_000)
    for name in set(namespace) - kept:
        del namespace[name]
    linecache.cache.clear()
    cell_number = 0
    gc.collect()


warm_up()
slack = bytearray(16 << 20)  # typical cells then do not grow the memory, which would need a new slot
del slack
gc.collect()
gc.freeze()
