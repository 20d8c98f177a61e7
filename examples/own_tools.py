"""An agent with your own corpus and tools: it looks up a recipe, converts units, and answers.

python examples/own_tools.py                                          # a script replaces the model
python examples/own_tools.py openai:http://127.0.0.1:8000/v1:NAME     # a real model
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from agentdistill import Bm25Index, Task, rollout
from agentdistill.models.model import Message
from agentdistill.models.scripted import ScriptedModel
from agentdistill.tools.tool import python_tool, web_search

RECIPES = [
    ("1", "Pancakes", "Pancakes for four need 2 cups of flour, 3 eggs and a pint of milk."),
    ("2", "Shortbread", "Shortbread needs 1 cup of sugar, 2 cups of butter and 4 cups of flour."),
]
GRAMS_OF_A_CUP = {"flour": 125, "sugar": 200, "butter": 227}


def cups_to_grams(cups: float, ingredient: str) -> float:
    """Weight of a number of cups of an ingredient, in grams."""
    return cups * GRAMS_OF_A_CUP[ingredient]


def script(messages: Sequence[Message], prefix: str, index: int) -> str:
    """Do what a model might do: search, read, convert."""
    if messages[-1].content.startswith("Observation:"):
        thought, code = "It needs 4 cups.", "final_answer(cups_to_grams(4, 'flour'))"
    else:
        thought, code = "I look up the recipe.", "print(web_search('shortbread flour'))"
    return f"Thought: {thought}\nCode:\n```py\n{code}\n```<end_code>"


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else ScriptedModel("script", script)
    with tempfile.TemporaryDirectory() as folder:
        tools = [web_search(Bm25Index.build(RECIPES, Path(folder) / "recipes")), python_tool(cups_to_grams)]
        (trajectory,) = rollout([Task("1", "How many grams of flour does shortbread need?", "500")], model, tools)
    for step in trajectory.steps:
        print(step.candidates[step.winner].text, step.message, sep="\n")
    print(f"\nAnswer: {trajectory.answer} ({'right' if trajectory.score else 'wrong'})")


if __name__ == "__main__":
    main()
