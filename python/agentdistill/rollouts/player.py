"""Play one task: run its episode, turn failures around the episode into an outcome, and grade the answer.

Not here: many tasks at once, and recording (engine.py).
"""

import asyncio
import hashlib
import math
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
from agentdistill.rollouts.checkpoint import Checkpoints, UnfinishedEpisode
from agentdistill.rollouts.session import state_before
from agentdistill.self_consistent_action import SelfConsistentAction
from agentdistill.tasks.task import Task
from agentdistill.tools.tool import TOOL_SECONDS, Functions, Tool, abandon, has_slow, sandbox_tools, search_of

if TYPE_CHECKING:
    from agentdistill._core import _Outcome as Outcome

FirstThought = Callable[[Model, Task], Awaitable[Prefix]]
"""Returns the beginning of an episode's first turn (IDEA 2)."""

Watch = Callable[[Episode, State], None]
"""Called after each step with the episode and its State."""

FAILED = ("model_error", "sandbox_error", "error")
"""Outcomes that say nothing about the model. Such an episode is not recorded, and the next run tries it again."""


@dataclass(frozen=True)
class RolloutConfig(AgentConfig):
    """Settings of a rollout: how the model solves each task, and how many tasks it solves at once."""

    kind: Literal["agent", "cot"] = "agent"
    """"agent" thinks, acts and observes; "cot" is the baseline, one chain of thought without tools."""
    passages: int = 0
    """With "cot": number of passages that are retrieved for the question and put into the prompt (paper: CoT + RAG)."""
    cell_seconds: float = 5.0
    """Time limit of a step's code, in seconds."""
    memory_mb: int = 256
    """Memory limit of the data of an episode's code, in MB."""
    tool_seconds: float = TOOL_SECONDS
    """Time limit of one call of a Python tool, in seconds. It does not count towards ``cell_seconds``."""
    output_chars: int | None = None
    """Maximum number of characters shown of a cell's printed output, and of its value or error; the middle is left out.
    Default: 10,000; with compat "reference" 50,000."""
    seed: int = 0
    """Seed of sampling, of the sandbox's random numbers, and of the choice among failed candidates.
    Each request has its own seed, derived from this one."""
    date: str | None = None
    """Date for chat templates that print one, such as 2026-11-30. By default the date of the run's first start."""
    checkpoints: bool = False
    """Also store unfinished episodes next to the output, so that a killed run resumes in the middle of them."""
    ray: str | None = None
    """Address of a Ray cluster to run on, as for ``ray.init`` ("auto" on one of its nodes). By default this machine."""
    concurrency: int = 256
    """Maximum number of concurrent episodes per model. Their requests form the model's batches."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.concurrency < 1:
            raise ValueError(f"concurrency is {self.concurrency}: give at least 1")
        if self.passages < 0 or (self.passages and self.kind != "cot"):
            raise ValueError(f'passages is {self.passages}: give 0 or more; more than 0 needs kind "cot"')
        if not 0 <= self.seed < 1 << 64:
            raise ValueError(f"seed is {self.seed}: give 0 to 2^64 - 1")
        if not 0 < self.tool_seconds < math.inf:
            raise ValueError(f"tool_seconds is {self.tool_seconds}: give more than 0")
        _ = self.limits
        if self.date is not None:
            try:
                day.fromisoformat(self.date)
            except ValueError:
                raise ValueError(f"date is {self.date!r}: give one such as 2026-11-30") from None
        if self.ray and self.checkpoints:
            raise ValueError("checkpoints are stored on one machine: give either checkpoints or ray")

    @property
    def limits(self) -> Limits:
        """The limits of one run of code."""
        return Limits(seconds=self.cell_seconds, memory_mb=self.memory_mb, stdout_chars=self.shown_chars)

    @property
    def shown_chars(self) -> int:
        """Maximum number of characters shown of a cell's output, given or default."""
        return self.wording.output_chars if self.output_chars is None else self.output_chars

    @property
    def default_prompt(self) -> str:
        """Name of the student's prompt."""
        return self.wording.default_prompt("student", self.kind, self.action_format)

    @property
    def token_limit(self) -> int:
        """Maximum number of new tokens per completion, given or default."""
        return CHAIN_TOKENS if self.kind == "cot" and self.max_tokens is None else super().token_limit

    def settings(self) -> dict[str, Any]:
        """The settings that identify a run: all fields, with defaults resolved, but for those of speed and safety."""
        speed = ("checkpoints", "concurrency", "ray")
        absent = [
            name for name in ("date", "thinking_tokens") if getattr(self, name) is None
        ]  # older runs do not record them
        known = {name: value for name, value in asdict(self).items() if name not in (*speed, *absent)}
        return known | {"max_tokens": self.token_limit, "output_chars": self.shown_chars}


def sandbox_of(config: RolloutConfig, tools: Sequence[Tool] = ()) -> Sandbox:
    """The sandbox that a rollout with this configuration uses."""
    return _sandbox(config, sandbox_tools(tools, config.tool_seconds, compat=config.compat), slow_tools=has_slow(tools))


def _sandbox(config: RolloutConfig, functions: Functions, *, slow_tools: bool) -> Sandbox:
    threads = max(config.candidates, os.cpu_count() or 1) if slow_tools else None
    return Sandbox(functions, config.limits, seed=config.seed, threads=threads)


class GivenSteps(NamedTuple):
    """The first steps of a recorded episode, from which another episode continues."""

    trajectory: Trajectory
    """The episode, recorded with its States."""
    steps: int
    """Number of its steps that are given."""

    @property
    def by(self) -> str:
        """The model whose steps they are: the episode may itself have been given its first ones."""
        sampling = self.trajectory.sampling
        theirs = 0 < self.steps <= sampling.get("given_steps", 0)
        return str(sampling["given_by"]) if theirs else self.trajectory.model


class PriorConversation(NamedTuple):
    """The messages and the State after an earlier question, from which another episode continues."""

    messages: list[Message]
    state: State


class Player:
    """Plays tasks, many at once, on this machine, with a model, a sandbox and tools. A context manager, for use within
    one event loop."""

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
                release=partial(abandon, self._functions),
            )

    @property
    def at_once(self) -> int:
        """Maximum number of concurrent episodes."""
        return self._config.concurrency

    @property
    def retried(self) -> int:
        """Number of the model's requests that were retried so far."""
        return getattr(self._model, "retried", 0)

    @property
    def abandoned(self) -> int:
        """Number of steps of cancelled episodes that are still running."""
        return self._actions.abandoned if self._actions else 0

    async def play(
        self,
        task: Task,
        given: GivenSteps | PriorConversation | None = None,
        *,
        watch: Watch | None = None,
        show: Show | None = None,
    ) -> Trajectory:
        """Play and grade one episode. This is the only place where failures around an episode become its outcome.

        ``given``: what the episode continues from. Given steps are recorded like its own; the settings say how many
        there are (``given_steps``) and whose they are (``given_by``). ``show``: as for ``run_episode``.
        """
        start = time.perf_counter()
        known = self._known(task, given)
        try:
            episode = await self._run(task, given, watch, show)
            known["sampling"] |= self._other_sampling()
            seconds = time.perf_counter() - start
            graded = None if task.answer is None else await grade_by_kind(task, episode.answer)
        except Exception as error:
            outcome, message = _failure(error)
            seconds = time.perf_counter() - start
            return Trajectory(task.id, task.question, **known, outcome=outcome, error=message, seconds=seconds)
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

    async def _run(
        self, task: Task, given: GivenSteps | PriorConversation | None, watch: Watch | None, show: Show | None
    ) -> Episode:
        if self._actions is None:
            chain = await run_chain_of_thought(await self._question(task), self._model, self._config, self._seed(task))
            if show:
                chosen = chain.steps[0].candidates[chain.steps[0].winner]
                show(paragraph(between_tags(chosen.reasoning) + chosen.text))
            return chain
        half_done = await (self._given(task, given) if given else self._half_done(task))
        prefix = Prefix("")
        if self._first_thought and not half_done:
            prefix = await self._first_thought(self._model, task)
            first = begin(task.question, self._config, self._settings["tools"])
            episode = replace(first, prompt_tokens=prefix.prompt_tokens, completion_tokens=prefix.completion_tokens)
            half_done = episode, self._actions.initial

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
        """The episode's seed: it depends only on the run's seed and the task's id."""
        return int.from_bytes(hashlib.sha256(f"{self._config.seed} {task.id}".encode()).digest()[:4])

    async def _question(self, task: Task) -> str:
        if self._search is None:
            return task.question
        found = await asyncio.to_thread(self._search, task.question, self._config.passages)
        return self._config.wording.with_passages(task.question, found)

    async def _given(self, task: Task, given: GivenSteps | PriorConversation) -> tuple[Episode, State]:
        if isinstance(given, PriorConversation):
            message = begin(task.question, self._config).messages[-1]
            return Episode([*given.messages, message], [], None, None, 0, 0, self._config.compat), given.state
        state = await asyncio.to_thread(state_before, given.trajectory, given.steps, self._sandbox)
        first = begin(task.question, self._config, self._settings["tools"])
        return replace(first, steps=given.trajectory.steps[: given.steps]), state

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
        await asyncio.to_thread(self._checkpoints.keep, UnfinishedEpisode(so_far, state))

    def _other_sampling(self) -> dict[str, Any]:
        """Sampling settings besides the configuration's: neutral values, except those that a server refused."""
        refused: frozenset[str] = getattr(self._model, "refused", frozenset())
        sampling: dict[str, Any] = {name: value for name, value in NEUTRAL.items() if name not in refused}
        return sampling | ({"left_to_the_server": sorted(refused)} if refused else {})

    def _known(self, task: Task, given: GivenSteps | PriorConversation | None) -> dict[str, Any]:
        """The fields of a trajectory that do not depend on how its episode ended."""
        origin = {}
        if isinstance(given, GivenSteps):
            origin = {"given_steps": given.steps, "given_by": given.by}
        return {
            "reference": task.answer,
            "aliases": task.aliases,
            "task_set": task.task_set,
            "kind": self._config.kind,
            "model": self.model_name,
            "sampling": self._settings | origin,
        }

    def __enter__(self) -> "Player":
        if self._actions:
            self._actions.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        abandon(self._functions)
        if self._actions:
            self._actions.__exit__()


def _failure(error: Exception) -> "tuple[Outcome, str]":
    """The outcome of an episode that an exception ended, and its error text."""
    match error:
        case ModelError():
            return "model_error", redacted(str(error))
        case SandboxError():
            return "sandbox_error", redacted(str(error))
        case _:  # an error in this package or in a grader: say where
            return "error", redacted("".join(traceback.format_exception(error)))
