"""The package's functions as commands: a dataclass each, grouped by what they are for."""

from agentdistill.cli.commands import Command, main, parse

__all__ = ["Command", "main", "parse"]
