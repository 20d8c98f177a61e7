"""One optimizer step: how its examples are grouped into forward passes, and how their loss is computed.

The loss of a step is the mean over all learnt tokens of its examples, however these are grouped. So a pass can hold
examples of similar length, which need less padding, and logits are computed only for the tokens that are learnt.

Not here: which examples make a step (transformers' sampler), and how the loss changes the weights (TRL's trainer).
"""

import inspect
from typing import Any

from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from trl import SFTTrainer

MAX_LOGITS = 1 << 26
"""Maximum number of logits of a pass held at once on a CPU (256 MB in float32). Above it, TRL's head is used, which
computes them in chunks, also for tokens that are not learnt."""


class StudentTrainer(SFTTrainer):  # type: ignore[misc]  # trl is untyped to mypy
    """TRL's trainer with passes of similar length, and with a weight and a target for the loss of each token.

    If a token has a target for its log probability, its loss is half the squared distance to it. The gradient is (log p
    - log q) times that of log p. For tokens sampled from the student p, this is the gradient of the reverse
    Kullback-Leibler divergence to the teacher q. Unlike a reward per token, it stays correct after the student has
    moved away from the p that sampled the tokens, because it vanishes at the target.
    """

    args: Any
    accelerator: Any
    aux_loss_enabled: bool
    data_collator: Any
    label_smoother: Any
    model: Any

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        collate = self.data_collator

        def collate_with_weights(rows: list[dict[str, Any]]) -> dict[str, Any]:
            more = {"weights", "target"}.intersection(rows[0])
            laid_out = {name: collate([{**row, "labels": row[name]} for row in rows])["labels"] for name in more}
            return {**collate(rows), **laid_out}  # padded and shaped like the labels

        self.data_collator = collate_with_weights
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        plain = self.args.loss_type == "nll" and self.label_smoother is None and not self.aux_loss_enabled
        on_cpu = self.args.device.type == "cpu"  # on a GPU, TRL's kernel also skips the other tokens
        can_choose = "logits_to_keep" in inspect.signature(base.forward).parameters
        chosen = plain and on_cpu and can_choose
        self._most_scored = MAX_LOGITS // base.config.get_text_config().vocab_size if chosen else 0

    def get_batch_samples(self, *args: Any) -> tuple[list[dict[str, Any]], Any]:
        """The passes of a step, and its number of learnt tokens."""
        passes, items = super().get_batch_samples(*args)
        return by_length(passes), items

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        weights, target = inputs.pop("weights", None), inputs.pop("target", None)
        scored = (inputs["labels"][:, 1:] != -100).any(dim=0).nonzero()[:, 0]
        if len(inputs["labels"]) * len(scored) <= self._most_scored:
            labels = inputs.pop("labels")[:, scored + 1]
            output = model(**inputs, logits_to_keep=scored, use_cache=False)
            losses = cross_entropy(output.logits.float().flatten(0, 1), labels.flatten(), reduction="none")
            losses, learnt = losses.view_as(labels), labels != -100
            weights, target = (None if values is None else values[:, scored + 1] for values in (weights, target))
        elif weights is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        else:
            output = model(**inputs, fused_lm_head=True)
            losses, learnt = -output.log_probs, output.label_mask
            weights, target = weights[:, 1:], None if target is None else target[:, 1:]
        if target is not None:
            losses = (losses + target).square() / 2
        if weights is not None:
            losses = losses * weights
        loss = (losses * learnt).sum() / (
            learnt.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        )
        if num_items_in_batch is not None:
            loss = (
                loss * self.accelerator.num_processes
            )  # the items are counted over all processes, which average their gradients
        return (loss, output) if return_outputs else loss


def by_length(passes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort the examples of a step by length and regroup them into passes of the same sizes, with no more padding than
    needed. Packed rows stay as they are."""
    if len(passes) < 2 or "attention_mask" not in passes[0]:
        return passes
    rows = [
        {name: values[n, : int(examples["attention_mask"][n].sum())] for name, values in examples.items()}
        for examples in passes
        for n in range(len(examples["input_ids"]))
    ]
    rows.sort(key=lambda row: len(row["input_ids"]))
    sorted_passes, at = [], 0
    for size in (len(examples["input_ids"]) for examples in passes):
        together = rows[at : at + size]
        sorted_passes.append(
            {
                name: pad_sequence([row[name] for row in together], True, -100 if name == "labels" else 0)
                for name in together[0]
            }
        )
        at += size
    return sorted_passes
