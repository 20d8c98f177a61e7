"""The package as a whole: importing it is fast, and its folders import each other only in the order of
ARCHITECTURE.md."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import agentdistill

PACKAGE = Path(agentdistill.__file__).parent
MODULES = {path.relative_to(PACKAGE).as_posix().removesuffix(".py"): path for path in PACKAGE.rglob("*.py")}

# The only modules that may import a heavy library, at any depth.
ONLY_IMPORTERS = {
    "vllm": {"models/vllm", "models/vllm_top_p"},
    "openai": {"models/openai", "models/forwarding"},
    "httpx2": {"tools/http_retriever", "models/openai"},
    "pyarrow": {"files/tables"},
    "torch": {
        "training/distillation_guided",
        *("training/settings", "training/step", "training/student", "training/memory"),
        *("training/shares", "training/likelihood"),
        *("models/transformers", "models/key_value_slots", "models/pretrained", "models/device", "models/vllm_top_p"),
        "models/encoder",
        "demo/pretrain",
    },
    "transformers": {
        *("training/trainer", "training/student", "training/examples", "training/reinforcement"),
        *("models/key_value_slots", "models/pretrained", "models/vllm", "models/encoder"),
        *("demo/pretrain", "demo/run"),
    },
    "trl": {
        "training/distillation_guided",
        "training/on_policy_distillation",
        "training/trainer",
        "training/settings",
        "training/step",
        "training/reinforcement",
    },
    "peft": {"training/settings", "training/student", "models/pretrained"},
    "bitsandbytes": {"training/student"},
    "tyro": {"cli/commands", "cli/arguments", "cli/data", "cli/distill", "cli/evaluate", "cli/experiment", "cli/serve"},
    "mcp": {"serving/mcp_server", "tools/mcp"},
    "uvicorn": {"serving/http_server", "serving/connection"},
    "starlette": {
        *("serving/http_server", "serving/api_server"),
        *("serving/chat_server", "serving/gateway", "serving/environment_server"),
    },
    "smolagents": {"serving/smolagents"},
    "ray": {"rollouts/cluster"},
    "sympy": {
        f"grading/mathematics/{name}"
        for name in ("building", "calculus", "comparing", "expressions", "reading", "sets", "tokens", "values")
    },
    "datasets": {"training/reinforcement", "tasks/benchmark", "training/trainer"},
    "huggingface_hub": {"files/hub", "training/trainer", "training/model_card"},
    "matplotlib": {"results/plots", "demo/page"},
}

# Folders and top-level files, lowest first: each may import only those before it.
ORDER = [
    *(
        "extras",
        "well_formed",
        "host_header",
        "redaction",
        "retry",
        "event_loop",
        "per_process",
        "terminal",
        "answers",
        "action_format",
        "named_function",
        "progress",
    ),
    *("files", "trajectories", "tasks", "models", "tools", "grading"),
    *("first_thought_prefix", "self_consistent_action", "rollouts"),
    *("results", "training", "distillation", "serving", "recipe", "demo", "cli", "__main__"),
]


def imports(path: Path) -> Iterator[str]:
    """Dotted names of the modules that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_import_loads_no_heavy_library() -> None:
    code = """
import sys
import agentdistill
loaded = {name.split(".")[0] for name in sys.modules}
print(sorted(loaded & {"torch", "transformers", "vllm", "openai", "mcp", "pydantic", "numpy", "rich", "httpx2"}))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("name", agentdistill.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(agentdistill, name)
    assert name == "__version__" or (value.__doc__ or "").strip(), f"{name} has no docstring"


@pytest.mark.parametrize("library", ONLY_IMPORTERS)
def test_heavy_libraries_have_one_door(library: str) -> None:
    importers = {name for name, path in MODULES.items() if any(i.split(".")[0] == library for i in imports(path))}
    assert importers <= ONLY_IMPORTERS[library]


def test_every_folder_has_its_place_in_the_order() -> None:
    rooms = {name.split("/")[0] for name in MODULES} - {"__init__"}
    assert rooms == set(ORDER)


@pytest.mark.parametrize("room", ORDER)
def test_a_folder_imports_only_those_below_it(room: str) -> None:
    below = {*ORDER[: ORDER.index(room) + 1], "_core"}
    for name, path in MODULES.items():
        if name.split("/")[0] == room:
            imported = {i.split(".")[1] for i in imports(path) if i.startswith("agentdistill.")}
            assert imported <= below, f"{name} imports {imported - below}, which stand above {room}"


@pytest.mark.parametrize("name", MODULES)
def test_a_module_says_which_question_it_answers(name: str) -> None:
    assert ast.get_docstring(ast.parse(MODULES[name].read_text())), f"{name} has no docstring"


def test_the_agent_cannot_tell_teacher_from_student() -> None:
    source = MODULES["rollouts/agent"].read_text().lower()
    names = {node.id.lower() for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    assert not {name for name in names if "teacher" in name or "student" in name}
