"""Decide whether a failed request to a server is retried, after which pause, and when to give up on the server.

Transient failures (timeouts, dropped connections, overload, invalid responses) are retried with exponential backoff.
A server that cannot be reached may be restarting if it has answered before. If it never has, it is given up after
seconds, because its address is wrong or it was not started.

tenacity and stamina keep their state per call; here all callers of a server share it. Not here: sending requests, and
sleeping, since one caller waits in an event loop and another in a thread.
"""

import logging
import math
import random
import re
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from agentdistill.redaction import redacted

_log = logging.getLogger(__name__)

TRIES_AT_FIRST = 3
"""Attempts to reach a server that has never answered."""
MAX_PAUSE = 30.0
MAX_WAIT = 300.0
"""Maximum wait in seconds that a server may ask for. With a longer one, it counts as down."""


class Retries:
    """The state of one server, shared by all callers."""

    first_pause = 0.5
    """Seconds before the first retry; doubled for each further one."""

    def __init__(self, server: str, retries: int, error: type[Exception]) -> None:
        """``server`` is its name in messages. ``error`` is raised when it is given up."""
        self.retried = 0
        """Number of retries so far."""
        self._server = server
        self._retries = retries
        self._error = error
        self._answered = False  # ever
        self._unreachable = False  # since it last answered

    def answered(self) -> None:
        """Record that the server answered, even with a refusal."""
        self._answered, self._unreachable = True, False

    def pause(self, attempt: int, problem: str, *, wait: float | None = None, unreachable: bool = False) -> float:
        """Seconds to wait before the next attempt, after attempt number ``attempt`` (from 0) failed.

        ``wait``: seconds that the server asked for. ``unreachable``: the connection was refused, or the host does not
        exist. Raises ``error`` after the last attempt.
        """
        problem = redacted(problem)
        tries = self._attempts_to_reach(problem) if unreachable else self._retries + 1
        if attempt + 1 >= tries or (wait or 0) > MAX_WAIT:
            later = f", and asks for a retry in {wait:.0f} s" if wait else ""
            raise self._error(f"{self._server} does not answer after {attempt + 1} tries: {problem}{later}")
        pause = max(self._average_pause(attempt) * random.uniform(0.5, 1.5), wait or 0)
        self.retried += 1
        _log.info("%s: %s; retrying in %.1f s", self._server, problem, pause)
        return pause

    def _average_pause(self, attempt: int) -> float:
        return min(MAX_PAUSE, self.first_pause * 2.0**attempt)

    def _attempts_to_reach(self, problem: str) -> int:
        """Attempts for a server that cannot be reached. Logs the wait once, not for each request."""
        tries = self._retries + 1
        if not self._answered:
            return min(tries, TRIES_AT_FIRST)
        if not self._unreachable:
            self._unreachable = True
            seconds = sum(map(self._average_pause, range(self._retries)))
            _log.warning("%s: %s; waiting up to %.0f s for it to come back", self._server, problem, seconds)
        return tries


def is_transient(status: int) -> bool:
    """Whether a request with this HTTP status may succeed if it is retried."""
    return status in (408, 409, 425, 429) or status >= 500


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks us to wait: a number or a date (RFC 9110, 10.2.3), or a Unix time, which some send.
    None if it does not say so in a form that can be read."""
    header = headers.get("retry-after", "").strip()
    try:
        seconds = float(re.sub(r"\s*(s|secs?|seconds?)?\s*(,.*)?$", "", header, flags=re.I))
        if math.isnan(seconds):
            return None
        return max(0.0, seconds - time.time() if seconds > _LONG_AGO else seconds)
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(header)
        return max(0.0, date.replace(tzinfo=date.tzinfo or UTC).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


_LONG_AGO = 1e9
"""A Unix time in 2001. A larger number is a time, not a duration."""
