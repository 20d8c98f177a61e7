"""The settings of training and of reinforcement learning, their defaults, and checks that refuse impossible values.

Not here: how they become settings of TRL and PEFT on this machine (settings.py).
"""

from dataclasses import dataclass
from typing import Literal

from agentdistill.rollouts.player import RolloutConfig
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
    """Settings of a training run. The defaults are those of the paper and its code."""

    method: Literal["lora", "qlora", "full"] = "lora"
    """"lora" trains an adapter on all linear layers (paper: better than "full"), "full" all weights.
    "qlora" is LoRA with the base model in 4 bits: less memory, but slower (extra ``qlora``)."""
    rank: int = 64
    """LoRA rank (paper: 64)."""
    alpha: int = 128
    """LoRA scaling: the adapter's output is multiplied by alpha / rank (paper: 128)."""
    dropout: float = 0.05
    """LoRA dropout probability (paper: 0.05)."""
    learning_rate: float | None = None
    """Peak learning rate. By default 2e-4 for LoRA (paper: 2e-4) and 2e-5 for full fine-tuning."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """Learning rate schedule after the warmup (paper's code: linear)."""
    warmup: float = 0.0
    """Fraction of the steps in which the learning rate rises (paper's code: none)."""
    beta2: float = 0.999
    """Adam's beta2, the decay of its average of squared gradients (paper's code: 0.999).
    For a run of a few hundred steps, 0.98 fits better."""
    epochs: float = 2.0
    """Passes over the examples (paper: 2)."""
    batch_size: int = 8
    """Examples per optimizer step, over all processes (paper: 8)."""
    device_batch_size: int | None = None
    """Examples per forward pass; gradients are accumulated up to ``batch_size``.
    Default: 1 on a GPU or with packing; on a CPU as many as fit into 2,048 tokens (fewer for a large model)."""
    held_out: float = 0.0
    """Fraction of the examples that is held out.
    Their loss is measured at every checkpoint, and the checkpoint with the lowest becomes the student."""
    patience: int = 3
    """Stop when the held-out loss has not fallen for this many checkpoints."""
    max_length: int = 10_240
    """Maximum length of an example, in tokens (paper: 10,240)."""
    precision: Literal["bfloat16", "float32"] | None = None
    """Precision of the arithmetic. Trained weights are always float32.
    Default: bfloat16 on a GPU and on a CPU with AVX512-BF16 or AMX, else float32."""
    gradient_checkpointing: bool | None = None
    """Recompute activations in the backward pass instead of storing them: less memory, but slower.
    Default: on for a GPU, and for a CPU if an example is more than twice as long as a forward pass should be."""
    group_by_length: bool = False
    """Batch examples of similar length: less padding.
    A batch may then contain one kind of task only; in the demo, that made students far worse."""
    packing: bool = False
    """Pack several examples into one row of up to ``max_length`` tokens, isolated from each other: less padding.
    The batch sizes then count rows."""
    thought_weight: float = 1.0
    """Loss weight of a turn's thought (paper: 1 for all three weights)."""
    action_weight: float = 1.0
    """Loss weight of a turn's code and of the end of the turn."""
    answer_weight: float = 1.0
    """Loss weight of the code, or the text, that gives the final answer, and of the end of that turn."""
    shard: bool = False
    """Shard weights, gradients and optimizer state across the processes (FSDP2).
    By default each process has the whole model."""
    teacher: str | None = None
    """Experimental: on-policy distillation from this model, a folder or hub id with the student's tokenizer.
    The examples are then the student's own rollouts, correct or not.
    Each of their tokens is trained towards the teacher's log probability."""
    prompt: str | None = None
    """System prompt of the examples, as in ``AgentConfig``; "" for none.
    Has no effect on examples that are given as token ids (in Python)."""
    compat: Compat | None = None
    """Conversation form to train with, as in ``AgentConfig``. Use the student with the same form."""
    thoughts: bool = False
    """Also learn a reasoning model's thinking before each turn. By default a student learns to act without it.
    Has no effect on examples that are given as token ids (in Python)."""
    save_steps: int | None = None
    """Steps between checkpoints. By default one checkpoint at the end of each epoch."""
    seed: int = 0
    """Seed of the order of examples, the dropout and the adapter's initial weights."""
    report_to: Literal["none", "trackio", "wandb", "tensorboard"] = "none"
    """Service to log the losses to, besides ``train.json``. Its library must be installed."""
    sft_config: tuple[str, ...] = ()
    """Other settings of TRL's SFTConfig, as NAME=VALUE: neftune_noise_alpha=5, max_grad_norm=0.5."""
    lora_config: tuple[str, ...] = ()
    """Other settings of PEFT's LoraConfig, as NAME=VALUE: use_rslora=true, target_modules=["q_proj","v_proj"]."""

    def __post_init__(self) -> None:
        """Raise ValueError for values that are out of range or do not go together."""
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}: give one of {', '.join(map(str, allowed))}")
        for name in ("rank", "alpha", "learning_rate", "epochs", "batch_size", "max_length", "patience"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give more than 0")
        for name in ("dropout", "warmup", "beta2", "held_out"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give 0 or more, and less than 1")
        for name, weight in self.weights.items():
            if weight < 0 or not any(self.weights.values()):
                raise ValueError(f"{name}_weight is {weight}: give 0 or more, and more than 0 for at least one kind")
        if self.shard and self.method == "qlora":
            raise ValueError("shard does not work with 4-bit weights: give either shard or method qlora")
        if self.lora_config and not self.adapts:
            raise ValueError(f"lora_config needs an adapter: give method lora, not {self.method}")
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
        """Peak learning rate, given or default."""
        return self.learning_rate or (2e-4 if self.adapts else 2e-5)

    @property
    def adapts(self) -> bool:
        """Whether an adapter is trained instead of the model's own weights."""
        return self.method != "full"

    @property
    def weights(self) -> dict[SpanKind, float]:
        """Loss weight of each kind of span."""
        return {"thought": self.thought_weight, "action": self.action_weight, "answer": self.answer_weight}

    @property
    def weighted(self) -> bool:
        """Whether the loss of some tokens counts more than that of others."""
        return self.teacher is not None or any(weight != 1 for weight in self.weights.values())


@dataclass(frozen=True)
class ImproveConfig(RolloutConfig):
    """Settings of reinforcement learning, and of its rollouts. By default, temperature and top-p are 1, because GRPO
    assumes that episodes are samples of the student's own distribution."""

    temperature: float | None = 1.0
    """Sampling temperature of the rollouts."""
    top_p: float = 1.0
    """Nucleus sampling of the rollouts: total probability of the tokens sampled from."""
    method: Literal["grpo", "distill", "dgpo"] = "grpo"
    """"grpo" learns from rewards: group-relative policy optimization.
    "distill" learns the distribution of a teacher at each token that the student sampled: on-policy distillation.
    "dgpo" learns from rewards in right episodes, and from a teacher in all others (arXiv:2508.20324)."""
    teacher: str | None = None
    """The teacher of "distill" and "dgpo": a folder or hub id of a model with the student's tokenizer."""
    teacher_weight: float = 1.0
    """With "dgpo": weight of what the teacher says about a token of an episode that is not right.
    Such a token's advantage is this weight times the log of its probability under the teacher over the student's."""
    steps: int = 100
    """Optimizer steps. Each one samples ``tasks_per_step`` tasks, ``group`` times each."""
    tasks_per_step: int = 4
    """Tasks per optimizer step."""
    group: int = 8
    """Episodes per task and step. GRPO compares their rewards with each other."""
    parse_failure_penalty: float = 0.0
    """Subtracted from an episode's reward for each completion that has no usable action."""
    weights: Literal["lora", "full"] = "lora"
    """"lora" trains an adapter on all linear layers, "full" all weights."""
    rank: int = 64
    """LoRA rank; the scaling alpha is twice that."""
    learning_rate: float | None = None
    """Learning rate, constant. By default 2e-5 for LoRA and 1e-6 for all weights."""
    device_batch_size: int = 4
    """Episodes per forward pass. It divides ``tasks_per_step * group``."""
    max_length: int = 4096
    """Maximum length of an episode in training, in tokens; later turns are left out."""
    precision: Literal["bfloat16", "float32"] | None = None
    """Precision of the arithmetic of a step. By default bfloat16 on GPUs and on CPUs that have it, else float32."""
    save_steps: int = 10
    """Steps between two checkpoints."""
    report_to: Literal["none", "trackio", "wandb", "tensorboard"] = "none"
    """Service to log the rewards to, besides ``train.json``. Its library must be installed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "tasks_per_step", "device_batch_size", "max_length", "save_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 1")
        if self.method not in ("grpo", "distill", "dgpo") or self.weights not in ("lora", "full"):
            raise ValueError(
                f"method is {self.method!r} and weights {self.weights!r}: give grpo, distill or dgpo, and lora or full"
            )
        if (self.method == "grpo") != (self.teacher is None):
            raise ValueError(
                f"method is {self.method!r} and teacher {self.teacher!r}: distill and dgpo need a teacher, grpo none"
            )
        if self.teacher_weight <= 0 or (self.teacher_weight != 1 and self.method != "dgpo"):
            raise ValueError(f"teacher_weight is {self.teacher_weight}: give more than 0, and only with method dgpo")
        if self.group < (1 if self.method == "distill" else 2):
            raise ValueError(f"group is {self.group}: give at least 2, since the episodes of a task are compared")
        if self.tasks_per_step * self.group % self.device_batch_size:
            raise ValueError(
                f"device_batch_size is {self.device_batch_size}: give a divisor of the {self.tasks_per_step} x "
                f"{self.group} episodes of a step"
            )
        _ = self.training
        if self.candidates > 1 or self.kind != "agent" or self.temperature == 0 or self.ray:
            raise ValueError("the student learns as a plain agent: no candidates, cot, temperature 0 or ray")
        if self.checkpoints:
            raise ValueError("the episodes of an unfinished step are sampled again: give save_steps, not checkpoints")

    @property
    def training(self) -> TrainConfig:
        """What of these settings concerns the student's weights."""
        rate = self.learning_rate or (2e-5 if self.weights == "lora" else 1e-6)
        return TrainConfig(
            method=self.weights,
            rank=self.rank,
            alpha=2 * self.rank,
            dropout=0.0,
            learning_rate=rate,
            precision=self.precision,
            seed=self.seed,
            report_to=self.report_to,
        )
