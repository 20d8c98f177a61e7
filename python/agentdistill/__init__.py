"""Distil LLM agents into small models that think, search, run Python and answer.

The names below are the public API. The compiled core is imported at once (a few milliseconds). The Python parts are
imported on first use, so that ``import agentdistill`` loads neither torch nor a model library.
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
    from agentdistill.distillation import GenerateConfig, SelectConfig, generate, select
    from agentdistill.files.formats import convert
    from agentdistill.grading.grade import Grade, grade
    from agentdistill.grading.math_equality import math_equal
    from agentdistill.grading.squad import exact_match, f1
    from agentdistill.models.loading import load_model
    from agentdistill.models.model import ModelError
    from agentdistill.models.scripted import ScriptedModel
    from agentdistill.results.evaluation import evaluate
    from agentdistill.results.regrading import regrade
    from agentdistill.rollouts.engine import rollout
    from agentdistill.rollouts.player import RolloutConfig
    from agentdistill.rollouts.session import state_before
    from agentdistill.tasks.loading import load_tasks
    from agentdistill.tasks.task import Task
    from agentdistill.tools.http_retriever import HttpRetriever
    from agentdistill.tools.hybrid import HybridRetriever
    from agentdistill.tools.page import open_page
    from agentdistill.tools.tool import Tool, python_tool, web_search
    from agentdistill.training.config import ImproveConfig, TrainConfig
    from agentdistill.training.correction import correct
    from agentdistill.training.reinforcement import improve
    from agentdistill.training.trainer import train

_LAZY = {
    "ScriptedModel": "models.scripted",
    "python_tool": "tools.tool",
    "web_search": "tools.tool",
    "open_page": "tools.page",
    "Tool": "tools.tool",
    "RolloutConfig": "rollouts.player",
    "SelectConfig": "distillation",
    "GenerateConfig": "distillation",
    "TrainConfig": "training.config",
    "ImproveConfig": "training.config",
    "HttpRetriever": "tools.http_retriever",
    "HybridRetriever": "tools.hybrid",
    "Task": "tasks.task",
    "load_tasks": "tasks.loading",
    "ModelError": "models.model",
    "load_model": "models.loading",
    "rollout": "rollouts.engine",
    "state_before": "rollouts.session",
    "generate": "distillation",
    "select": "distillation",
    "convert": "files.formats",
    "correct": "training.correction",
    "train": "training.trainer",
    "improve": "training.reinforcement",
    "evaluate": "results.evaluation",
    "Grade": "grading.grade",
    "grade": "grading.grade",
    "exact_match": "grading.squad",
    "f1": "grading.squad",
    "math_equal": "grading.math_equality",
    "regrade": "results.regrading",
}

__all__ = [
    "Action",
    "AgentDistillError",
    "Bm25Index",
    "Candidate",
    "GenerateConfig",
    "Grade",
    "HttpRetriever",
    "HybridRetriever",
    "ImproveConfig",
    "Limits",
    "ModelError",
    "Observation",
    "ParseFailure",
    "Passage",
    "RetrievalError",
    "RetrievalServer",
    "RolloutConfig",
    "Sandbox",
    "SandboxError",
    "ScriptedModel",
    "SelectConfig",
    "State",
    "Step",
    "Task",
    "Tool",
    "TrainConfig",
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
    "improve",
    "iter_trajectories",
    "load_model",
    "load_tasks",
    "math_equal",
    "open_page",
    "parse_action",
    "python_tool",
    "read_trajectories",
    "regrade",
    "rollout",
    "select",
    "state_before",
    "train",
    "vote",
    "web_search",
]


def _repr_html_(self: Trajectory) -> str:
    """The trajectory as HTML for a notebook."""
    from agentdistill.results.page import in_notebook

    return in_notebook(self)


Trajectory._repr_html_ = _repr_html_  # type: ignore[method-assign]  # here, because the core does not know about HTML


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
