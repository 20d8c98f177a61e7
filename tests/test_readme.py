"""The README is correct: its Python runs and its links resolve. (test_docs.py checks its commands.)"""

import json
import re
from pathlib import Path

import pytest

from agentdistill.demo.run import BASE
from scripted_server import raw, serving

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scripted server replaces the teacher, the demo's smallest base replaces Qwen, and a recording of the teacher
    replaces the trained student in the evaluation."""
    pytest.importorskip("trl", reason="needs agentdistill[train]")
    monkeypatch.chdir(tmp_path)
    Path("corpus.jsonl").write_text('{"id": "1", "title": "Paris", "text": "Paris is the capital of France."}\n')
    for name in ("train", "test"):
        Path(f"{name}.jsonl").write_text('{"question": "What is 6 * 7?", "answer": "42"}\n')
    text = "Thought: I multiply.\nCode:\n```py\nfinal_answer(6 * 7)\n```<end_code>"
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    with serving(raw(json.dumps({"id": "1", "object": "chat.completion", "choices": [choice]}))) as server:
        for block in re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE):
            for said, here in {
                "http://127.0.0.1:8000/v1": f"http://127.0.0.1:{server.server_port}/v1",
                "Qwen/Qwen2.5-0.5B-Instruct": str(BASE / "S"),
                "vllm:{student}": "recorded:traj.jsonl",
            }.items():
                block = block.replace(said, here)
            exec(compile(block, "README.md", "exec"), {})
    assert json.loads(Path("results/results.json").read_text())["accuracy"] == 1
    assert Path("student/merged/config.json").exists()


def test_the_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z-]+)", README)) <= targets


def test_the_configuration_of_an_mcp_client() -> None:
    page = (ROOT / "docs" / "sandbox.md").read_text(encoding="utf-8")
    (configuration,) = re.findall(r"^```json\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (server,) = json.loads(configuration)["mcpServers"].values()
    assert (server["command"], server["args"][:2]) == ("agentdistill", ["mcp", "--index"])


def test_the_links_resolve() -> None:
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        links = re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8"))
        missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
        assert not missing, f"{document.name} links to {missing}"
