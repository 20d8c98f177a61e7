"""Translate a TrainConfig or an ImproveConfig into the configurations of TRL and PEFT.

Settings of theirs that TrainConfig lacks are passed through by name (``sft_config``, ``lora_config``). A name that they
do not have, that is set here already, or that would have no effect is refused.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agentdistill._core import AgentDistillError
from agentdistill.models.loading import split_options
from agentdistill.training.config import ImproveConfig, TrainConfig
from agentdistill.training.run_folder import checkpoints, processes

_log = logging.getLogger(__name__)

_WITHOUT_EFFECT = {
    *("assistant_only_loss", "chat_template_path", "completion_only_loss", "dataset_num_proc", "dataset_text_field"),
    *("eos_token", "eval_packing", "model_init_kwargs", "packing_strategy", "padding_free", "pad_to_multiple_of"),
    *("pad_token", "shuffle_dataset", "truncation_mode", "trust_remote_code"),
}
"""Settings of SFTConfig about text or loading: they have no effect, since the trainer gets token ids and a model."""

_OURS = {
    *("accelerator_config", "deepspeed", "fsdp", "fsdp_config", "parallelism_config"),  # another way to shard
    *("hub_model_id", "hub_token", "push_to_hub"),  # push_to
    *("do_eval", "do_predict", "do_train", "resume_from_checkpoint"),
}
"""Settings of SFTConfig that this package sets or does itself."""


CPU_TOKENS, CPU_ACTIVATIONS = 2_048, 1 << 25
"""Limits of one forward pass on a CPU: its tokens, including padding, and tokens x layers x widths. The second bounds
the memory for the activations of the backward pass to about 2 GB."""


def sft_settings(config: TrainConfig, output: Path, longest: int, model: Any) -> Any:
    """The SFTConfig of a run on this machine. ``longest`` is the length of the longest example in tokens, ``model`` the
    student's configuration in transformers.

    Raises ValueError for an additional setting that is unknown or not allowed, and if the processes cannot share a
    batch; AgentDistillError if the library of ``report_to`` is not installed.
    """
    import torch
    from trl import SFTConfig

    gpu = torch.cuda.is_available()
    tokens = _cpu_tokens(model.get_text_config())
    at_once, accumulated = _passes(config, longest, None if gpu else tokens)
    checkpointing = config.gradient_checkpointing
    if checkpointing is None:
        checkpointing = gpu or longest > 2 * tokens
    saving: Any = "epoch" if config.save_steps is None else "steps"
    ours: dict[str, Any] = {
        **_in_common(config, output),
        "per_device_train_batch_size": at_once,
        "per_device_eval_batch_size": at_once,
        "gradient_accumulation_steps": accumulated,
        "num_train_epochs": config.epochs,
        "lr_scheduler_type": config.schedule,
        "warmup_steps": config.warmup,
        "adam_beta2": config.beta2,
        "gradient_checkpointing": checkpointing,
        "train_sampling_strategy": "group_by_length" if config.group_by_length else "random",
        "restore_callback_states_from_checkpoint": True,  # the patience used so far
        "max_length": None,
        "packing": config.packing,  # the rows are already packed: this selects their collator
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "remove_unused_columns": False,
        "eval_strategy": saving if config.held_out else "no",
        "eval_steps": config.save_steps,
        "load_best_model_at_end": bool(config.held_out),
        "metric_for_best_model": "loss",
        "save_strategy": saving,
        "save_only_model": config.shard,  # with_shares saves the rest too
        "save_steps": config.save_steps or 500,
    }
    usual = {"weight_decay": 0.0, "logging_steps": 5, "logging_first_step": True}
    more = _extra_settings("sft_config", config.sft_config, SFTConfig, {*ours, *_OURS}, _WITHOUT_EFFECT)
    if config.weighted and more.keys() & {"loss_type", "label_smoothing_factor"}:
        raise ValueError("sft_config changes the loss, and so do weights or a teacher: give only one of them")
    settings = _constructed("sft_config", SFTConfig, {**ours, **usual, **more})
    one_gpu(settings)
    return settings


def improve_settings(config: ImproveConfig, output: Path) -> Any:
    """The GRPOConfig or DistillationConfig of a run on this machine. Raises AgentDistillError if the library of
    ``report_to`` is not installed."""
    import torch
    from trl import DistillationConfig, GRPOConfig

    ours: dict[str, Any] = {
        **_in_common(config.training, output),
        "max_steps": config.steps,
        "per_device_train_batch_size": config.device_batch_size,
        "gradient_accumulation_steps": config.tasks_per_step * config.group // config.device_batch_size,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "gradient_checkpointing": torch.cuda.is_available(),
        "save_steps": config.save_steps,
        "logging_steps": 1,
    }
    settings = (
        DistillationConfig(**ours)  # its defaults: reverse KL at temperature 1
        if config.method == "distill"
        else GRPOConfig(
            **ours,
            num_generations=config.group,
            temperature=1.0 if config.temperature is None else config.temperature,
        )
    )
    one_gpu(settings)
    return settings


def _in_common(config: TrainConfig, output: Path) -> dict[str, Any]:
    """Settings of both trainers."""
    import torch

    from agentdistill.models.device import cpu_has_bfloat16  # imported here because it imports torch

    if config.report_to != "none" and find_spec(config.report_to) is None:
        raise AgentDistillError(
            f"{config.report_to} is not installed: pip install {config.report_to}, or report to none"
        )
    gpu = torch.cuda.is_available()
    return {
        "output_dir": str(checkpoints(output)),
        "run_name": output.name,
        "learning_rate": config.rate,
        "bf16": config.precision == "bfloat16" if config.precision else gpu or cpu_has_bfloat16(),
        "use_cpu": not gpu,
        "save_total_limit": 1,
        "disable_tqdm": True,
        "seed": config.seed,
        "dataloader_pin_memory": gpu,
        "report_to": config.report_to,
    }


def one_gpu(settings: Any) -> None:
    """Use one GPU per process: transformers would copy the model to all visible GPUs and multiply the batch size."""
    if settings.n_gpu > 1:
        _log.warning(
            "%d GPUs, and one process: it trains on the first; torchrun --nproc-per-node %d -m agentdistill train ... "
            "uses all",
            settings.n_gpu,
            settings.n_gpu,
        )
        settings._n_gpu = 1


def lora_settings(config: TrainConfig, *, multimodal: bool) -> Any:
    """The LoraConfig of a run. In a ``multimodal`` model only the part that reads text is adapted. Raises as
    :func:`sft_settings`."""
    from peft import LoraConfig

    ours = {"r": config.rank, "lora_alpha": config.alpha, "lora_dropout": config.dropout, "task_type": "CAUSAL_LM"}
    usual = {
        "target_modules": "all-linear",
        "exclude_modules": r".*(vision|visual|audio|multi_modal).*" if multimodal else None,
    }
    more = _extra_settings("lora_config", config.lora_config, LoraConfig, {*ours, "inference_mode"}, set())
    return _constructed("lora_config", LoraConfig, {**ours, **usual, **more})


def _cpu_tokens(model: Any) -> int:
    """Maximum number of tokens in a forward pass on a CPU."""
    width: int = model.hidden_size + getattr(model, "intermediate_size", 4 * model.hidden_size)
    layers: int = model.num_hidden_layers
    return min(CPU_TOKENS, CPU_ACTIVATIONS // (layers * width))


def _passes(config: TrainConfig, longest: int, tokens: int | None) -> tuple[int, int]:
    """Examples per forward pass of a process, and passes per optimizer step. ``tokens``: maximum of a pass; None if one
    example already makes full use of the device."""
    share = config.batch_size // processes()
    at_once = config.device_batch_size or 1
    if config.device_batch_size is None and tokens is not None and not config.packing:
        fitting = [n for n in range(1, share + 1) if share % n == 0 and n * longest <= tokens]
        at_once = max(fitting, default=1)
    if config.batch_size % (at_once * processes()):
        raise ValueError(
            f"{processes()} processes that take {at_once} examples at once cannot share batches of "
            f"{config.batch_size}: give a batch_size that they can"
        )
    return at_once, share // at_once


def _extra_settings(
    option: str, given: Iterable[str], of: Any, ours: set[str], without_effect: set[str]
) -> Mapping[str, Any]:
    """Parse settings given as NAME=VALUE. ``of``: the dataclass whose fields they are."""
    known = {field.name: field for field in fields(of)}
    more: dict[str, Any] = {}
    for text in given:
        _, read = split_options(f",{text}")
        if len(read) != 1:
            raise ValueError(f"{option} {text!r} is not a setting: give NAME=VALUE")
        ((name, value),) = read.items()
        if name not in known:
            near = get_close_matches(name, known.keys() - ours - without_effect, n=3)
            hint = f"is it {' or '.join(near)}?" if near else f"see the documentation of {of.__name__}"
            raise ValueError(f"{option}: {of.__name__} has no {name!r}: {hint}")
        if name in ours:
            raise ValueError(f"{option}: {name} is set here already: leave it out (agentdistill train --help)")
        if name in without_effect:
            raise ValueError(f"{option}: {name} would change nothing, since the trainer gets token ids: leave it out")
        usual = known[name].default
        if isinstance(usual, bool) and not isinstance(value, bool):
            raise ValueError(f"{option}: {name} is {value!r}: give true or false")
        if usual is not MISSING and isinstance(usual, int | float) and isinstance(value, str):
            raise ValueError(f"{option}: {name} is {value!r}: give a number")
        more[name] = value
    return more


def _constructed(option: str, of: Callable[..., Any], settings: Mapping[str, Any]) -> Any:
    try:
        return of(**settings)
    except (TypeError, ValueError, ImportError) as error:
        raise ValueError(f"{option} is invalid: {error}") from error
