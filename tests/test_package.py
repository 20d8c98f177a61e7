"""The package as a whole: it imports quickly, and its modules keep to the layers that ARCHITECTURE.md draws."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import agentdistill

PACKAGE = Path(agentdistill.__file__).parent
MODULES = {path.stem: path for path in PACKAGE.glob("*.py")}

# The only modules that may import a heavy library, at any depth.
ONLY_IMPORTERS = {
    "vllm": {"vllm_model"},
    "openai": {"openai_model"},
    "httpx2": {"http_retriever", "openai_model"},
    "pyarrow": {"tables"},
    "torch": {"training", "shares", "transformers_model", "likelihood"},
    "transformers": {"training", "transformers_model", "vllm_model", "examples"},
    "trl": {"training"},
    "peft": {"training", "transformers_model"},
    "tyro": {"cli"},
    "mcp": {"mcp_server", "mcp_tools"},
    "uvicorn": {"chat_server"},
    "starlette": {"chat_server"},
    "smolagents": {"smolagents"},
    "ray": {"cluster"},
    "math_verify": {"math_equality"},
    "sympy": {"math_equality"},
    "datasets": {"benchmark", "training"},
    "matplotlib": {"plots"},
}

# Lower layers never import higher ones.
LAYERS = [
    {"comparison", "extras", "session", "checkpoint", "shares", "retry", "tables", "http_retriever", "squad"},
    {
        "corpus",
        "benchmark",
        "task",
        "model",
        "tool",
        "openai_model",
        "replicas",
        "rendering",
        "vllm_model",
        "transformers_model",
        "math_equality",
    },
    {"grading"},
    {"prompt", "self_consistent_action", "first_thought_prefix"},
    {"agent", "repl", "mcp_server", "mcp_tools", "examples", "judge", "page"},
    {"plots", "viewer"},
    {"chain_of_thought"},
    {"player"},
    {"cluster"},
    {"engine", "likelihood"},
    {"graders"},
    {"distillation", "formats", "correction", "evaluation", "training", "chat", "smolagents"},
    {"regrading", "chat_server"},
    {"recipe", "report"},
    {"cli"},
]


def imports(path: Path) -> set[str]:
    """Dotted names that a module imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_import_is_light_and_quick() -> None:
    code = """
import sys, time
start = time.perf_counter()
import agentdistill
seconds = time.perf_counter() - start
loaded = {name.split(".")[0] for name in sys.modules}
heavy = sorted(loaded & {"torch", "transformers", "vllm", "openai", "mcp", "pydantic", "numpy", "rich", "httpx2"})
print(f"{seconds:.3f} {heavy}")
"""
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(5)]
    seconds = min(float(run.stdout.split()[0]) for run in runs)
    assert all(run.stdout.split(maxsplit=1)[1].strip() == "[]" for run in runs), runs[0].stdout
    assert seconds < 0.1


@pytest.mark.parametrize("name", agentdistill.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(agentdistill, name)
    assert name == "__version__" or (value.__doc__ or "").strip(), f"{name} has no docstring"


@pytest.mark.parametrize("library", ONLY_IMPORTERS)
def test_heavy_libraries_have_one_door(library: str) -> None:
    importers = {name for name, path in MODULES.items() if any(i.split(".")[0] == library for i in imports(path))}
    assert importers <= ONLY_IMPORTERS[library]


def test_layers_point_downwards() -> None:
    for height, layer in enumerate(LAYERS):
        above = set().union(*LAYERS[height + 1 :])
        for name in layer & MODULES.keys():
            upward = {higher for higher in above if f"agentdistill.{higher}" in imports(MODULES[name])}
            assert not upward, f"{name} imports {upward}, a layer above it"


def test_the_agent_cannot_tell_teacher_from_student() -> None:
    source = MODULES["agent"].read_text().lower()
    names = {node.id.lower() for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    assert not {name for name in names if "teacher" in name or "student" in name}
