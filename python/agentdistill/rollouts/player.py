"""One task from its question to its graded trajectory: the episode, what can go wrong around it, the grade.

Not here: many at once, and what is kept of them (engine.py).
"""

import asyncio
import hashlib
import os
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date as day
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from agentdistill._core import Limits, Sandbox, SandboxError, State, Trajectory
from agentdistill.first_thought_prefix import Prefix
from agentdistill.grading.grade import grade_by_kind
from agentdistill.models.model import NEUTRAL, DatedModel, Message, Model, ModelError, Show
from agentdistill.models.thoughts import between_tags
from agentdistill.redaction import redacted
from agentdistill.rollouts.agent import AgentConfig, Episode, begin, paragraph, run_episode
from agentdistill.rollouts.chain_of_thought import CHAIN_TOKENS, run_chain_of_thought
from agentdistill.rollouts.checkpoint import Checkpoints, HalfDone
from agentdistill.rollouts.session import state_before
from agentdistill.self_consistent_action import SelfConsistentAction
from agentdistill.tasks.task import Task
from agentdistill.tools.tool import TOOL_SECONDS, Functions, Tool, give_up, has_slow, sandbox_tools, search_of

if TYPE_CHECKING:
    from agentdistill._core import _Outcome as Outcome

FirstThought = Callable[[Model, Task], Awaitable[Prefix]]
"""Gives the beginning of an episode's first turn (IDEA 2)."""

Watch = Callable[[Episode, State], None]
"""Sees an episode after each step, and the State that the step left."""

FAILED = ("model_error", "sandbox_error", "error")
"""Outcomes that say nothing about the model's work: such an episode is not recorded, and the next run tries it
again."""


@dataclass(frozen=True)
class RolloutConfig(AgentConfig):
    """How a rollout goes: its episodes, and how many at once."""

    kind: Literal["agent", "cot"] = "agent"
    """"agent" thinks, acts and observes; "cot" is the baseline, one chain of thought without tools."""
    passages: int = 0
    """With "cot": so many passages that web_search finds for the question stand before it (paper's CoT + RAG)."""
    cell_seconds: float = 5.0
    """Time that one run of code may take, in seconds."""
    memory_mb: int = 256
    """Memory that the code of one episode may take, in MB."""
    tool_seconds: float = TOOL_SECONDS
    """Time that one call of a tool in Python may take, in seconds. The time of its tools is none of a cell's."""
    output_chars: int | None = None
    """Most characters shown of what one run of code prints, and of its value or error; the middle is left out. By
    default 10,000; with compat "reference" 50,000."""
    seed: int = 0
    """Seed of the sandbox's random numbers, of the draw when every candidate failed, and of the model's sampling, where
    each request gets a seed of its own. Engines in this process repeat as far as their arithmetic does."""
    date: str | None = None
    """Date for chat templates that print one, such as 2026-11-30. Default: that of the run's first start."""
    checkpoints: bool = False
    """Write half-done episodes beside the output too, so that a run that was killed goes on in the middle of them."""
    ray: str | None = None
    """Address of a Ray cluster to play on, as for ``ray.init`` ("auto" on one of its nodes); by default, here."""
    concurrency: int = 256
    """Episodes under way at once, for each model; those that wait for the model make its batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.concurrency < 1:
            raise ValueError(f"concurrency is {self.concurrency}: give at least 1")
        if self.passages < 0 or (self.passages and self.kind != "cot"):
            raise ValueError(f'passages is {self.passages}: give 0 or more, and 0 but with kind "cot"')
        if self.date is not None:
            day.fromisoformat(self.date)
        if self.ray and self.checkpoints:
            raise ValueError("half-done episodes are kept on one machine: give no checkpoints with ray")

    @property
    def limits(self) -> Limits:
        """What one run of code may use."""
        return Limits(seconds=self.cell_seconds, memory_mb=self.memory_mb, stdout_chars=self.shown_chars)

    @property
    def shown_chars(self) -> int:
        """Most characters shown of a run's output, given or by default."""
        return self.wording.output_chars if self.output_chars is None else self.output_chars

    @property
    def default_prompt(self) -> str:
        """That of a student."""
        return self.wording.default_prompt("student", self.kind, self.action_format)

    @property
    def token_limit(self) -> int:
        """Most new tokens of a completion, given or by default."""
        return CHAIN_TOKENS if self.kind == "cot" and self.max_tokens is None else super().token_limit

    def settings(self) -> dict[str, Any]:
        """What makes one run another run: all fields, resolved, but those that only change its speed and safety."""
        speed = ("checkpoints", "concurrency", "ray")
        absent = [name for name in ("date", "thinking_tokens") if getattr(self, name) is None]  # as in older runs
        known = {name: value for name, value in asdict(self).items() if name not in (*speed, *absent)}
        return known | {"max_tokens": self.token_limit, "output_chars": self.shown_chars}


def sandbox_of(config: RolloutConfig, tools: Sequence[Tool] = ()) -> Sandbox:
    """The sandbox that a rollout with this configuration runs its code in."""
    return _sandbox(config, sandbox_tools(tools, config.tool_seconds, compat=config.compat), slow_tools=has_slow(tools))


def _sandbox(config: RolloutConfig, functions: Functions, *, slow_tools: bool) -> Sandbox:
    threads = max(config.candidates, os.cpu_count() or 1) if slow_tools else None
    return Sandbox(functions, config.limits, seed=config.seed, threads=threads)


class Begun(NamedTuple):
    """The first steps of a recorded episode, which another is to go on from."""

    trajectory: Trajectory
    """Recorded with its States."""
    steps: int
    """How many of its steps are given."""


class Left(NamedTuple):
    """What the episode of an earlier question left, which another is to go on from."""

    messages: list[Message]
    state: State


class Player:
    """Plays tasks, many at once, on this machine, with a model, a sandbox and tools. A context manager, to be used
    within one event loop."""

    def __init__(
        self,
        model: Model,
        tools: Sequence[Tool],
        config: RolloutConfig,
        first_thought: FirstThought | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.model_name = model.name
        self._model = model
        self._config = config
        if config.date and isinstance(model, DatedModel):
            model.date = day.fromisoformat(config.date)
        self._first_thought = first_thought
        self._checkpoints = checkpoints
        self._functions = sandbox_tools(tools, config.tool_seconds, compat=config.compat)
        self._search = search_of(tools, self._functions, compat=config.compat) if config.passages else None
        self._settings = {**config.settings(), "tools": config.wording.describe_tools(tools, config.action_format)}
        self._actions: SelfConsistentAction | None = None
        if config.kind == "agent":
            self._sandbox = _sandbox(config, self._functions, slow_tools=has_slow(tools))
            self._actions = SelfConsistentAction(
                self._sandbox,
                action_format=config.action_format,
                compat=config.compat,
                seed=config.seed,
                slow_tools=has_slow(tools),
                release=partial(give_up, self._functions),
            )

    @property
    def at_once(self) -> int:
        """Episodes under way at once."""
        return self._config.concurrency

    @property
    def retried(self) -> int:
        """How many of the model's requests had to be sent again so far."""
        return getattr(self._model, "retried", 0)

    @property
    def abandoned(self) -> int:
        """Steps of cancelled episodes that have not ended yet."""
        return self._actions.abandoned if self._actions else 0

    async def play(
        self,
        task: Task,
        begun: Begun | Left | None = None,
        *,
        watch: Watch | None = None,
        show: Show | None = None,
    ) -> Trajectory:
        """One episode and its grade. The one place where what goes wrong around an episode becomes its outcome.

        ``begun``: what it goes on from. Steps are recorded as its own; that they were given, and by whom, stands among
        the settings as ``given_steps`` and ``given_by``. ``show``: as for ``run_episode``.
        """
        start = time.perf_counter()
        known = self._known(task, begun)
        try:
            episode = await self._run(task, begun, watch, show)
            known["sampling"] |= self._drawn()
            seconds = time.perf_counter() - start
            graded = None if task.answer is None else await grade_by_kind(task, episode.answer)
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
            outcome=episode.outcome or "final_answer",
            answer=episode.answer,
            score=graded.score if graded else None,
            grader=graded.grader if graded else None,
            usage=(episode.prompt_tokens, episode.completion_tokens),
            seconds=seconds,
        )

    async def _run(self, task: Task, begun: Begun | Left | None, watch: Watch | None, show: Show | None) -> Episode:
        if self._actions is None:
            chain = await run_chain_of_thought(await self._asked(task), self._model, self._config, self._seed(task))
            if show:
                chosen = chain.steps[0].candidates[chain.steps[0].winner]
                show(paragraph(between_tags(chosen.reasoning) + chosen.text))
            return chain
        half_done = await (self._given(task, begun) if begun else self._half_done(task))
        prefix = Prefix("")
        if self._first_thought and not half_done:
            prefix = await self._first_thought(self._model, task)
            first = begin(task.question, self._config, self._settings["tools"])
            asked = replace(first, prompt_tokens=prefix.prompt_tokens, completion_tokens=prefix.completion_tokens)
            half_done = asked, self._actions.initial

        async def after_step(episode: Episode, state: State) -> None:
            if watch:
                watch(episode, state)
            if episode.outcome is None:
                await self._keep(task, episode, state)

        return await run_episode(
            task.question,
            self._model,
            self._actions,
            self._config,
            tools=self._settings["tools"],
            prefix=prefix.text,
            half_done=half_done,
            after_step=after_step,
            show=show,
            seed=self._seed(task),
        )

    def _seed(self, task: Task) -> int:
        """That of an episode: the same in each run of this seed, another for each task and sample."""
        return int.from_bytes(hashlib.sha256(f"{self._config.seed} {task.id}".encode()).digest()[:4])

    async def _asked(self, task: Task) -> str:
        if self._search is None:
            return task.question
        found = await asyncio.to_thread(self._search, task.question, self._config.passages)
        return self._config.wording.with_passages(task.question, found)

    async def _given(self, task: Task, begun: Begun | Left) -> tuple[Episode, State]:
        if isinstance(begun, Left):
            asked = begin(task.question, self._config).messages[-1]
            return Episode([*begun.messages, asked], [], None, None, 0, 0, self._config.compat), begun.state
        state = await asyncio.to_thread(state_before, begun.trajectory, begun.steps, self._sandbox)
        first = begin(task.question, self._config, self._settings["tools"])
        return replace(first, steps=begun.trajectory.steps[: begun.steps]), state

    async def _half_done(self, task: Task) -> tuple[Episode, State] | None:
        kept = await asyncio.to_thread(self._checkpoints.load, task.id, task.question) if self._checkpoints else None
        if kept is None:
            return None
        messages = [Message(role, content) for role, content in kept.trajectory.messages]
        used = kept.trajectory.usage
        return Episode(messages, kept.trajectory.steps, None, None, *used, self._config.compat), kept.state

    async def _keep(self, task: Task, episode: Episode, state: State) -> None:
        if self._checkpoints is None:
            return
        usage = (episode.prompt_tokens, episode.completion_tokens)
        so_far = Trajectory(task.id, task.question, messages=episode.messages, steps=episode.steps, usage=usage)
        await asyncio.to_thread(self._checkpoints.keep, HalfDone(so_far, state))

    def _drawn(self) -> dict[str, Any]:
        """How tokens were drawn besides what the settings say: by nothing else, but where a server did not have it."""
        refused: frozenset[str] = getattr(self._model, "refused", frozenset())
        drawn: dict[str, Any] = {name: value for name, value in NEUTRAL.items() if name not in refused}
        return drawn | ({"left_to_the_server": sorted(refused)} if refused else {})

    def _known(self, task: Task, begun: Begun | Left | None) -> dict[str, Any]:
        """What a trajectory says however its episode ended."""
        given = {}
        if isinstance(begun, Begun):
            given = {"given_steps": begun.steps, "given_by": begun.trajectory.model}
        return {
            "reference": task.answer,
            "aliases": task.aliases,
            "task_set": task.task_set,
            "kind": self._config.kind,
            "model": self.model_name,
            "sampling": self._settings | given,
        }

    def __enter__(self) -> "Player":
        if self._actions:
            self._actions.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        give_up(self._functions)
        if self._actions:
            self._actions.__exit__()


def _failure(error: Exception) -> "tuple[Outcome, str]":
    """The outcome of an episode that an exception ended, and what to say of it."""
    match error:
        case ModelError():
            return "model_error", redacted(str(error))
        case SandboxError():
            return "sandbox_error", redacted(str(error))
        case _:  # a fault of ours, or of a grader: say where
            return "error", redacted("".join(traceback.format_exception(error)))
