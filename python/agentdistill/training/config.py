"""How is a student trained: which settings are there, what are their defaults, and which cannot be?

Not here: what they come to on this machine (settings.py).
"""

from dataclasses import dataclass
from typing import Literal

from agentdistill.rollouts.wording import Compat
from agentdistill.training.examples import SpanKind

_CHOICES: dict[str, tuple[str | None, ...]] = {
    "method": ("lora", "qlora", "full"),
    "schedule": ("constant", "linear", "cosine"),
    "precision": ("bfloat16", "float32", None),
    "report_to": ("none", "trackio", "wandb", "tensorboard"),
}


@dataclass(frozen=True)
class TrainConfig:
    """How a student is trained. The defaults are those of the paper and its code."""

    method: Literal["lora", "qlora", "full"] = "lora"
    """"lora" trains an adapter on all linear layers, "full" all weights (paper: LoRA, which did better). "qlora" is
    LoRA with the model's own weights in 4 bits meanwhile: a quarter of the memory for them, and slower (extra
    ``qlora``)."""
    rank: int = 64
    """LoRA: rank of an adapter's matrices (paper: 64)."""
    alpha: int = 128
    """LoRA: the adapter counts by alpha / rank (paper: 128)."""
    dropout: float = 0.05
    """LoRA: share of an adapter's inputs left out in training (paper: 0.05)."""
    learning_rate: float | None = None
    """Highest learning rate. By default 2e-4 for LoRA (paper: 2e-4) and 2e-5 for all weights."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the learning rate falls after the warm-up (paper's code: linear)."""
    warmup: float = 0.0
    """Share of the steps in which the learning rate rises (paper's code: none)."""
    beta2: float = 0.999
    """Adam's beta2: how slowly it forgets the squares of past gradients (paper's code: 0.999). A run of some hundred
    steps is shorter than that memory; 0.98 fits it."""
    epochs: float = 2.0
    """Times each example is seen (paper: 2)."""
    batch_size: int = 8
    """Examples per step of the optimizer (paper: 8)."""
    device_batch_size: int | None = None
    """Examples in one forward pass; gradients are summed up to ``batch_size``. By default 1 on a GPU and for packed
    rows; else as much of the process's share of ``batch_size`` as makes 2,048 tokens, or fewer of a larger model, to
    bound the memory. Examples of like length go through the model together."""
    held_out: float = 0.0
    """Share of the examples that is not trained on. Their loss is measured at every checkpoint, and the student is that
    of the lowest."""
    patience: int = 3
    """Training ends when the held-out loss has not fallen for so many checkpoints."""
    max_length: int = 10_240
    """Longest example, in tokens (paper: 10,240)."""
    precision: Literal["bfloat16", "float32"] | None = None
    """Of the arithmetic; weights that are trained are always float32. By default bfloat16 where the hardware has it (a
    GPU, a CPU with AVX512-BF16 or AMX)."""
    gradient_checkpointing: bool | None = None
    """Compute activations again in the backward pass instead of keeping them: slower, with less memory. By default on a
    GPU, and on a CPU where one example is twice too long for a pass."""
    group_by_length: bool = False
    """Put examples of like length into one batch: less padding, but batches of one kind of task where lengths tell them
    apart, which made the demo's students far worse."""
    packing: bool = False
    """Put several examples into one row of up to ``max_length`` tokens, where none sees another: less padding. The
    batch sizes then count rows."""
    thought_weight: float = 1.0
    """Factor of the loss of a turn's thought (paper: 1, as for all that follows)."""
    action_weight: float = 1.0
    """Factor of the loss of a turn's code, and of the end of the turn."""
    answer_weight: float = 1.0
    """The same where the code, or the text, gives the final answer."""
    shard: bool = False
    """Spread weights, gradients and the optimizer's memory over the processes (FSDP2), where each would hold the whole
    model."""
    teacher: str | None = None
    """Experimental: on-policy distillation from this model, a folder or a hub id with the student's tokenizer. The
    examples are then rollouts of the student itself, right and wrong, and of what it wrote no token is learnt as it is:
    each becomes as likely to the student as it is to the teacher."""
    prompt: str | None = None
    """System prompt to train under, as in ``AgentConfig``; "" for none. Only where trajectories are rendered here."""
    compat: Compat | None = None
    """Form of the conversation to train under, as in ``AgentConfig``; the student is then to be asked in the same."""
    thoughts: bool = False
    """Learn what a reasoning model thought before each turn, too; by default a student learns to act at once. Only
    where trajectories are rendered here."""
    save_steps: int | None = None
    """Steps between checkpoints; by default one at the end of each epoch."""
    seed: int = 0
    """Of the order of examples, dropout and the adapter's first weights."""
    report_to: Literal["none", "trackio", "wandb", "tensorboard"] = "none"
    """Where losses are shown as the training goes, besides ``train.json``; its library has to be installed."""
    sft_config: tuple[str, ...] = ()
    """Anything else that TRL's SFTConfig has, as NAME=VALUE: neftune_noise_alpha=5, max_grad_norm=0.5."""
    lora_config: tuple[str, ...] = ()
    """Anything else that PEFT's LoraConfig has, as NAME=VALUE: use_rslora=true, target_modules=["q_proj","v_proj"]."""

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be."""
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}: give one of {', '.join(map(str, allowed))}")
        for name in ("rank", "alpha", "learning_rate", "epochs", "batch_size", "max_length", "patience"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give more than 0")
        for name in ("dropout", "warmup", "beta2", "held_out"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give a share from 0 to less than 1")
        for name, weight in self.weights.items():
            if weight < 0 or not any(self.weights.values()):
                raise ValueError(f"{name}_weight is {weight}: give 0 or more, and not 0 to all")
        if self.shard and self.method == "qlora":
            raise ValueError("shard is set, and weights of 4 bits are not sharded: give qlora or shard")
        if self.lora_config and not self.adapts:
            raise ValueError(f"lora_config is set, and there is no adapter: give method lora, not {self.method}")
        if self.save_steps is not None and self.save_steps < 1:
            raise ValueError(f"save_steps is {self.save_steps}: give at least 1")
        if self.device_batch_size is not None and (
            self.device_batch_size < 1 or self.batch_size % self.device_batch_size
        ):
            raise ValueError(
                f"device_batch_size is {self.device_batch_size}: give a divisor of batch_size {self.batch_size}"
            )

    @property
    def rate(self) -> float:
        """The highest learning rate, given or by default."""
        return self.learning_rate or (2e-4 if self.adapts else 2e-5)

    @property
    def adapts(self) -> bool:
        """Whether an adapter is trained, and the model's own weights are not."""
        return self.method != "full"

    @property
    def weights(self) -> dict[SpanKind, float]:
        """Factor of the loss of each kind of span."""
        return {"thought": self.thought_weight, "action": self.action_weight, "answer": self.answer_weight}

    @property
    def weighted(self) -> bool:
        """Whether tokens count differently."""
        return self.teacher is not None or any(weight != 1 for weight in self.weights.values())
