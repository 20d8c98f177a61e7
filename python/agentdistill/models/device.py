"""Default device and dtype, for the in-process engines and for training.

Imports torch. Not here: how vLLM distributes a model over GPUs, which its own options set.
"""

import os

import torch


def default_device() -> str:
    """Return the GPU of this process if there is one (torchrun sets ``LOCAL_RANK``), else the CPU."""
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"


def default_dtype(device: str) -> torch.dtype:
    """Return bfloat16 if the hardware supports it: GPUs, and CPUs with AVX512-BF16 or AMX. Otherwise return float32,
    because emulated bfloat16 is slow."""
    return torch.bfloat16 if device != "cpu" or cpu_has_bfloat16() else torch.float32


def cpu_has_bfloat16() -> bool:
    """Whether this CPU has bfloat16 instructions."""
    known = torch.cpu.get_capabilities()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
