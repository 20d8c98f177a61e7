"""IDEA 1 of the paper, agent distillation: turn a teacher's trajectories into training data.

:func:`generate` lets the teacher solve the training tasks as an agent that reasons, acts and observes. :func:`select`
keeps the correct trajectories; :class:`SelectConfig` has further criteria beyond the paper's. Then training/examples.py
turns them into token ids with a loss mask over the agent's own text, and training/trainer.py fine-tunes a student.

Not here: training itself.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from agentdistill._core import ParseFailure, Trajectory, read_trajectories
from agentdistill.extras import require
from agentdistill.files.replacing import refuse_overwriting
from agentdistill.first_thought_prefix import Prefix, first_thought_prefix, recorded_prefixes
from agentdistill.grading.squad import normalize
from agentdistill.models.model import Model
from agentdistill.rollouts.chain_of_thought import chain_sampling
from agentdistill.rollouts.engine import rollout
from agentdistill.rollouts.player import RolloutConfig
from agentdistill.rollouts.prompt import assistant_turn, load_prompt
from agentdistill.tasks.task import Task
from agentdistill.tools.tool import Tool
from agentdistill.trajectories import is_right, refuse_other_files, steps_given, write_trajectories

# ---- generate ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GenerateConfig(RolloutConfig):
    """Settings of the teacher. By default: greedy, one candidate, and a long prompt with example episodes."""

    first_thought_prefix: bool = False
    """Begin the first Thought of an episode with the first paragraph of the teacher's own chain of thought.
    This is the paper's first-thought prefix. It takes one more completion per task. Also ``--ftp``."""
    chain_prompt: str | None = None
    """System prompt for that chain of thought: the name of a built-in prompt, a file, or a text.
    By default the teacher's."""
    chains: str | None = None
    """Take first thoughts from this file of the same teacher's chains of thought (recorded with kind "cot").
    Only missing ones are sampled."""
    samples: int = 1
    """Episodes per task, recorded as ID#1, ID#2, ... More than one requires a temperature.
    ``select`` keeps one of them, or up to ``per_task``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.chain_system_prompt
        if self.first_thought_prefix and (self.kind == "cot" or self.action_format != "code"):
            raise ValueError(
                'a first-thought prefix needs kind "agent" and action_format "code", because it begins a Thought'
            )
        if self.chains and not self.first_thought_prefix:
            raise ValueError("chains are only used for a first-thought prefix: give first_thought_prefix too")
        if self.samples < 1:
            raise ValueError(f"samples is {self.samples}: give at least 1")
        if self.samples > 1 and not self.temperature:
            raise ValueError("samples at temperature 0 are identical: give a temperature, or 1 sample")

    @property
    def default_prompt(self) -> str:
        """The name of the teacher's prompt."""
        return self.wording.default_prompt("teacher", self.kind, self.action_format)

    @property
    def default_chain_prompt(self) -> str:
        """Name of the default prompt for a chain of thought."""
        return self.wording.default_prompt("teacher", "cot", self.action_format)

    @property
    def chain_system_prompt(self) -> str:
        """Text of the prompt for the chain of thought of a first-thought prefix."""
        return load_prompt(self.default_chain_prompt if self.chain_prompt is None else self.chain_prompt)


def generate(
    tasks: Sequence[Task],
    model: Model | str,
    tools: Sequence[Tool] = (),
    config: GenerateConfig | None = None,
    *,
    output: str | Path | None = None,
    progress: bool = True,
    metrics: str | Path | None = None,
) -> list[Trajectory]:
    """Let the teacher ``model`` solve ``tasks``; return its graded trajectories in their order, correct or not.

    With ``samples``, each task has several trajectories, one after the other. Arguments, resuming and errors are those
    of ``rollout``.
    """
    config = config or GenerateConfig()
    if config.samples > 1:
        tasks = [replace(task, id=f"{task.id}#{k}") for task in tasks for k in range(1, config.samples + 1)]
    recorded = recorded_prefixes(config.chains) if config.chains else {}

    async def first_thought(model: Model, task: Task) -> Prefix:
        if (known := recorded.get((model.name, task.question))) is not None:
            return known
        messages = config.wording.opening(task.question, config.chain_system_prompt, kind="cot")
        sampling = chain_sampling(config).seeded(config.seed, task.id)
        return await first_thought_prefix(messages, model, sampling)

    ask = first_thought if config.first_thought_prefix else None
    return rollout(
        tasks,
        model,
        tools,
        config,
        output=output,
        first_thought=ask,
        progress=progress,
        metrics=metrics,
        title="generate",
    )


# ---- select --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SelectConfig:
    """Criteria for the trajectories to keep.
    By default, as in the paper: correct, all completions parsed, and answered within the step limit."""

    last_words: bool = False
    """Also keep correct answers given after the last step, when the model was asked for its answer.
    The paper's code does."""
    max_steps: int | None = None
    """Keep only trajectories with at most this many steps."""
    grounded: bool = False
    """Keep only trajectories whose answer appeared in an earlier observation (Always-Search)."""
    distinct: bool = False
    """Keep only one of several trajectories with the same text for the same question."""
    per_task: int = 1
    """Maximum number of samples to keep per task."""
    student: str | None = None
    """Rank the samples of a task for this model (folder or hub id) and keep the best. Default: keep the first."""
    by: Literal["likelihood", "surprisal"] = "likelihood"
    """How to rank samples for ``student``.
    ``likelihood``: lowest mean negative log likelihood of the tokens to learn (SmartAD).
    ``surprisal``: lowest rank-surprisal ratio (arXiv:2601.14249).
    It prefers text that the student finds unlikely, made of tokens that it ranks high."""
    prompt: str | None = None
    """System prompt for ``student``, as in ``TrainConfig``."""

    def __post_init__(self) -> None:
        """Raise ValueError for an invalid value."""
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps is {self.max_steps}: give at least 1")
        if self.per_task < 1:
            raise ValueError(f"per_task is {self.per_task}: give at least 1")
        if self.by not in ("likelihood", "surprisal"):
            raise ValueError(f"by is {self.by!r}: give likelihood or surprisal")
        if self.by != "likelihood" and self.student is None:
            raise ValueError(f"by {self.by} is about a student: give student too")


class Selection(NamedTuple):
    """The trajectories that are kept for training, and why others were dropped."""

    kept: list[Trajectory]
    dropped: dict[str, int]
    """Reason -> number of trajectories dropped for it, largest first."""

    def __str__(self) -> str:
        total = len(self.kept) + sum(self.dropped.values())
        reasons = ", ".join(f"{reason} {n}" for reason, n in self.dropped.items())
        return f"{len(self.kept)} of {total} trajectories kept" + (f"; dropped: {reasons}" if reasons else "")


def select(
    trajectories: Sequence[Trajectory] | str | Path,
    output: str | Path | None = None,
    config: SelectConfig | None = None,
) -> Selection:
    """Keep the trajectories to learn from, sorted by task id: one per task, or ``per_task``.

    Files contain trajectories in the order in which they ended, which differs from run to run. Sorting makes the same
    trajectories give the same student. Steps whose code raised an error are kept on purpose, because the next step
    shows how to recover. If ``output`` is given, the kept trajectories are written there, replacing an existing file
    of trajectories.

    Raises ValueError if ``output`` is the file of the trajectories, TrajectoryError for a file that cannot be read,
    OSError for one that cannot be written or is of another kind, ModelError for a student that does not exist.
    """
    config = config or SelectConfig()
    if output is not None:
        refuse_other_files(output)
        if isinstance(trajectories, str | Path):
            refuse_overwriting([trajectories], output)
    if isinstance(trajectories, str | Path):
        trajectories = read_trajectories(trajectories)
    reasons = [_why_dropped(trajectory, config) for trajectory in trajectories]
    good = [trajectory for trajectory, reason in zip(trajectories, reasons, strict=True) if reason is None]
    good.sort(key=lambda trajectory: trajectory.task_id)
    different = (
        _distinct(good) if config.distinct else good
    )  # before the selection per task, so that its samples differ
    kept = _of_each_task(different, config)
    counts = Counter(reason for reason in reasons if reason is not None)
    counts += Counter(duplicate=len(good) - len(different), other_sample=len(different) - len(kept))
    dropped = dict(counts.most_common())
    if output is not None:
        write_trajectories(kept, json.dumps({"select": asdict(config), "dropped": dropped}), Path(output))
    return Selection(kept, dropped)


def _why_dropped(trajectory: Trajectory, config: SelectConfig) -> str | None:
    """The first condition that fails; None for a trajectory to keep."""
    learnt = trajectory.steps[steps_given(trajectory) :]
    if config.last_words and trajectory.outcome == "out_of_steps":
        learnt = learnt[:-1]  # an answer in text, if there is one
    elif trajectory.outcome != "final_answer":
        return trajectory.outcome
    if any(isinstance(step.candidates[step.winner].action, ParseFailure) for step in learnt):
        return "parse_failure"
    if trajectory.score is None:
        return "not_graded"
    if not is_right(trajectory):
        return "wrong_answer"
    if config.max_steps is not None and len(trajectory.steps) > config.max_steps:
        return "too_many_steps"
    return "not_grounded" if config.grounded and not _is_grounded(trajectory) else None


def _is_grounded(trajectory: Trajectory) -> bool:
    """Whether the words of the answer appeared in an earlier observation."""
    answer = f" {normalize(trajectory.answer or '')} "
    return any(answer in f" {normalize(step.message)} " for step in trajectory.steps[:-1])


def _of_each_task(trajectories: Sequence[Trajectory], config: SelectConfig) -> list[Trajectory]:
    """Up to ``per_task`` samples of each task: those that suit the student best, or else the first."""
    tasks: dict[str, list[Trajectory]] = {}
    for trajectory in trajectories:
        sampled = trajectory.sampling.get("samples", 1) > 1
        task = trajectory.task_id.rpartition("#")[0] if sampled else trajectory.task_id
        tasks.setdefault(task, []).append(trajectory)
    several = [sample for samples in tasks.values() if len(samples) > config.per_task for sample in samples]
    unsuitable: dict[str, float] = {}
    if config.student is not None and several:
        require("transformers", "train")
        # imported here because torch takes seconds to import
        from agentdistill.training.likelihood import mean_nll, rank_surprisal_ratio

        measure = mean_nll if config.by == "likelihood" else rank_surprisal_ratio
        values = measure(several, config.student, prompt=config.prompt)
        unsuitable = {sample.task_id: value for sample, value in zip(several, values, strict=True)}
    return [
        sample
        for samples in tasks.values()
        for sample in sorted(samples, key=lambda sample: unsuitable.get(sample.task_id, 0.0))[: config.per_task]
    ]


def _distinct(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """The first of several trajectories with the same text for the same question."""
    seen: dict[tuple[str, ...], Trajectory] = {}
    for trajectory in trajectories:
        turns = (assistant_turn(step.candidates[step.winner]) for step in trajectory.steps)
        seen.setdefault((trajectory.question, *turns), trajectory)
    return list(seen.values())
