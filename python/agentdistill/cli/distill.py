"""Commands that make a student: generate, select, correct, inspect, train."""

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text
from tyro.conf import Positional

from agentdistill._core import read_trajectories
from agentdistill.cli.arguments import ModelSpec, Output, TaskFiles, Tools
from agentdistill.distillation import GenerateConfig, SelectConfig, generate, select
from agentdistill.extras import need
from agentdistill.models.loading import model_files
from agentdistill.rollouts.engine import check_complete
from agentdistill.training.correction import CorrectConfig, correct
from agentdistill.training.examples import Example, SpanKind, Tokenizer, load_tokenizer, pieces, to_examples
from agentdistill.training.trainer import TrainConfig

_COLOURS: dict[SpanKind, str] = {"thought": "cyan", "action": "green", "answer": "bold yellow"}


@dataclass(frozen=True)
class Generate:
    """Let a teacher solve tasks as an agent, and record its trajectories.

    Run again after a stop, it resumes. Ends with status 1 while episodes are missing (a server was down).

    Example: agentdistill generate --tasks train.jsonl --model openai:http://127.0.0.1:8000/v1:NAME --index wiki --ftp
    -o traj.jsonl
    """

    files: TaskFiles
    model: ModelSpec
    output: Output
    """JSONL file of trajectories, made or continued."""
    tools: Tools = field(default_factory=Tools)
    metrics: Path | None = None
    """JSON file to keep up to date with rates, outcomes, tokens, and where the time went."""
    config: GenerateConfig = field(default_factory=GenerateConfig)

    def run(self) -> None:
        tasks = self.files.load()
        with self.tools.open(self.config.tool_seconds) as tools:
            done = generate(tasks, self.model, tools, self.config, output=self.output, metrics=self.metrics)
        print(select(done))
        check_complete(done, self.output)


@dataclass(frozen=True)
class Select:
    """Keep the trajectories worth learning from: correct, parsed, answered in time.

    Example: agentdistill select traj.jsonl -o kept.jsonl
    """

    trajectories: Positional[Path]
    """JSONL file of trajectories."""
    output: Output
    """JSONL file to write; one that is there is replaced."""
    config: SelectConfig = field(default_factory=SelectConfig)

    def run(self) -> None:
        print(select(self.trajectories, self.output, self.config))


@dataclass(frozen=True)
class Correct:
    """Let a teacher correct what a student got wrong: it goes on from the student's first wrong step.

    Run again after a stop, it goes on where it was. ``select`` keeps what became right, and ``train`` learns the
    teacher's steps of it.

    Example: agentdistill correct results/trajectories.jsonl --model openai:http://127.0.0.1:8000/v1:NAME --index wiki
    -o corrected.jsonl
    """

    trajectories: Positional[Path]
    """JSONL file of the student's trajectories, recorded with --keep-states (by ``evaluate``, say)."""
    model: ModelSpec
    output: Output
    """JSONL file of trajectories, made or continued."""
    tools: Tools = field(default_factory=Tools)
    metrics: Path | None = None
    """As in ``generate``."""
    config: CorrectConfig = field(default_factory=CorrectConfig)

    def run(self) -> None:
        with self.tools.open(self.config.tool_seconds) as tools:
            done = correct(self.trajectories, self.model, tools, self.config, output=self.output, metrics=self.metrics)
        print(select(done))
        check_complete(done, self.output)


@dataclass(frozen=True)
class Inspect:
    """Show what a student would learn from kept trajectories, token by token.

    Thoughts are cyan, actions green, answers yellow; what is only given is dim.

    Example: agentdistill inspect kept.jsonl --model Qwen/Qwen2.5-0.5B-Instruct
    """

    trajectories: Positional[Path]
    """JSONL file of kept trajectories."""
    model: str
    """The student, whose tokenizer and chat template count: a folder or a hub id."""
    prompt: str | None = None
    """As in ``train``."""
    max_length: int = TrainConfig.max_length
    """As in ``train``."""
    limit: int = 3
    """How many examples to show."""

    def run(self) -> None:
        need("transformers", "train")
        tokenizer = load_tokenizer(model_files(self.model).model)
        made = to_examples(
            read_trajectories(self.trajectories), tokenizer, prompt=self.prompt, max_length=self.max_length
        )
        console = Console(highlight=False)
        for example in made.examples[: self.limit]:
            console.print(highlighted(example, tokenizer))
            console.rule()
        console.print(str(made))


@dataclass(frozen=True)
class Train:
    """Fine-tune a student on kept trajectories.

    Example: agentdistill train kept.jsonl --model Qwen/Qwen2.5-0.5B-Instruct -o student
    """

    trajectories: Positional[Path]
    """JSONL file of kept trajectories."""
    model: str
    """The student before training: a folder or a hub id."""
    output: Output
    """Folder for adapter, merged model, and configuration."""
    push_to: str | None = None
    """Repository of the Hugging Face hub to put the student into, private if it is new; otherwise nothing is pushed."""
    overwrite: bool = False
    """Remove a training run that is at the output, done or not."""
    config: TrainConfig = field(default_factory=TrainConfig)

    def run(self) -> None:
        from agentdistill.training.trainer import train  # here, since torch takes seconds to import

        student = train(
            self.trajectories, self.model, self.output, self.config, push_to=self.push_to, overwrite=self.overwrite
        )
        print(f"student: {student}")


def highlighted(example: Example, tokenizer: Tokenizer) -> Text:
    """An example as text for a terminal: what is learnt in colour, by its spans, the rest dim."""
    return Text.assemble(*((text, _COLOURS[kind] if kind else "dim") for text, kind in pieces(example, tokenizer)))
