"""Reward where an episode is right, a teacher where it is wrong: distillation-guided policy optimization.

DGPO (arXiv:2508.20324) gives a right episode the reward 1, and a wrong one the negative KL divergence to a teacher at
the tokens that the student sampled. So a task that the student never solves teaches it something too, which GRPO's
comparison of rewards cannot. The paper does this with PPO; here it is GRPO: TRL's GRPOTrainer, in which each token of
an episode that is not right gets its own advantage,

    teacher_weight * (log probability under the teacher - log probability under the student)

in place of its episode's. The mean of the resulting gradient over samples is that of the reverse KL divergence, which
on_policy_distillation.py computes over the whole vocabulary.
"""

from typing import Any

import torch
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head


class DistillationGuidedTrainer(GRPOTrainer):  # type: ignore[misc]  # TRL is untyped to mypy
    """GRPOTrainer with a teacher. Its ``rollout_func`` also returns ``right``: whether each episode is."""

    def __init__(self, *, teacher_model: Any, teacher_weight: float, **options: Any) -> None:
        super().__init__(**options)
        add_fused_lm_head(teacher_model, temperature=self.temperature)  # as TRL scores the student's tokens
        self._teacher = self.accelerator.prepare_model(teacher_model, evaluation_mode=True)
        self._teacher_weight = teacher_weight

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        own, theirs = (self._logprobs(model, batch) for model in (self.model, self._teacher))
        right = torch.tensor([episode["right"] for episode in inputs], device=own.device)
        batch["advantages"] = torch.where(
            right[:, None], batch["advantages"][:, None], self._teacher_weight * (theirs - own)
        )
        return batch

    def _logprobs(self, model: Any, batch: dict[str, Any]) -> torch.Tensor:
        """The log probability of each token of the completions (episodes x tokens)."""
        ids, attention = (
            torch.cat([batch[f"prompt_{what}"], batch[f"completion_{what}"]], dim=1) for what in ("ids", "mask")
        )
        kept, at_once = batch["completion_ids"].size(1), self.args.per_device_train_batch_size
        with torch.no_grad():
            scored = self._get_per_token_logps_and_entropies(model, ids, attention, kept, at_once)
        logprobs: torch.Tensor = scored[0]
        return logprobs
