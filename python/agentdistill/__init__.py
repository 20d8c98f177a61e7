"""Distil LLM agents into small models that think, search, run Python and answer.

The names below are the whole public surface. The compiled core is imported at once (a few milliseconds); the Python
parts are imported when first used, so that ``import agentdistill`` stays light and loads neither torch nor a model
library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from agentdistill._core import (
    Action,
    AgentDistillError,
    Bm25Index,
    Candidate,
    Limits,
    Observation,
    ParseFailure,
    Passage,
    RetrievalError,
    RetrievalServer,
    Sandbox,
    SandboxError,
    State,
    Step,
    Trajectory,
    TrajectoryError,
    Vote,
    __version__,
    iter_trajectories,
    parse_action,
    read_trajectories,
    vote,
)

if TYPE_CHECKING:
    from agentdistill.correction import correct
    from agentdistill.distillation import generate, select
    from agentdistill.engine import rollout
    from agentdistill.evaluation import evaluate
    from agentdistill.formats import convert
    from agentdistill.grading import Grade, grade
    from agentdistill.http_retriever import HttpRetriever
    from agentdistill.math_equality import math_equal
    from agentdistill.model import ModelError, load_model
    from agentdistill.regrading import regrade
    from agentdistill.session import state_before
    from agentdistill.squad import exact_match, f1
    from agentdistill.task import Task, load_tasks
    from agentdistill.training import train

_LAZY = {
    "HttpRetriever": "http_retriever",
    "Task": "task",
    "load_tasks": "task",
    "ModelError": "model",
    "load_model": "model",
    "rollout": "engine",
    "state_before": "session",
    "generate": "distillation",
    "select": "distillation",
    "convert": "formats",
    "correct": "correction",
    "train": "training",
    "evaluate": "evaluation",
    "Grade": "grading",
    "grade": "grading",
    "exact_match": "squad",
    "f1": "squad",
    "math_equal": "math_equality",
    "regrade": "regrading",
}

__all__ = [
    "Action",
    "AgentDistillError",
    "Bm25Index",
    "Candidate",
    "Grade",
    "HttpRetriever",
    "Limits",
    "ModelError",
    "Observation",
    "ParseFailure",
    "Passage",
    "RetrievalError",
    "RetrievalServer",
    "Sandbox",
    "SandboxError",
    "State",
    "Step",
    "Task",
    "Trajectory",
    "TrajectoryError",
    "Vote",
    "__version__",
    "convert",
    "correct",
    "evaluate",
    "exact_match",
    "f1",
    "generate",
    "grade",
    "iter_trajectories",
    "load_model",
    "load_tasks",
    "math_equal",
    "parse_action",
    "read_trajectories",
    "regrade",
    "rollout",
    "select",
    "state_before",
    "train",
    "vote",
]


def _repr_html_(self: Trajectory) -> str:
    """As a notebook shows it."""
    from agentdistill.page import in_notebook

    return in_notebook(self)


Trajectory._repr_html_ = _repr_html_  # type: ignore[method-assign]  # here, as the core knows nothing of pages


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
