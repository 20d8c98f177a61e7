"""Fine-tune a student on the teacher's selected trajectories: LoRA, or all weights (paper, section 4).

TRL's SFTTrainer gets token ids and labels that are made beforehand (examples.py). It applies no template and encodes
nothing, and only tokens that the agent writes have a loss. A run can be killed at any time; the same call resumes it
from its last checkpoint. Its folder holds

    train.json      settings, data and result of the run; a folder of another run is refused
    checkpoints/    until the run is finished
    adapter/        LoRA only: the adapter, for PEFT and vLLM
    Modelfile       for Ollama, if the chat template can be expressed in its syntax
    merged/         the folder to load: the student with the adapter merged, its tokenizer, model card and plot of
                    losses. (With method "full", these are in the run's folder itself.)

To train one student on several GPUs or machines, make the same call in each process that ``torchrun`` or ``accelerate
launch`` starts. Each process holds the whole model, or a shard of it (``shard``; its checkpoints: shares.py). The
processes share every batch, and the first one writes the files.

Not here: which trajectories are kept, and how they become tokens. Also not: preference or reinforcement learning, and
accelerate's FSDP and DeepSpeed (refused, since they would shard a model a second time, and not on CPUs). torch, trl and
peft are imported when training starts, because importing them takes seconds.
"""

import hashlib
import json
import logging
import os
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from agentdistill._core import Trajectory, read_trajectories
from agentdistill.extras import require
from agentdistill.models.loading import model_files
from agentdistill.models.model import ModelError
from agentdistill.progress import StepProgress
from agentdistill.training.config import TrainConfig
from agentdistill.training.examples import Example, load_tokenizer, student_named, to_examples
from agentdistill.training.forms import form_of, form_warnings
from agentdistill.training.model_card import write_card
from agentdistill.training.ollama import write_modelfile
from agentdistill.training.run_folder import (
    checkpoints,
    claim,
    clear,
    is_first,
    last_checkpoint,
    write_record,
)
from agentdistill.training.settings import lora_settings, sft_settings
from agentdistill.training.shares import with_shares

_log = logging.getLogger(__name__)


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

    ``examples``: a file of selected trajectories; or token ids with their loss mask, made with this model's tokenizer
    (``agentdistill.training.examples.to_examples``). ``push_to``: the hub repository to upload the student to, created
    as private if it does not exist; by default nothing is uploaded. ``overwrite``: remove an existing training run at
    ``output``, finished or not. A run that was stopped resumes from its last checkpoint.

    Raises ValueError for examples that teach nothing, that have ids outside the model's vocabulary, or that are to be
    weighted and have no spans; for an ``output`` of another run; for processes that cannot train together; and for
    settings that TRL or PEFT do not have. Raises ModelError if the model is not there, AgentDistillError without
    agentdistill[train] and if memory runs out, OSError and TrajectoryError for files that cannot be read or written.
    """
    require("trl", "train")
    # peft imports bitsandbytes if it is there, and that warns about an optional kernel for 4 bits on some processors.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from transformers import AutoConfig

    from agentdistill.training.student import check_four_bits

    if any(os.environ.get(f"ACCELERATE_USE_{sharding}") == "true" for sharding in ("FSDP", "DEEPSPEED")):
        raise ValueError(
            "accelerate is configured to shard the model: launch with torchrun or --multi_gpu, and give shard"
        )
    config = config or TrainConfig()
    output = Path(output)
    trajectories = read_trajectories(examples) if isinstance(examples, str | Path) else None
    base, tokenizer = base_of(str(model))
    known = AutoConfig.from_pretrained(base)
    config = _within_context(config, known, base)
    given = cast("Sequence[Example]", examples) if trajectories is None else _render(trajectories, tokenizer, config)
    fitting = _check(given, config)
    student = output if config.method == "full" else output / "merged"
    # Settings are checked before the folder is claimed.
    settings = sft_settings(config, output, max(len(example["input_ids"]) for example in fitting), known)
    lora = lora_settings(config, multimodal=known.get_text_config() is not known) if config.adapts else None
    if config.method == "qlora":
        check_four_bits()
    run = {"model": str(model), "examples": len(fitting), "data": _fingerprint(fitting), **asdict(config)}
    run |= {"learning_rate": config.rate, "sft_config": [*config.sft_config], "lora_config": [*config.lora_config]}
    forms = {form_of(trajectory, config.prompt, config.compat) for trajectory in trajectories or ()}
    run["forms"] = [form._asdict() for form in sorted(forms, key=str)]
    if overwrite:
        if is_first():
            clear(output)
        settings.distributed_state.wait_for_everyone()  # no process may resume the old run
    if not claim(output, run):
        if config.teacher is not None:
            from agentdistill.training.likelihood import with_teacher_targets

            fitting = with_teacher_targets(fitting, base, config.teacher)
        _fit(fitting, base, tokenizer, output, config, settings, lora, run, progress)
    if push_to is not None and is_first():
        _push(student, push_to)
    return student


def base_of(model: str) -> tuple[str, Any]:
    """The weights to train, as a folder or hub id, and the tokenizer. Raises ModelError for an adapter, and if the
    model is not there."""
    name, template = student_named(model)
    files = model_files(name)
    if files.adapter is not None:
        raise ModelError(f"{model} is an adapter: merge it, or train on its base {files.model}")
    return files.model, load_tokenizer(files.model, template)


# ---- training ------------------------------------------------------------------------------------


def _push(student: Path, repository: str) -> None:
    from huggingface_hub import HfApi

    hub = HfApi()
    hub.create_repo(repository, private=True, exist_ok=True)
    hub.upload_folder(repo_id=repository, folder_path=student, ignore_patterns=["train.json", "tensorboard/*"])


def _fit(
    examples: Sequence[Example],
    model: str,
    tokenizer: Any,
    output: Path,
    config: TrainConfig,
    settings: Any,
    lora: Any,
    run: dict[str, Any],
    progress: bool,
) -> None:
    from datasets import Dataset
    from transformers import EarlyStoppingCallback
    from transformers.utils import logging as transformers_logging
    from trl import pack_dataset

    from agentdistill.training.memory import explaining_out_of_memory
    from agentdistill.training.step import StudentTrainer
    from agentdistill.training.student import check_separation, load_student, save_student

    transformers_logging.disable_progress_bar()  # show_progress shows its own
    held_out = _held_out(examples, config)
    labelled = [_labelled(example, config) for example in examples]
    rows = Dataset.from_list([row for number, row in enumerate(labelled) if number not in held_out])
    if config.packing:
        rows = pack_dataset(rows, config.max_length)
    last = last_checkpoint(output)
    with explaining_out_of_memory(config, settings, max(len(example["input_ids"]) for example in examples)):
        weights = load_student(model, config, bfloat16=settings.bf16)
        vocabulary = weights.config.get_text_config().vocab_size
        if (largest := max(max(example["input_ids"]) for example in examples)) >= vocabulary:
            raise ValueError(
                f"token id {largest} is not in the vocabulary of {model}: another tokenizer made these examples"
            )
        trainer = (with_shares(StudentTrainer) if config.shard else StudentTrainer)(
            model=weights,
            args=settings,
            train_dataset=rows,
            eval_dataset=Dataset.from_list([labelled[number] for number in sorted(held_out)]) if held_out else None,
            callbacks=[EarlyStoppingCallback(config.patience)] if held_out else None,
            processing_class=tokenizer,
            peft_config=lora,
        )
        if config.packing:
            check_separation(trainer.model)
        if config.method == "qlora":  # TRL casts the adapter to bfloat16
            for learnt in trainer.model.parameters():
                learnt.data = learnt.data.float() if learnt.requires_grad else learnt.data
        report(trainer, output)
        if progress and is_first():
            trainer.add_callback(show_progress(f"train {output.name}"))
        trainer.train(resume_from_checkpoint=last)
    student = save_student(trainer.model, model, tokenizer, output, config)
    if is_first():
        result = {**history(trainer.state), "resumed_from": last}
        write_card(student, output.name, run, result)
        write_modelfile(output, student, tokenizer)
        write_record(output, run, result)
        shutil.rmtree(checkpoints(output), ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


def _within_context(config: TrainConfig, known: Any, model: str) -> TrainConfig:
    """Limit ``max_length`` to the model's context length, as its configuration states it."""
    context = getattr(known.get_text_config(), "max_position_embeddings", None)
    if context is None or config.max_length <= context:
        return config
    _log.warning("max_length is reduced from %d to %d, the context of %s", config.max_length, context, model)
    return replace(config, max_length=context)


def _held_out(examples: Sequence[Example], config: TrainConfig) -> set[int]:
    """Indices of the held-out examples. All examples of a question are on the same side."""
    share = int(config.held_out * len(examples))
    if config.held_out and not share:
        raise ValueError(f"held_out {config.held_out} of {len(examples)} examples is less than one: give more, or 0")
    by_question: dict[str | int, list[int]] = {}
    for number, example in enumerate(examples):
        by_question.setdefault(example.get("question", number), []).append(number)
    held_out = set[int]()
    for question in random.Random(config.seed).sample(list(by_question), len(by_question)):
        if len(held_out) >= share:
            break
        held_out.update(by_question[question])
    if held_out and len(held_out) == len(examples):
        raise ValueError("all examples are of one question, so none can be held out: give held_out 0")
    return held_out


def report(trainer: Any, output: Path) -> None:
    """Print nothing, and log for TensorBoard, if that is wanted, to ``output``."""
    from transformers import PrinterCallback
    from transformers.integrations import TensorBoardCallback

    trainer.remove_callback(PrinterCallback)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            callback.logging_dir = str(output / "tensorboard")  # its default is deleted with the checkpoints


def history(state: Any) -> dict[str, Any]:
    """The steps, losses and seconds of a run, from its trainer's logs."""
    logged, measured = ([entry for entry in state.log_history if name in entry] for name in ("loss", "eval_loss"))
    return {
        "steps": state.global_step,
        "losses": [entry["loss"] for entry in logged],
        "logged_at": [entry["step"] for entry in logged],
        "held_out_losses": [entry["eval_loss"] for entry in measured],
        "held_out_at": [entry["step"] for entry in measured],
        "seconds": sum(entry.get("train_runtime", 0.0) for entry in state.log_history),
    }


def show_progress(title: str, shown_value: str = "loss") -> Any:
    """A callback that shows steps and a logged value."""
    from transformers import TrainerCallback

    class ShowProgress(TrainerCallback):  # type: ignore[misc]  # transformers is untyped to mypy
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.shown = StepProgress(title, state.max_steps, shown_value)
            self.shown.step = state.global_step
            self.shown.__enter__()

        def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **_: Any) -> None:
            if shown_value in logs:
                self.shown.value = f"{float(logs[shown_value]):.3f}"

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.shown.step = state.global_step
            self.shown.show()

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.shown.__exit__()

    return ShowProgress()


# ---- the examples --------------------------------------------------------------------------------


def _render(trajectories: Sequence[Trajectory], tokenizer: Any, config: TrainConfig) -> Sequence[Example]:
    for warning in form_warnings(trajectories, config.prompt, config.compat):
        _log.warning(warning)
    rendered = to_examples(
        trajectories,
        tokenizer,
        prompt=config.prompt,
        compat=config.compat,
        max_length=config.max_length,
        thoughts=config.thoughts,
    )
    if rendered.cut or rendered.dropped:
        _log.warning(
            "%d trajectories cut to %d tokens, left out: %s", rendered.cut, config.max_length, rendered.dropped
        )
    return rendered.examples


def _check(examples: Sequence[Example], config: TrainConfig) -> Sequence[Example]:
    """The examples that can be trained on. Raises ValueError if there are none, or if one is malformed."""
    for number, example in enumerate(examples):
        ids, mask = len(example["input_ids"]), len(example["completion_mask"])
        if ids != mask:
            raise ValueError(f"example {number} has {ids} token ids and a mask of {mask}: give them the same length")
        if config.weighted and "spans" not in example:
            raise ValueError(f"example {number} has no spans: give them, or no weights and no teacher")
    if not examples:
        raise ValueError("no examples to train on")
    # The first token is never predicted, so a mask on it alone teaches nothing.
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
            "%d examples are left out: %d have a mask of only 0, %d are longer than %d tokens",
            len(examples) - len(fitting),
            len(examples) - len(taught),
            len(taught) - len(fitting),
            config.max_length,
        )
    return fitting


def _labelled(example: Example, config: TrainConfig) -> dict[str, list[Any]]:
    """The row that TRL trains on unchanged: the label -100 has no loss."""
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
