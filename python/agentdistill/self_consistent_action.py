"""IDEA 3 of the paper, self-consistent action generation: sample N actions, run each, and vote on the outcomes.

A small student often writes code that does not run. So N completions are sampled at each step. Each is parsed, and runs
from the same State, isolated from the others. Failed candidates are dropped. The others vote with their outcome: the
final answer, or the value and output of the code. The winner's State becomes the next State, so nothing runs twice.
N = 1 is a vote of one, so every rollout goes through here.

Beyond the paper: adaptive sampling stops as soon as no further candidate could change the vote. It first samples the
smallest number that could decide it (5 of 8) and, if these disagree, the smallest number that then could.

The Rust core parses, runs and votes (rust/step_queue.rs) without blocking the event loop. Not here: canonical form and
ties (rust/vote.rs), and what happens if all candidates fail (rust/self_consistency.rs).
"""

import asyncio
import os
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

from agentdistill._core import Sandbox, State, StepQueue, StepResult, Vote
from agentdistill.action_format import ActionFormat
from agentdistill.models.model import Generation

STEPS_WITH_SLOW_TOOLS = 64
"""Steps that run at once if their tools may wait, which needs no core."""


class SelfConsistentAction:
    """Runs the steps of many episodes. A context manager, for use within one event loop."""

    def __init__(
        self,
        sandbox: Sandbox,
        *,
        action_format: ActionFormat = "code",
        compat: Literal["reference"] | None = None,
        seed: int = 0,
        slow_tools: bool = False,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        """``compat="reference"`` votes as the paper's code did, on printed output alone.

        With ``slow_tools``, cells may wait for tools, and many steps run at once. ``release`` ends their waiting; it is
        called at the end.
        """
        self.initial = sandbox.initial
        """The State in which every episode begins."""
        at_once = STEPS_WITH_SLOW_TOOLS if slow_tools else os.cpu_count() or 1
        self._queue = StepQueue(sandbox, at_once, format=action_format, compat=compat, seed=seed)
        self._abandoned = set[asyncio.Future[StepResult]]()
        # At the latest when the interpreter exits.
        self._close = weakref.finalize(self, _release_and_close, release, self._queue)
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def abandoned(self) -> int:
        """Cancelled steps that are still running."""
        return len(self._abandoned)

    async def act(
        self,
        state: State,
        sample: Callable[[int], Awaitable[Generation]],
        n: int,
        *,
        prefix: str = "",
        adaptive: bool = False,
    ) -> tuple[Generation, StepResult]:
        """Sample ``n`` candidates, run each from ``state``, and vote. Return what was sampled and the step.

        ``sample(k)`` asks the model for k completions that begin with ``prefix``. With ``adaptive``, sampling stops
        once the vote of ``n`` is decided; the outcome is the same. Raises SandboxError, and what ``sample`` raises.
        """
        generation = await sample(n // 2 + 1 if adaptive else n)
        result = await self.step(state, _texts(generation, prefix))
        while more := _undecided(result.vote, n - len(generation.completions)):
            generation = generation.merged_with(await sample(more))
            result = await self.step(state, _texts(generation, prefix), result)
        return generation, result

    async def step(self, state: State, completions: Sequence[str], earlier: StepResult | None = None) -> StepResult:
        """Parse and run the candidates of one step, each from ``state``, and vote. Raises SandboxError.

        ``earlier`` is the result for the first candidates, whose code is not run again. If this is cancelled, its
        cells are, too; those in a tool end when it returns.
        """
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._queue.fileno(), self._deliver_results)
        result: asyncio.Future[StepResult] = self._loop.create_future()
        self._queue.push(result, state, completions, earlier)
        try:
            return await result
        except asyncio.CancelledError:
            if self._queue.withdraw(result):
                self._abandoned.add(result)
            raise

    def _deliver_results(self) -> None:
        for result, outcome in self._queue.take():
            if result.done():  # its episode was cancelled
                self._abandoned.discard(result)
            elif isinstance(outcome, StepResult):
                result.set_result(outcome)
            else:
                result.set_exception(outcome)

    def __enter__(self) -> "SelfConsistentAction":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.remove_reader, self._queue.fileno())


def _release_and_close(release: Callable[[], None], queue: StepQueue) -> None:
    release()
    queue.close()


def _texts(generation: Generation, prefix: str) -> list[str]:
    return [prefix + completion.text for completion in generation.completions]


def _undecided(vote: Vote, left: int) -> int:
    """The smallest number of the ``left`` further candidates that could decide the vote; 0 if it is decided.

    It is decided if the lead of the first over the second is larger than ``left``: a tie may go to either.
    """
    first, second = [*(votes for _, votes in vote.counts), 0, 0][:2]
    return min(left, max(0, (left - (first - second)) // 2 + 1))
