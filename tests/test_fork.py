"""What works in a process also works in its forked child, where the parent's threads do not exist."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

USE_EVERYTHING = """
import os, signal, sys
from agentdistill import (
    Bm25Index, RolloutConfig, Sandbox, ScriptedModel, Task, grade, python_tool, read_trajectories, rollout
)

sandbox = Sandbox()
index = Bm25Index.build([(str(n), f"title {n}", f"passage {n}") for n in range(100)], "index")

def use_everything(where):
    action = "Thought: now.\\nCode:\\n```py\\nfinal_answer(5)\\n```<end_code>"
    model = ScriptedModel("scripted", lambda messages, prefix, n: action)
    tasks = [Task(str(n), f"What is {n} - {n} + 5?", "5", "sums", "math") for n in range(8)]
    played = rollout(tasks, model, config=RolloutConfig(candidates=2), output=f"{where}.jsonl", progress=False)
    assert [t.score for t in played] == [1.0] * 8, played
    assert len(read_trajectories(f"{where}.jsonl")) == 8
    assert all(hits for hits in index.search_batch([f"passage {n}" for n in range(50)], 3))
    (one, _), (two, _) = sandbox.run_many([(sandbox.initial, "1 + 1"), (sandbox.initial, "2 + 2")])
    assert (one.value, two.value) == ("2", "4")

use_everything("parent")
child = os.fork()
if child == 0:
    signal.alarm(100)
    use_everything("child")
    os._exit(0)
use_everything("parent_again")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


CONNECTIONS = """
import json, os, signal, sys
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from agentdistill import HttpRetriever, Task, load_model, rollout

ports = defaultdict(set)  # of the connections that each process used

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        ports["child" if "by the child" in json.dumps(request) else "parent"].add(self.client_address[1])
        message = {"role": "assistant", "content": "Code:\\n```py\\nfinal_answer(5)\\n```<end_code>"}
        answer = {"result": [[{"id": "1", "contents": "title\\ntext"}]]} if "queries" in request else {
            "id": "1", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        }
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
retriever, model = HttpRetriever(url), load_model(f"openai:{url}/v1:m")

def ask(question):
    assert retriever.search(question)[0].text == "text"
    (played,) = rollout([Task("1", question, "5")], model, progress=False)
    assert played.answer == "5", played

ask("asked by the parent")
child = os.fork()
if child == 0:
    signal.alarm(100)
    ask("asked by the child")
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
ask("asked by the parent again")
assert ports["child"] and not ports["child"] & ports["parent"], ports
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("script", [USE_EVERYTHING, CONNECTIONS], ids=["everything works", "connections are its own"])
def test_a_forked_child(script: str, tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
