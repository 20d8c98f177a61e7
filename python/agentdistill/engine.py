"""Many episodes at once: concurrency, durability, progress. Every rollout, of teacher and student alike, goes through
here.

An episode is recorded when it has ended by itself: answered, out of steps, not parsed, cut. One that ended because of
its surroundings (``model_error``, ``sandbox_error``, ``error``) is returned and counted but never written, so that
the same command, run again, tries it again; enough of these in a row stop the run.

Not here: what an episode is (agent.py, chain_of_thought.py), and what its trajectory is used for.
"""

import asyncio
import hashlib
import json
import os
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from agentdistill._core import (
    AgentDistillError,
    Bm25Index,
    Limits,
    Sandbox,
    SandboxError,
    Trajectory,
    TrajectoryWriter,
    read_trajectories,
)
from agentdistill.agent import AgentConfig, run_episode
from agentdistill.chain_of_thought import run_chain_of_thought
from agentdistill.grading import grade
from agentdistill.model import Model, ModelError
from agentdistill.progress import EpisodeProgress, Metrics
from agentdistill.self_consistent_action import SelfConsistentAction
from agentdistill.task import Task
from agentdistill.tool import TOOL_SECONDS, Tool, describe_tools, has_slow, sandbox_tools

if TYPE_CHECKING:
    from agentdistill._core import _Outcome as Outcome

FAILED = ("model_error", "sandbox_error", "error")
"""Outcomes that say nothing about the model's work: such an episode is not recorded, and the next run tries it
again."""

FAILED_IN_A_ROW = 20
"""So many failed episodes, none ended well between them, mean that the next would fail too: the run stops."""

GO_ON = "Run the same again to go on."


@dataclass(frozen=True)
class RolloutConfig(AgentConfig):
    """How a rollout goes: its episodes, and how many at once."""

    kind: Literal["agent", "cot"] = "agent"
    """"agent" thinks, acts and observes; "cot" is the baseline, one chain of thought without tools."""
    compat: Literal["reference"] | None = None
    """"reference" votes as the paper's code did: on printed output alone, the first candidate when all fail."""
    cell_seconds: float = 5.0
    """Time that one run of code may take, in seconds."""
    memory_mb: int = 256
    """Memory that the code of one episode may take, in MB."""
    tool_seconds: float = TOOL_SECONDS
    """Time that one call of a tool in Python may take, in seconds. The time of its tools is none of a cell's."""
    output_chars: int = 10_000
    """Most characters shown of what one run of code prints, and of its value or error; the middle is left out."""
    seed: int = 0
    """Of the sandbox's random numbers, and of the draw when every candidate failed."""
    concurrency: int = 256
    """Episodes under way at once; those that wait for the model make its batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.concurrency < 1:
            raise ValueError(f"concurrency is {self.concurrency}: give at least 1")

    @property
    def default_prompt(self) -> str:
        """That of a student."""
        return f"student_{self.kind}"

    def settings(self) -> dict[str, Any]:
        """What makes one run another run: all fields but those that only change its speed."""
        return {name: value for name, value in asdict(self).items() if name != "concurrency"}


def rollout(
    tasks: Sequence[Task],
    model: Model,
    tools: Sequence[Tool] = (),
    config: RolloutConfig | None = None,
    *,
    output: str | Path | None = None,
    first_thought: Callable[[Task], Awaitable[str]] | None = None,
    progress: bool = True,
    metrics: str | Path | None = None,
    title: str = "rollout",
) -> list[Trajectory]:
    """Let ``model`` work on every task, many at once; return the graded trajectories in the order of the tasks.

    With ``output``, each trajectory is on disk before it counts; tasks already there are not run again, and a file of
    other settings is refused. ``metrics``: a JSON file to keep up to date with rates, outcomes, tokens, and where the
    time went. ``first_thought`` gives the beginning of an episode's first turn (IDEA 2). May be
    called from a notebook. Raises ModelError or AgentDistillError when the model or the sandbox is down for good,
    TrajectoryError for another run's file, ValueError for tasks that share an id, OSError for a full disk. What had
    ended by then is kept in ``output``.
    """
    config = config or RolloutConfig()
    ids = Counter(task.id for task in tasks)
    if twins := [name for name, count in ids.items() if count > 1]:
        raise ValueError(f"{len(twins)} ids are those of several tasks, {twins[0]!r} for one: give each task its own")
    with ExitStack() as stack:
        writer, recorded = None, dict[str, Trajectory]()
        if output is not None:
            writer = stack.enter_context(TrajectoryWriter(output, _run(model, tools, config)))
            if writer.done:
                recorded = {trajectory.task_id: trajectory for trajectory in read_trajectories(output)}
        if other := [task.id for task in tasks if task.id in recorded and recorded[task.id].question != task.question]:
            raise ValueError(
                f"{output} has another question under the id {other[0]!r}: give these tasks their own file"
            )
        old = [recorded[task.id] for task in tasks if task.id in recorded]
        todo = [task for task in tasks if task.id not in recorded]
        file = Path(metrics) if metrics is not None else None
        counted = Metrics(len(tasks), old, lambda: getattr(model, "retried", 0))
        shown = stack.enter_context(EpisodeProgress(title, counted, file, visible=progress))
        actions = None
        if config.kind == "agent":
            actions = stack.enter_context(
                SelfConsistentAction(
                    sandbox_of(config, tools), compat=config.compat, seed=config.seed, slow_tools=has_slow(tools)
                )
            )
        settings = {**config.settings(), "tools": describe_tools(tools)}

        async def play(task: Task) -> Trajectory:
            return await _play(task, model, actions, config, settings, first_thought)

        try:
            new = run_blocking(_play_all(todo, play, config.concurrency, writer, shown)) if todo else []
        except KeyboardInterrupt:
            kept = f"{len(writer.done)} of {len(tasks)} episodes are kept in {output}. {GO_ON}" if writer else ""
            print(f"Interrupted. {kept}", file=sys.stderr)
            raise
    everything = recorded | {trajectory.task_id: trajectory for trajectory in new}
    return [everything[task.id] for task in tasks]


def sandbox_of(config: RolloutConfig, tools: Sequence[Tool] = ()) -> Sandbox:
    """The sandbox that a rollout with this configuration runs its code in."""
    limits = Limits(seconds=config.cell_seconds, memory_mb=config.memory_mb, stdout_chars=config.output_chars)
    threads = max(config.candidates, os.cpu_count() or 1) if has_slow(tools) else None
    return Sandbox(sandbox_tools(tools, config.tool_seconds), limits, seed=config.seed, threads=threads)


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

    future = asyncio.run_coroutine_threadsafe(work_and_say(), _event_loop())
    try:
        return future.result()
    except KeyboardInterrupt:
        future.cancel()
        ended.wait(timeout=60)
        raise


def _run(model: Model, tools: Sequence[Tool], config: RolloutConfig) -> str:
    """What makes this run another run than one of other settings, as JSON."""
    sizes = {tool.name: len(tool.function) if isinstance(tool.function, Bm25Index) else None for tool in tools}
    prompt = hashlib.sha256(config.system_prompt.encode()).hexdigest()[:12]
    run = {"model": model.name, "weights": _weights(model.name), "tools": sizes, "prompt_sha256": prompt}
    return json.dumps(run | config.settings(), sort_keys=True)


def _weights(model: str) -> str | None:
    """Which weights a model's folder holds now: it may be trained again under the same name."""
    files = sorted(Path(model).rglob("*.safetensors")) if Path(model).is_dir() else []
    stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(stamps).encode()).hexdigest()[:12] if stamps else None


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="agentdistill", daemon=True).start()
    return loop


async def _play_all(
    tasks: Sequence[Task],
    play: Callable[[Task], Awaitable[Trajectory]],
    concurrency: int,
    writer: TrajectoryWriter | None,
    shown: EpisodeProgress,
) -> list[Trajectory]:
    """Keep ``concurrency`` episodes under way until all have ended, each recorded as it ends."""
    waiting, ended = iter(tasks), asyncio.Queue[Trajectory | None]()

    async def work() -> None:
        for task in waiting:  # one iterator for all workers: whoever is free takes the next
            ended.put_nowait(await play(task))
            # The recorder's turn, which may end the run, also when no episode waits for anything.
            await asyncio.sleep(0)

    workers = [asyncio.create_task(work()) for _ in range(min(concurrency, len(tasks)))]
    everyone = asyncio.gather(*workers, return_exceptions=True)
    recorder = asyncio.create_task(_record(ended, len(tasks), writer, shown))
    either: list[asyncio.Future[Any]] = [everyone, recorder]
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for worker in workers:
            worker.cancel()
        ends = await everyone
        ended.put_nowait(None)
        new = await recorder  # after Ctrl-C too: what has ended is written
    for end in ends:
        if isinstance(end, Exception):
            raise end
    return new


async def _record(
    ended: "asyncio.Queue[Trajectory | None]", todo: int, writer: TrajectoryWriter | None, shown: EpisodeProgress
) -> list[Trajectory]:
    """Write what ends, all that waits in one go, until None comes; raise when nothing but failures comes."""
    recorded: list[Trajectory] = []
    failed_in_a_row, more = 0, True
    with ThreadPoolExecutor(1, "trajectory-writer") as pen:  # its own thread: grading may keep the loop's others busy
        while more:
            queue = [await ended.get()]
            while not ended.empty():
                queue.append(ended.get_nowait())
            more = queue[-1] is not None
            batch = [trajectory for trajectory in queue if trajectory is not None]
            if writer and (good := [trajectory for trajectory in batch if trajectory.outcome not in FAILED]):
                await asyncio.get_running_loop().run_in_executor(pen, writer.append, good)
            recorded += batch
            for trajectory in batch:
                shown.advance(trajectory)
                failed_in_a_row = failed_in_a_row + 1 if trajectory.outcome in FAILED else 0
                if failed_in_a_row == min(FAILED_IN_A_ROW, todo):
                    raise _stopped(trajectory, failed_in_a_row, kept=writer is not None)
    return recorded


async def _play(
    task: Task,
    model: Model,
    actions: SelfConsistentAction | None,
    config: RolloutConfig,
    settings: dict[str, Any],
    first_thought: Callable[[Task], Awaitable[str]] | None,
) -> Trajectory:
    """One episode and its grade. The one place where what goes wrong around an episode becomes its outcome."""
    start = time.perf_counter()
    known: dict[str, Any] = {
        "reference": task.answer,
        "task_set": task.task_set,
        "kind": config.kind,
        "model": model.name,
        "sampling": settings,
    }
    try:
        if actions is None:
            episode = await run_chain_of_thought(task.question, model, config)
        else:
            prefix = await first_thought(task) if first_thought else ""
            episode = await run_episode(task.question, model, actions, config, tools=settings["tools"], prefix=prefix)
        seconds = time.perf_counter() - start
        graded = None if task.answer is None else await asyncio.to_thread(grade, task, episode.answer)
    except Exception as error:
        outcome, said = _failure(error)
        seconds = time.perf_counter() - start
        return Trajectory(task.id, task.question, **known, outcome=outcome, error=said, seconds=seconds)
    return Trajectory(
        task.id,
        task.question,
        **known,
        messages=episode.messages,
        steps=episode.steps,
        outcome=episode.outcome,
        answer=episode.answer,
        score=graded.score if graded else None,
        grader=graded.grader if graded else None,
        usage=(episode.prompt_tokens, episode.completion_tokens),
        seconds=seconds,
    )


def _failure(error: Exception) -> "tuple[Outcome, str]":
    """The outcome of an episode that an exception ended, and what to say of it."""
    match error:
        case ModelError():
            return "model_error", str(error)
        case SandboxError():
            return "sandbox_error", str(error)
        case _:  # a fault of ours, or of a grader: say where
            return "error", "".join(traceback.format_exception(error))


def _stopped(last: Trajectory, failed: int, *, kept: bool) -> AgentDistillError:
    """What a run that cannot go on raises."""
    what = {"model_error": "model", "sandbox_error": "sandbox"}.get(last.outcome, "rollout")
    times = f"the {what} failed in {failed} episodes in a row, the last time so: " if failed > 1 else ""
    advice = f"\nWhat had ended is kept. {GO_ON}" if kept else ""
    kind = ModelError if last.outcome == "model_error" else AgentDistillError
    return kind(f"{times}{last.error}{advice}")
