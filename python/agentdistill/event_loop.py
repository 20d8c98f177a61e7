"""The event loop that synchronous code uses to wait for asynchronous work.

Rollouts, models and graders are asynchronous; the public functions are not. They share one loop, which runs in a thread
of its own: the caller may have a running loop (a notebook), and a model keeps its connections between rollouts.
"""

import asyncio
import threading
from collections.abc import Coroutine
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


def run_blocking(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` on the one event loop that all rollouts of this process share, and wait for it.

    The loop has a thread of its own: the caller may have a running loop (a notebook), and a model keeps its
    connections from one rollout to the next. Ctrl-C cancels ``work``, waits until it has cleaned up, and is raised.
    """
    ended = threading.Event()

    async def work_and_say() -> T:
        try:
            return await work
        finally:
            ended.set()

    future = asyncio.run_coroutine_threadsafe(work_and_say(), event_loop())
    try:
        return future.result()
    except KeyboardInterrupt:
        future.cancel()
        ended.wait(timeout=60)
        raise


@cache
def event_loop() -> asyncio.AbstractEventLoop:
    """The loop that all rollouts of this process share, running in a thread of its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="agentdistill", daemon=True).start()
    return loop
