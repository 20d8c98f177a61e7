"""What is said when a command needs a library that is not installed: the package's own name for it, as pip takes it."""

from importlib.util import find_spec

from agentdistill._core import AgentDistillError


def need(library: str, extra: str) -> None:
    """Raise AgentDistillError, with what to install, where ``library`` is not installed."""
    if find_spec(library) is None:
        raise AgentDistillError(f"{library} is not installed: pip install 'agentdistill[{extra}]'")
