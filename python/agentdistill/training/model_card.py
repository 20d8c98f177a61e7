"""Write a student's model card and a plot of its losses beside its weights.

Not here: the figures themselves (trainer.py writes them to train.json).
"""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from agentdistill._core import __version__
from agentdistill.results.plots import plot_losses, save

CARD = """\
---
{metadata}
---
# {name}

{base}, trained by agentdistill {version} on {examples} examples of a teacher's trajectories (fingerprint `{data}`).
It thinks, calls tools from Python code in a sandbox, and answers:

    agentdistill ask "..." --model vllm:PATH_OF_THIS_FOLDER --index INDEX

![Losses](loss.png)

{steps} steps, {learnt}. The base model's licence applies to this model too. Settings:

| | |
|---|---|
{settings}
"""


def write_card(student: Path, name: str, run: dict[str, Any], result: dict[str, Any]) -> None:
    """Write README.md and loss.png into a student's folder. ``run`` and ``result`` are as in train.json."""
    save(plot_losses({"training": {**run, **result}}), student / "loss.png")
    base = str(run["model"])
    local = Path(base).exists()
    shown = {key: value for key, value in run.items() if key not in ("model", "examples", "data")}
    shown["teacher"] = shown["teacher"] and _name(shown["teacher"])
    losses = [f"last loss {result['losses'][-1]:.3f}"] if result["losses"] else []
    losses += [f"lowest held-out loss {min(result['held_out_losses']):.3f}"] if result["held_out_losses"] else []
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
        version=__version__,
        examples=run["examples"],
        data=run["data"],
        steps=result["steps"],
        learnt=", ".join(losses),
        settings="\n".join(f"| {key} | {value} |" for key, value in shown.items()),
    )
    (student / "README.md").write_text(card, encoding="utf-8")


def _name(model: str) -> str:
    """A model's name as others may know it: the path of a local folder means nothing to them."""
    return Path(model).name if Path(model).exists() else model
