"""The command line: a dataclass for each command, in a file for each group."""

from agentdistill.cli.commands import GROUPS, Command, main, parse

__all__ = ["GROUPS", "Command", "main", "parse"]
