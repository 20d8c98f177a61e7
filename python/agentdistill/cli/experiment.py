"""Commands that run a whole experiment: run (a recipe) and demo."""

import contextlib
import math
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill, indent
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from agentdistill.cli.arguments import Output
from agentdistill.cli.distill import Correct, Generate, Train
from agentdistill.cli.evaluate import Evaluate, Grade
from agentdistill.recipe import Step, correct_cost, formula, grade_cost, load_recipe, rollout_cost, settings, train_cost
from agentdistill.terminal import library_output_escaped, say

if TYPE_CHECKING:
    from agentdistill.cli.commands import Command


@dataclass(frozen=True)
class Run:
    """Run a recipe: the commands of an experiment in a TOML file.

    Steps whose output is up to date are skipped, and a step that was stopped is resumed. Paths in the file are relative
    to its folder. Each step runs in its own process, so a vllm: teacher frees the GPU before training starts. In a
    step's table, launch = "torchrun --nproc-per-node 2" starts it with torchrun.

    Example: agentdistill run recipes/paper/agent.toml --set size=1.5B --dry-run
    """

    recipe: Positional[Path]
    """TOML file with a table for each command and its options as keys."""
    variables: Annotated[tuple[str, ...], arg(name="set")] = ()
    """Values for variables of the recipe's table [set], such as size=1.5B."""
    dry_run: bool = False
    """Only print the commands, their settings and what they would cost."""
    tflops: float = 100.0
    """For --dry-run: sustained speed of the GPU, in TFLOP/s."""

    def run(self) -> None:
        if bad := [variable for variable in self.variables if "=" not in variable]:
            raise ValueError(f"--set {bad[0]}: give NAME=VALUE")
        if not 0 < self.tflops < math.inf:
            raise ValueError(f"--tflops is {self.tflops}: give more than 0")
        steps = load_recipe(self.recipe, dict(variable.split("=", 1) for variable in self.variables))
        with contextlib.chdir(self.recipe.parent):
            self._run(steps)

    def _run(self, steps: list[Step]) -> None:
        commands = [self._parsed(step) for step in steps]  # so that errors show before hours of work
        programs = [self._program(step) for step in steps]
        if self.dry_run:
            self._print_costs(steps, commands)
            return
        for step, program in zip(steps, programs, strict=True):
            if step.is_done():
                say(f"[{step.name}] is done: {step.output}")
                continue
            say(f"[{step.name}] {step}")
            command = [*program, "-m", "agentdistill", *step.arguments]
            # PYTHONSAFEPATH: a module in the recipe's folder must not shadow a library's.
            if status := subprocess.run(command, env=os.environ | {"PYTHONSAFEPATH": "1"}).returncode:
                sys.exit(status)
            step.set_done()

    def _program(self, step: Step) -> list[str]:
        """What starts a step: this Python, or a program that is installed beside it or on the PATH."""
        if not step.launch:
            return [sys.executable]
        beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        if (program := shutil.which(step.launch[0], path=beside)) is None:
            raise ValueError(f"{self.recipe}: [{step.name}] is launched by {step.launch[0]}, which is not installed")
        return [program, *step.launch[1:]]

    def _parsed(self, step: Step) -> "Command":
        from agentdistill.cli.commands import parse  # here, since it imports this module

        try:
            with library_output_escaped():
                return parse(step.arguments)
        except SystemExit as error:
            raise ValueError(f"{self.recipe}: [{step.name}] is not a valid command: {step}") from error

    def _print_costs(self, steps: list[Step], commands: "list[Command]") -> None:
        generated, anew = 0, set[Path]()
        for step, command in zip(steps, commands, strict=True):
            done = step.is_done() and not anew.intersection(step.inputs)
            cost = None
            match command:
                case Generate() | Evaluate():
                    cost = rollout_cost(command.files.load(), command.model, command.config)
                    generated = cost.tokens if isinstance(command, Generate) else generated
                case Correct():
                    cost = correct_cost(command.trajectories, command.model, command.config)
                case Grade():
                    cost = grade_cost(command.trajectories, command.grader)
                case Train() if generated or command.trajectories.exists():
                    cost = train_cost(command.trajectories, command.model, command.config, generated)
            if not done:
                anew.add(step.output)
            unknown = (
                "cost unknown until the trajectories exist"
                if isinstance(command, Correct | Grade | Train)
                else "negligible cost"
            )
            status = "done" if done else cost.text(self.tflops) if cost else unknown
            say(f"[{step.name}] {status}\n    {step}")
            if config := getattr(command, "config", None):
                say(indent(fill(settings(config), 112, break_long_words=False), " " * 8))
        say(formula(self.tflops))


@dataclass(frozen=True)
class Demo:
    """Run the whole method in miniature on this machine's CPU.

    A scripted teacher solves generated tasks; small students are trained and evaluated for real.

    Example: agentdistill demo
    """

    output: Output = Path("runs/demo")
    """Folder for all output. Finished steps are skipped."""
    quick: bool = False
    """Train one size on few tasks, in a minute or two."""

    def run(self) -> None:
        from agentdistill.demo import demo

        demo(self.output, quick=self.quick)
