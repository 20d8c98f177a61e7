"""The package's functions as commands: ``agentdistill index | generate | select | convert | correct | inspect | train |
evaluate | grade | report | view | run | ask | chat | serve | demo``; its search as ``agentdistill serve-retrieval``,
and its sandbox as ``agentdistill sandbox | mcp``.

Each command is a dataclass: its fields are the flags, with the fields of the function's own configuration beside them;
what it does is its ``run``. Nothing is decided here: a command loads what its arguments name, calls the function of the
same name, and prints what that returned.
"""

import sys
from collections.abc import Sequence
from typing import Annotated

import tyro
from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, subcommand

from agentdistill._core import AgentDistillError
from agentdistill.cli.data import Convert, Index, ServeRetrieval
from agentdistill.cli.distill import Correct, Generate, Inspect, Select, Train
from agentdistill.cli.evaluate import Evaluate, Grade, Report, View
from agentdistill.cli.experiment import Demo, Run
from agentdistill.cli.serve import Ask, Chat, Mcp, RunSandbox, Serve
from agentdistill.terminal import write

SHORT = {"--ftp": "--first-thought-prefix", "--sag": "--candidates"}
"""The paper's abbreviations, for the flags they stand for."""


Command = (
    Annotated[Index, subcommand("index")]
    | Annotated[ServeRetrieval, subcommand("serve-retrieval")]
    | Annotated[Generate, subcommand("generate")]
    | Annotated[Select, subcommand("select")]
    | Annotated[Convert, subcommand("convert")]
    | Annotated[Correct, subcommand("correct")]
    | Annotated[Inspect, subcommand("inspect")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Grade, subcommand("grade")]
    | Annotated[Report, subcommand("report")]
    | Annotated[View, subcommand("view")]
    | Annotated[Run, subcommand("run")]
    | Annotated[Ask, subcommand("ask")]
    | Annotated[Chat, subcommand("chat")]
    | Annotated[Serve, subcommand("serve")]
    | Annotated[RunSandbox, subcommand("sandbox")]
    | Annotated[Mcp, subcommand("mcp")]
    | Annotated[Demo, subcommand("demo")]
)


def main(argv: list[str] | None = None) -> None:
    """Run one command; exit with 1 and one clear line when it fails, 2 for arguments that make no sense."""
    try:
        parse(sys.argv[1:] if argv is None else argv).run()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `agentdistill ... | head`
        sys.exit(0)
    except (AgentDistillError, ValueError, OSError) as error:
        write(f"agentdistill: {error}\n", sys.stderr)
        sys.exit(1)


def parse(argv: Sequence[str]) -> Command:
    return tyro.cli(
        Command,
        prog="agentdistill",
        description="Distil LLM agents into small models that think, search, run Python and answer.",
        args=[_in_full(argument) for argument in argv],
        config=(OmitArgPrefixes, OmitSubcommandPrefixes),
    )


def _in_full(argument: str) -> str:
    """A flag with the paper's abbreviation written out: ``--sag``, ``--sag=8``."""
    flag, equals, value = argument.partition("=")
    return f"{SHORT.get(flag, flag)}{equals}{value}"
