"""Many episodes at once: concurrency, durability, progress. Every rollout, of teacher and student alike, goes through
here.

An episode is recorded when it has ended by itself: answered, out of steps, not parsed, cut. One that ended because of
its surroundings (``model_error``, ``sandbox_error``, ``error``) is returned and counted but never written, so that
the same command, run again, tries it again; enough of these in a row stop the run.

Not here: one episode (player.py, agent.py, chain_of_thought.py), and what its trajectory is used for.
"""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, Protocol

from agentdistill._core import (
    AgentDistillError,
    Bm25Index,
    Trajectory,
    TrajectoryError,
    TrajectoryWriter,
    read_header,
    read_trajectories,
)
from agentdistill.event_loop import run_blocking
from agentdistill.extras import need
from agentdistill.models.loading import SPEED_OPTIONS, opened, split_options
from agentdistill.models.model import Model, ModelError
from agentdistill.progress import RESUME_HINT
from agentdistill.rollouts.checkpoint import Checkpoints
from agentdistill.rollouts.player import FAILED, FirstThought, Player, RolloutConfig
from agentdistill.rollouts.progress import EpisodeProgress, Metrics
from agentdistill.tasks.task import Task
from agentdistill.terminal import tell
from agentdistill.tools.tool import Search, Tool

FAILED_IN_A_ROW = 20
"""So many failed episodes, none ended well between them, mean that the next would fail too: the run stops."""


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
    """Let ``model`` work on every task, many at once; return the graded trajectories in the order of the tasks.

    ``model`` may be named as for ``load_model``, and is then loaded here, and closed; on a Ray cluster it must be, and
    each player loads its own. With ``output``, each trajectory is on disk before it counts; tasks already there are not
    run again, and a file of other settings is refused. ``metrics``: a JSON file to keep up to date with rates,
    outcomes, tokens, and where the time went. ``first_thought`` gives the beginning of an episode's first turn (IDEA
    2). May be called from a notebook. Raises ModelError or AgentDistillError when the model or the sandbox is down for
    good, TrajectoryError for another run's file, ValueError for tasks that share an id, OSError for a full disk. What
    had ended by then is kept in ``output``.
    """
    config = config or RolloutConfig()
    if config.checkpoints and output is None:
        raise ValueError("checkpoints are kept beside the output: give one")
    config = replace(config, date=date_of(config, output))
    checkpoints = None
    with ExitStack() as stack:
        players: Players
        if config.ray:
            if not isinstance(model, str):
                raise ValueError("on a Ray cluster each player loads its own model: name it, as for load_model")
            need("ray", "ray")
            from agentdistill.rollouts.cluster import ClusterPlayers

            players = stack.enter_context(ClusterPlayers(config.ray, model, tools, config, first_thought))
            run = run_of(players.model_name, tools, config, **_options(model))
        else:
            options = _options(model)
            model = stack.enter_context(opened(model))
            run = run_of(model.name, tools, config, **options)
            if config.checkpoints and output is not None:
                checkpoints = Checkpoints(Path(output), run, config.limits)
            players = stack.enter_context(Player(model, tools, config, first_thought, checkpoints))
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
    """The date for the templates of a run: that of its first start, so that it can go on after midnight."""
    if config.date is not None:
        return config.date
    try:
        header = read_header(output) if output is not None and Path(output).exists() else None
    except (OSError, TrajectoryError):  # whatever is at the output: opening it for writing says so
        header = None
    return date.today().isoformat() if header is None else json.loads(header).get("date")


@contextmanager
def player_of(model: str, tools: Sequence[Tool] = (), config: RolloutConfig | None = None) -> Iterator[Player]:
    """One who plays tasks as they come, with a model that is loaded here, as by ``load_model``, and closed.

    Raises ValueError for settings that make sense for many tasks only.
    """
    config = config or RolloutConfig()
    if config.checkpoints or config.ray:
        raise ValueError("checkpoints and ray are for many tasks: give neither")
    with opened(model) as loaded, Player(loaded, tools, config) as player:
        yield player


class Players(Protocol):
    """What plays tasks: a Player, or those of a cluster."""

    model_name: str

    @property
    def at_once(self) -> int:
        """Episodes under way at once."""
        ...

    @property
    def retried(self) -> int:
        """How many of the model's requests had to be sent again so far."""
        ...

    async def play(self, task: Task) -> Trajectory:
        """One episode and its grade."""
        ...


def record(
    tasks: Sequence[Task],
    players: Players,
    run: str,
    *,
    output: str | Path | None,
    checkpoints: Checkpoints | None = None,
    progress: bool,
    metrics: str | Path | None,
    title: str,
) -> list[Trajectory]:
    """Have every task played and recorded. ``run`` says which run; the rest is as in :func:`rollout`."""
    ids = Counter(task.id for task in tasks)
    if twins := [name for name, count in ids.items() if count > 1]:
        raise ValueError(f"{len(twins)} ids are those of several tasks, {twins[0]!r} for one: give each task its own")
    with ExitStack() as stack:
        writer, recorded = None, dict[str, Trajectory]()
        if output is not None:
            writer = stack.enter_context(TrajectoryWriter(output, run))
            if writer.done:
                recorded = {trajectory.task_id: trajectory for trajectory in read_trajectories(output)}
        if checkpoints:
            checkpoints.drop(recorded)  # of one that was killed between recording and forgetting
        if other := [task.id for task in tasks if task.id in recorded and recorded[task.id].question != task.question]:
            raise ValueError(
                f"{output} has another question under the id {other[0]!r}: give these tasks their own file"
            )
        old = [recorded[task.id] for task in tasks if task.id in recorded]
        todo = [task for task in tasks if task.id not in recorded]
        file = Path(metrics) if metrics is not None else None
        shown = EpisodeProgress(title, Metrics(len(tasks), old, lambda: players.retried), file, visible=progress)
        stack.enter_context(shown)
        recorder = _Recorder(FAILED_IN_A_ROW if old else min(FAILED_IN_A_ROW, len(todo)), writer, checkpoints, shown)
        try:
            new = run_blocking(_play_all(todo, players, recorder)) if todo else []
        except KeyboardInterrupt:
            kept = f"{len(writer.done)} of {len(tasks)} episodes are kept in {output}. {RESUME_HINT}" if writer else ""
            tell(f"Interrupted. {kept}")
            raise
        if checkpoints:
            checkpoints.close()
    everything = recorded | {trajectory.task_id: trajectory for trajectory in new}
    return [everything[task.id] for task in tasks]


def check_complete(trajectories: Sequence[Trajectory], output: str | Path | None, advice: str = "") -> None:
    """Raise AgentDistillError when episodes are missing, as the model, the sandbox or this program failed in them.

    ``advice``: what else can be done than running again.
    """
    missing = [trajectory for trajectory in trajectories if trajectory.outcome in FAILED]
    if missing:
        kept = f" The others are kept in {output}." if output is not None else ""
        raise AgentDistillError(
            f"{len(missing)} of {len(trajectories)} tasks have no episode yet. The first, {missing[0].task_id}, failed "
            f"so: {missing[0].error}\n{RESUME_HINT}{kept}{advice}"
        )


def run_of(model: str, tools: Sequence[Tool], config: RolloutConfig, **more: str) -> str:
    """What makes this run another run than one of other settings, as JSON. ``more``: what is no setting."""
    searched = {tool.name: _searched(tool.function) if isinstance(tool.function, Search) else None for tool in tools}
    prompt = hashlib.sha256(config.system_prompt.encode()).hexdigest()[:12]
    run = {"model": model, "weights": _weights(model), "tools": searched, "prompt_sha256": prompt}
    return json.dumps(run | config.settings() | more, sort_keys=True)


def _searched(search: Search) -> dict[str, Any]:
    """What decides what a search finds."""
    of = search.retriever
    known = of.info() if isinstance(of, Bm25Index) else {}
    return {"k": search.k} | {name: known[name] for name in ("documents", "k1", "b") if name in known}


def _options(model: Model | str) -> dict[str, str]:
    """What a model's name says of options that change what it writes."""
    options = split_options(model)[1] if isinstance(model, str) else {}
    return {name: str(value) for name, value in sorted(options.items()) if name not in SPEED_OPTIONS}


def _weights(model: str) -> str | None:
    """Which weights a model's folder holds now: it may be trained again under the same name."""
    files = sorted(Path(model).rglob("*.safetensors")) if Path(model).is_dir() else []
    stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(stamps).encode()).hexdigest()[:12] if stamps else None


async def _play_all(tasks: Sequence[Task], players: Players, recorder: "_Recorder") -> list[Trajectory]:
    """Keep as many episodes under way as the players can, until all have ended, each recorded as it ends."""
    waiting, ended = iter(tasks), asyncio.Queue[Trajectory | None]()

    async def work() -> None:
        for task in waiting:  # one iterator for all workers: whoever is free takes the next
            ended.put_nowait(await players.play(task))
            # The recorder's turn, which may end the run, also when no episode waits for anything.
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
        new = await recording  # after Ctrl-C too: what has ended is written
    for end in ends:
        if isinstance(end, Exception):
            raise end
    return new


class _Recorder:
    """Writes down what ends, and says when to stop."""

    def __init__(
        self, most_failed: int, writer: TrajectoryWriter | None, checkpoints: Checkpoints | None, shown: EpisodeProgress
    ) -> None:
        self._most_failed = most_failed
        self._writer = writer
        self._checkpoints = checkpoints
        self._shown = shown

    async def record(self, ended: "asyncio.Queue[Trajectory | None]") -> list[Trajectory]:
        """Write what ends, all that waits in one go, until None comes; raise when nothing but failures comes."""
        recorded: list[Trajectory] = []
        failed_in_a_row, more = 0, True
        with ThreadPoolExecutor(1, "trajectory-writer") as pen:  # its own thread: grading may keep the others busy
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
    """What a run that cannot go on raises."""
    what = {"model_error": "model", "sandbox_error": "sandbox"}.get(last.outcome, "rollout")
    times = f"the {what} failed in {failed} episodes in a row, the last time so: " if failed > 1 else ""
    advice = f"\nWhat had ended is kept. {RESUME_HINT}" if kept else ""
    kind = ModelError if last.outcome == "model_error" else AgentDistillError
    return kind(f"{times}{last.error}{advice}")
