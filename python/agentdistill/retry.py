"""Asking a server that may fail for a moment: which failures pass, how long to wait for them, and when to give up.

What passes (time-outs, cut connections, overload, garbage) is asked again after a growing pause. A server that cannot
be reached may be starting again, if it has answered before; one that never has is given up after seconds, as its
address is wrong or nobody has started it.

tenacity and stamina keep what they know for one call; here all callers of a server share it. Not here: sending
requests, and sleeping, since one caller waits in an event loop and another in a thread.
"""

import logging
import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

_log = logging.getLogger(__name__)

TRIES_AT_FIRST = 3
"""Tries to reach a server that has never answered."""
LONGEST_PAUSE = 30.0
LONGEST_WAIT = 300.0
"""A server that asks for a longer wait than this (seconds) counts as down."""


class Retries:
    """What is known of one server; shared by all who ask it."""

    first_pause = 0.5
    """Seconds before the first retry; doubled before each further one."""

    def __init__(self, server: str, retries: int, error: type[Exception]) -> None:
        """``server``: how messages name it. ``error``: what is raised when it is given up."""
        self.retried = 0
        """How many requests had to be sent again so far."""
        self._server = server
        self._retries = retries
        self._error = error
        self._answered = False  # ever
        self._lost = False  # not reached since it last answered

    def answered(self) -> None:
        """It did, if only to refuse."""
        self._answered, self._lost = True, False

    def pause(self, attempt: int, problem: str, *, wait: float | None = None, unreachable: bool = False) -> float:
        """Seconds until the try that failed, the first being 0, should be made again.

        ``wait``: seconds that the server asks for. ``unreachable``: nobody listens there, or there is no such host.
        Raises the error that was given at the beginning when there have been enough tries.
        """
        tries = self._tries_to_reach(problem) if unreachable else self._retries + 1
        if attempt + 1 >= tries or (wait or 0) > LONGEST_WAIT:
            later = f", and wants to be asked again in {wait:.0f} s" if wait else ""
            raise self._error(f"{self._server} does not answer after {attempt + 1} tries: {problem}{later}")
        pause = max(self._average_pause(attempt) * random.uniform(0.5, 1.5), wait or 0)
        self.retried += 1
        _log.info("%s: %s; asking again in %.1f s", self._server, problem, pause)
        return pause

    def _average_pause(self, attempt: int) -> float:
        return min(LONGEST_PAUSE, self.first_pause * 2.0**attempt)

    def _tries_to_reach(self, problem: str) -> int:
        """How often to try a server that cannot be reached. Says once, not for each request, that it is waited for."""
        tries = self._retries + 1
        if not self._answered:
            return min(tries, TRIES_AT_FIRST)
        if not self._lost:
            self._lost = True
            patience = sum(map(self._average_pause, range(self._retries)))
            _log.warning("%s: %s; waiting up to %.0f s for it to come back", self._server, problem, patience)
        return tries


def passes(status: int) -> bool:
    """Whether an answer of this HTTP status may be another when asked again."""
    return status in (408, 409, 429) or status >= 500


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks us to wait (RFC 9110, 10.2.3: a number, or a date)."""
    header = headers.get("retry-after", "")
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None
