"""Load a student for training, and write it afterwards.

Not here: what is learnt, and checkpoints.
"""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.distributed import DistributedConfig
from transformers.utils import is_flash_attn_2_available

from agentdistill._core import AgentDistillError
from agentdistill.extras import require
from agentdistill.models.device import default_device
from agentdistill.models.model import ModelError
from agentdistill.training.config import TrainConfig
from agentdistill.training.run_folder import is_first, processes


def load_student(model: str, config: TrainConfig, *, bfloat16: bool) -> Any:
    """Load the model to train. Trained weights are float32, since small updates vanish in lower precision. The frozen
    weights under an adapter have the precision of the arithmetic, or 4 bits."""
    dtype = torch.bfloat16 if config.adapts and bfloat16 else torch.float32
    four_bits: dict[str, Any] = {}
    if config.method == "qlora":
        quantized = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        four_bits = {"quantization_config": quantized, "device_map": {"": default_device()}}
    try:
        return AutoModelForCausalLM.from_pretrained(
            model,
            dtype=dtype,
            attn_implementation="flash_attention_2" if is_flash_attn_2_available() else None,
            distributed_config=DistributedConfig(fsdp_size=processes()) if config.shard else None,
            **four_bits,
        )
    except (SafetensorError, UnpicklingError, EOFError) as error:
        raise ModelError(f"the weights of {model} are damaged ({error}): copy or download them again") from error


def check_four_bits() -> None:
    """Raise AgentDistillError if weights cannot be kept in 4 bits: bitsandbytes is missing, or does not support this
    machine's GPU or CPU."""
    require("bitsandbytes", "qlora")
    try:
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        dequantize_4bit(*quantize_4bit(torch.ones(64, 64, device=default_device()), quant_type="nf4"))
    except (ImportError, RuntimeError, NotImplementedError, OSError) as error:
        raise AgentDistillError(
            f"bitsandbytes cannot use 4-bit weights on {default_device()} here ({error}): give method lora"
        ) from error


def check_separation(model: Any) -> None:
    """Raise ValueError if the model does not separate the packed examples of a row.

    Only position ids mark where an example ends. Attention respects them (transformers' masks, flash attention); other
    layers that mix tokens, and models with their own code, may not.
    """
    where = model.device
    positions = torch.tensor([[0, 1, 0, 1]], device=where)
    model.eval()
    with torch.no_grad():
        second, after_another = (
            model(input_ids=torch.tensor([[*first, 2, 3]], device=where), position_ids=positions, use_cache=False)
            for first in ([0, 1], [1, 0])
        )
    if not torch.allclose(second.logits[:, 2:], after_another.logits[:, 2:]):
        raise ValueError(f"{type(model).__name__} attends across packed examples: train without packing")


def save_student(model: Any, base: str, tokenizer: Any, output: Path, config: TrainConfig) -> Path:
    """Write the student and return the folder to load it from. All processes call this; the first one writes."""
    student = output if config.method == "full" else output / "merged"
    if config.method == "full":
        if config.shard or is_first():  # each process contributes its shard
            model.save_pretrained(output)
    elif is_first():
        # Each process holds the whole adapter. Without state_dict, peft would gather the base's weights as well.
        learnt = {name: weights for name, weights in model.named_parameters() if weights.requires_grad}
        model.save_pretrained(output / "adapter", state_dict=learnt)
        tokenizer.save_pretrained(output / "adapter")
        # A base in shards or in 4 bits is loaded again, whole and unquantized, before the merge.
        anew = config.shard or config.method == "qlora"
        whole = _with_adapter(base, output / "adapter") if anew else model
        whole.merge_and_unload().save_pretrained(student)
    if is_first():
        tokenizer.save_pretrained(student)
    return student


def _with_adapter(base: str, adapter: Path) -> Any:
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype="auto"), str(adapter))
