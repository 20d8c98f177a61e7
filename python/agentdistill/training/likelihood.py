"""Likelihoods: of a teacher's trajectories to an untrained student, and of a student's rollouts to its teacher.

Not here: how they are used (distillation.py selects among samples; step.py trains the student towards its teacher).
"""

from collections.abc import Sequence
from statistics import mean, median
from typing import Any

import torch

from agentdistill._core import Trajectory
from agentdistill.models.device import default_device
from agentdistill.models.pretrained import load
from agentdistill.training.examples import Example, Span, load_tokenizer, to_examples

_HIGHEST_RANK = 100


def mean_nll(trajectories: Sequence[Trajectory], model: str, *, prompt: str | None = None) -> list[float]:
    """For each trajectory, the mean negative log likelihood, in nats, of the tokens that ``model`` would learn from it.

    ``model`` is a folder or a hub id, ``prompt`` is as in ``AgentConfig``. The value is infinite for a trajectory that
    gives no example. Raises ModelError if the model is not there.
    """
    student, tokenizer = _loaded(model)
    made = (to_examples([trajectory], tokenizer, prompt=prompt).examples for trajectory in trajectories)
    return [_mean([loss for example in examples for loss in _losses(example, student)]) for examples in made]


def rank_surprisal_ratio(trajectories: Sequence[Trajectory], model: str, *, prompt: str | None = None) -> list[float]:
    """For each trajectory, the mean rank of its tokens divided by their mean negative log likelihood, in 1/nat.

    A low ratio marks text that ``model`` does not expect, but whose tokens are among those that it considers: there is
    something to learn, within reach (arXiv:2601.14249). The likeliest token has rank 1, and ranks above 100 count as
    100, as in the paper. Arguments, errors, and the value without an example are as for ``mean_nll``.
    """
    student, tokenizer = _loaded(model)
    ratios = []
    for trajectory in trajectories:
        ranks, losses = list[int](), list[float]()
        for example in to_examples([trajectory], tokenizer, prompt=prompt).examples:
            logits, learnt = _learnt(example, student)
            ranks += (1 + (logits > logits.gather(1, learnt[:, None])).sum(1)).clamp(max=_HIGHEST_RANK).tolist()
            losses += torch.nn.functional.cross_entropy(logits, learnt, reduction="none").tolist()
        ratios.append(sum(ranks) / sum(losses) if sum(losses) else float("inf"))
    return ratios


def with_teacher_targets(examples: Sequence[Example], student: str, teacher: str) -> list[Example]:
    """Add the teacher's log probability of each token, and its weight, to ``examples``, which are rollouts of
    ``student``.

    Where a step of the student's is unusual to the teacher, the teacher's judgement is less reliable (SOD,
    arXiv:2605.07725). So a step's weight falls if its gap, the mean absolute difference of the two models' log
    probabilities, is above the median of all steps: the weight is median / gap. The formula is our own. Models are
    folders or hub ids. Raises ModelError if one is not there, and ValueError if the two do not share a tokenizer.
    """
    if load_tokenizer(teacher).get_vocab() != load_tokenizer(student).get_vocab():
        raise ValueError(f"{teacher} has another tokenizer than {student}: it cannot score its tokens")
    theirs, own = _logprobs(examples, teacher), _logprobs(examples, student)
    gaps = [
        {step: mean(abs(of[n] - to[n]) for n in step) for step in _steps(example["spans"])}
        for example, of, to in zip(examples, own, theirs, strict=True)
    ]
    usual = median(gap for steps in gaps for gap in steps.values())
    made = []
    for example, target, steps in zip(examples, theirs, gaps, strict=True):
        factors = [0.0] * len(target)
        for step, gap in steps.items():
            for n in step:
                factors[n] = usual / max(gap, usual) if usual else 1.0
        made.append(Example({**example, "target": target, "factors": factors}))
    return made


def _logprobs(examples: Sequence[Example], path: str) -> list[list[float]]:
    """The log probability of each token of each example; 0 for tokens that are not learnt."""
    model, _ = _loaded(path)
    spread = []
    for example in examples:
        losses = iter(_losses(example, model))
        spread.append([-next(losses) if n and learnt else 0.0 for n, learnt in enumerate(example["completion_mask"])])
    return spread


def _loaded(path: str) -> tuple[Any, Any]:
    """Load model and tokenizer. On a CPU in float32, because differences of log probabilities are small."""
    device = default_device()
    return load(path, device, dtype=torch.float32 if device == "cpu" else torch.bfloat16)


def _steps(spans: Sequence[Span]) -> list[range]:
    """The tokens of each step; a step ends with its action or its answer."""
    starts = [start for n, (_, start, _) in enumerate(spans) if n == 0 or spans[n - 1][0] != "thought"]
    ends = [end for kind, _, end in spans if kind != "thought"]
    return [range(start, end) for start, end in zip(starts, ends, strict=True)]


def _losses(example: Example, student: Any) -> list[float]:
    """The negative log likelihood of each token that is learnt."""
    losses: list[float] = torch.nn.functional.cross_entropy(*_learnt(example, student), reduction="none").tolist()
    return losses


def _learnt(example: Example, student: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens that are learnt: the logits at their positions, in float32 (tokens, vocabulary), and their ids."""
    ids = torch.tensor([example["input_ids"]], device=student.device)
    learnt = torch.tensor(example["completion_mask"][1:], device=student.device).nonzero()[:, 0] + 1
    with torch.inference_mode():
        logits = student(input_ids=ids, logits_to_keep=learnt - 1, use_cache=False).logits[0]
    return logits.float(), ids[0, learnt]


def _mean(losses: list[float]) -> float:
    return sum(losses) / len(losses) if losses else float("inf")
