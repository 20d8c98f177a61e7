"""IDEA 3 of the paper, self-consistent action generation: sample N actions, run all, do what most of them did.

A small student often writes code that does not run. So at each step N completions are sampled; each is parsed and run
from the same State, where it cannot see the others; those that fail are dropped, and the rest vote by what they did:
the final answer they gave, or the value and output of their code. The winner's State is the next State: nothing is
run twice. N = 1 is a vote of one, so every rollout goes through here.

The parsing, running and voting of a step is one call into the Rust core, for all episodes that wait at that moment.
Not here: canonical form and ties (rust/vote.rs), what happens when all fail (rust/self_consistency.rs).
"""

import asyncio
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal, NamedTuple

from agentdistill._core import Sandbox, State, StepResult, self_consistent_steps

CELLS_PER_CALL = 64
"""Candidates in one call at most: enough to make its cost vanish, few enough that one slow cell holds up few
episodes."""


class _Waiting(NamedTuple):
    state: State
    completions: Sequence[str]
    result: asyncio.Future[StepResult]


class SelfConsistentAction:
    """Runs the steps of many episodes. To be used within one event loop, as a context manager."""

    def __init__(self, sandbox: Sandbox, *, compat: Literal["reference"] | None = None, seed: int = 0) -> None:
        """``compat``: "reference" votes as the paper's code did (on printed output alone)."""
        self._sandbox = sandbox
        self._compat: Literal["reference"] | None = compat
        self._seed = seed
        self._waiting: deque[_Waiting] = deque()
        self._free = os.cpu_count() or 1  # calls that may be under way at once
        self._threads = ThreadPoolExecutor(self._free, thread_name_prefix="self-consistent-action")

    @property
    def initial(self) -> State:
        """Where every episode begins."""
        return self._sandbox.initial

    async def step(self, state: State, completions: Sequence[str]) -> StepResult:
        """Parse and run the candidates of one step, each from ``state``, and vote. Raises SandboxError."""
        result: asyncio.Future[StepResult] = asyncio.get_running_loop().create_future()
        if not self._waiting:
            asyncio.get_running_loop().call_soon(
                self._start_calls
            )  # not now: others may be ready in this turn of the loop
        self._waiting.append(_Waiting(state, completions, result))
        return await result

    def _start_calls(self) -> None:
        """Hand what waits to free threads. While all are busy, steps gather here and make the next call a larger
        one."""
        while self._waiting and self._free:
            batch = [self._waiting.popleft()]
            cells = len(batch[0].completions)
            while self._waiting and cells + len(self._waiting[0].completions) <= CELLS_PER_CALL:
                batch.append(self._waiting.popleft())
                cells += len(batch[-1].completions)
            self._free -= 1
            call = asyncio.get_running_loop().run_in_executor(self._threads, self._run, batch)
            call.add_done_callback(partial(self._finish, batch))

    def _run(self, batch: list[_Waiting]) -> list[StepResult]:
        episodes = [(waiting.state, waiting.completions) for waiting in batch]
        return self_consistent_steps(self._sandbox, episodes, compat=self._compat, seed=self._seed)

    def _finish(self, batch: list[_Waiting], call: "asyncio.Future[list[StepResult]]") -> None:
        self._free += 1
        error = call.exception()  # of the sandbox, not of what ran in it
        for i, waiting in enumerate(batch):
            if waiting.result.done():  # its episode was cancelled
                continue
            if error is not None:
                waiting.result.set_exception(error)
            else:
                waiting.result.set_result(call.result()[i])
        self._start_calls()

    def __enter__(self) -> "SelfConsistentAction":
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=True)
