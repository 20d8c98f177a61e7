"""Your own test set: tasks in a CSV file, accuracy by task set, and the wrong answers.

python examples/own_task_set.py                                       # a script replaces the model
python examples/own_task_set.py openai:http://127.0.0.1:8000/v1:NAME  # a real model
"""

import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from agentdistill import evaluate, load_tasks, read_trajectories
from agentdistill.models.model import Message
from agentdistill.models.scripted import ScriptedModel

TASKS = """\
id,question,answer,task_set
sum,What is 17 + 25?,42,sums
power,What is 2 ** 100?,1267650600228229401496703205376,sums
primes,What is the sum of the first ten primes?,129,words
leap,How many days does a leap year have?,366,words
"""


def script(messages: Sequence[Message], prefix: str, index: int) -> str:
    """Compute questions that contain a formula, and guess the rest."""
    formula = re.search(r"\d+ \S+ \d+", messages[-1].content)
    return f"Thought: I compute it.\nCode:\n```py\nfinal_answer({formula[0] if formula else 365})\n```<end_code>"


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else ScriptedModel("script", script)
    with tempfile.TemporaryDirectory() as folder:
        path, output = Path(folder) / "test.csv", Path(folder) / "results"
        path.write_text(TASKS)
        print(evaluate(load_tasks(path), model, output=output))
        for trajectory in read_trajectories(output / "trajectories.jsonl"):
            if not trajectory.score:
                print(f"wrong: {trajectory.question} {trajectory.answer}, not {trajectory.reference}")


if __name__ == "__main__":
    main()
