"""Commands that distil a student: generate, select, correct, inspect, train, improve."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console
from rich.text import Text
from tyro.conf import Fixed, Positional, arg

from agentdistill._core import Trajectory, read_trajectories
from agentdistill.cli.arguments import ModelSpec, Output, Prices, TaskFiles, Tools
from agentdistill.distillation import GenerateConfig, SelectConfig, generate, select
from agentdistill.extras import require
from agentdistill.models.loading import model_files
from agentdistill.rollouts.engine import check_complete
from agentdistill.rollouts.wording import Compat
from agentdistill.terminal import printable, say
from agentdistill.training.config import ImproveConfig, TrainConfig
from agentdistill.training.correction import CorrectConfig, correct
from agentdistill.training.examples import (
    Example,
    SpanKind,
    Tokenizer,
    load_tokenizer,
    pieces,
    student_named,
    to_examples,
)
from agentdistill.training.starts import Start, before_errors

_COLOURS: dict[SpanKind, str] = {"thought": "cyan", "action": "green", "answer": "bold yellow"}


@dataclass(frozen=True)
class Generate:
    """Record a teacher's trajectories on tasks.

    A trajectory is one attempt at a task, with all steps and a score. If you stop the command, running it again resumes
    it. The exit status is 1 if trajectories are missing, for example because a server was down.

    Example: agentdistill generate --tasks train.jsonl --model openai:http://127.0.0.1:8000/v1:NAME --index wiki --ftp
    -o traj.jsonl
    """

    files: Annotated[TaskFiles, arg(name="task")]
    model: ModelSpec
    output: Output
    """JSONL file of trajectories to create or continue."""
    tools: Tools = field(default_factory=Tools)
    metrics: Path | None = None
    """JSON file with rates, outcomes, tokens, and how time was spent; updated during the run."""
    prices: Annotated[Prices, arg(name="price")] = field(default_factory=Prices)
    config: Annotated[GenerateConfig, arg(name="teacher")] = field(default_factory=GenerateConfig)

    def run(self) -> None:
        tasks = self.files.load()
        with self.tools.open(self.config.tool_seconds) as tools:
            done = generate(tasks, self.model, tools, self.config, output=self.output, metrics=self.metrics)
        say(select(done))
        self.prices.say(*used(done))
        check_complete(done, self.output)


@dataclass(frozen=True)
class Select:
    """Select correct trajectories for training.

    By default, a trajectory is kept if its answer is correct, all its completions parsed, and it answered within the
    step limit.

    Example: agentdistill select traj.jsonl -o kept.jsonl
    """

    trajectories: Positional[Path]
    """JSONL file of trajectories."""
    output: Output
    """JSONL file to write. An existing file of trajectories is replaced."""
    config: Annotated[SelectConfig, arg(name="selection")] = field(default_factory=SelectConfig)

    def run(self) -> None:
        say(select(self.trajectories, self.output, self.config))


@dataclass(frozen=True)
class _CorrectOptions(CorrectConfig):
    """Settings of the teacher that continues an episode."""

    # Only an agent can continue an episode, on one machine and without interruption.
    kind: Fixed[Literal["agent", "cot"]] = "agent"
    passages: Fixed[int] = 0
    checkpoints: Fixed[bool] = False
    ray: Fixed[str | None] = None


@dataclass(frozen=True)
class Correct:
    """Let a teacher correct a student's wrong trajectories.

    The teacher continues from the student's first critical error. Afterwards, ``select`` keeps the trajectories that
    became correct, and ``train`` learns the teacher's steps in them. If you stop the command, running it again resumes
    it.

    Example: agentdistill correct results/trajectories.jsonl --model openai:http://127.0.0.1:8000/v1:NAME --index wiki
    -o corrected.jsonl
    """

    trajectories: Positional[Path]
    """JSONL file of the student's trajectories, recorded with --keep-states (for example, by ``evaluate``)."""
    model: ModelSpec
    output: Output
    """JSONL file of trajectories to create or continue."""
    tools: Tools = field(default_factory=Tools)
    metrics: Path | None = None
    """JSON file with rates, outcomes, tokens and times, as in ``generate``."""
    prices: Annotated[Prices, arg(name="price")] = field(default_factory=Prices)
    config: Annotated[_CorrectOptions, arg(name="teacher")] = field(default_factory=_CorrectOptions)

    def run(self) -> None:
        with self.tools.open(self.config.tool_seconds) as tools:
            done = correct(self.trajectories, self.model, tools, self.config, output=self.output, metrics=self.metrics)
        say(select(done))
        self.prices.say(*used(done))
        check_complete(done, self.output)


@dataclass(frozen=True)
class Inspect:
    """Show which tokens a student would learn from trajectories.

    Thoughts are cyan, actions green, and answers yellow. Context, which has no loss, is dim.

    Example: agentdistill inspect kept.jsonl --model Qwen/Qwen2.5-0.5B-Instruct
    """

    trajectories: Positional[Path]
    """JSONL file of selected trajectories."""
    model: str
    """The student, a folder or hub id. Its tokenizer and chat template are used."""
    prompt: str | None = None
    """System prompt, as in ``train``."""
    compat: Compat | None = None
    """Form of the conversation, as in ``train``."""
    max_length: int = TrainConfig.max_length
    """Maximum length of an example in tokens, as in ``train``."""
    thoughts: bool = False
    """Also learn a reasoning model's thoughts, as in ``train``."""
    limit: int = 3
    """Number of examples to show."""

    def run(self) -> None:
        require("transformers", "train")
        name, template = student_named(self.model)
        tokenizer = load_tokenizer(model_files(name).model, template)
        made = to_examples(
            read_trajectories(self.trajectories),
            tokenizer,
            prompt=self.prompt,
            compat=self.compat,
            max_length=self.max_length,
            thoughts=self.thoughts,
        )
        console = Console(highlight=False)
        for example in made.examples[: self.limit]:
            console.print(highlighted(example, tokenizer))
            console.rule()
        say(made)


@dataclass(frozen=True)
class Train:
    """Fine-tune a student on selected trajectories.

    Example: agentdistill train kept.jsonl --model Qwen/Qwen2.5-0.5B-Instruct -o student
    """

    trajectories: Positional[Path]
    """JSONL file of selected trajectories."""
    model: str
    """The base model to fine-tune: a folder or a hub id.
    Arguments of its chat template may follow: PATH,enable_thinking=false."""
    output: Output
    """Folder for the adapter, the merged model and the configuration."""
    push_to: str | None = None
    """Hugging Face repository to push the student to; a new one is private. Default: do not push."""
    overwrite: bool = False
    """Delete an existing training run at the output, finished or not."""
    config: Annotated[TrainConfig, arg(name="training")] = field(default_factory=TrainConfig)

    def run(self) -> None:
        from agentdistill.training.trainer import train  # here, since torch takes seconds to import

        student = train(
            self.trajectories, self.model, self.output, self.config, push_to=self.push_to, overwrite=self.overwrite
        )
        say(f"student: {student}")


@dataclass(frozen=True)
class _ImproveOptions(ImproveConfig):
    """Settings of reinforcement learning, and of its rollouts. By default, temperature and top-p are 1, because GRPO
    assumes that episodes are samples of the student's own distribution."""

    # The student learns as a plain agent, on this machine.
    candidates: Fixed[int] = 1
    adaptive: Fixed[bool] = False
    kind: Fixed[Literal["agent", "cot"]] = "agent"
    passages: Fixed[int] = 0
    checkpoints: Fixed[bool] = False
    ray: Fixed[str | None] = None


@dataclass(frozen=True)
class Starts(TaskFiles):
    """The tasks to solve, and where to start."""

    tasks: tuple[Path, ...] = ()
    """Task files, folders of data sets, or names of benchmarks, as for ``generate``."""
    corrected: Annotated[Path | None, arg(name="from")] = None
    """JSONL file that ``correct`` wrote: the student also starts before its first error in each corrected episode.
    Tools and --seed must be those of ``correct``. Without --tasks, it starts only there."""

    def load_starts(self) -> list[Start]:
        starts: list[Start] = [*self.load()] if self.tasks else []
        if self.corrected is None and not starts:
            raise ValueError("nothing to start from: give --tasks, --from or both")
        if self.corrected is None:
            return starts
        corrected = before_errors(read_trajectories(self.corrected))
        if not corrected:
            raise ValueError(f"{self.corrected} has no corrected episode: make it with agentdistill correct")
        return starts + corrected[: self.limit]


@dataclass(frozen=True)
class Improve:
    """Train a student further on its own rollouts (GRPO, teacher).

    Each optimizer step samples several episodes of a few tasks, and rewards the correct ones. If you stop the command,
    running it again resumes it from the last checkpoint.

    Example: agentdistill improve student --tasks train.jsonl --steps 200 -o improved
    """

    student: Positional[str]
    """The student: a folder or a hub id. Arguments of its chat template may follow: PATH,enable_thinking=false."""
    output: Output
    """Folder for the improved student, the rollouts and the configuration."""
    files: Annotated[Starts, arg(name="task")] = field(default_factory=Starts)
    tools: Tools = field(default_factory=Tools)
    overwrite: bool = False
    """Delete an existing training run at the output, finished or not."""
    config: Annotated[_ImproveOptions, arg(name="training")] = field(default_factory=_ImproveOptions)

    def run(self) -> None:
        from agentdistill.training.reinforcement import improve  # here, since torch takes seconds to import

        tasks = self.files.load_starts()
        with self.tools.open(self.config.tool_seconds) as tools:
            student = improve(self.student, tasks, tools, self.config, output=self.output, overwrite=self.overwrite)
        say(f"student: {student}")


def used(trajectories: Sequence[Trajectory]) -> tuple[int, int]:
    """The tokens that their model read, and those that it wrote."""
    read, written = ([trajectory.usage[i] for trajectory in trajectories] for i in (0, 1))
    return sum(read), sum(written)


def highlighted(example: Example, tokenizer: Tokenizer) -> Text:
    """An example for a terminal: tokens with loss in the colour of their span, all others dim."""
    return Text.assemble(
        *((printable(text), _COLOURS[kind] if kind else "dim") for text, kind in pieces(example, tokenizer))
    )
