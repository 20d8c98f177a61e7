"""Detect that a training run is out of memory, and suggest options that need less."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from agentdistill._core import AgentDistillError
from agentdistill.training.config import TrainConfig
from agentdistill.training.run_folder import processes


@contextmanager
def explaining_out_of_memory(config: TrainConfig, settings: Any, longest: int) -> Iterator[None]:
    """If the enclosed work runs out of memory, raise AgentDistillError that names the options to change, best first.

    ``settings`` is the run's SFTConfig, ``longest`` the length of its longest example in tokens.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        at_once = settings.per_device_train_batch_size
        raise AgentDistillError(
            f"out of memory with {at_once} examples of up to {longest} tokens in a pass: try "
            f"{', or '.join(_savings(config, settings, longest))}. With these, the same command resumes."
        ) from error


def _is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(
        phrase in str(error) for phrase in ("DefaultCPUAllocator", "bad_alloc")
    )  # torch has no exception class for these


def _savings(config: TrainConfig, settings: Any, longest: int) -> Iterator[str]:
    if settings.per_device_train_batch_size > 1:
        yield "--device-batch-size 1"
    if not settings.gradient_checkpointing:
        yield "--gradient-checkpointing"
    if not settings.bf16:
        yield "--precision bfloat16"
    yield f"a --max-length below {longest}"
    if processes() > 1 and not config.shard and config.method != "qlora":
        yield "--shard"
    if config.method != "qlora":
        yield f"--method {'qlora' if config.method == 'lora' else 'lora'} into another output"
