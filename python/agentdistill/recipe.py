"""Recipes: the commands of an experiment in one TOML file, and the estimated cost of each.

Each table is a command; they run in the order of the file. The keys are the command's flags, and relative paths are
relative to the file's folder. A suffix after a dot tells tables of the same command apart ([evaluate.greedy],
[evaluate.sag]). The table [set] holds variables, which are written ${name} in other values and can be changed on the
command line. ``launch`` is not a flag: it is the program that starts the step instead of Python, such as ``torchrun
--nproc-per-node 2``. A step is done if its output was made by the same command line from inputs with the same content,
and has not changed since. A file beside the output records these.

doit and snakemake could run the steps. But their files describe how commands are called, not what an experiment is, and
they do not estimate costs. Not here: what a command does (cli/experiment.py runs each in its own process, so that a
step's engine has left the GPU when the next step starts).
"""

import hashlib
import json
import os
import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agentdistill._core import iter_trajectories, read_trajectories
from agentdistill.distillation import GenerateConfig
from agentdistill.files.replacing import replacing
from agentdistill.grading.grade import task_of
from agentdistill.grading.graders import judge_of
from agentdistill.models.loading import count_parameters, split_options
from agentdistill.redaction import hide_in_command, redacted
from agentdistill.rollouts.chain_of_thought import chain_sampling
from agentdistill.rollouts.player import RolloutConfig
from agentdistill.rollouts.prompt import assistant_turn
from agentdistill.tasks.benchmark import located
from agentdistill.tasks.task import Task
from agentdistill.training.config import TrainConfig
from agentdistill.training.correction import CorrectConfig, to_correct

_ENGINE = r"^(math-reference\+)?(judge:)?(vllm|transformers|recorded):|(?<=\.py):\w+$"
"""The engine before a model's path, or the name after the path of a user's Python function."""

# ---- steps ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One command of a recipe."""

    name: str
    """Name of its table: "train", "evaluate.sag"."""
    arguments: tuple[str, ...]
    """The command line without the program."""
    output: Path
    launch: tuple[str, ...] = ()
    """The program that starts it, with arguments, before ``-m agentdistill``; empty for this Python."""

    def __str__(self) -> str:
        """The command line, without secrets."""
        started = (*self.launch, "-m", "agentdistill") if self.launch else ("agentdistill",)
        hide_in_command(self.arguments)
        return redacted(shlex.join((*started, *self.arguments)))

    @property
    def inputs(self) -> list[Path]:
        """The arguments that are existing files and folders, except the output."""
        # os.path.exists, since Path.exists raises for a text that is too long for a file name.
        named = [located(_path(argument)) for argument in self.arguments]
        return [path for path in named if path != self.output and os.path.exists(path)]

    def is_done(self) -> bool:
        """Whether this command made the output from its current inputs."""
        try:
            known = json.loads(_record(self.output).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # missing, or cut off by a kill
            return False
        return bool(known == self._state())

    def set_done(self) -> None:
        """Record the command, its inputs and its output."""
        with replacing(_record(self.output)) as new:
            new.write_text(json.dumps(self._state(), indent=1) + "\n", encoding="utf-8")

    def _state(self) -> dict[str, Any]:
        inputs = {str(path): _content(path) for path in self.inputs}
        command = shlex.join(("agentdistill", *self.arguments))  # the launcher does not change the output
        return {"command": command, "inputs": inputs, "output": _content(self.output)}


def load_recipe(path: str | Path, variables: Mapping[str, str] | None = None) -> list[Step]:
    """Load the steps of a recipe. Their paths are as in the file, relative to its folder. ``variables``: values that
    replace those of the table [set].

    Raises OSError for a file that cannot be read, and ValueError for a file that is not a recipe and for an unknown
    variable.
    """
    path = Path(path)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not TOML: {error}") from error
    known, given = tables.pop("set", {}), variables or {}
    if not isinstance(known, dict) or not all(isinstance(value, str) for value in known.values()):
        raise ValueError(f"{path}: [set] holds variables: give each a string")
    if unknown := given.keys() - known.keys():
        raise ValueError(f"{path} has no variable {unknown.pop()!r}: it has {', '.join(known) or 'none'}")
    try:
        tables = _filled_in(tables, {**known, **given})
    except KeyError as error:
        raise ValueError(f"{path}: ${{{error.args[0]}}} is not a variable of [set]") from error
    steps = []
    for command, table in tables.items():
        several = isinstance(table, dict) and table and all(isinstance(value, dict) for value in table.values())
        named = {f"{command}.{name}": flags for name, flags in table.items()} if several else {command: table}
        for name, flags in named.items():
            if not isinstance(flags, dict) or not isinstance(flags.get("output"), str):
                raise ValueError(f"{path}: [{name}] is not a step: give a table of a command's flags, including output")
            launch = flags.pop("launch", "")
            if not isinstance(launch, str):
                raise ValueError(
                    f"{path}: [{name}] launch is {launch!r}: give a string, such as torchrun --nproc-per-node 2"
                )
            try:
                arguments, starter = _arguments(flags), _split(launch)
            except ValueError as error:
                raise ValueError(f"{path}: [{name}] {error}") from error
            steps.append(Step(name, (command, *arguments), Path(flags["output"]), starter))
    if not steps:
        raise ValueError(f"{path} has no steps")
    return steps


def _filled_in(value: Any, variables: Mapping[str, str]) -> Any:
    """The value with the variables in its strings replaced. Raises KeyError for an unknown variable."""
    match value:
        case str():
            return re.sub(r"\$\{(\w+)\}", lambda mark: variables[mark[1]], value)
        case list():
            return [_filled_in(part, variables) for part in value]
        case dict():
            return {name: _filled_in(part, variables) for name, part in value.items()}
        case _:
            return value


def _arguments(flags: dict[str, Any]) -> list[str]:
    """A table as command-line arguments: ``trajectories`` first and without a flag, then the flags. Raises ValueError
    for a value that is no argument."""
    arguments = [str(flags["trajectories"])] if "trajectories" in flags else []
    for name, value in flags.items():
        flag = name.replace("_", "-")
        parts = value if isinstance(value, list) else [value]
        if any(isinstance(part, dict | list) for part in parts):
            raise ValueError(
                f"{name} is {value}: give a string, a number, true or false, or a list of strings or numbers"
            )
        if isinstance(value, bool):
            arguments.append(f"--{flag}" if value else f"--no-{flag}")
        elif name != "trajectories":
            arguments += [f"--{flag}", *map(str, parts)]
    return arguments


def _split(launch: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(launch))
    except ValueError as error:
        raise ValueError(f"launch is {launch!r}: {error}") from error


def _path(argument: str) -> Path:
    """The path in an argument: of a model, without its engine and options; of a Python function, its file."""
    named = split_options(argument)[0] if re.match(_ENGINE, argument) else argument
    return Path(re.sub(_ENGINE, "", named))


def _record(output: Path) -> Path:
    return output.with_name(f".{output.name}.step.json")


def _content(path: Path) -> str | None:
    """Fingerprint of a file's content, or, since models and indexes are large, of a folder's file names, sizes and
    times."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        seen = [(str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


# ---- settings ------------------------------------------------------------------------------------


def settings(config: Any) -> str:
    """All settings of a command's configuration, including defaults, as text. Settings chosen at run time, such as a
    batch size that depends on the memory, are left out."""
    known = asdict(config)
    if isinstance(config, GenerateConfig):
        known |= {"chain_prompt": config.chain_prompt or config.default_chain_prompt}
    if isinstance(config, RolloutConfig):
        sampling = config.sampling if config.kind == "agent" else chain_sampling(config, config.candidates)
        prompt = config.default_prompt if config.prompt is None else config.prompt
        known |= {"prompt": prompt, "max_tokens": config.token_limit}
        known |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "output_chars": config.shown_chars}
    elif isinstance(config, TrainConfig):
        known |= {"learning_rate": config.rate}
    return ", ".join(f"{name} {_shown(value)}" for name, value in known.items() if value is not None)


def _shown(value: Any) -> Any:
    match value:
        case True:
            return "yes"
        case False:
            return "no"
        case "":
            return '""'
    return value


# ---- costs ---------------------------------------------------------------------------------------

TURN, OBSERVATION, CHAIN, JUDGED = 150, 350, 300, 350
"""Assumed tokens: of an agent's turn, an observation, a chain of thought, and a judge's prompt and reply."""
CHARACTERS = 4
"""Assumed number of characters per token."""


def formula(tflops: float) -> str:
    """Explain to the user how costs are estimated."""
    return f"""\
Tokens: all tokens read and written, assuming that every episode uses all its steps and that prefixes are cached, so
that nothing is read twice. A turn has {TURN} tokens, an observation {OBSERVATION}, the passages before a question
{OBSERVATION}, a chain of thought {CHAIN}, a judged answer {JUDGED}. Training counts all trajectories until the
selection exists.
FLOPs: 2 per token and parameter, 6 in training.
GPU-hours: FLOPs at a sustained {tflops:g} TFLOP/s (--tflops)."""


@dataclass(frozen=True)
class Cost:
    """Estimated cost of a step, by :func:`formula`."""

    tokens: int
    flops: float | None
    """None if the size of the model is unknown."""

    def text(self, tflops: float) -> str:
        """The cost as text, for a GPU with this throughput in TFLOP/s."""
        hours = "GPU-hours unknown" if self.flops is None else f"{self.flops / (tflops * 3.6e15):.2g} GPU-hours"
        return f"{self.tokens:,} tokens, {hours}"


def rollout_cost(tasks: Sequence[Task], model: str, config: RolloutConfig) -> Cost:
    """Cost of generate or evaluate."""
    if config.kind == "agent":
        each = config.max_steps * TURN * config.candidates + (config.max_steps - 1) * (TURN + OBSERVATION)
    else:
        each = CHAIN + (OBSERVATION if config.passages else 0)
    if isinstance(config, GenerateConfig) and config.first_thought_prefix:
        each += len(config.chain_system_prompt) // CHARACTERS + CHAIN
    prompts = len(tasks) * len(config.system_prompt) + sum(len(task.question) for task in tasks)
    samples = config.samples if isinstance(config, GenerateConfig) else 1
    tokens = samples * (len(tasks) * each + prompts // CHARACTERS)
    return Cost(tokens, _flops(2, tokens, model))


def correct_cost(trajectories: Path, model: str, config: CorrectConfig) -> Cost | None:
    """Cost of correcting the wrong trajectories in a file, as if each of their steps were continued from. None until
    the file exists."""
    if not trajectories.exists():
        return None
    wrong = to_correct(read_trajectories(trajectories))
    return rollout_cost([task_of(trajectory) for trajectory in wrong for _ in trajectory.steps], model, config)


def grade_cost(trajectories: Path, grader: str | None) -> Cost | None:
    """Cost of regrading a file: a judge reads every answer to a question of fact. None until the file exists."""
    if (judge := judge_of(grader)) is None:
        return Cost(0, 0.0)
    if not trajectories.is_file():
        return None
    recorded = iter_trajectories(trajectories, source="agentdistill")
    tokens = JUDGED * sum(task_of(trajectory).kind == "fact" for trajectory in recorded)
    return Cost(tokens, _flops(2, tokens, judge))


def train_cost(trajectories: Path, model: str, config: TrainConfig, generated: int) -> Cost:
    """Cost of training on a file of trajectories, or on ``generated`` tokens until the file exists. A teacher and the
    student each read the tokens once more if the teacher judges them."""
    if trajectories.exists():
        recorded = iter_trajectories(trajectories, source="agentdistill")
        turns = ((step.candidates[step.winner], step.message) for t in recorded for step in t.steps)
        seen = sum(len(assistant_turn(chosen)) + len(message) for chosen, message in turns) // CHARACTERS
    else:
        seen = generated
    tokens = int(seen * config.epochs)
    flops = [_flops(6, tokens, model)]
    if config.teacher is not None:
        flops += [_flops(2, seen, judge) for judge in (config.teacher, model)]
    known = [part for part in flops if part is not None]
    return Cost(tokens, sum(known) if len(known) == len(flops) else None)


def _flops(each: int, tokens: int, model: str) -> float | None:
    """FLOPs of ``each`` per token and parameter. The model's size is that of its files, or the last one in its name:
    the active parameters of "30B-A3B"."""
    path = _path(model)
    sizes = re.findall(r"(\d+(?:\.\d+)?)[bB](?![a-zA-Z])", model)
    parameters = (
        count_parameters(path) if any(path.glob("*.safetensors")) else float(sizes[-1]) * 1e9 if sizes else None
    )
    return each * tokens * parameters if parameters else None
