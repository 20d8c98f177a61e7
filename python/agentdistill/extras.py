"""Report a missing optional library with the extra to install."""

from importlib.util import find_spec

from agentdistill._core import AgentDistillError


def require(library: str, extra: str) -> None:
    """Raise AgentDistillError with the command to install ``library``, if it is not installed."""
    if find_spec(library) is None:
        raise AgentDistillError(f"{library} is not installed: pip install 'agentdistill[{extra}]'")
