"""The table of all commands, by group, and the parser of command lines.

``GROUPS`` is the one table of commands: it makes the parser, ``agentdistill --help`` and the documentation's page of
commands. Each command is a dataclass. Its fields are the options, including those of the configuration of the function
that it calls; its ``run`` loads what the arguments name, calls that function and prints the result.
"""

import sys
from collections.abc import Sequence
from inspect import getdoc
from typing import Annotated, Any, Protocol, Union

import tyro
from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, SuppressFixed, subcommand

from agentdistill._core import AgentDistillError
from agentdistill.cli.data import Convert, Index, ServeRetrieval
from agentdistill.cli.distill import Correct, Generate, Improve, Inspect, Select, Train
from agentdistill.cli.evaluate import Evaluate, Grade, Report, View
from agentdistill.cli.experiment import Demo, Run
from agentdistill.cli.serve import Ask, Chat, Mcp, Record, RunSandbox, Serve, ServeEnvironment
from agentdistill.terminal import prepare, tell


class Command(Protocol):
    """A parsed command."""

    def run(self) -> None: ...


GROUPS: dict[str, dict[str, type[Command]]] = {
    "Data": {"index": Index, "serve-retrieval": ServeRetrieval, "convert": Convert},
    "Distil": {
        "generate": Generate,
        "select": Select,
        "correct": Correct,
        "inspect": Inspect,
        "train": Train,
        "improve": Improve,
    },
    "Evaluate": {"evaluate": Evaluate, "grade": Grade, "report": Report, "view": View},
    "Serve": {"ask": Ask, "chat": Chat, "serve": Serve, "record": Record, "serve-environment": ServeEnvironment},
    "Tools": {"sandbox": RunSandbox, "mcp": Mcp, "run": Run, "demo": Demo},
}
"""The commands by group and name."""

_PARSER: Any = Union[  # noqa: UP007 - made from the table
    tuple(Annotated[command, subcommand(name)] for group in GROUPS.values() for name, command in group.items())
]

ABBREVIATIONS = {"--ftp": "--first-thought-prefix", "--sag": "--candidates"}
"""The paper's abbreviations and the options they stand for."""

DESCRIPTION = "Distil LLM agents into small models that think, search, run Python and answer."

EXAMPLE = """\
  agentdistill index build corpus.jsonl -o wiki
  agentdistill generate --tasks train.csv --model MODEL --index wiki -o t.jsonl
  agentdistill select t.jsonl -o kept.jsonl
  agentdistill train kept.jsonl --model Qwen/Qwen2.5-0.5B-Instruct -o student
  agentdistill evaluate --tasks test.csv --model student --index wiki -o results
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command. Exit with status 1 and a one-line error if it fails, and 2 if the arguments are invalid."""
    prepare()
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        (sys.stdout if argv else sys.stderr).write(overview())
        sys.exit(0 if argv else 2)
    try:
        command = parse(argv)
        if output := getattr(command, "output", None):
            output.parent.mkdir(parents=True, exist_ok=True)
        command.run()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `agentdistill ... | head`
        sys.exit(0)
    except OverflowError as error:  # in the core or a socket
        tell(f"agentdistill: a number is out of range: {', '.join([str(error), *getattr(error, '__notes__', ())])}")
        sys.exit(1)
    except (AgentDistillError, ValueError, OSError) as error:
        tell(f"agentdistill: {error}")
        sys.exit(1)


def parse(argv: Sequence[str]) -> Command:
    """The command that ``argv`` describes. Raises SystemExit if it is invalid, or asks for help."""
    command: Command = tyro.cli(
        _PARSER,
        prog="agentdistill",
        description=DESCRIPTION,
        args=[_expanded(argument) for argument in argv],
        config=(OmitArgPrefixes, OmitSubcommandPrefixes, SuppressFixed),
    )
    return command


def overview() -> str:
    """The text of ``agentdistill --help``: the commands by group, with the first sentence of each one's help."""
    parts = [f"usage: agentdistill COMMAND [OPTIONS]\n\n{DESCRIPTION}\n"]
    for group, commands in GROUPS.items():
        lines = (f"  {name:17} {summary(command)}\n" for name, command in commands.items())
        parts.append(f"{group}:\n{''.join(lines)}")
    parts.append(f"Example:\n{EXAMPLE}")
    parts.append(
        "'agentdistill COMMAND --help' shows the options of a command and an example.\n"
        "'agentdistill demo --quick' runs every step on tiny models. It needs no data.\n"
    )
    return "\n".join(parts)


def summary(command: type[Command]) -> str:
    """The first line of a command's help."""
    return (getdoc(command) or "").partition("\n")[0]


def _expanded(argument: str) -> str:
    """An option with the paper's abbreviation written out, for ``--sag`` and ``--sag=8``."""
    option, equals, value = argument.partition("=")
    return f"{ABBREVIATIONS.get(option, option)}{equals}{value}"
