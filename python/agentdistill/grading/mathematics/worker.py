"""Compare values in a process of its own, since sympy can run for ever or out of memory on what a model writes.

The limit is the worker's own processor time, so that a busy machine changes no grade; pebble and concurrent.futures
measure the time on the wall. Not here: what is compared (``comparing.py``).
"""

import atexit
import json
import os
import subprocess
import sys
import threading
from typing import IO

_MEMORY = 4 << 30
"""Address space of the worker, in bytes."""


class UndecidedError(RuntimeError):
    """A comparison that ran into its limit of time or memory: the answer is neither right nor wrong."""


class Worker:
    """One process, started when it is first needed, and again after it had to be stopped or this process was forked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self._stop)
        os.register_at_fork(after_in_child=self._forget)

    def equal(self, expected: str, given: str, seconds: float, error: float | None = None) -> bool:
        """Whether two texts have the same value, to a relative ``error``.

        Raises UndecidedError after ``seconds`` of processor time.
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
                    break  # it died of this pair; one that was found dead is started once more
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
        """In a forked child: the process and its pipes are the parent's."""
        self._lock = threading.Lock()
        process, self._process = self._process, None
        if process is not None:
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    os.close(pipe.fileno())
            _OF_THE_PARENT.append(process)


WORKER = Worker()
"""The one of this process."""

_CPU_SIGNAL = 27
"""SIGPROF, which the timer of processor time sends."""

_OF_THE_PARENT: list[subprocess.Popen[bytes]] = []
"""Kept, so that their collection waits for no process of another and closes no pipe twice."""


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _ask(process: subprocess.Popen[bytes], message: object) -> object:
    """The reply to ``message``; None when the process is gone."""
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
    """The worker: pairs in, verdicts out, a line of JSON each, until its standard input ends."""
    import logging
    import resource
    import signal

    from agentdistill.grading.mathematics.comparing import equal
    from agentdistill.grading.mathematics.values import UnreadError

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever prints must not get between the replies
    logging.disable()
    _send(replies, "ready")
    for line in sys.stdin:
        expected, given, seconds, error = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends this process
        verdict: bool | None
        try:
            verdict = equal(expected, given, error)
        except UnreadError:
            verdict = False
        except MemoryError:
            verdict = None
        except Exception:  # whatever sympy raises for values that it cannot compare
            verdict = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        _send(replies, verdict)
