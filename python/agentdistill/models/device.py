"""Where does a model run, and in which precision? One answer for the engines in this process and for training.

Imports torch. Not here: how vLLM spreads a model over GPUs (its own options say that).
"""

import os

import torch


def default_device() -> str:
    """The GPU if there is one, of several processes' that of this one (torchrun sets ``LOCAL_RANK``); else the CPU."""
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"


def default_dtype(device: str) -> torch.dtype:
    """bfloat16 where the hardware multiplies in it: GPUs, and CPUs with AVX512-BF16 or AMX. Elsewhere bfloat16 is
    emulated and slow, so it is float32."""
    return torch.bfloat16 if device != "cpu" or cpu_has_bfloat16() else torch.float32


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies in bfloat16."""
    known = torch.cpu.get_capabilities()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
