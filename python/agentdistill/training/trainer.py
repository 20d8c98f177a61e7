"""Fine-tune a student on what the teacher's kept trajectories show: LoRA, or all weights (paper, section 4).

TRL's SFTTrainer gets token ids and labels made beforehand (examples.py): it applies no template, encodes
nothing again, and only tokens the agent writes itself have a loss. A run can be killed at any time; the same call goes
on from its last checkpoint. Its folder holds

    train.json      what was trained on what, and how it went; a folder of another run is refused
    checkpoints/    until the run is done
    adapter/        LoRA only: the adapter, for PEFT and vLLM
    Modelfile       for Ollama, where the chat template can be said in its language
    merged/         the student with the adapter merged into it, its tokenizer, model card and plot of losses: what to
                    load. (Full: all that lies in the folder itself.)

Several GPUs or machines train one student when the same call is made by each of the processes that ``torchrun`` or
``accelerate launch`` starts: each holds the whole model, or a share of it (``shard``; its checkpoints: shares.py),
they share every batch, and the first writes.

Not here: which trajectories are kept and how they become tokens; accelerate's FSDP and DeepSpeed (refused: they would
shard a model a second time, and not on CPUs); preferences or reinforcement. torch, trl and peft are imported when
training starts, as they take seconds.
"""

import hashlib
import json
import logging
import os
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from agentdistill._core import Trajectory, read_trajectories
from agentdistill.extras import need
from agentdistill.models.loading import model_files
from agentdistill.models.model import ModelError
from agentdistill.progress import StepProgress
from agentdistill.training.examples import Example, SpanKind, load_tokenizer, student_named, to_examples
from agentdistill.training.model_card import write_card
from agentdistill.training.ollama import write_modelfile
from agentdistill.training.run_folder import (
    checkpoints,
    claim,
    clear,
    is_first,
    last_checkpoint,
    processes,
    write_record,
)
from agentdistill.training.shares import with_shares

_log = logging.getLogger(__name__)


CPU_TOKENS = 2_048
"""Most tokens of one forward pass on a CPU, padding included, which bounds its memory."""

_CHOICES: dict[str, tuple[str | None, ...]] = {
    "method": ("lora", "full"),
    "schedule": ("constant", "linear", "cosine"),
    "precision": ("bfloat16", "float32", None),
}


@dataclass(frozen=True)
class TrainConfig:
    """How a student is trained. The defaults are those of the paper and its code."""

    method: Literal["lora", "full"] = "lora"
    """"lora" trains an adapter on all linear layers, "full" all weights (paper: LoRA, which did better)."""
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
    rows; else as much of the process's share of ``batch_size`` as makes 2,048 tokens, to bound the memory."""
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
    GPU, and on a CPU for examples of more than 2,048 tokens."""
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
    thoughts: bool = False
    """Learn what a reasoning model thought before each turn, too; by default a student learns to act at once. Only
    where trajectories are rendered here."""
    save_steps: int | None = None
    """Steps between checkpoints; by default one at the end of each epoch."""
    seed: int = 0
    """Of the order of examples, dropout and the adapter's first weights."""

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
        return self.learning_rate or (2e-4 if self.method == "lora" else 2e-5)

    @property
    def weights(self) -> dict[SpanKind, float]:
        """Factor of the loss of each kind of span."""
        return {"thought": self.thought_weight, "action": self.action_weight, "answer": self.answer_weight}

    @property
    def weighted(self) -> bool:
        """Whether tokens count differently."""
        return self.teacher is not None or any(weight != 1 for weight in self.weights.values())


def train(
    examples: Sequence[Example] | str | Path,
    model: str | Path,
    output: str | Path,
    config: TrainConfig | None = None,
    *,
    push_to: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Fine-tune ``model`` (a folder or hub id) on ``examples``; return the folder to load the student from.

    ``examples``: token ids with their mask, or a file of kept trajectories, which are rendered with the model's own
    tokenizer. Only token ids of this model's tokenizer make sense. ``push_to``: the hub's repository to put the student
    into, made private if it is not there; without it nothing leaves this machine. ``overwrite``: remove a training run
    that is at ``output``, done or not.

    Raises ValueError for examples that teach nothing (none; nothing to learn in them; ids that the model does not
    have), or have no spans to weigh, for an ``output`` of another run, and for processes that cannot train together,
    ModelError for a model that is not there, AgentDistillError without agentdistill[train], OSError and TrajectoryError
    for files that cannot be read or written.
    """
    need("trl", "train")
    if any(os.environ.get(f"ACCELERATE_USE_{sharding}") == "true" for sharding in ("FSDP", "DEEPSPEED")):
        raise ValueError("accelerate is told to shard the model: launch with torchrun or --multi_gpu, and give shard")
    config = config or TrainConfig()
    output = Path(output)
    trajectories = read_trajectories(examples) if isinstance(examples, str | Path) else None
    name, template = student_named(str(model))
    files = model_files(name)
    if files.adapter is not None:
        raise ModelError(f"{model} is an adapter: merge it, or train on its base {files.model}")
    tokenizer = load_tokenizer(files.model, template)
    config = _within_context(config, files.model)
    given = cast("Sequence[Example]", examples) if trajectories is None else _render(trajectories, tokenizer, config)
    fitting = _check(given, config)
    student = output if config.method == "full" else output / "merged"
    run = {"model": str(model), "examples": len(fitting), "data": _fingerprint(fitting), **asdict(config)}
    run["learning_rate"] = config.rate
    if overwrite and is_first():
        clear(output)
    if not claim(output, run):
        if config.teacher is not None:
            from agentdistill.training.likelihood import judged

            fitting = judged(fitting, files.model, config.teacher)
        _fit(fitting, files.model, tokenizer, output, config, run, progress)
    if push_to is not None and is_first():
        _push(student, push_to)
    return student


# ---- training ------------------------------------------------------------------------------------


def _push(student: Path, repository: str) -> None:
    from huggingface_hub import HfApi

    hub = HfApi()
    hub.create_repo(repository, private=True, exist_ok=True)
    hub.upload_folder(repo_id=repository, folder_path=student, ignore_patterns=["train.json"])


def _fit(
    examples: Sequence[Example],
    model: str,
    tokenizer: Any,
    output: Path,
    config: TrainConfig,
    run: dict[str, Any],
    progress: bool,
) -> None:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, EarlyStoppingCallback, PrinterCallback
    from transformers.distributed import DistributedConfig
    from transformers.utils import is_flash_attn_2_available
    from transformers.utils import logging as transformers_logging
    from trl import SFTConfig, SFTTrainer, pack_dataset

    from agentdistill.models.device import cpu_has_bfloat16  # here, as it imports torch

    transformers_logging.disable_progress_bar()  # ours says how far the training is
    gpu = torch.cuda.is_available()
    bfloat16 = config.precision == "bfloat16" if config.precision else gpu or cpu_has_bfloat16()
    frozen = config.method == "lora" and bfloat16 and gpu  # what is trained needs float32: small updates vanish in less
    weights = AutoModelForCausalLM.from_pretrained(
        model,
        dtype=torch.bfloat16 if frozen else torch.float32,
        attn_implementation="flash_attention_2" if is_flash_attn_2_available() else None,
        distributed_config=DistributedConfig(fsdp_size=processes()) if config.shard else None,
    )
    text = weights.config.get_text_config()  # a multimodal model has one within its own
    if (largest := max(max(example["input_ids"]) for example in examples)) >= text.vocab_size:
        raise ValueError(f"token id {largest} is not one of {model}: these examples are of another tokenizer")
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules="all-linear",
        exclude_modules=None if text is weights.config else r".*(vision|visual|audio|multi_modal).*",
        task_type="CAUSAL_LM",
    )
    longest = max(len(example["input_ids"]) for example in examples)
    device_batch, accumulated = _batches(config, longest, gpu)
    checkpointing = config.gradient_checkpointing
    if checkpointing is None:
        checkpointing = gpu or longest > CPU_TOKENS
    held_out = _held_out(examples, config)
    labelled = [_labelled(example, config) for example in examples]
    rows = Dataset.from_list([row for number, row in enumerate(labelled) if number not in held_out])
    if config.packing:
        rows = pack_dataset(rows, config.max_length)
    saving: Any = "epoch" if config.save_steps is None else "steps"
    settings = SFTConfig(
        output_dir=str(checkpoints(output)),
        per_device_train_batch_size=device_batch,
        gradient_accumulation_steps=accumulated,
        num_train_epochs=config.epochs,
        learning_rate=config.rate,
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup,
        weight_decay=0.0,
        adam_beta2=config.beta2,
        bf16=bfloat16,
        use_cpu=not gpu,
        gradient_checkpointing=checkpointing,
        train_sampling_strategy="group_by_length" if config.group_by_length else "random",
        restore_callback_states_from_checkpoint=True,  # the patience that is used up
        max_length=None,
        packing=config.packing,  # the rows are packed already: this is for their collator
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        per_device_eval_batch_size=device_batch,
        eval_strategy=saving if held_out else "no",
        eval_steps=config.save_steps,
        load_best_model_at_end=bool(held_out),
        metric_for_best_model="loss",
        save_strategy=saving,
        save_only_model=config.shard,  # with_shares saves the rest, too
        save_steps=config.save_steps or 500,
        save_total_limit=1,
        logging_steps=5,
        logging_first_step=True,
        report_to="none",
        disable_tqdm=True,
        seed=config.seed,
        dataloader_pin_memory=gpu,
    )
    trainer_class = _weighted_trainer() if config.weighted else SFTTrainer
    trainer = (with_shares(trainer_class) if config.shard else trainer_class)(
        model=weights,
        args=settings,
        train_dataset=rows,
        eval_dataset=Dataset.from_list([labelled[number] for number in sorted(held_out)]) if held_out else None,
        callbacks=[EarlyStoppingCallback(config.patience)] if held_out else None,
        processing_class=tokenizer,
        peft_config=lora if config.method == "lora" else None,
    )
    if config.packing:
        _check_separation(trainer.model)
    trainer.remove_callback(PrinterCallback)
    if progress and is_first():
        trainer.add_callback(_progress(f"train {output.name}"))
    last = last_checkpoint(output)
    trainer.train(resume_from_checkpoint=last)
    student = _save(trainer.model, model, tokenizer, output, config)
    if is_first():
        result = {**_history(trainer.state), "resumed_from": last}
        write_card(student, output.name, run, result)
        write_modelfile(output, student, tokenizer)
        write_record(output, run, result)
        shutil.rmtree(checkpoints(output), ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


def _within_context(config: TrainConfig, model: str) -> TrainConfig:
    """With no more tokens to an example than the model was made for."""
    from transformers import AutoConfig

    context = getattr(AutoConfig.from_pretrained(model).get_text_config(), "max_position_embeddings", None)
    if context is None or config.max_length <= context:
        return config
    _log.warning("max_length is %d, not %d: %s has no longer context", context, config.max_length, model)
    return replace(config, max_length=context)


def _batches(config: TrainConfig, longest: int, gpu: bool) -> tuple[int, int]:
    """Examples in one forward pass of a process, and how many passes make its share of a batch. ``longest``: tokens of
    the longest example."""
    share = config.batch_size // processes()
    at_once = config.device_batch_size or 1
    if config.device_batch_size is None and not gpu and not config.packing:
        fitting = [n for n in range(1, share + 1) if share % n == 0 and n * longest <= CPU_TOKENS]
        at_once = max(fitting, default=1)
    if config.batch_size % (at_once * processes()):
        raise ValueError(
            f"{processes()} processes that take {at_once} examples at once cannot share batches of "
            f"{config.batch_size}: give a batch_size that they can"
        )
    return at_once, share // at_once


def _held_out(examples: Sequence[Example], config: TrainConfig) -> set[int]:
    """Numbers of the examples that are not trained on: of a question, all examples are on the same side."""
    share = int(config.held_out * len(examples))
    if config.held_out and not share:
        raise ValueError(f"held_out {config.held_out} of {len(examples)} examples is not one: give more, or 0")
    by_question: dict[str | int, list[int]] = {}
    for number, example in enumerate(examples):
        by_question.setdefault(example.get("question", number), []).append(number)
    held_out = set[int]()
    for question in random.Random(config.seed).sample(list(by_question), len(by_question)):
        if len(held_out) >= share:
            break
        held_out.update(by_question[question])
    if held_out and len(held_out) == len(examples):
        raise ValueError("all examples are of one question, so that none can be held out: give held_out 0")
    return held_out


def _history(state: Any) -> dict[str, Any]:
    """What is known of a run from its trainer's logs."""
    logged, measured = ([entry for entry in state.log_history if name in entry] for name in ("loss", "eval_loss"))
    return {
        "steps": state.global_step,
        "losses": [entry["loss"] for entry in logged],
        "logged_at": [entry["step"] for entry in logged],
        "held_out_losses": [entry["eval_loss"] for entry in measured],
        "held_out_at": [entry["step"] for entry in measured],
        "seconds": sum(entry.get("train_runtime", 0.0) for entry in state.log_history),
    }


def _weighted_trainer() -> Any:
    """TRL's trainer, with a factor for the loss of each token, and, where there is a target for its log probability,
    half the square of the distance to that as its loss.

    The gradient of this is (log p - log q) times that of log p: for tokens drawn from p, the student, that of the
    reverse Kullback-Leibler divergence to q, the teacher. Unlike a reward for each token, it stays right when the
    student has moved since it drew them, in that it ends at the target.
    """
    from trl import SFTTrainer

    class WeightedTrainer(SFTTrainer):  # type: ignore[misc]  # trl is untyped to mypy
        data_collator: Any

        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            collate = self.data_collator

            def collate_with_weights(rows: list[dict[str, Any]]) -> dict[str, Any]:
                more = {"weights", "target"}.intersection(rows[0])
                laid_out = {name: collate([{**row, "labels": row[name]} for row in rows])["labels"] for name in more}
                return {**collate(rows), **laid_out}  # each as the labels are

            self.data_collator = collate_with_weights

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            weights = inputs.pop("weights")[:, 1:]
            target = inputs.pop("target", None)
            output = model(**inputs, fused_lm_head=True)
            items = output.label_mask.sum() if num_items_in_batch is None else num_items_in_batch
            losses = -output.log_probs if target is None else (output.log_probs - target[:, 1:]).square() / 2
            loss = (losses * output.label_mask * weights).sum() / items
            # The items are those of all processes, over which gradients are averaged.
            return loss if num_items_in_batch is None else loss * self.accelerator.num_processes

    return WeightedTrainer


def _check_separation(model: Any) -> None:
    """Raise ValueError for a model to which the examples of one row are one text.

    Where one ends, only position ids say. Attention over a row heeds them (transformers' masks, flash attention); other
    ways to mix tokens, and models with code of their own, may not.
    """
    import torch

    where = model.device
    positions = torch.tensor([[0, 1, 0, 1]], device=where)
    model.eval()
    with torch.no_grad():
        second, after_another = (
            model(input_ids=torch.tensor([[*first, 2, 3]], device=where), position_ids=positions, use_cache=False)
            for first in ([0, 1], [1, 0])
        )
    if not torch.allclose(second.logits[:, 2:], after_another.logits[:, 2:]):
        raise ValueError(f"{type(model).__name__} would see one packed example from the next: train without packing")


def _save(model: Any, base: str, tokenizer: Any, output: Path, config: TrainConfig) -> Path:
    """Write the student; where it is to be loaded from. All processes call this, and the first writes."""
    student = output if config.method == "full" else output / "merged"
    if config.method == "full":
        if config.shard or is_first():  # all have to give their shards
            model.save_pretrained(output)
    elif is_first():
        # Its own weights are whole in each process. Unless they are given, peft gathers those of the base, from all.
        learnt = {name: weights for name, weights in model.named_parameters() if weights.requires_grad}
        model.save_pretrained(output / "adapter", state_dict=learnt)
        tokenizer.save_pretrained(output / "adapter")
        whole = _with_adapter(base, output / "adapter") if config.shard else model
        whole.merge_and_unload().save_pretrained(student)
    if is_first():
        tokenizer.save_pretrained(student)
    return student


def _with_adapter(base: str, adapter: Path) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype="auto"), str(adapter))


def _progress(title: str) -> Any:
    """A callback that shows steps and loss."""
    from transformers import TrainerCallback

    class ShowProgress(TrainerCallback):  # type: ignore[misc]  # transformers is untyped to mypy
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.shown = StepProgress(title, state.max_steps)
            self.shown.step = state.global_step
            self.shown.__enter__()

        def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **_: Any) -> None:
            if "loss" in logs:
                self.shown.loss = f"{float(logs['loss']):.3f}"

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.shown.step = state.global_step
            self.shown.show()

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.shown.__exit__()

    return ShowProgress()


# ---- the examples --------------------------------------------------------------------------------


def _render(trajectories: Sequence[Trajectory], tokenizer: Any, config: TrainConfig) -> Sequence[Example]:
    rendered = to_examples(
        trajectories, tokenizer, prompt=config.prompt, max_length=config.max_length, thoughts=config.thoughts
    )
    if rendered.cut or rendered.dropped:
        _log.warning(
            "%d trajectories cut to %d tokens, left out: %s", rendered.cut, config.max_length, rendered.dropped
        )
    return rendered.examples


def _check(examples: Sequence[Example], config: TrainConfig) -> Sequence[Example]:
    """The examples that can be learnt from."""
    for number, example in enumerate(examples):
        ids, mask = len(example["input_ids"]), len(example["completion_mask"])
        if ids != mask:
            raise ValueError(f"example {number} has {ids} token ids and a mask of {mask}: give them the same length")
        if config.weighted and "spans" not in example:
            raise ValueError(f"example {number} has no spans: give them, or no weights and no teacher")
    if not examples:
        raise ValueError("there is no example to train on")
    # The first token of all is never predicted, so a mask on it alone teaches nothing.
    taught = [example for example in examples if any(example["completion_mask"][1:])]
    if not taught:
        raise ValueError(
            "the masks of all examples are 0, so nothing would be learnt: mark what the model should write"
        )
    fitting = [example for example in taught if len(example["input_ids"]) <= config.max_length]
    if not fitting:
        raise ValueError(f"every example is longer than max_length {config.max_length}: raise it")
    if len(fitting) < len(examples):
        _log.warning(
            "%d examples are left out: %d have a mask of 0 only, %d are longer than %d tokens",
            len(examples) - len(fitting),
            len(examples) - len(taught),
            len(taught) - len(fitting),
            config.max_length,
        )
    return fitting


def _labelled(example: Example, config: TrainConfig) -> dict[str, list[Any]]:
    """As TRL trains on it without touching it: the label -100 has no loss."""
    ids = list(example["input_ids"])
    labels = [token if taught else -100 for token, taught in zip(ids, example["completion_mask"], strict=True)]
    row: dict[str, list[Any]] = {"input_ids": ids, "labels": labels}
    if config.weighted:
        factors, row["weights"] = example.get("factors", [1.0] * len(ids)), [0.0] * len(ids)
        for kind, start, end in example["spans"]:
            row["weights"][start:end] = [config.weights[kind] * factor for factor in factors[start:end]]
    if "target" in example:
        row["target"] = example["target"]
    return row


def _fingerprint(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps([list(example["input_ids"]), list(example["completion_mask"])]).encode())
    return digest.hexdigest()[:16]
