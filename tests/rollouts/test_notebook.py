"""Notebooks, run by a real kernel: progress is one moving bar that the saved notebook keeps; trajectories display."""

import pytest

CELL = """
from agentdistill import Task, rollout
from agentdistill.models.scripted import ScriptedModel
from agentdistill.progress import StepProgress

model = ScriptedModel("script", lambda *_: "Thought: Known.\\nCode:\\n```py\\nfinal_answer(42)\\n```<end_code>")
trajectories = rollout([Task(str(i), "What is 6 * 7?", "42") for i in range(3)], model)
with StepProgress("train <b>", 2) as shown:
    shown.step, shown.value = 2, "0.125"
trajectories[0]
"""


def test_progress_is_a_bar_in_the_cell_and_a_trajectory_is_shown() -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs agentdistill[dev]")
    nbformat = pytest.importorskip("nbformat", reason="needs agentdistill[dev]")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    nbclient.NotebookClient(notebook, timeout=120).execute()
    outputs = notebook.cells[0].outputs
    rollout, train = [output["data"] for output in outputs if output["output_type"] == "display_data"]
    assert rollout["text/html"].startswith('<progress max="3" value="3"></progress> rollout: 3/3, accuracy 100.0%')
    assert train["text/plain"] == "train <b>: step 2/2, loss 0.125"
    assert train["text/html"] == '<progress max="2" value="2"></progress> train &lt;b&gt;: step 2/2, loss 0.125'
    (last,) = [output["data"] for output in outputs if output["output_type"] == "execute_result"]
    assert '<details open class="episode right"><summary>What is 6 * 7?</summary>' in last["text/html"]
    (printed,) = [output for output in outputs if output["output_type"] == "stream"]
    assert (printed["name"], printed["text"][:26]) == ("stdout", "rollout: time of episodes:")
