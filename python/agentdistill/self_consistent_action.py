"""IDEA 3 of the paper, self-consistent action generation: sample N actions, run all, do what most of them did.

A small student often writes code that does not run. So at each step N completions are sampled; each is parsed and run
from the same State, where it cannot see the others; those that fail are dropped, and the rest vote by what they did:
the final answer they gave, or the value and output of their code. The winner's State is the next State: nothing is
run twice. N = 1 is a vote of one, so every rollout goes through here.

Beyond the paper: as soon as no further candidate could change the vote, adaptive sampling asks for none. It first asks
for the fewest that could decide (5 of 8), and if these disagree, for the fewest that then could.

A step is parsed, run and voted on by the Rust core (rust/step_queue.rs), while the event loop goes on. Not here:
canonical form and ties (rust/vote.rs), what happens when all fail (rust/self_consistency.rs).
"""

import asyncio
import os
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

from agentdistill._core import Sandbox, State, StepQueue, StepResult, Vote
from agentdistill.action_format import ActionFormat
from agentdistill.models.model import Generation

STEPS_THAT_WAIT = 64
"""Steps under way at once when they may wait for slow tools, and so need no core."""


class SelfConsistentAction:
    """Runs the steps of many episodes. To be used within one event loop, as a context manager."""

    def __init__(
        self,
        sandbox: Sandbox,
        *,
        action_format: ActionFormat = "code",
        compat: Literal["reference"] | None = None,
        seed: int = 0,
        slow_tools: bool = False,
    ) -> None:
        """``action_format``: what completions are read as. ``compat``: "reference" votes as the paper's code did (on
        printed output alone). ``slow_tools``: cells may wait for tools; then many steps are under way at once."""
        self.initial = sandbox.initial
        """Where every episode begins."""
        at_once = STEPS_THAT_WAIT if slow_tools else os.cpu_count() or 1
        self._queue = StepQueue(sandbox, at_once, format=action_format, compat=compat, seed=seed)
        self._close = weakref.finalize(self, self._queue.close)  # at the latest before the interpreter goes
        self._loop: asyncio.AbstractEventLoop | None = None

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
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._queue.fileno(), self._hand_out)
        result: asyncio.Future[StepResult] = self._loop.create_future()
        self._queue.push(result, state, completions, earlier)
        return await result

    def _hand_out(self) -> None:
        for result, outcome in self._queue.take():
            if result.done():  # its episode was cancelled
                continue
            if isinstance(outcome, StepResult):
                result.set_result(outcome)
            else:
                result.set_exception(outcome)

    def __enter__(self) -> "SelfConsistentAction":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.remove_reader, self._queue.fileno())


def _texts(generation: Generation, prefix: str) -> list[str]:
    return [prefix + completion.text for completion in generation.completions]


def _undecided(vote: Vote, left: int) -> int:
    """The fewest of the candidates ``left`` to sample that could decide the vote; 0 when no number of them could
    change it.

    It is decided when the first is ahead of the second by more than are left: a tie might go to either.
    """
    first, second = [*(votes for _, votes in vote.counts), 0, 0][:2]
    return min(left, max(0, (left - (first - second)) // 2 + 1))
