"""How likely is what a teacher did to a student that has not learnt it yet?

Not here: what is done with it (distillation.py chooses among samples).
"""

from collections.abc import Sequence
from typing import Any

import torch

from agentdistill._core import Trajectory
from agentdistill.examples import Example, to_examples
from agentdistill.transformers_model import load


def mean_nll(trajectories: Sequence[Trajectory], model: str, *, prompt: str | None = None) -> list[float]:
    """For each trajectory, the mean negative log likelihood, in nats, of the tokens that ``model`` would learn from it.

    ``model`` is a folder or a hub id, ``prompt`` as in ``AgentConfig``. Infinite for a trajectory that it cannot learn
    from. Raises ModelError for a model that is not there.
    """
    student, tokenizer = load(model, "cuda" if torch.cuda.is_available() else "cpu")
    made = (to_examples([trajectory], tokenizer, prompt=prompt).examples for trajectory in trajectories)
    return [_mean([loss for example in examples for loss in _losses(example, student)]) for examples in made]


def _losses(example: Example, student: Any) -> list[float]:
    ids = torch.tensor([example["input_ids"]], device=student.device)
    learnt = torch.tensor(example["completion_mask"], device=student.device).nonzero()[:, 0]
    with torch.inference_mode():
        logits = student(input_ids=ids, logits_to_keep=learnt - 1, use_cache=False).logits[0]
    losses: list[float] = torch.nn.functional.cross_entropy(logits.float(), ids[0, learnt], reduction="none").tolist()
    return losses


def _mean(losses: list[float]) -> float:
    return sum(losses) / len(losses) if losses else float("inf")
