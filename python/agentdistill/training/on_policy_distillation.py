"""A teacher's distribution at every token that a student sampled in its own rollouts, as the target of training.

On-policy distillation (arXiv:2306.13649) minimizes the reverse KL divergence, student to teacher. TRL's
DistillationTrainer computes it; here it gets the rollouts that ``improve`` makes (reinforcement.py), with observations
masked out. Not here: recorded rollouts and a teacher's probability of only the sampled token (likelihood.py).
"""

from collections.abc import Callable
from typing import Any

from trl import DistillationTrainer

Rollouts = Callable[[list[str], Any], dict[str, list[Any]]]
"""A ``rollout_func`` of TRL: prompts and trainer to token ids, ``env_mask``, ``reward``."""


class OnPolicyTrainer(DistillationTrainer):  # type: ignore[misc]  # TRL is untyped to mypy
    """DistillationTrainer with episodes from ``rollouts`` in place of its own generation."""

    def __init__(self, *, rollouts: Rollouts, **options: Any) -> None:
        self._rollouts = rollouts
        super().__init__(**options)

    def _generate(self, prompts: list[str]) -> tuple[Any, ...]:
        made = self._rollouts(prompts, self)
        if rewards := [reward for reward in made["reward"] if reward is not None]:
            self._metrics["train"]["reward"].append(sum(rewards) / len(rewards))
        images, tool_images = None, list[Any]()
        return made["prompt_ids"], made["completion_ids"], made["env_mask"], images, tool_images
