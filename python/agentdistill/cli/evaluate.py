"""Commands that measure and compare models: evaluate, grade, report, view."""

import threading
import webbrowser
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from agentdistill._core import Trajectory
from agentdistill.cli.arguments import ModelSpec, Output, Prices, TaskFiles, Tools
from agentdistill.extras import require
from agentdistill.models.loading import model_files
from agentdistill.results.evaluation import evaluate
from agentdistill.results.regrading import regrade
from agentdistill.results.report import write_report
from agentdistill.results.viewer import Learnt, trajectory_files, viewer
from agentdistill.rollouts.player import RolloutConfig
from agentdistill.rollouts.wording import Compat
from agentdistill.tasks.task import Kind
from agentdistill.terminal import say
from agentdistill.training.examples import load_tokenizer, pieces, student_named, to_examples


@dataclass(frozen=True)
class Evaluate:
    """Measure the accuracy of a model, with confidence intervals.

    The model solves each task as an agent, or with --kind cot by chain of thought. If you stop the command, running it
    again resumes it. If episodes are missing, for example because a server was down, it writes no results.

    Example: agentdistill evaluate --tasks test.jsonl --model vllm:student --index wiki --sag 8 -o results
    """

    files: Annotated[TaskFiles, arg(name="task")]
    model: ModelSpec
    output: Output
    """Folder for trajectories.jsonl and results.json, created or continued."""
    grader: str | None = None
    """Grade all answers with this grader instead of the default ones; the graders are those of ``grade``."""
    allow_missing: bool = False
    """Write results even if episodes are missing; those count as wrong."""
    prices: Annotated[Prices, arg(name="price")] = field(default_factory=Prices)
    tools: Tools = field(default_factory=Tools)
    config: Annotated[RolloutConfig, arg(name="rollout")] = field(default_factory=RolloutConfig)

    def run(self) -> None:
        tasks = self.files.load()
        with self.tools.open(self.config.tool_seconds) as tools:
            evaluation = evaluate(
                tasks,
                self.model,
                tools,
                self.config,
                output=self.output,
                grader=self.grader,
                allow_missing=self.allow_missing,
            )
        say(evaluation)
        read, written = (
            [getattr(of, name) for of in evaluation.sets] for name in ("prompt_tokens", "completion_tokens")
        )
        self.prices.say(sum(read), sum(written))


@dataclass(frozen=True)
class Grade:
    """Grade recorded answers again and show what changed.

    No model solves the tasks again; only the recorded answers are compared with the correct ones.

    Example: agentdistill grade results --grader judge:openai:http://127.0.0.1:8000/v1:NAME -o judged
    """

    trajectories: Positional[Path]
    """JSONL file of trajectories, or folder of an evaluation."""
    output: Annotated[Path | None, arg(aliases=["-o"])] = None
    """File or folder for the new grades. An existing one is replaced. Default: write nothing."""
    grader: str | None = None
    """judge:MODEL: a model judges facts. math-reference: mathematics is compared as in the paper's code.
    math-reference+judge:MODEL: both.
    FILE.py:FUNCTION or MODULE:FUNCTION: your own function of a task and an answer; it returns a score from 0 to 1.
    Default: exact match for facts, equal value for mathematics."""
    kind: Annotated[Kind | None, arg(name="task-kind")] = None
    """Kind of all tasks: "fact" or "math". Default: as recorded."""
    concurrency: int = 64
    """Number of answers to grade at once."""

    def run(self) -> None:
        regrading = regrade(self.trajectories, self.grader, self.output, kind=self.kind, concurrency=self.concurrency)
        say(regrading)


@dataclass(frozen=True)
class Report:
    """Compare evaluations on one page, with plots and statistics.

    Each run is a folder that evaluate wrote, a folder of several, or a trajectory file. Folders that train wrote add
    their loss curves. Next to the page, a folder holds the table as Markdown and LaTeX, and each plot as SVG and PNG.

    Example: agentdistill report results-greedy results-sag student -o report.html
    """

    runs: Positional[tuple[Path, ...]]
    """Folders and files, in the order to show them."""
    output: Output = Path("report.html")
    """HTML page to write."""

    def run(self) -> None:
        say(write_report(self.runs, self.output))


@dataclass(frozen=True)
class View:
    """Read trajectories in the browser, step by step.

    By default, only this machine can open the page. Ctrl-C stops the server.

    Example: agentdistill view traj.jsonl
    """

    trajectories: Positional[Path]
    """A trajectory file, or a folder that contains some at any depth, such as one that evaluate wrote."""
    model: str | None = None
    """A student (folder or hub id). The page then also shows which tokens it learns from each trajectory."""
    prompt: str | None = None
    """System prompt, as in ``train``."""
    compat: Compat | None = None
    """Form of the conversation, as in ``train``."""
    host: str = "127.0.0.1"
    """Address to listen on. There is no password: everyone who can reach it can read."""
    port: int = 0
    """Port to listen on; 0 picks a free one."""
    browser: bool = True
    """Open the page in a browser."""

    def run(self) -> None:
        files = trajectory_files(self.trajectories)
        with viewer(files, host=self.host, port=self.port, learnt=self.learnt()) as url:
            say(f"{self.trajectories} at {url} (Ctrl-C stops it)")
            if self.browser:
                webbrowser.open(url)
            threading.Event().wait()

    def learnt(self) -> Learnt | None:
        """A function that shows what the student learns, if ``model`` is given."""
        if self.model is None:
            return None
        require("transformers", "train")
        name, template = student_named(self.model)
        tokenizer = load_tokenizer(model_files(name).model, template)

        def learnt(trajectory: Trajectory) -> list[tuple[str, str | None]]:
            made = to_examples([trajectory], tokenizer, prompt=self.prompt, compat=self.compat)
            return [piece for example in made.examples for piece in pieces(example, tokenizer)]

        return learnt
