"""IDEA 1 of the paper, agent distillation: teach a student to act, not only to reason.

:func:`generate`: the teacher solves the training tasks as an agent, reasoning, acting, observing. :func:`select`: the
correct trajectories are kept. examples.py makes of them token ids with a loss mask over what an agent writes itself,
and training.py fine-tunes a student on these.

Not here: other choices of what to keep (by the student's likelihood, by use of a search), and training itself.
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from agentdistill._core import ParseFailure, Trajectory, TrajectoryWriter, read_trajectories
from agentdistill.chain_of_thought import chain_sampling
from agentdistill.engine import RolloutConfig, rollout
from agentdistill.first_thought_prefix import first_thought_prefix
from agentdistill.model import Model
from agentdistill.prompt import load_prompt, opening
from agentdistill.task import Task
from agentdistill.tool import Tool

# ---- generate ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GenerateConfig(RolloutConfig):
    """How the teacher works: greedy, one candidate, with a long prompt that shows the cycle by examples."""

    first_thought_prefix: bool = False
    """Begin each first Thought with the first thought of the teacher's own chain of thought (IDEA 2; costs one more
    completion for each task; paper: with and without)."""
    chain_prompt: str = "teacher_cot"
    """System prompt of that chain of thought: one of ours by name, a file, or a text."""

    def __post_init__(self) -> None:
        super().__post_init__()
        load_prompt(self.chain_prompt)
        if self.first_thought_prefix and self.kind == "cot":
            raise ValueError('a first-thought prefix begins the Thought of an agent: not with kind "cot"')

    @property
    def default_prompt(self) -> str:
        """That of a teacher."""
        return f"teacher_{self.kind}"


def generate(
    tasks: Sequence[Task],
    model: Model,
    tools: Sequence[Tool] = (),
    config: GenerateConfig | None = None,
    *,
    output: str | Path | None = None,
    progress: bool = True,
) -> list[Trajectory]:
    """Let the teacher solve ``tasks``; return all its trajectories, graded, good and bad. Resumes and raises as
    ``rollout``."""
    config = config or GenerateConfig()
    chain_prompt = load_prompt(config.chain_prompt)

    async def first_thought(task: Task) -> str:
        return await first_thought_prefix(opening(task.question, chain_prompt), model, chain_sampling(config))

    ask = first_thought if config.first_thought_prefix else None
    return rollout(tasks, model, tools, config, output=output, first_thought=ask, progress=progress, title="generate")


# ---- select --------------------------------------------------------------------------------------


class Selection(NamedTuple):
    """What is kept for training, and why the rest is not."""

    kept: list[Trajectory]
    dropped: dict[str, int]
    """Reason -> trajectories dropped for it, most first."""

    def __str__(self) -> str:
        total = len(self.kept) + sum(self.dropped.values())
        reasons = ", ".join(f"{reason} {n}" for reason, n in self.dropped.items())
        return f"{len(self.kept)} of {total} trajectories kept" + (f"; dropped: {reasons}" if reasons else "")


def select(trajectories: Sequence[Trajectory] | str | Path, output: str | Path | None = None) -> Selection:
    """Keep what the paper keeps, in the order of their tasks' ids: correct, every completion parsed, answered within
    the steps.

    A file has its trajectories in the order in which they ended, which no two runs share; in the order of their ids,
    the same trajectories make the same student. Steps whose code raised an error are kept on purpose: what the teacher
    did next shows how to recover. ``output``, if given, gets the kept trajectories, and is replaced whole. Raises
    TrajectoryError for a file that cannot be read, OSError for one that cannot be written.
    """
    if isinstance(trajectories, str | Path):
        trajectories = read_trajectories(trajectories)
    reasons = [_why_dropped(trajectory) for trajectory in trajectories]
    kept = [trajectory for trajectory, reason in zip(trajectories, reasons, strict=True) if reason is None]
    kept.sort(key=lambda trajectory: trajectory.task_id)
    dropped = dict(Counter(reason for reason in reasons if reason is not None).most_common())
    if output is not None:
        _write(kept, dropped, Path(output))
    return Selection(kept, dropped)


def _why_dropped(trajectory: Trajectory) -> str | None:
    """The first of the paper's conditions that does not hold; None for a trajectory to learn from."""
    if trajectory.outcome != "final_answer":
        return trajectory.outcome
    if any(isinstance(step.candidates[step.winner].action, ParseFailure) for step in trajectory.steps):
        return "parse_failure"
    if trajectory.score is None:
        return "not_graded"
    return None if trajectory.score >= 1 else "wrong_answer"


def _write(kept: list[Trajectory], dropped: dict[str, int], output: Path) -> None:
    new = output.with_name(f".{output.name}.new")
    new.unlink(missing_ok=True)
    with TrajectoryWriter(new, json.dumps({"select": "correct, parsed, in time", "dropped": dropped})) as writer:
        writer.append(kept)
    os.replace(new, output)
