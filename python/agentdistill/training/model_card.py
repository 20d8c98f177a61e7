"""Write a student's model card beside its weights, with a plot of its losses or rewards.

Not here: the figures themselves (trainer.py and reinforcement.py write them to train.json).
"""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from agentdistill._core import __version__
from agentdistill.results.plots import plot_losses, plot_steps, save

CARD = """\
---
{metadata}
---
# {name}

{base}, {how}.
It thinks, calls tools from Python code in a sandbox, and answers:

    agentdistill ask "..." --model vllm:PATH_OF_THIS_FOLDER --index INDEX

![Each step's {plotted}]({plotted}.png)

{learnt}. The base model's licence applies to this model too. Settings:

| | |
|---|---|
{settings}
"""


def write_card(student: Path, name: str, run: dict[str, Any], result: dict[str, Any]) -> None:
    """Write the card of a student that was trained on trajectories. ``run`` and ``result`` are as in train.json."""
    save(plot_losses({"training": {**run, **result}}), student / "loss.png")
    how = (
        f"trained by agentdistill {__version__} on {run['examples']} examples of a teacher's trajectories "
        f"(fingerprint `{run['data']}`)"
    )
    learnt = [f"last loss {result['losses'][-1]:.3f}"] if result["losses"] else []
    learnt += [f"lowest held-out loss {min(result['held_out_losses']):.3f}"] if result["held_out_losses"] else []
    _write(student, name, run, how, [f"{result['steps']} steps", *learnt], "loss")


def write_improved_card(student: Path, name: str, run: dict[str, Any], result: dict[str, Any]) -> None:
    """Write the card of a student that was trained on its own rollouts. ``run`` and ``result`` are as in train.json."""
    measure, values = ("reward", result["rewards"]) if result["rewards"] else ("loss", result["losses"])
    save(plot_steps(values, measure), student / f"{measure}.png")
    how = f"trained by agentdistill {__version__} on its own rollouts of {run['tasks']} tasks, by {run['method']}"
    tenth = max(1, len(values) // 10)
    first, last = (sum(part) / tenth for part in (values[:tenth], values[-tenth:]))
    learnt = [f"mean {measure} {first:.3f} in the first tenth of the steps and {last:.3f} in the last"]
    _write(student, name, run, how, [f"{result['steps']} steps", *learnt], measure)


def _write(student: Path, name: str, run: dict[str, Any], how: str, learnt: list[str], plotted: str) -> None:
    base = str(run["model"])
    local = Path(base).exists()
    shown = {key: value for key, value in run.items() if key not in ("model", "examples", "data", "tasks")}
    if shown.get("teacher"):
        shown["teacher"] = _name(shown["teacher"])
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["agentdistill", "agent"],
        base_model=None if local else base,
    )
    card = CARD.format(
        metadata=metadata.to_yaml(),
        name=name,
        base=_name(base) if local else f"[{base}](https://huggingface.co/{base})",
        how=how,
        plotted=plotted,
        learnt=", ".join(learnt),
        settings="\n".join(f"| {key} | {value} |" for key, value in shown.items()),
    )
    (student / "README.md").write_text(card, encoding="utf-8")


def _name(model: str) -> str:
    """A model's name as others may know it: the path of a local folder means nothing to them."""
    return Path(model).name if Path(model).exists() else model
