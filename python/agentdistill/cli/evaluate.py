"""Commands that say how good a model is: evaluate, grade, report, view."""

import sys
import threading
import webbrowser
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from agentdistill._core import Trajectory
from agentdistill.cli.arguments import ModelSpec, Output, TaskFiles, Tools
from agentdistill.extras import need
from agentdistill.models.loading import model_files
from agentdistill.results.evaluation import evaluate
from agentdistill.results.regrading import regrade
from agentdistill.results.report import write_report
from agentdistill.results.viewer import Learnt, trajectory_files, viewer
from agentdistill.rollouts.player import RolloutConfig
from agentdistill.tasks.task import Kind
from agentdistill.terminal import write
from agentdistill.training.examples import load_tokenizer, pieces, to_examples


@dataclass(frozen=True)
class Evaluate:
    """Measure a model's accuracy on tasks, by task set, with confidence intervals.

    Run again after a stop, it resumes. While episodes are missing (a server was down), no results are written.

    Example: agentdistill evaluate --tasks test.jsonl --model vllm:student --index wiki --sag 8 -o results
    """

    files: TaskFiles
    model: ModelSpec
    output: Output
    """Folder for trajectories and results.json, made or continued."""
    grader: str | None = None
    """Grades the answers when all are there: judge:MODEL, FILE.py:FUNCTION or MODULE:FUNCTION, as in ``grade``."""
    allow_missing: bool = False
    """Write results although episodes are missing; these count as wrong."""
    tools: Tools = field(default_factory=Tools)
    config: RolloutConfig = field(default_factory=RolloutConfig)

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
        print(evaluation)


@dataclass(frozen=True)
class Grade:
    """Grade recorded answers again, without a new rollout, and say what that changed.

    Example: agentdistill grade results --grader judge:openai:http://127.0.0.1:8000/v1:NAME -o judged
    """

    trajectories: Positional[Path]
    """JSONL file of trajectories, or folder of an evaluation."""
    output: Annotated[Path | None, arg(aliases=["-o"])] = None
    """The same with the new grades, file or folder; one that is there is replaced. Without it, nothing is written."""
    grader: str | None = None
    """judge:MODEL has a model judge facts; FILE.py:FUNCTION or MODULE:FUNCTION is a function of task and answer that
    returns a score from 0 to 1. By default facts are graded by exact match, mathematics by value."""
    kind: Annotated[Kind | None, arg(name="task-kind")] = None
    """"fact" or "math", for all tasks; by default as they were graded before."""
    concurrency: int = 64
    """Answers graded at once."""

    def run(self) -> None:
        regrading = regrade(self.trajectories, self.grader, self.output, kind=self.kind, concurrency=self.concurrency)
        write(f"{regrading}\n", sys.stdout)


@dataclass(frozen=True)
class Report:
    """Compare what evaluations found: one page with accuracies, what is chance, costs, failures and plots.

    Each run is an arm: a folder that evaluate made (or one of such folders), or a trajectory file. Folders that train
    made add their losses. Beside the page a folder has the table in Markdown and LaTeX, and each plot as SVG and PNG.

    Example: agentdistill report results-greedy results-sag student -o report.html
    """

    runs: Positional[tuple[Path, ...]]
    """Folders and files, in the order to show them."""
    output: Output = Path("report.html")
    """Page to write."""

    def run(self) -> None:
        print(write_report(self.runs, self.output))


@dataclass(frozen=True)
class View:
    """Read trajectories in the browser: search, filter, and go through them step by step.

    It is served from this machine to this machine; Ctrl-C ends it.

    Example: agentdistill view traj.jsonl
    """

    trajectories: Positional[Path]
    """A trajectory file, or a folder with some at any depth, such as evaluate makes."""
    model: str | None = None
    """A student, whose tokenizer and chat template count: the page then shows what it learns of each trajectory."""
    prompt: str | None = None
    """As in ``train``."""
    host: str = "127.0.0.1"
    """Address to listen at. Whoever can reach it can read: there is no password."""
    port: int = 0
    """Port to listen at; 0 takes a free one."""
    browser: bool = True
    """Open the page in a browser."""

    def run(self) -> None:
        files = trajectory_files(self.trajectories)
        with viewer(files, host=self.host, port=self.port, learnt=self.learnt()) as url:
            print(f"{self.trajectories} at {url} (Ctrl-C ends it)", flush=True)
            if self.browser:
                webbrowser.open(url)
            threading.Event().wait()

    def learnt(self) -> Learnt | None:
        """What shows what the student learns, where there is one."""
        if self.model is None:
            return None
        need("transformers", "train")
        tokenizer = load_tokenizer(model_files(self.model).model)

        def learnt(trajectory: Trajectory) -> list[tuple[str, str | None]]:
            made = to_examples([trajectory], tokenizer, prompt=self.prompt)
            return [piece for example in made.examples for piece in pieces(example, tokenizer)]

        return learnt
