"""IDEA 3 of the paper, self-consistent action generation: sample N actions, run all, do what most of them did.

A small student often writes code that does not run. So at each step N completions are sampled; each is parsed and run
from the same State, where it cannot see the others; those that fail are dropped, and the rest vote by what they did:
the final answer they gave, or the value and output of their code. The winner's State is the next State: nothing is
run twice. N = 1 is a vote of one, so every rollout goes through here.

Beyond the paper: as soon as no further candidate could change the vote, adaptive sampling asks for none. It first asks
for the fewest that could decide (5 of 8), and if these disagree, for the fewest that then could.

The parsing, running and voting of a step is one call into the Rust core, for all episodes that wait at that moment.
Not here: canonical form and ties (rust/vote.rs), what happens when all fail (rust/self_consistency.rs).
"""

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal, NamedTuple

from agentdistill._core import Sandbox, State, StepResult, Vote, self_consistent_steps
from agentdistill.model import Generation

CELLS_PER_CALL = 64
"""Candidates in one call at most: enough to make its cost vanish, few enough that one slow cell holds up few
episodes."""

CALLS_THAT_WAIT = 64
"""Calls under way at once when they may wait for slow tools, and so need no core."""


class _Waiting(NamedTuple):
    state: State
    completions: Sequence[str]
    earlier: StepResult | None
    result: asyncio.Future[StepResult]


class SelfConsistentAction:
    """Runs the steps of many episodes. To be used within one event loop, as a context manager."""

    def __init__(
        self,
        sandbox: Sandbox,
        *,
        compat: Literal["reference"] | None = None,
        seed: int = 0,
        slow_tools: bool = False,
    ) -> None:
        """``compat``: "reference" votes as the paper's code did (on printed output alone). ``slow_tools``: cells may
        wait for tools; then each step is a call of its own, and many are under way at once."""
        self._sandbox = sandbox
        self._compat: Literal["reference"] | None = compat
        self._seed = seed
        self._waiting: deque[_Waiting] = deque()
        self._free = CALLS_THAT_WAIT if slow_tools else os.cpu_count() or 1  # calls that may be under way at once
        self._cells_per_call = 1 if slow_tools else CELLS_PER_CALL
        self._threads = ThreadPoolExecutor(self._free, thread_name_prefix="self-consistent-action")

    @property
    def initial(self) -> State:
        """Where every episode begins."""
        return self._sandbox.initial

    async def act(
        self,
        state: State,
        sample: Callable[[int], Awaitable[Generation]],
        n: int,
        *,
        prefix: str = "",
        adaptive: bool = False,
    ) -> tuple[Generation, StepResult]:
        """Sample candidates, run each from ``state``, and do what most of them did: what was sampled, and the step.

        ``sample`` asks the model for so many, each begun with ``prefix``. ``adaptive``: until the vote of ``n`` is
        decided; its winner does what that of all ``n`` would. Raises SandboxError, and what ``sample`` raises.
        """
        generation = await sample(n // 2 + 1 if adaptive else n)
        result = await self.step(state, _texts(generation, prefix))
        while more := _undecided(result.vote, n - len(generation.completions)):
            generation = generation.and_further(await sample(more))
            result = await self.step(state, _texts(generation, prefix), result)
        return generation, result

    async def step(self, state: State, completions: Sequence[str], earlier: StepResult | None = None) -> StepResult:
        """Parse and run the candidates of one step, each from ``state``, and vote. Raises SandboxError.

        ``earlier``: the result for the first of them, whose code is not run again.
        """
        result: asyncio.Future[StepResult] = asyncio.get_running_loop().create_future()
        if not self._waiting:
            asyncio.get_running_loop().call_soon(
                self._start_calls
            )  # not now: others may be ready in this turn of the loop
        self._waiting.append(_Waiting(state, completions, earlier, result))
        return await result

    def _start_calls(self) -> None:
        """Hand what waits to free threads. While all are busy, steps gather here and make the next call a larger
        one."""
        while self._waiting and self._free:
            batch = [self._waiting.popleft()]
            cells = len(batch[0].completions)
            while self._waiting and cells + len(self._waiting[0].completions) <= self._cells_per_call:
                batch.append(self._waiting.popleft())
                cells += len(batch[-1].completions)
            self._free -= 1
            call = asyncio.get_running_loop().run_in_executor(self._threads, self._run, batch)
            call.add_done_callback(partial(self._finish, batch))

    def _run(self, batch: list[_Waiting]) -> list[StepResult]:
        episodes = [(waiting.state, waiting.completions, waiting.earlier) for waiting in batch]
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


def _texts(generation: Generation, prefix: str) -> list[str]:
    return [prefix + completion.text for completion in generation.completions]


def _undecided(vote: Vote, left: int) -> int:
    """The fewest of the candidates ``left`` to sample that could decide the vote; 0 when no number of them could
    change it.

    It is decided when the first is ahead of the second by more than are left: a tie might go to either.
    """
    first, second = [*(votes for _, votes in vote.counts), 0, 0][:2]
    return min(left, max(0, (left - (first - second)) // 2 + 1))
