"""Standard error of an engine's process while it starts: progress is shown, and a failure is reduced to its cause.

vLLM's engine fails in a process of its own. Its tracebacks, a hundred lines, go to standard error, and the exception in
this process only says "see root cause above".
"""

import os
import re
import threading
from typing import Self

_ERROR = re.compile(rb"Traceback \(most recent call last\)| ERROR |Process EngineCore")
_CAUSE = re.compile(r"^(?:\(.*?\) ERROR .*?\] )?[\w.]*((?:Error|Exception): .+)$", re.MULTILINE)
_KILLED = re.compile(r"Failed core proc\(s\): \{[^}]*: -9\b")


class HeldErrors:
    """While the enclosed work starts a process, hold back that process's errors on standard error.

    If the work succeeds they are written then, and if it fails they stay in ``text``.
    """

    def __enter__(self) -> Self:
        self._output, write_end = os.pipe()
        self._terminal = os.dup(2)
        self._held = bytearray()
        self._hold = threading.Lock()
        self._starting = True
        self._thread = threading.Thread(target=self._forward, name="agentdistill-engine-errors", daemon=True)
        os.dup2(write_end, 2)
        os.close(write_end)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            with self._hold:
                self._starting = False
                os.write(self._terminal, self._held)
        os.dup2(self._terminal, 2)
        if kind is not None:
            self._thread.join(timeout=5)  # the engine has ended, and with it the pipe, unless others inherited it too

    @property
    def text(self) -> str:
        return self._held.decode(errors="replace")

    def cause(self, error: Exception) -> str:
        """Why the engine did not start: the last error that its process wrote, or else what ``error`` says."""
        if _KILLED.search(str(error)):
            return "the system killed its process, most likely because memory ran out"
        causes = _CAUSE.findall(self.text)
        return causes[-1].partition(": ")[2] if causes else str(error)

    def _forward(self) -> None:
        """Copy from the pipe for as long as the engine runs: it keeps the pipe as its standard error."""
        while part := os.read(self._output, 1 << 16):
            with self._hold:
                if self._starting and (self._held or _ERROR.search(part)):
                    self._held += part
                else:
                    os.write(self._terminal, part)
        os.close(self._output)
        os.close(self._terminal)
