"""The event loop in which synchronous functions run asynchronous work.

Rollouts, models and graders are asynchronous; the public functions are not. They share one loop, which runs in its own
thread, because the caller may already have a running loop (a notebook), and a model keeps its connections between
rollouts.

Not anyio's blocking portal: it lives as long as a ``with`` block, and after Ctrl-C it does not wait for the cancelled
work to clean up.
"""

import asyncio
import os
import threading
from collections.abc import Coroutine
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.2
"""Interval at which a waiting thread checks for Ctrl-C."""


def run_blocking(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` on the shared event loop and return its result.

    Ctrl-C cancels ``work``, waits up to 60 s for it to clean up, and is raised.
    """
    ended = threading.Event()

    async def run_to_end() -> T:
        try:
            return await work
        finally:
            ended.set()

    future = asyncio.run_coroutine_threadsafe(run_to_end(), event_loop())
    try:
        while True:  # the signal of Ctrl-C may arrive in another thread, which does not wake this one
            if future.done():
                return future.result()
            with suppress(TimeoutError):  # if it is the work's own TimeoutError, it is raised above
                future.result(POLL_SECONDS)
    except KeyboardInterrupt:
        future.cancel()
        ended.wait(timeout=60)
        raise


@cache
def event_loop() -> asyncio.AbstractEventLoop:
    """The event loop that everything in this process shares; it runs in a daemon thread."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="agentdistill", daemon=True).start()
    return loop


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=event_loop.cache_clear)  # a child process has the loop, but not its thread
