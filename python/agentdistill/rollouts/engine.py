"""Run many episodes at once, record them durably and show progress. Every rollout, of a teacher or a student, uses
this.

An episode is recorded if it ended by itself: answered, out of steps, not parsed, or cut. An episode that ended because
of its environment (``model_error``, ``sandbox_error``, ``error``) is returned and counted but never written, so the
same command tries it again. Enough of these in a row stop the run.

Not here: one episode (player.py, agent.py, chain_of_thought.py), and what its trajectory is used for.
"""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, Protocol

from agentdistill._core import (
    AgentDistillError,
    Trajectory,
    TrajectoryError,
    TrajectoryWriter,
    read_header,
    read_trajectories,
)
from agentdistill.event_loop import run_blocking
from agentdistill.extras import require
from agentdistill.files.replacing import has_fields, refuse_foreign
from agentdistill.models.loading import SPEED_OPTIONS, model_name, opened, split_options
from agentdistill.models.model import Model, ModelError
from agentdistill.progress import RESUME_HINT
from agentdistill.rollouts.checkpoint import Checkpoints
from agentdistill.rollouts.player import FAILED, FirstThought, Player, RolloutConfig
from agentdistill.rollouts.progress import EpisodeProgress, Metrics
from agentdistill.tasks.task import Task
from agentdistill.terminal import tell
from agentdistill.tools.tool import Search, Tool

MAX_FAILURES_IN_A_ROW = 20
"""The run stops after this many failed episodes in a row, because the next would probably fail too."""


def rollout(
    tasks: Sequence[Task],
    model: Model | str,
    tools: Sequence[Tool] = (),
    config: RolloutConfig | None = None,
    *,
    output: str | Path | None = None,
    first_thought: FirstThought | None = None,
    progress: bool = True,
    metrics: str | Path | None = None,
    title: str = "rollout",
) -> list[Trajectory]:
    """Let ``model`` solve all tasks concurrently; return the graded trajectories in the order of the tasks.

    If ``model`` is a name, as for ``load_model``, it is loaded here and closed afterwards. On a Ray cluster it must be
    a name, and each machine or GPU loads its own copy. ``output``: a JSONL file, to which each trajectory is written as
    soon as its episode ends. Tasks that are already in the file are not run again, and a file of other settings is
    refused. ``metrics``: a JSON file with rates, outcomes, tokens and times, updated during the run.
    ``first_thought``: returns the beginning of an episode's first turn (the paper's first-thought prefix). Works in a
    notebook.

    Raises ModelError or AgentDistillError if the model or the sandbox keeps failing, TrajectoryError for another run's
    file, ValueError for tasks with the same id, OSError for a full disk. Episodes that have ended by then are kept in
    ``output``.
    """
    config = config or RolloutConfig()
    if config.checkpoints and output is None:
        raise ValueError("checkpoints are stored beside the output: give an output")
    config = replace(config, date=date_of(config, output))
    if config.ray and not isinstance(model, str):
        raise ValueError("on a Ray cluster each player loads its own model: give the model's name, as for load_model")
    run = run_of(model, tools, config)
    checkpoints = None
    if config.checkpoints and output is not None:
        checkpoints = Checkpoints(Path(output), run, config.limits)

    @contextmanager
    def players() -> Iterator[Players]:
        if isinstance(model, str) and config.ray:
            require("ray", "ray")
            from agentdistill.rollouts.cluster import ClusterPlayers

            with ClusterPlayers(config.ray, model, tools, config, first_thought) as cluster:
                yield cluster
        else:
            with opened(model) as loaded, Player(loaded, tools, config, first_thought, checkpoints) as player:
                yield player

    return record(
        tasks,
        players,
        run,
        output=output,
        checkpoints=checkpoints,
        progress=progress,
        metrics=metrics,
        title=title,
    )


def date_of(config: RolloutConfig, output: str | Path | None) -> str | None:
    """The date for the run's chat templates: that of its first start, which a resumed run keeps."""
    if config.date is not None:
        return config.date
    try:
        header = read_header(output) if output is not None and Path(output).exists() else None
    except (OSError, TrajectoryError):  # opening the output for writing reports the problem
        header = None
    return date.today().isoformat() if header is None else json.loads(header).get("date")


@contextmanager
def player_of(model: str, tools: Sequence[Tool] = (), config: RolloutConfig | None = None) -> Iterator[Player]:
    """A player for single tasks, with a model that is loaded here, as by ``load_model``, and closed afterwards.

    Raises ValueError for settings that apply only to many tasks.
    """
    config = config or RolloutConfig()
    if config.checkpoints or config.ray:
        raise ValueError("checkpoints and ray are for many tasks: give neither")
    with opened(model) as loaded, Player(loaded, tools, config) as player:
        yield player


class Players(Protocol):
    """The interface of a Player, or of a cluster's players."""

    @property
    def at_once(self) -> int:
        """Maximum number of concurrent episodes."""
        ...

    @property
    def retried(self) -> int:
        """Number of the model's requests that were retried so far."""
        ...

    async def play(self, task: Task) -> Trajectory:
        """Play and grade one episode."""
        ...


def record(
    tasks: Sequence[Task],
    open_players: Callable[[], AbstractContextManager[Players]],
    run: str,
    *,
    output: str | Path | None,
    checkpoints: Checkpoints | None = None,
    progress: bool,
    metrics: str | Path | None,
    title: str,
) -> list[Trajectory]:
    """Play and record every task. ``run`` identifies the run; the other parameters are as in :func:`rollout`.

    ``open_players`` loads the model. So it is called only after all else that can be refused is checked, and only if a
    task is left to play.
    """
    ids = Counter(task.id for task in tasks)
    if twins := [name for name, count in ids.items() if count > 1]:
        raise ValueError(f"{len(twins)} ids occur in several tasks, such as {twins[0]!r}: give each task its own id")
    if metrics is not None:
        if output is not None and Path(output).resolve() == Path(metrics).resolve():
            raise ValueError(f"{output} is the file of trajectories and of metrics: give another file for one of them")
        if Path(metrics).is_dir():
            raise IsADirectoryError(21, "this is a folder: give a file for the metrics", str(metrics))
        refuse_foreign(metrics, has_fields("episodes", "seconds_of_episodes"))
        Path(metrics).parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        writer, recorded = None, dict[str, Trajectory]()
        if output is not None:
            writer = stack.enter_context(TrajectoryWriter(output, run))
            if writer.done:
                recorded = {trajectory.task_id: trajectory for trajectory in read_trajectories(output)}
        if checkpoints:
            checkpoints.drop(recorded)  # left by a kill after recording
        if other := [task.id for task in tasks if task.id in recorded and recorded[task.id].question != task.question]:
            raise ValueError(
                f"{output} has another question under the id {other[0]!r}: give these tasks their own file"
            )
        old = [recorded[task.id] for task in tasks if task.id in recorded]
        todo = [task for task in tasks if task.id not in recorded]
        players = stack.enter_context(open_players()) if todo else None
        file = Path(metrics) if metrics is not None else None
        retried = (lambda: players.retried) if players else (lambda: 0)
        shown = EpisodeProgress(title, Metrics(len(tasks), old, retried), file, visible=progress)
        stack.enter_context(shown)
        recorder = _Recorder(
            MAX_FAILURES_IN_A_ROW if old else min(MAX_FAILURES_IN_A_ROW, len(todo)), writer, checkpoints, shown
        )
        try:
            new = run_blocking(_play_all(todo, players, recorder)) if players else []
        except KeyboardInterrupt:
            kept = f"{len(writer.done)} of {len(tasks)} episodes are kept in {output}. {RESUME_HINT}" if writer else ""
            tell(f"Interrupted. {kept}")
            raise
        if checkpoints:
            checkpoints.close()
    everything = recorded | {trajectory.task_id: trajectory for trajectory in new}
    return [everything[task.id] for task in tasks]


def check_complete(trajectories: Sequence[Trajectory], output: str | Path | None, advice: str = "") -> None:
    """Raise AgentDistillError if episodes are missing because the model, the sandbox or this program failed.

    ``advice``: an alternative to running the command again.
    """
    missing = [trajectory for trajectory in trajectories if trajectory.outcome in FAILED]
    if missing:
        kept = f" The others are kept in {output}." if output is not None else ""
        raise AgentDistillError(
            f"{len(missing)} of {len(trajectories)} tasks have no episode yet. The first, {missing[0].task_id}, failed "
            f"with: {missing[0].error}\n{RESUME_HINT}{kept}{advice}"
        )


def run_of(model: Model | str, tools: Sequence[Tool], config: RolloutConfig, **more: str) -> str:
    """The identity of a run as JSON: runs with other settings differ in it. ``more``: what else identifies it."""
    name = model_name(model) if isinstance(model, str) else model.name
    searched = {tool.name: _searched(tool.function) if isinstance(tool.function, Search) else None for tool in tools}
    prompt = hashlib.sha256(config.system_prompt.encode()).hexdigest()[:12]
    run = {"model": name, "weights": _weights(name), "tools": searched, "prompt_sha256": prompt}
    return json.dumps(run | config.settings() | _options(model) | more, sort_keys=True)


def _searched(search: Search) -> dict[str, Any]:
    """What determines the results of a search."""
    known = search.retriever.info()
    return {"k": search.k} | {name: known[name] for name in ("documents", "k1", "b", "encoder") if name in known}


def _options(model: Model | str) -> dict[str, str]:
    """The options in a model's name that change what it writes."""
    options = split_options(model)[1] if isinstance(model, str) else {}
    return {name: str(value) for name, value in sorted(options.items()) if name not in SPEED_OPTIONS}


def _weights(model: str) -> str | None:
    """Fingerprint of the weights in a model's folder, which may be trained again under the same name."""
    files = sorted(Path(model).rglob("*.safetensors")) if Path(model).is_dir() else []
    stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(stamps).encode()).hexdigest()[:12] if stamps else None


async def _play_all(tasks: Sequence[Task], players: Players, recorder: "_Recorder") -> list[Trajectory]:
    """Run as many episodes at once as the players allow, and record each as it ends, until all have ended."""
    waiting, ended = iter(tasks), asyncio.Queue[Trajectory | None]()

    async def work() -> None:
        for task in waiting:  # all workers share the iterator
            ended.put_nowait(await players.play(task))
            # Let the recorder run, even if no episode ever waits: it may end the run.
            await asyncio.sleep(0)

    workers = [asyncio.create_task(work()) for _ in range(min(players.at_once, len(tasks)))]
    everyone = asyncio.gather(*workers, return_exceptions=True)
    recording = asyncio.create_task(recorder.record(ended))
    either: list[asyncio.Future[Any]] = [everyone, recording]
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for worker in workers:
            worker.cancel()
        ends = await everyone
        ended.put_nowait(None)
        new = await recording  # also after Ctrl-C: ended episodes are written
    for end in ends:
        if isinstance(end, Exception):
            raise end
    return new


class _Recorder:
    """Writes trajectories as episodes end, and decides when too many have failed."""

    def __init__(
        self, most_failed: int, writer: TrajectoryWriter | None, checkpoints: Checkpoints | None, shown: EpisodeProgress
    ) -> None:
        self._most_failed = most_failed
        self._writer = writer
        self._checkpoints = checkpoints
        self._shown = shown

    async def record(self, ended: "asyncio.Queue[Trajectory | None]") -> list[Trajectory]:
        """Write the ended episodes in batches, until None arrives. Raise if too many in a row have failed."""
        recorded: list[Trajectory] = []
        failed_in_a_row, more = 0, True
        with ThreadPoolExecutor(1, "trajectory-writer") as pen:  # its own thread, since grading may occupy the others
            while more:
                queue = [await ended.get()]
                while not ended.empty():
                    queue.append(ended.get_nowait())
                more = queue[-1] is not None
                batch = [trajectory for trajectory in queue if trajectory is not None]
                good = [trajectory for trajectory in batch if trajectory.outcome not in FAILED]
                if good and self._writer:
                    await asyncio.get_running_loop().run_in_executor(pen, self._write, self._writer, good)
                recorded += batch
                for trajectory in batch:
                    self._shown.advance(trajectory)
                    failed_in_a_row = failed_in_a_row + 1 if trajectory.outcome in FAILED else 0
                    if failed_in_a_row == self._most_failed:
                        raise _stopped(trajectory, failed_in_a_row, kept=self._writer is not None)
        return recorded

    def _write(self, writer: TrajectoryWriter, trajectories: list[Trajectory]) -> None:
        writer.append(trajectories)
        if self._checkpoints:
            self._checkpoints.drop(trajectory.task_id for trajectory in trajectories)


def _stopped(last: Trajectory, failed: int, *, kept: bool) -> AgentDistillError:
    """The exception of a run that cannot continue."""
    what = {"model_error": "model", "sandbox_error": "sandbox"}.get(last.outcome, "rollout")
    times = f"the {what} failed in {failed} episodes in a row, most recently with: " if failed > 1 else ""
    advice = f"\nFinished episodes are kept. {RESUME_HINT}" if kept else ""
    kind = ModelError if last.outcome == "model_error" else AgentDistillError
    return kind(f"{times}{last.error}{advice}")
