"""Compare values in a separate process, because sympy may not terminate or may exhaust memory on a model's text.

The time limit is the worker's CPU time, so a busy machine changes no grade. pebble and concurrent.futures limit
wall-clock time. Not here: the comparison itself (``comparing.py``).
"""

import atexit
import json
import os
import subprocess
import sys
import threading
from typing import IO

_MEMORY = 4 << 30
"""Limit of the worker's address space, in bytes."""


class UndecidedError(RuntimeError):
    """A comparison reached its limit of time or memory, so the answer is neither correct nor wrong."""


class Worker:
    """A worker process. It is started when first needed, and again after it was stopped or this process was forked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self._stop)
        os.register_at_fork(after_in_child=self._forget)

    def equal(self, expected: str, given: str, seconds: float, error: float | None = None) -> bool:
        """Whether two texts have the same value, within a relative ``error`` if given.

        Raises UndecidedError after ``seconds`` of CPU time, or when the worker runs out of memory.
        """
        with self._lock:
            for attempt in range(2):
                is_new = self._process is None
                process = self._process or self._start()
                reply = _ask(process, [expected, given, seconds, error])
                if reply is not None:
                    break
                status = self._stop()
                if is_new or status == -_CPU_SIGNAL or attempt:
                    break  # this pair ended it; a worker that was already dead is restarted once
        if not isinstance(reply, bool):
            raise UndecidedError(
                f"the comparison of {_short(given)} with {_short(expected)} was stopped at {seconds:g} s of processor "
                f"time or {_MEMORY >> 30} GiB: it is not graded"
            )
        return reply

    def _start(self) -> subprocess.Popen[bytes]:
        here = {"", os.getcwd()}
        path = sorted(sys.path, key=lambda folder: folder in here)  # a json.py in the working folder is not imported
        start = "import json, sys; sys.path[:] = json.loads(sys.argv[1])"
        serve = "from agentdistill.grading.mathematics.worker import serve; serve()"
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", f"{start}; {serve}", json.dumps(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout
        if self._process.stdout.readline() != b'"ready"\n':
            self._stop()
            raise RuntimeError("the worker that compares mathematics does not start: try `python -c 'import sympy'`")
        return self._process

    def _stop(self) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        process.kill()
        process.communicate()
        return process.returncode

    def _forget(self) -> None:
        """Drop the worker in a forked child: the process and its pipes belong to the parent."""
        self._lock = threading.Lock()
        process, self._process = self._process, None
        if process is not None:
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    os.close(pipe.fileno())
            _OF_THE_PARENT.append(process)


WORKER = Worker()
"""The worker of this process."""

_CPU_SIGNAL = 27
"""SIGPROF, which the CPU timer sends."""

_OF_THE_PARENT: list[subprocess.Popen[bytes]] = []
"""Kept alive after a fork: collecting these objects would wait for the parent's processes and close pipes twice."""


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _ask(process: subprocess.Popen[bytes], message: object) -> object:
    """Send ``message`` and return the reply; None if the process has ended."""
    assert process.stdin and process.stdout
    try:
        _send(process.stdin, message)
        line = process.stdout.readline()
    except BrokenPipeError:
        return None
    return json.loads(line) if line.endswith(b"\n") else None


def _send(pipe: IO[bytes], message: object) -> None:
    pipe.write(json.dumps(message).encode() + b"\n")
    pipe.flush()


def serve() -> None:
    """Run the worker: read pairs from standard input and write verdicts, one JSON line each, until the input ends."""
    import logging
    import resource
    import signal

    from agentdistill.grading.mathematics.comparing import equal
    from agentdistill.grading.mathematics.values import UnreadError

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing printed may mix with the replies
    logging.disable()
    _send(replies, "ready")
    for line in sys.stdin:
        expected, given, seconds, error = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)  # the signal ends this process
        verdict: bool | None
        try:
            verdict = equal(expected, given, error)
        except UnreadError:
            verdict = False
        except MemoryError:
            verdict = None
        except Exception:  # sympy raises anything for values that it cannot compare
            verdict = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        _send(replies, verdict)
